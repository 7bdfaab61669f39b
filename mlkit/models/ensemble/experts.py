"""The experts whose ends an interval mixes: the combined scale twice, and plain ones that are hard to beat somewhere.

Of the two with the combined scale one follows the outcomes slowly, one quickly. The plain ones are a constant, the
RiskMetrics average and GARCH(1,1), each times a factor and with quantiles of its own, all from the rows of training.
``mlkit.models.ensemble.conformal`` weighs them by what they have cost.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from mlkit.errors import BundleError
from mlkit.models.ensemble.calibration import HorizonCalibration, conformal_quantiles, fit_calibration
from mlkit.models.ensemble.conformal import LEVELS, MOST, NORMAL_LOSS, PLAIN, REACH, follow_ends, learning_rate
from mlkit.models.ensemble.settings import FloatMatrix, FloatVector, Forecast, IntVector
from mlkit.models.ensemble.split import TrainingSplit

PACES = (1.0, 4.0, 1.0, 1.0, 1.0)  # of their steps: combined, combined and quick, constant, RiskMetrics, GARCH
SHARES = (6.0, 0.6, 0.6, 1.0, 1.0)  # weights before any loss
EVIDENCE = 16_000  # rows of training that the losses at the start may stand for
_KEYS = {"horizon", "factors", "ends", "losses", "paces", "learning"}


@dataclass(frozen=True)
class HorizonExperts:
    """The experts of one horizon: those of the combined scale, then the plain ones."""

    horizon: int
    factors: tuple[float, ...]  # of the plain measures, E - 2
    ends: tuple[tuple[float, ...], ...]  # of every plain expert, in units of its scale, (E - 2, 4)
    losses: tuple[tuple[float, ...], ...]  # with which all experts start, (E, 4)
    paces: tuple[float, ...]  # factor on the step of every expert, (E,)
    learning: float  # weight of a loss

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The experts that :meth:`to_dict` described; BundleError on anything else."""
        if not isinstance(values, dict) or values.keys() != _KEYS:
            raise BundleError(f"experts: expected the keys {', '.join(sorted(_KEYS))}; train the bundle again")
        horizon, learning = values["horizon"], values["learning"]
        if not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 1:
            raise BundleError("experts: horizon must be a number of bars; train the bundle again")
        factors = _numbers(values["factors"], "factors")
        tables = []
        for name, rows in (("ends", len(factors)), ("losses", len(factors) + PLAIN)):
            table = values[name]
            if not isinstance(table, list | tuple) or len(table) != rows:
                raise BundleError(f"experts: {name} must have {rows} rows; train the bundle again")
            tables.append(tuple(_numbers(row, name, len(LEVELS)) for row in table))
        paces = _numbers(values["paces"], "paces", len(factors) + PLAIN)
        (rate,) = _numbers([learning], "learning")
        ordered = all(list(row) == sorted(row) for row in tables[0])
        if min(factors, default=1.0) <= 0 or rate < 0 or min(paces) < 0 or not ordered:
            raise BundleError(f"experts of horizon {horizon}: values contradict each other")
        return cls(horizon, factors, tables[0], tables[1], paces, rate)


def _numbers(values: Any, name: str, length: int | None = None) -> tuple[float, ...]:
    many = isinstance(values, list | tuple) and len(values) <= 100 and length in (None, len(values))
    if not many or not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in values):
        raise BundleError(f"experts: {name} must be finite numbers; train the bundle again")
    return tuple(float(x) for x in values)


def plain_scales(scale: FloatMatrix, terms: FloatMatrix | None, horizons: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """What the plain experts measure, (n, H, E - 2): 1 and, where there are terms, RiskMetrics and GARCH.

    Parameters
    ----------
    scale
        GARCH's expected deviation over each horizon, (n, H), before it is refined.
    terms
        Of ``volatility_terms``, (n, K), the logarithm of the RiskMetrics average per bar first.
    """
    if terms is None:
        return np.ones((*scale.shape, 1))
    out = np.ones((*scale.shape, 3))
    _plain_scales(np.ascontiguousarray(scale), terms[:, 0].copy(), np.sqrt(np.array(horizons, dtype=np.float64)), out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _plain_scales(scale: Any, log_ewma: Any, roots: Any, out: Any) -> None:
    """Compiled, so a row alone has the bits it has in company."""
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            out[i, j, 1] = math.exp(log_ewma[i]) * roots[j]
            out[i, j, 2] = scale[i, j]


def fit_experts(
    residual: FloatVector,
    scale: FloatVector,
    plain: FloatMatrix,
    ends: tuple[float, ...],
    horizon: int,
    crowd: float = 1.0,
) -> HorizonExperts:
    """Factors, quantiles and starting losses of the experts, from rows of training.

    Parameters
    ----------
    residual
        Outcome less the forecast, (n,), log returns.
    scale, plain
        The combined scale, (n,), and what the plain experts measure, (n, E - 2).
    ends
        Quantiles of the combined expert, in units of ``scale``, in the order of the conformal levels.
    crowd
        Rows that share a bar time, more than 1 where symbols are pooled.
    """
    factors, tables, scales = [], [ends] * PLAIN, [scale] * PLAIN
    for measure in plain.T:
        factor = float(np.mean(np.abs(residual / measure))) * math.sqrt(math.pi / 2.0) or 1.0
        scales.append(factor * measure)
        (low80, high80), (low90, high90) = (conformal_quantiles(residual / scales[-1], level) for level in (0.8, 0.9))
        factors.append(factor)
        tables.append((low90, low80, high80, high90))
    learning = learning_rate(horizon)
    unit = np.sqrt(scale * scales[PLAIN])
    rows = min(len(residual) / crowd, EVIDENCE)
    losses = []
    for share, table, measure in zip(SHARES, tables, scales, strict=False):
        apart = residual[:, None] / measure[:, None] - np.array(table)
        loss = (np.array(LEVELS) - (apart <= 0.0)) * apart * (measure / unit)[:, None] / NORMAL_LOSS
        losses.append(loss.mean(axis=0) * rows - math.log(share) / learning)
    behind = np.minimum(np.array(losses) - np.min(losses, axis=0), MOST / learning)
    starts = tuple(tuple(row) for row in behind.tolist())
    return HorizonExperts(horizon, tuple(factors), tuple(tables[PLAIN:]), starts, PACES[: len(losses)], learning)


def calibrate(
    raw: FloatMatrix,
    split: TrainingSplit,
    column: Callable[[int], tuple[FloatVector, FloatVector, FloatMatrix]],
    horizons: tuple[int, ...],
) -> tuple[tuple[HorizonCalibration, ...], tuple[HorizonExperts, ...]]:
    """Calibration and experts of every horizon; both take their quantiles from the same rows.

    Parameters
    ----------
    raw
        Ensemble score of the calibration rows, (m, H).
    split
        Which rows those are.
    column
        Of the number of a horizon: outcome in units of the combined scale, (n,), that scale, (n,), and what the plain
        experts measure, (n, E - 2), in all ``split.every`` rows. One horizon is held in memory at a time.
    """
    held = np.searchsorted(split.every, split.calibration)
    times = {"times": split.times(split.calibration), "history_times": split.times(split.every)}
    calibrations, panels = [], []
    for j, h in enumerate(horizons):
        z, scale, plain = column(j)
        c = fit_calibration(raw[:, j], z[held], h, history=z, log_scale=np.log(scale), **times)
        if c.shrink:
            z, scale, plain = z[held] - c.shrink * raw[:, j], scale[held], plain[held]
        panels.append(fit_experts(z * scale, scale, plain, c.ends, h, split.rows_per_time))
        calibrations.append(c)
    return tuple(calibrations), tuple(panels)


def adapted_ends(
    forecast: Forecast,
    outcome: FloatMatrix,
    calibrations: tuple[HorizonCalibration, ...],
    experts: tuple[HorizonExperts, ...],
    block: IntVector,
    first: int,
) -> FloatMatrix:
    """Ends of the adapted intervals at rows ``first`` and later, log returns, (n - first, H, 4)."""
    apart, logs = outcome - forecast.log_return, np.log(forecast.scale)
    out = np.empty((len(forecast) - first, len(calibrations), len(LEVELS)))
    for j, (c, panel) in enumerate(zip(calibrations, experts, strict=True)):
        lean = (logs[:, j] - c.log_scale) / c.log_scale_std if c.log_scale_std > 0 else np.zeros(len(logs))
        paces = np.array(panel.paces)
        ends = follow_ends(
            np.ascontiguousarray(apart[:, j]),
            np.column_stack([*[forecast.scale[:, j]] * PLAIN, forecast.plain[:, j] * np.array(panel.factors)]),
            np.clip(lean, -REACH, REACH),
            np.array([*[c.ends] * PLAIN, *panel.ends]),
            np.array(panel.losses),
            c.horizon,
            block=block,
            memory=c.memory,
            rate=c.rate * paces,
            lean=c.lean * np.where(np.arange(len(paces)) < PLAIN, paces, 0.0),
            learning=panel.learning,
            first=first,
        )
        out[:, j] = forecast.log_return[first:, j, None] + ends
    return out
