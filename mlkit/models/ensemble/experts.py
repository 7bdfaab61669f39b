"""The experts whose bounds an interval mixes: the combined scale twice, and simple scales that are hard to beat.

Of the two with the combined scale one adapts slowly, one quickly. The simple scales are a constant, the RiskMetrics
average and GARCH(1,1), each times a factor and with quantiles of its own, all from the rows of training.
``mlkit.models.ensemble.conformal`` weights them by their cumulative pinball loss.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from mlkit.compiled import cached
from mlkit.models.ensemble.calibration import HorizonCalibration, conformal_quantiles, fit_calibration
from mlkit.models.ensemble.conformal import (
    BOUND_LEVELS,
    COMBINED,
    LOG_SCALE_LIMIT,
    MAX_GAP,
    NORMAL_LOSS,
    adaptive_bounds,
    learning_rate,
    make_experts,
)
from mlkit.models.ensemble.settings import FloatMatrix, FloatVector, Forecast, IntVector
from mlkit.models.ensemble.split import TrainingSplit
from mlkit.models.ensemble.spread import STRICT

# Multiples of the adaptation rate, and weights before any loss, of: combined, combined and quick, constant,
# RiskMetrics, GARCH.
RATE_FACTORS = (1.0, 4.0, 1.0, 1.0, 1.0)
PRIOR_WEIGHTS = (6.0, 0.6, 0.6, 1.0, 1.0)
LOSS_ROWS = 16_000  # most rows of training that the losses at the start may stand for

Four = Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]


@dataclass(frozen=True, config=STRICT)
class HorizonExperts:
    """The experts of one horizon: those of the combined scale, then those of the simple ones."""

    horizon: Annotated[int, Field(ge=1)]
    factors: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Field(max_length=98)]  # of the simple scales, E - 2
    bounds: tuple[Four, ...]  # of every simple expert, in units of its scale, (E - 2, 4)
    losses: tuple[Four, ...]  # with which all experts start, (E, 4)
    rate_factors: tuple[Annotated[float, Field(ge=0.0)], ...]  # on the step of every expert, (E,)
    learning: Annotated[float, Field(ge=0.0)]  # weight of a loss

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        simple, experts = len(self.factors), len(self.factors) + COMBINED
        lengths = (len(self.bounds), len(self.losses), len(self.rate_factors))
        ordered = all(list(row) == sorted(row) for row in self.bounds)
        if lengths != (simple, experts, experts) or not ordered:
            raise ValueError(f"experts of horizon {self.horizon}: values contradict each other")
        return self


def simple_scales(scale: FloatMatrix, terms: FloatMatrix | None, horizons: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Scales of the simple experts before their factors, (n, H, E - 2).

    A constant 1 and, where there are terms, RiskMetrics and GARCH.

    ``scale``: GARCH's expected deviation over each horizon, (n, H), before it is refined.
    ``terms``: of ``volatility_terms``, (n, K), the logarithm of the RiskMetrics average per bar first.
    """
    if terms is None:
        return np.ones((*scale.shape, 1))
    out = np.ones((*scale.shape, 3))
    _simple_scales(np.ascontiguousarray(scale), terms[:, 0].copy(), np.sqrt(np.array(horizons, dtype=np.float64)), out)
    return out


@cached(nogil=True, error_model="numpy")
def _simple_scales(scale: Any, log_ewma: Any, roots: Any, out: Any) -> None:
    """Compiled: a row has the same bits alone and in any batch."""
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            out[i, j, 1] = math.exp(log_ewma[i]) * roots[j]
            out[i, j, 2] = scale[i, j]


def fit_experts(
    residual: FloatVector,
    scale: FloatVector,
    simple: FloatMatrix,
    bounds: tuple[float, ...],
    horizon: int,
    rows_per_time: float = 1.0,
) -> HorizonExperts:
    """Factors, quantiles and starting losses of the experts, from rows of training.

    ``residual``: outcome less the forecast, (n,), log returns.
    ``scale``, ``simple``: the combined scale, (n,), and the simple ones before their factors, (n, E - 2).
    ``bounds``: quantiles of the combined expert, in units of ``scale``, in the order of the conformal levels.
    ``rows_per_time``: rows that share a bar time, more than 1 where symbols are pooled.
    """
    factors, tables, scales = [], [bounds] * COMBINED, [scale] * COMBINED
    for measure in simple.T:
        factor = float(np.mean(np.abs(residual / measure))) * math.sqrt(math.pi / 2.0) or 1.0
        scales.append(factor * measure)
        (low80, high80), (low90, high90) = (conformal_quantiles(residual / scales[-1], level) for level in (0.8, 0.9))
        factors.append(factor)
        tables.append((low90, low80, high80, high90))
    learning = learning_rate(horizon)
    unit = np.sqrt(scale * scales[COMBINED])
    rows = min(len(residual) / rows_per_time, LOSS_ROWS)
    losses = []
    for weight, table, measure in zip(PRIOR_WEIGHTS, tables, scales, strict=False):
        gap = residual[:, None] / measure[:, None] - np.array(table)
        loss = (BOUND_LEVELS - (gap <= 0.0)) * gap * (measure / unit)[:, None] / NORMAL_LOSS
        losses.append(loss.mean(axis=0) * rows - math.log(weight) / learning)
    behind = np.minimum(np.array(losses) - np.min(losses, axis=0), MAX_GAP / learning)
    return HorizonExperts(
        horizon=horizon,
        factors=tuple(factors),
        bounds=tuple(tables[COMBINED:]),
        losses=tuple(tuple(row) for row in behind.tolist()),
        rate_factors=RATE_FACTORS[: len(losses)],
        learning=learning,
    )


def calibrate(
    raw: FloatMatrix,
    split: TrainingSplit,
    column: Callable[[int], tuple[FloatVector, FloatVector, FloatMatrix]],
    horizons: tuple[int, ...],
) -> tuple[tuple[HorizonCalibration, ...], tuple[HorizonExperts, ...]]:
    """Calibration and experts of every horizon; both take their quantiles from the same rows.

    ``raw``: ensemble score of the calibration rows, (m, H).
    ``split``: which rows those are.
    ``column``: for the number of a horizon: outcome in units of the combined scale, (n,), that scale, (n,), and the
    simple scales, (n, E - 2), of all ``split.every`` rows. One horizon is held in memory at a time.
    """
    held = np.searchsorted(split.every, split.calibration)
    times = {"times": split.times(split.calibration), "history_times": split.times(split.every)}
    calibrations, experts = [], []
    for j, h in enumerate(horizons):
        z, scale, simple = column(j)
        c = fit_calibration(raw[:, j], z[held], h, history=z, log_scale=np.log(scale), **times)
        if c.shrink:
            z, scale, simple = z[held] - c.shrink * raw[:, j], scale[held], simple[held]
        experts.append(fit_experts(z * scale, scale, simple, c.bounds, h, split.rows_per_time))
        calibrations.append(c)
    return tuple(calibrations), tuple(experts)


def adapted_bounds(
    forecast: Forecast,
    outcome: FloatMatrix,
    calibrations: tuple[HorizonCalibration, ...],
    experts: tuple[HorizonExperts, ...],
    block: IntVector,
    first: int,
) -> FloatMatrix:
    """Bounds of the adapted intervals at rows ``first`` and later, log returns, (n - first, H, 4)."""
    residual, logs = outcome - forecast.log_return, np.log(forecast.scale)
    out = np.empty((len(forecast) - first, len(calibrations), len(BOUND_LEVELS)))
    for j, (c, fitted) in enumerate(zip(calibrations, experts, strict=True)):
        log_scale = (logs[:, j] - c.log_scale) / c.log_scale_std if c.log_scale_std > 0 else np.zeros(len(logs))
        factors = np.array(fitted.rate_factors)
        panel = make_experts(
            bounds=np.array([*[c.bounds] * COMBINED, *fitted.bounds]),
            losses=np.array(fitted.losses),
            rate=c.rate * factors,
            slopes=c.slope_rate * np.where(np.arange(len(factors)) < COMBINED, factors, 0.0),
            learning=fitted.learning,
            horizon=c.horizon,
            lookback=c.lookback,
        )
        bounds = adaptive_bounds(
            np.ascontiguousarray(residual[:, j]),
            np.column_stack([*[forecast.scale[:, j]] * COMBINED, forecast.simple[:, j] * np.array(fitted.factors)]),
            np.clip(log_scale, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT),
            panel,
            block,
            first,
        )
        out[:, j] = forecast.log_return[first:, j, None] + bounds
    return out
