"""The file ``tuned.json`` of a market: parameters that a study chose, and all that one must know to judge them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mlkit.config import Settings, write_atomic
from mlkit.errors import ConfigError
from mlkit.evaluation import Ledger, Source
from mlkit.features import FeatureSet
from mlkit.models.bundle import market_root
from mlkit.models.ensemble import EnsembleSettings
from mlkit.operations.tracking.trials import feature_digest
from mlkit.operations.training.training_set import ensemble_settings

if TYPE_CHECKING:
    import pandas as pd

FILE = "tuned.json"


class Record(BaseModel):
    """Part of a file; immutable, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Saw(Record):
    """The bars that tuning was given; the test span begins after the last of them."""

    start: str  # open time of the first bar, ISO 8601 UTC
    end: str  # of the last one
    bars: int
    sha256: str  # mlkit.market.bars.fingerprint


Answer = Literal["better", "worse", "not shown", "same parameters"]


class OutOfSample(Record):
    """Tuned against default parameters on bars that tuning never saw."""

    answer: Answer
    default: float  # loss under the default parameters; of prices, no change is 1
    tuned: float  # and under the tuned ones
    difference: float  # tuned minus default: under 0 is better
    low: float | None  # block-bootstrap interval of the difference; None where there are too few bars for one
    high: float | None
    level: float
    start: str  # first bar scored
    end: str
    bars: int
    reads_before: int  # how often these bars had been read before: over 0 they are not out of sample any more


class Tuned(Record):
    """What a tuning study chose for a market."""

    schema_version: Literal[1] = 1
    symbol: str
    timeframe: str
    profile: str
    horizons: tuple[int, ...]
    features: str  # digest of their definitions
    seed: int
    parameters: dict[str, int | float]  # of EnsembleSettings, instead of the profile's
    study: str
    storage: str  # URL without password
    saw: Saw
    folds: int  # inner walk-forward folds of the score
    score: float  # mean loss over them, no change = 1
    default_score: float | None  # of the profile's own parameters
    trials: dict[str, int]  # complete, pruned, failed
    configurations: tuple[str, ...]  # every trial's hash in the ledger
    out_of_sample: OutOfSample | None = None
    created: str

    @property
    def saw_until(self) -> "pd.Timestamp":
        """Open time of the last bar that tuning saw: what these parameters are judged on comes later."""
        import pandas as pd

        return pd.Timestamp(self.saw.end)

    def ensemble(
        self, settings: Settings, bars: "pd.DataFrame", features: FeatureSet | None = None
    ) -> EnsembleSettings:
        """The ensemble's settings with these parameters; the trial ledger is told of the whole study.

        Raises as `demand`.
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
        """Where the parameters come from, for a manifest: plain JSON values."""
        return self.model_dump(mode="json", exclude={"configurations", "created", "storage"})


def tuned_path(settings: Settings, symbol: str, timeframe: str) -> Path:
    """The file of a market, beside its bundles."""
    return market_root(symbol, timeframe, settings) / FILE


def save_tuned(tuned: Tuned, settings: Settings) -> Path:
    """Write the file of its market atomically, and return its path."""
    path = tuned_path(settings, tuned.symbol, tuned.timeframe)
    write_atomic(path, (json.dumps(tuned.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode())
    return path


def load_tuned(settings: Settings, symbol: str, timeframe: str) -> Tuned:
    """The tuned parameters of a market; ConfigError where there are none, or the file is damaged."""
    path = tuned_path(settings, symbol, timeframe)
    try:
        tuned = Tuned.model_validate_json(path.read_bytes())
        replace(EnsembleSettings(), **tuned.parameters)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: nothing was tuned for {symbol} {timeframe}; run mlkit tune --symbol {symbol} "
            f"--timeframe {timeframe}"
        ) from None
    except (ValidationError, TypeError, ConfigError) as error:
        detail = str(error).splitlines()[0]
        raise ConfigError(f"{path}: damaged ({detail}); delete it and run mlkit tune again") from None
    return tuned
