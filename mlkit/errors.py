"""The few errors mlkit raises on purpose: each says what is wrong, where, and how to mend it."""


class MlkitError(Exception):
    """Base of every error raised for the user's attention; the CLI prints it as one line and exits 2."""


class ConfigError(MlkitError):
    """A parameter, setting, symbol or timeframe that mlkit does not accept."""


class BarsError(MlkitError):
    """Bars that break the contract, or too few of them."""


class LakeError(MlkitError):
    """A bar lake that is damaged, held by another writer, or on a disk that refuses."""


class FetchError(MlkitError):
    """Bars that could not be collected from an exchange or an archive; what was committed stays.

    ``report``: the results of all symbols, where there were several.
    """

    report: object = None


class TooFewBarsError(BarsError):
    """Valid bars, but fewer than an answer takes."""


class BundleError(MlkitError):
    """A model directory that is damaged, foreign or of another schema."""


class NotTrainedError(MlkitError):
    """A model is asked for that was never trained."""


class RetrainingError(MlkitError):
    """A training, retraining or rollback that another one of the same market keeps from beginning."""


class ReportError(MlkitError):
    """A report that could not be produced or does not verify."""


class TrackingError(MlkitError):
    """A tracking server that does not answer, is too slow or does not hold what is asked for."""


class ScaleError(MlkitError):
    """Markets of a universe that failed, or a cluster that went away; what was done stays."""


class DependencyError(MlkitError):
    """An optional dependency is missing; the message names the install command."""
