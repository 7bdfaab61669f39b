"""Which rows of a training fit, which stop the boosting early, and which calibrate."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlkit.evaluation import distinct, inner_split
from mlkit.models.ensemble.calibration import demand_rows
from mlkit.models.ensemble.learners import Parts, Rows
from mlkit.models.ensemble.settings import EnsembleSettings, Float32Matrix, FloatMatrix, IntMatrix, IntVector
from mlkit.models.ensemble.spread import HorizonSpread, fit_spread


@dataclass(frozen=True, eq=False)
class TrainingSplit:
    """Row numbers of the chronological parts of a training, purged between."""

    fit: IntVector
    valid: IntVector
    calibration: IntVector
    early: IntVector  # all rows whose labels end before calibration, the purged gap included
    every: IntVector
    where: IntVector  # (n,) bar time of each row of the training

    @property
    def crowd(self) -> float:
        """Rows that share a bar time, on average."""
        return len(self.every) / len(distinct(self.where[self.every]))

    def times(self, rows: IntVector) -> IntVector | None:
        """Number of each row's bar time among those of ``rows``; None where no two rows share one."""
        where = self.where[rows]
        shared = distinct(where)
        return None if len(shared) == len(rows) else np.searchsorted(shared, where)

    def parts(self, X: Float32Matrix, Y: FloatMatrix, scale: FloatMatrix, clip: float) -> tuple[Parts, Rows]:
        """Training parts with clipped labels, and the calibration rows with labels as they are."""
        made = []
        for rows in (self.fit, self.valid, self.early):
            made.append(Rows(_take(X, rows), np.clip(Y[rows] / scale[rows], -clip, clip)))
        held_out = self.calibration
        return Parts(*made), Rows(_take(X, held_out), Y[held_out] / scale[held_out])


def split_rows(
    X: Float32Matrix,
    Y: FloatMatrix,
    end: IntMatrix,
    scale: FloatMatrix,
    terms: FloatMatrix | None,
    horizons: tuple[int, ...],
    positions: IntVector | None,
    settings: EnsembleSettings,
) -> TrainingSplit:
    """Which rows learn, stop and calibrate."""
    usable = usable_rows(X, scale) & np.isfinite(Y).all(axis=1) & (end >= 0).all(axis=1)
    if terms is not None:
        usable &= np.isfinite(terms).all(axis=1)
    # A label of one history spans h bars, so its end tells the row's own bar; min is the safe side if some end early.
    where = (end - np.array(horizons)).min(axis=1) if positions is None else np.asarray(positions, dtype=np.int64)
    labelled = np.where(usable[:, None], end, -1)
    rows = np.flatnonzero(usable)
    parts = inner_split(labelled[rows], settings.fractions, positions=where[rows])
    fit, valid, calibration = (rows[part] for part in parts)
    demand_rows(len(calibration), horizons[-1])
    early = np.flatnonzero(usable & (labelled.max(axis=1) < where[calibration[0]]))
    return TrainingSplit(fit, valid, calibration, early, rows, where)


def fit_spreads(
    split: TrainingSplit, scale: FloatMatrix, terms: FloatMatrix | None, Y: FloatMatrix, horizons: tuple[int, ...]
) -> tuple[HorizonSpread, ...]:
    """The scale of every horizon, from all rows before the calibration part."""
    if terms is None:
        return ()
    rows = split.early
    columns = np.ascontiguousarray(terms[rows])
    return tuple(fit_spread(scale[rows, j], columns, Y[rows, j], h, split.crowd) for j, h in enumerate(horizons))


def usable_rows(X: Float32Matrix, scale: FloatMatrix) -> npt.NDArray[np.bool_]:
    """Rows with finite features and a positive scale; one pass over X, no matrix-sized temporary."""
    with np.errstate(invalid="ignore"):
        total = X.sum(axis=1, dtype=np.float64)  # NaN and inf survive a sum; float32 values cannot overflow it
        return np.asarray(np.isfinite(total) & (np.isfinite(scale) & (scale > 0)).all(axis=1), dtype=np.bool_)


def _take(X: Float32Matrix, rows: npt.NDArray[np.int64]) -> Float32Matrix:
    """Rows of a matrix: a view where they are consecutive, else one copy."""
    first, last = int(rows[0]), int(rows[-1])
    return X[first : last + 1] if last - first + 1 == len(rows) else X[rows]
