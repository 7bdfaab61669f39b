"""The files ``tuned.json``: parameters that a study chose, and what is needed to judge them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlkit.config import Settings, write_atomic
from mlkit.errors import ConfigError
from mlkit.evaluation import Ledger, Source
from mlkit.features import FeatureSet
from mlkit.models.bundle import IsoTime, market_root
from mlkit.models.ensemble import EnsembleSettings
from mlkit.operations.tracking.trials import feature_digest
from mlkit.operations.training.training_set import ensemble_settings
from mlkit.untrusted import Line, printable, read_regular

if TYPE_CHECKING:
    import pandas as pd

FILE = "tuned.json"


_FILE_BYTES = 2**24

Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Record(BaseModel):
    """Part of a file; immutable, without unknown fields, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TuningSpan(_Record):
    """The bars that tuning used; the held-back bars come after the last of them."""

    start: IsoTime  # open time of the first bar, ISO 8601 UTC
    end: IsoTime  # of the last one
    bars: Count
    sha256: Line  # mlkit.market.fingerprint


class OutOfSample(_Record):
    """Loss of tuned and default parameters on data that tuning did not use."""

    answer: Literal["better", "worse", "not shown", "same parameters"]
    default: float  # loss of the default parameters; of prices, relative to the forecast of no change
    tuned: float  # loss of the tuned ones
    difference: float  # tuned minus default: under 0 is better
    low: float | None  # block-bootstrap interval of the difference; None where there are too few bars for one
    high: float | None
    level: float
    start: Line  # first bar scored
    end: Line
    bars: Count
    reads_before: Count  # earlier reads of these bars: over 0 they are no longer out of sample

    def sentence(self) -> str:
        """Whether tuning helped, in one sentence."""
        if self.answer == "same parameters":
            return "No trial beat the default parameters: tuning changes nothing."
        result = {
            "better": "Tuning helped out of sample",
            "worse": "Tuning hurt out of sample",
            "not shown": "Out of sample it is not shown that tuning helps or hurts",
        }[self.answer]
        interval = "" if self.low is None else f", {self.level:.0%} interval [{self.low:+.4f}, {self.high:+.4f}]"
        reads = "" if not self.reads_before else f"; these bars had been read {self.reads_before} times before"
        return f"{result}: relative loss {self.difference:+.4f}{interval}, {self.bars:,} bars{reads}."


class _Chosen(_Record):
    """What both kinds of file hold of a study."""

    schema_version: Literal[1] = 1
    profile: Line
    seed: Count
    # That replace the profile's own; no parameter of the ensemble or the network is larger.
    parameters: dict[Line, Annotated[int | float, Field(ge=-1e6, le=1e6)]]
    study: Line
    storage: Line  # URL without password
    score: float  # best mean loss; of prices, relative to the forecast of no change
    default_score: float | None  # of the default parameters
    trials: dict[Line, Count]  # number of trials that are complete, pruned, failed
    configurations: tuple[Line, ...]  # hash in the ledger of every trial
    out_of_sample: OutOfSample | None = None
    created: Line


class TunedPatterns(_Chosen):
    """What a study chose for the training of the pattern CNN; the score is 1 - macro-F1 on the validation markets."""

    epochs: int  # of a trial


class Tuned(_Chosen):
    """What a study chose for the price ensemble of a market."""

    symbol: Line
    timeframe: Line
    horizons: tuple[Count, ...]
    features: Line  # digest of their definitions
    saw: TuningSpan
    folds: Count  # inner walk-forward folds of the score

    @property
    def saw_until(self) -> "pd.Timestamp":
        """Open time of the last bar that tuning used; only later bars may judge these parameters."""
        import pandas as pd

        return pd.Timestamp(self.saw.end)

    def ensemble(
        self, settings: Settings, bars: "pd.DataFrame", features: FeatureSet | None = None
    ) -> EnsembleSettings:
        """The ensemble's settings with these parameters; writes all trials of the study to the trial ledger.

        ConfigError where they were tuned for another market, profile, feature set or other horizons.
        """
        self.demand(settings, bars, features)
        saw = Source(self.symbol, self.timeframe, self.saw.start, self.saw.end, self.saw.sha256)
        Ledger.of(settings).recall([saw, Source.of(bars)], self.configurations)
        return replace(ensemble_settings(settings), **self.parameters)  # type: ignore[arg-type]

    def demand(self, settings: Settings, bars: "pd.DataFrame", features: FeatureSet | None = None) -> None:
        """ConfigError where they were tuned for another market, profile, feature set or other horizons."""
        ours = {
            "symbol": bars.attrs["symbol"],
            "timeframe": bars.attrs["timeframe"],
            "profile": settings.profile,
            "horizons": tuple(settings.prediction_horizons),
            "features": feature_digest(features or FeatureSet()),
        }
        for name, value in ours.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"{FILE} of {self.symbol} {self.timeframe}: tuned for {name} {getattr(self, name)}, this is "
                    f"{value}; run mlkit tune again, or train without it"
                )

    def provenance(self) -> dict[str, Any]:
        """Origin of the parameters for a bundle's manifest: plain JSON values."""
        return self.model_dump(mode="json", exclude={"configurations", "created", "storage"})


TunedT = TypeVar("TunedT", Tuned, TunedPatterns)


@dataclass(frozen=True, eq=False)
class Tuning(Generic[TunedT]):
    """A study after its trials: what it chose, every trial, and the comparison with the default parameters."""

    tuned: TunedT
    trials: "pd.DataFrame"  # one row per trial: state, score, reports, default, and a column per parameter
    importance: "pd.Series"  # share of the score's variance that each parameter explains; empty for few trials
    comparison: "pd.DataFrame | None"  # of prices: index (forecast, horizon): default, tuned, difference, low, high

    def sentence(self) -> str:
        """Whether tuning helped, in one sentence."""
        found = self.tuned.out_of_sample
        return "Not compared out of sample." if found is None else found.sentence()


def tuned_path(settings: Settings, symbol: str, timeframe: str) -> Path:
    """The file of a market, beside its bundles."""
    return market_root(symbol, timeframe, settings) / FILE


def save_tuned(tuned: Tuned | TunedPatterns, settings: Settings) -> Path:
    """Write the file of a market, or of the pattern CNN, atomically, and return its path."""
    path = settings.models / "patterns" / FILE
    if isinstance(tuned, Tuned):
        path = tuned_path(settings, tuned.symbol, tuned.timeframe)
    write_atomic(path, (json.dumps(tuned.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode())
    return path


def load_tuned(settings: Settings, symbol: str, timeframe: str) -> Tuned:
    """The tuned parameters of a market; ConfigError where there are none, or the file is damaged."""
    path = tuned_path(settings, symbol, timeframe)
    try:
        tuned = Tuned.model_validate_json(read_regular(path, _FILE_BYTES))
        replace(EnsembleSettings(), **tuned.parameters)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: nothing was tuned for {symbol} {timeframe}; run mlkit tune --symbol {symbol} "
            f"--timeframe {timeframe}"
        ) from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        detail = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    except OSError as error:
        detail = error.strerror or "cannot be read"
    except (TypeError, ConfigError) as error:
        detail = str(error).splitlines()[0]
    else:
        if (tuned.symbol, tuned.timeframe) == (symbol, timeframe):
            return tuned
        detail = f"it was tuned for {tuned.symbol} {tuned.timeframe}"
    raise ConfigError(f"{path}: damaged ({printable(detail)}); delete it and run mlkit tune again")
