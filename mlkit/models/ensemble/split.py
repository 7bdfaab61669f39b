"""Training rows of the ensemble: which fit, which stop the boosting early, which calibrate; their labels and scales."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlkit.errors import ConfigError
from mlkit.evaluation import distinct, inner_split
from mlkit.models.ensemble.calibration import demand_rows
from mlkit.models.ensemble.learners.learner import DiskBatches, Rows, TrainingParts
from mlkit.models.ensemble.settings import EnsembleSettings, Float32Matrix, FloatMatrix, IntMatrix, IntVector
from mlkit.models.ensemble.spread import HorizonSpread, fit_spread, spread_scale

SPREAD_ROWS = 200_000  # rows that the scale is fitted on where the arrays are larger than memory, evenly spaced


@dataclass(frozen=True, eq=False)
class TrainingArrays:
    """Features and labels of n rows in time order, for H horizons; arrays may be files (``numpy.memmap``).

    Raises ConfigError for wrong shapes or dtypes.
    """

    X: Float32Matrix  # (n, F), known at the close of each row's bar; in C order it is read in place
    Y: FloatMatrix  # (n, H) log returns; a row with NaN in X or Y is left out
    end: IntMatrix  # (n, H) bar position at which each label ends, -1 where there is none
    scale: FloatMatrix  # (n, H) standard deviation of each log return as expected at the row's close
    horizons: tuple[int, ...]  # bars ahead, increasing
    terms: FloatMatrix | None = None  # (n, K) of `volatility_terms`: with them the scale is refined
    # (n,) bar time of each row on the axis that ``end`` counts on; rows of several markets share them. Parts are cut
    # and purged by it. By default it follows from ``end``: one row a bar.
    positions: IntVector | None = None

    def __post_init__(self) -> None:
        horizons, expected = self.horizons, (len(self.X), len(self.horizons))
        if not horizons or min(horizons) < 1 or list(horizons) != sorted(set(horizons)):
            raise ConfigError(f"horizons must be increasing numbers of bars, got {horizons}")
        check_features(self.X, self.scale, self.X.shape[-1], len(horizons))
        if self.Y.shape != expected or self.end.shape != expected:
            raise ConfigError(f"labels and their ends must be {expected}, got {self.Y.shape} and {self.end.shape}")
        if not np.issubdtype(self.end.dtype, np.integer):
            raise ConfigError(f"label ends must be integer bar positions, got {self.end.dtype}")


def check_features(X: Float32Matrix, scale: FloatMatrix, n_features: int, n_horizons: int) -> None:
    """ConfigError unless X is float32 (n, n_features) and scale (n, n_horizons)."""
    if X.dtype != np.float32 or X.ndim != 2 or X.shape[1] != n_features:
        raise ConfigError(f"features must be float32 (n, {n_features}), got {X.dtype} {X.shape}; use build_features")
    if scale.shape != (len(X), n_horizons):
        raise ConfigError(f"scale must be one spread a row and horizon, ({len(X)}, {n_horizons}), got {scale.shape}")


@dataclass(frozen=True, eq=False)
class TrainingSplit:
    """Row numbers of the chronological parts of a training, purged between."""

    fit: IntVector
    valid: IntVector
    calibration: IntVector
    early: IntVector  # all rows whose labels end before calibration, the purged gap included
    every: IntVector  # all usable rows
    bar_times: IntVector  # (n,) bar time of each row of the training

    @property
    def rows_per_time(self) -> float:
        """Usable rows that share a bar time, on average."""
        return len(self.every) / len(distinct(self.bar_times[self.every]))

    def times(self, rows: IntVector) -> IntVector | None:
        """Number of each row's bar time among those of ``rows``; None where no two rows share one."""
        times = self.bar_times[rows]
        shared = distinct(times)
        return None if len(shared) == len(rows) else np.searchsorted(shared, times)


def split_rows(arrays: TrainingArrays, settings: EnsembleSettings) -> TrainingSplit:
    """Cut the usable rows into parts; ConfigError where too few are left to calibrate."""
    end, horizons = arrays.end, arrays.horizons
    usable = usable_rows(arrays.X, arrays.scale) & np.isfinite(arrays.Y).all(axis=1) & (end >= 0).all(axis=1)
    if arrays.terms is not None:
        usable &= np.isfinite(arrays.terms).all(axis=1)
    # A label of one history spans h bars, so its end gives the row's own bar; the minimum is safe where some end early.
    given = arrays.positions
    times = (end - np.array(horizons)).min(axis=1) if given is None else np.asarray(given, dtype=np.int64)
    labelled = np.where(usable[:, None], end, -1)
    rows = np.flatnonzero(usable)
    parts = inner_split(labelled[rows], settings.fractions, positions=times[rows])
    fit, valid, calibration = (rows[part] for part in parts)
    demand_rows(len(calibration), horizons[-1])
    early = np.flatnonzero(usable & (labelled.max(axis=1) < times[calibration[0]]))
    return TrainingSplit(fit, valid, calibration, early, rows, times)


def fit_spreads(
    arrays: TrainingArrays, split: TrainingSplit, disk: DiskBatches | None = None
) -> tuple[HorizonSpread, ...]:
    """The scale of every horizon, from the rows before the calibration part; nothing without terms."""
    if arrays.terms is None:
        return ()
    rows = split.early if disk is None else split.early[:: -(-len(split.early) // SPREAD_ROWS)]
    terms = np.ascontiguousarray(arrays.terms[rows])
    return tuple(
        fit_spread(arrays.scale[rows, j], terms, arrays.Y[rows, j], h, split.rows_per_time)
        for j, h in enumerate(arrays.horizons)
    )


@dataclass(frozen=True, eq=False)
class NormalisedRows:
    """All usable rows in their order, with labels in units of the combined scale; in files where ``disk`` is given."""

    X: Float32Matrix  # (m, F)
    z: FloatMatrix  # (m, H) normalised labels
    clipped: FloatMatrix  # (m, H) the same within ±target_clip, to train on
    scale: FloatMatrix  # (m, H) combined scale

    @classmethod
    def make(
        cls,
        arrays: TrainingArrays,
        split: TrainingSplit,
        spreads: tuple[HorizonSpread, ...],
        clip: float,
        disk: DiskBatches | None,
    ) -> "NormalisedRows":
        """Normalise the labels; features are copied only where the usable rows are not consecutive."""
        every, (n, horizons) = split.every, (len(split.every), len(arrays.horizons))
        first, X = int(every[0]), np.ascontiguousarray(arrays.X)
        consecutive = int(every[-1]) - first + 1 == n
        features = X[first : first + n] if consecutive else _new("features", (n, X.shape[1]), np.float32, disk)
        z, clipped, scale = (_new(name, (n, horizons), np.float64, disk) for name in ("z", "clipped", "scale"))
        for batch in batches(n, disk):
            rows = every[batch]
            scale[batch] = arrays.scale[rows]
            if arrays.terms is not None:
                scale[batch] = spread_scale(spreads, arrays.scale[rows], arrays.terms[rows])
            z[batch] = arrays.Y[rows] / scale[batch]
            clipped[batch] = np.clip(z[batch], -clip, clip)
            if not consecutive:
                features[batch] = X[rows]
        return cls(features, z, clipped, scale)

    def parts(self, split: TrainingSplit, disk: DiskBatches | None) -> tuple[TrainingParts, IntVector]:
        """Rows for the learners, and the positions of the calibration rows among all usable ones.

        Where the arrays are files, a part ends at its first hole (purging leaves one at the end), so it is read in
        place.
        """
        found = []
        for rows in (split.fit, split.valid, split.early, split.calibration):
            positions = np.searchsorted(split.every, rows)
            holes = np.flatnonzero(np.diff(positions) > 1)
            found.append(positions if disk is None or not len(holes) else positions[: holes[0] + 1])
        *training, held_out = found
        return TrainingParts(*(Rows(take(self.X, rows), take(self.clipped, rows)) for rows in training)), held_out


def on_disk(split: TrainingSplit, held_out: IntVector, disk: DiskBatches) -> TrainingSplit:
    """The split with its long arrays in files; only the calibration rows of ``held_out`` are kept of the parts."""
    files = {}
    for name in ("every", "bar_times"):
        values = getattr(split, name)
        files[name] = _new(name, (len(values), 1), np.int64, disk)[:, 0]
        files[name][:] = values
    nothing = np.empty(0, dtype=np.int64)
    return replace(split, fit=nothing, valid=nothing, early=nothing, calibration=split.every[held_out], **files)


def usable_rows(X: Float32Matrix, scale: FloatMatrix) -> npt.NDArray[np.bool_]:
    """Rows with finite features and a positive scale; one pass over X, no matrix-sized temporary."""
    with np.errstate(invalid="ignore"):
        total = X.sum(axis=1, dtype=np.float64)  # NaN and inf survive a sum; float32 values cannot overflow it
        return np.asarray(np.isfinite(total) & (np.isfinite(scale) & (scale > 0)).all(axis=1), dtype=np.bool_)


def take(matrix: Any, rows: IntVector) -> Any:
    """Rows of a matrix: a view where they are consecutive, else one copy."""
    first, last = int(rows[0]), int(rows[-1])
    return matrix[first : last + 1] if last - first + 1 == len(rows) else matrix[rows]


def batches(n: int, disk: DiskBatches | None) -> Iterator[slice]:
    """Slices of at most ``disk.rows`` rows; one slice in memory."""
    size = n if disk is None else disk.rows
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _new(name: str, shape: tuple[int, int], dtype: npt.DTypeLike, disk: DiskBatches | None) -> Any:
    return np.empty(shape, dtype) if disk is None else np.memmap(disk.folder / name, dtype, "w+", shape=shape)
