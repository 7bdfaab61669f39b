"""What the price models share: array types, the forecast they return, and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from mlkit.errors import ConfigError

Float32Matrix = npt.NDArray[np.float32]  # features, (n, F)
FloatMatrix = npt.NDArray[np.float64]  # one column a horizon, (n, H)
FloatVector = npt.NDArray[np.float64]  # (n,)
IntMatrix = npt.NDArray[np.int64]  # label end positions, (n, H)
IntVector = npt.NDArray[np.int64]  # (n,)


class Progress(Protocol):
    """Called after every stage of a training; ``done`` counts up to ``total``."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Forecast:
    """Predictive distribution of the log return, per row and horizon; known at the close of the row's bar.

    Arrays are float64 (n, H) in the order of ``horizons``, but for ``simple``. A row without a forecast is NaN in all
    of them.
    """

    horizons: tuple[int, ...]  # bars ahead
    log_return: FloatMatrix  # expected log(close[t + h] / close[t]), shrunk towards no change
    raw: FloatMatrix  # the same before shrinkage
    members: dict[str, FloatMatrix]  # forecast of each learner, shrunk alike: their weighted sum is log_return
    p_up: FloatMatrix  # calibrated probability of a rise, half of no change included
    scale: FloatMatrix  # expected deviation of the outcome: the unit of everything here
    simple: FloatMatrix  # (n, H, E - 2) the simple scales of `mlkit.models.ensemble.experts`, without their factors
    std: FloatMatrix  # standard deviation of the outcome around log_return
    lo80: FloatMatrix  # conformal intervals of the outcome
    hi80: FloatMatrix
    lo90: FloatMatrix
    hi90: FloatMatrix

    def __len__(self) -> int:
        return len(self.log_return)

    def columns(self) -> dict[str, Any]:
        """Every array but the members, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("horizons", "members")}

    def rows(self, rows: IntVector) -> Self:
        """Some rows of it."""
        members = {name: values[rows] for name, values in self.members.items()}
        return replace(self, members=members, **{name: values[rows] for name, values in self.columns().items()})


FORECAST_COLUMNS = ("log_return", "p_up", "std", "lo80", "hi80", "lo90", "hi90")  # of a `Forecast`, in its tables


@dataclass(frozen=True)
class EnsembleSettings:
    """How the price ensemble is trained; ``smoke()`` takes seconds, ``full()`` is the real thing.

    A leaf holds many rows and trees are shallow, since a bar's return is nearly all noise.
    """

    # Learner to weight, not yet normalised; a learner of weight 0 is not trained. A mapping, read only.
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"xgboost": 0.4, "lightgbm": 0.4, "random_forest": 0.2}
    )
    n_estimators: int = 1000  # most boosting rounds; early stopping ends them
    early_stopping_rounds: int = 50
    learning_rate: float = 0.03
    max_depth: int = 5
    min_leaf: int = 50  # rows in a leaf
    subsample: float = 0.7  # rows per boosted tree
    colsample: float = 0.4  # features per boosted tree
    reg_lambda: float = 10.0  # L2 penalty on leaf values (boosting)
    max_bin: int = 127
    forest_trees: int = 100
    forest_depth: int = 8
    forest_features: float = 0.15  # features tried per split
    forest_rows: int = 20_000  # most rows a forest tree is grown on
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)  # fit, early stopping, calibration
    target_clip: float = 8.0  # of the volatility-normalised label, in fitting only
    n_threads: int = 2  # bits are promised for the same count only

    def __post_init__(self) -> None:
        weights = dict(self.weights)
        if min(weights.values(), default=0.0) < 0 or sum(weights.values()) <= 0:
            raise ConfigError(f"EnsembleSettings: weights must be >= 0 and not all zero, got {weights}")
        for name in ("early_stopping_rounds", "min_leaf", "forest_rows", "n_threads"):
            self._demand(name, getattr(self, name) >= 1, "at least 1")
        most_of = {"n_estimators": 100_000, "forest_trees": 100_000, "max_depth": 64, "forest_depth": 64}
        for name, most in most_of.items():
            self._demand(name, 1 <= getattr(self, name) <= most, f"in 1..{most}")
        for name in ("learning_rate", "subsample", "colsample", "forest_features"):
            self._demand(name, 0 < getattr(self, name) <= 1, "in (0, 1]")
        self._demand("reg_lambda", self.reg_lambda >= 0, "at least 0")
        self._demand("max_bin", 2 <= self.max_bin <= 255, "in 2..255")
        self._demand("target_clip", self.target_clip > 0, "positive")

    def _demand(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"EnsembleSettings: {name} must be {rule}, got {getattr(self, name)}")

    @classmethod
    def smoke(cls, **changes: Any) -> Self:
        """Settings for seconds: a few shallow trees, coarse bins."""
        small: dict[str, Any] = {
            "n_estimators": 80,
            "early_stopping_rounds": 10,
            "learning_rate": 0.1,
            "max_depth": 3,
            "max_bin": 63,
            "forest_trees": 32,
            "forest_depth": 5,
            "forest_features": 0.1,
            "forest_rows": 2000,
        }
        return cls.full(**(small | changes))

    @classmethod
    def full(cls, **changes: Any) -> Self:
        """The defaults, with ``changes``; a name that is no setting is an error."""
        unknown = sorted(changes.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"EnsembleSettings: no setting named {', '.join(unknown)}")
        return cls(**changes)
