"""The price ensemble: XGBoost, LightGBM and a random forest, shrunk and calibrated on held-out rows.

The target of horizon h is the log return divided by its expected spread ``scale``, so quiet and wild markets weigh the
same. Training rows fall into three chronological parts, purged between: models are fitted on the first, the
boosted ones stop early on the second, and shrinkage, direction probability and intervals come from the
third, which no model has seen.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.config import write_atomic
from mlkit.errors import BundleError, ConfigError, DependencyError
from mlkit.evaluation.splits import inner_split
from mlkit.models.base import (
    EnsembleSettings,
    Float32Matrix,
    FloatMatrix,
    FloatVector,
    Forecast,
    IntMatrix,
    Progress,
)
from mlkit.models.calibration import HorizonCalibration, demand_rows, fit_calibration
from mlkit.models.learners import LEARNERS, Learner, Parts, Rows

__all__ = ["EnsembleSettings", "PricePredictor"]

CALIBRATION_FILE = "calibration.json"
_MODULES = {"xgboost": "xgboost", "lightgbm": "lightgbm", "random_forest": "sklearn"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class PricePredictor:
    """A fitted ensemble; immutable. Make one with :meth:`fit` or :meth:`from_files`."""

    horizons: tuple[int, ...]
    n_features: int
    weights: dict[str, float]  # of the libraries in use; they sum to 1
    learners: dict[str, Learner]
    calibrations: tuple[HorizonCalibration, ...]
    training: dict[str, Any]  # rows of each part, trees kept; plain JSON values

    def __repr__(self) -> str:
        used = ", ".join(f"{name} {weight:.0%}" for name, weight in self.weights.items())
        return f"PricePredictor(horizons={self.horizons}, features={self.n_features}, {used})"

    @classmethod
    def fit(
        cls,
        X: Float32Matrix,
        Y: FloatMatrix,
        end: IntMatrix,
        scale: FloatMatrix,
        *,
        horizons: Sequence[int],
        settings: EnsembleSettings | None = None,
        seed: int = 7,
        progress: Progress | None = None,
    ) -> Self:
        """Train all libraries for all horizons; same data, seed, settings and versions give the same bits.

        Parameters
        ----------
        X
            Features known at the close of each row's bar, float32 (n, F), rows in time order. In C order
            they are read in place, never copied, as long as usable rows are consecutive.
        Y
            Log returns, float64 (n, H). A row with NaN in X or Y is left out.
        end
            Bar position at which each label ends, int64 (n, H), -1 where none: ``label_end_positions`` of
            all bars, sliced like X (a walk-forward fold keeps the positions of the whole series).
        scale
            Standard deviation of the log return over each horizon, as expected at the row's close, (n, H);
            rows without are left out.
        settings
            Default ``EnsembleSettings.smoke()``. The weight of a library that is not installed goes to the
            others, with a logged warning; DependencyError if none is left.

        Raises ConfigError for wrong shapes or dtype, rows out of time order, or too few rows.
        """
        settings = settings or EnsembleSettings.smoke()
        horizons = tuple(int(h) for h in horizons)
        _check_training(X, Y, end, scale, horizons)
        parts, held_out = _prepare(np.ascontiguousarray(X), Y, end, scale, horizons, settings)
        weights = _installed_weights(settings)
        report = _Report(progress, len(weights) * len(horizons) + 1)
        learners = {}
        for name in weights:
            ticks = partial(report, name, horizons)
            learners[name] = LEARNERS[name].fit(parts, horizons, settings, seed, ticks)
        raw = _combine({name: m.predict(held_out.X) for name, m in learners.items()}, weights)
        pairs = zip(horizons, raw.T, held_out.z.T, strict=True)
        calibrations = tuple(fit_calibration(score, outcome, h) for h, score, outcome in pairs)
        report.say("calibration")
        rows = {"fit": len(parts.fit), "valid": len(parts.valid), "calibration": len(held_out)}
        trees = {name: list(learner.rounds) for name, learner in learners.items()}
        training = {"rows": rows, "trees": trees, "seed": seed}
        return cls(horizons, X.shape[1], weights, learners, calibrations, training)

    def predict(self, X: Float32Matrix, scale: FloatMatrix) -> Forecast:
        """Forecast every row; see :class:`Forecast` for what comes back.

        Parameters
        ----------
        X
            Features, float32 (n, F), in the order of the training.
        scale
            Expected spread of every horizon, (n, H), as in training. Rows with NaN features or a scale that is not
            positive are NaN in every output.
        """
        _check_features(X, scale, self.n_features, len(self.horizons))
        usable = _usable(X, scale)
        n, shape = int(usable.sum()), (len(X), len(self.horizons))
        X = np.ascontiguousarray(X if n == len(X) else X[usable])
        unit = scale[usable]
        scores = {name: m.predict(X) if n else np.empty((0, shape[1])) for name, m in self.learners.items()}
        raw = _combine(scores, self.weights)

        def placed(values: FloatMatrix) -> FloatMatrix:
            out = np.full(shape, np.nan)
            out[usable] = values
            return out

        centre = raw * self._column("shrink")
        ends = {
            f"{end}{level}": placed((centre + self._column(f"{name}{level}")) * unit)
            for end, name in (("lo", "low"), ("hi", "high"))
            for level in (80, 90)
        }
        p_up = [c.p_up(raw[:, j]) for j, c in enumerate(self.calibrations)]
        return Forecast(
            horizons=self.horizons,
            log_return=placed(centre * unit),
            members={name: placed(z * self._column("shrink") * unit) for name, z in scores.items()},
            p_up=placed(np.column_stack(p_up)),
            std=placed(self._column("std") * unit),
            **ends,
        )

    def unshrunk(self) -> Self:
        """The same trees without shrinkage towards no change: what they would have said unchecked."""
        return replace(self, calibrations=tuple(replace(c, shrink=1.0) for c in self.calibrations))

    def feature_importance(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Gain of every feature: one column a library (mean over horizons, sums to 1) and the weighted mean.

        Sorted by that mean, largest first. Default names are ``f0``, ``f1``, ...
        """
        index = [f"f{i}" for i in range(self.n_features)] if names is None else list(names)
        if len(index) != self.n_features:
            raise ConfigError(f"feature_importance: {len(index)} names for {self.n_features} features")
        gains = {name: learner.gain().mean(axis=0) for name, learner in self.learners.items()}
        frame = pd.DataFrame(gains, index=pd.Index(index, name="feature"))
        frame["mean"] = sum(self.weights[name] * gain for name, gain in gains.items())
        return frame.sort_values("mean", ascending=False, kind="stable")

    def to_bytes(self) -> dict[str, bytes]:
        """File name to content: one model file per library and horizon, and ``calibration.json``."""
        files = {name: data for m in self.learners.values() for name, data in m.to_bytes().items()}
        described = {
            "horizons": list(self.horizons),
            "n_features": self.n_features,
            "weights": self.weights,
            "calibrations": [c.to_dict() for c in self.calibrations],
            "training": self.training,
        }
        files[CALIBRATION_FILE] = json.dumps(described, indent=1, allow_nan=False).encode()
        return files

    @classmethod
    def from_bytes(cls, files: Mapping[str, bytes]) -> Self:
        """Rebuild from :meth:`to_bytes`; none of the libraries is needed.

        Raises
        ------
        BundleError
            A file is missing, damaged or does not fit the others.
        """
        try:
            described = json.loads(files[CALIBRATION_FILE])
            calibrations = tuple(HorizonCalibration.from_dict(c) for c in described["calibrations"])
            horizons, n_features = tuple(described["horizons"]), int(described["n_features"])
            weights = {name: float(w) for name, w in described["weights"].items()}
            training = dict(described["training"])
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            detail = repr(error)[:160]
            raise BundleError(f"{CALIBRATION_FILE}: not a calibration ({detail}); train again") from error
        sound = weights.keys() <= LEARNERS.keys() and abs(sum(weights.values()) - 1.0) < 1e-9
        if horizons != tuple(c.horizon for c in calibrations) or not sound:
            raise BundleError(f"{CALIBRATION_FILE}: horizons or weights contradict each other; train again")
        learners = {}
        for name in weights:
            try:
                learners[name] = LEARNERS[name].from_bytes(files, horizons, n_features)
            except KeyError as error:
                raise BundleError(f"model file {error.args[0]} is missing; train again") from error
        return cls(horizons, n_features, weights, learners, calibrations, training)

    def to_files(self, folder: Path) -> list[str]:
        """Write :meth:`to_bytes` into a folder; returns the names."""
        files = self.to_bytes()
        for name, data in files.items():
            write_atomic(folder / name, data)
        return sorted(files)

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what :meth:`to_files` wrote. For folders of unknown origin use ``ModelBundle.open``."""
        return cls.from_bytes({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})

    @cached_property
    def _columns(self) -> dict[str, FloatVector]:
        names = ("shrink", "std", "low80", "high80", "low90", "high90")
        return {name: np.array([getattr(c, name) for c in self.calibrations]) for name in names}

    def _column(self, name: str) -> FloatVector:
        """A calibration value of every horizon, (H,)."""
        return self._columns[name]


class _Report:
    """Counts the stages of a training and tells the listener."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, library: str, horizons: tuple[int, ...], index: int) -> None:
        self.say(f"{library} h={horizons[index]}")

    def say(self, stage: str) -> None:
        """One more stage is done."""
        self.done += 1
        if self.progress:
            self.progress(stage, self.done, self.total)


def _installed(name: str) -> bool:
    try:
        import_module(_MODULES[name])
    except ImportError:
        return False
    return True


def _installed_weights(settings: EnsembleSettings) -> dict[str, float]:
    """Weights of the libraries in use, summing to 1."""
    wanted = {name: weight for name, weight in settings.weights.items() if weight > 0}
    held = {name: weight for name, weight in wanted.items() if _installed(name)}
    if not held:
        raise DependencyError(f"none of {', '.join(wanted)} is installed: pip install 'mlkit[train]'")
    total = sum(held.values())
    shares = {name: weight / total for name, weight in held.items()}
    if len(held) < len(wanted):
        lost = ", ".join(wanted.keys() - held.keys())
        now = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        _log.warning("%s is not installed; the ensemble goes on with %s (pip install 'mlkit[train]')", lost, now)
    return shares


def _prepare(
    X: Float32Matrix,
    Y: FloatMatrix,
    end: IntMatrix,
    scale: FloatMatrix,
    horizons: tuple[int, ...],
    settings: EnsembleSettings,
) -> tuple[Parts, Rows]:
    """Training parts with clipped labels, and the calibration rows with labels as they are."""
    usable = _usable(X, scale) & np.isfinite(Y).all(axis=1) & (end >= 0).all(axis=1)
    # A label spans h bars, so its end tells the row's own bar; min is the safe side if some end early.
    positions = (end - np.array(horizons)).min(axis=1)
    labelled = np.where(usable[:, None], end, -1)
    fit, valid, calibration = inner_split(labelled, settings.fractions, positions=positions)
    demand_rows(len(calibration), horizons[-1])
    # The forest may learn from every row whose labels end before calibration, the purged gap included.
    early = np.flatnonzero(usable & (labelled.max(axis=1) < positions[calibration[0]]))
    z = Y / np.where(usable[:, None], scale, 1.0)
    clipped = np.clip(z, -settings.target_clip, settings.target_clip)
    parts = Parts(*(Rows(_take(X, rows), clipped[rows]) for rows in (fit, valid, early)))
    return parts, Rows(_take(X, calibration), z[calibration])


def _take(X: Float32Matrix, rows: npt.NDArray[np.int64]) -> Float32Matrix:
    """Rows of a matrix: a view where they are consecutive, else one copy."""
    first, last = int(rows[0]), int(rows[-1])
    return X[first : last + 1] if last - first + 1 == len(rows) else X[rows]


def _combine(scores: Mapping[str, FloatMatrix], weights: Mapping[str, float]) -> FloatMatrix:
    return np.asarray(sum(weights[name] * z for name, z in scores.items()), dtype=np.float64)


def _usable(X: Float32Matrix, scale: FloatMatrix) -> npt.NDArray[np.bool_]:
    """Rows with finite features and a positive scale; one pass over X, no matrix-sized temporary."""
    with np.errstate(invalid="ignore"):
        total = X.sum(axis=1, dtype=np.float64)  # NaN and inf survive a sum; float32 values cannot overflow it
        return np.asarray(np.isfinite(total) & (np.isfinite(scale) & (scale > 0)).all(axis=1), dtype=np.bool_)


def _check_features(X: Float32Matrix, scale: FloatMatrix, n_features: int, n_horizons: int) -> None:
    if X.dtype != np.float32 or X.ndim != 2 or X.shape[1] != n_features:
        raise ConfigError(f"features must be float32 (n, {n_features}), got {X.dtype} {X.shape}; use build_features")
    if scale.shape != (len(X), n_horizons):
        raise ConfigError(f"scale must be one spread a row and horizon, ({len(X)}, {n_horizons}), got {scale.shape}")


def _check_training(
    X: Float32Matrix, Y: FloatMatrix, end: IntMatrix, scale: FloatMatrix, horizons: tuple[int, ...]
) -> None:
    if not horizons or min(horizons) < 1 or list(horizons) != sorted(set(horizons)):
        raise ConfigError(f"horizons must be increasing numbers of bars, got {horizons}")
    _check_features(X, scale, X.shape[-1], len(horizons))
    expected = (len(X), len(horizons))
    if Y.shape != expected or end.shape != expected:
        raise ConfigError(f"labels and their ends must be {expected}, got {Y.shape} and {end.shape}")
    if not np.issubdtype(end.dtype, np.integer):
        raise ConfigError(f"label ends must be integer bar positions, got {end.dtype}")
