"""The errors that mlkit raises: each message says what is wrong, where, and how to mend it."""


class MlkitError(Exception):
    """Base of the errors below; the command line prints one as one line and exits with 2."""


class ConfigError(MlkitError):
    """A parameter, setting, symbol or timeframe that mlkit does not accept."""


class BarsError(MlkitError):
    """Bars that break the contract, or too few of them."""


class LakeError(MlkitError):
    """A lake of bars that is damaged, locked by another writer, or on a disk that refuses to write."""


class FetchError(MlkitError):
    """Bars that could not be collected from an exchange or an archive; what was committed stays.

    ``report``: the results of all symbols, where there were several.
    """

    report: object = None


class TooFewBarsError(BarsError):
    """Valid bars, but fewer than are needed."""


class BundleError(MlkitError):
    """A model directory that is damaged, foreign or of another schema."""


class NotTrainedError(MlkitError):
    """A model is asked for that was never trained."""


class RetrainingError(MlkitError):
    """A training, retraining or rollback that cannot start while another one of the same market runs."""


class ReportError(MlkitError):
    """A report that could not be produced or does not verify."""


class TrackingError(MlkitError):
    """A tracking server that does not answer, is too slow or does not hold what is asked for."""


class ScaleError(MlkitError):
    """Markets of a universe that failed, or a cluster that was lost; finished markets stay."""


class DependencyError(MlkitError):
    """An optional dependency is missing; the message names the install command."""
