"""Expected deviation of the log return: one scale a horizon, combined from many causal estimates of volatility.

The scale of horizon h is log-linear in the terms of ``mlkit.features.volatility``. It starts from half the GARCH term
structure and half the RiskMetrics average; a ridge holds every coefficient at 0, the more strongly the fewer
independent outcomes there are. A short daily history therefore keeps the starting forecast, which is hard to beat,
and a long one learns the hour of the day and which lookback matters.
"""

import math
from typing import Annotated, Any, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from mlkit.compiled import cached
from mlkit.models.ensemble.settings import FloatMatrix, FloatVector

RIDGE = 6.0  # prior precision of a coefficient: 0.3 is a usual size
PERSISTENCE = 60  # bars over which volatility persists: nearer rows are hardly independent
MARGIN = 0.3  # how far the combination may leave the range seen in training, in logs
_TAIL = 0.001  # share of training rows beyond that range, on each side
_TO_STD = math.log(math.sqrt(math.pi / 2.0))  # standard deviation of a normal over its mean absolute value
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=STRICT)
class HorizonSpread:
    """Coefficients of one horizon's scale: intercept, GARCH over EWMA, then one a term."""

    horizon: Annotated[int, Field(ge=1)]
    coefficients: Annotated[tuple[float, ...], Field(min_length=3, max_length=1000)]
    low: Annotated[float, Field(ge=-50.0)]  # range of the combination, in logs
    high: Annotated[float, Field(le=50.0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("low and high contradict each other")
        return self


def fit_spread(
    scale: FloatVector, terms: FloatMatrix, y: FloatVector, horizon: int, rows_per_time: float = 1.0
) -> HorizonSpread:
    """Fit the scale of one horizon: a gamma regression of ``|y|`` with a logarithmic link and a ridge.

    Minimises ``mean(|y| exp(-η) + η) + ridge / 2 |b|²``, ``η`` the logarithm of the expected ``|y|``: the likelihood of
    Laplace outcomes, which outliers move less than squared errors. ``ridge = RIDGE (h + PERSISTENCE) / n``.
    ``sklearn.linear_model.GammaRegressor`` has the same minimum, with other last bits.

    ``scale``: GARCH's expected deviation over the horizon, (n,), positive.
    ``terms``: (n, K) of ``volatility_terms``, finite.
    ``y``: log returns over the horizon, (n,), finite: rows of training only.
    ``horizon``: bars a label spans.
    ``rows_per_time``: rows that share a bar time, more than 1 where symbols are pooled.

    Sources: Bollerslev, Patton and Quaedvlieg (2016), *J. Econometrics* 192; McCullagh and Nelder (1989), ch. 8.
    """
    garch = np.log(scale) - 0.5 * math.log(horizon)
    base = 0.5 * garch + 0.5 * terms[:, 0]
    columns = np.column_stack([garch - terms[:, 0], terms])
    mean = columns.mean(axis=0)
    design = np.column_stack([np.ones(len(y)), columns - mean])
    size = np.abs(y) / np.exp(base) + 1e-12  # a price that never moved has a scale too
    start = np.zeros(design.shape[1])
    start[0] = math.log(float(size.mean()))
    ridge = np.full(len(start), RIDGE * (horizon + PERSISTENCE) * rows_per_time / len(y))
    ridge[0] = 0.0
    b = _gamma_regression(design, size, start, ridge)
    low, high = (float(q) + _TO_STD for q in np.quantile(design @ b, [_TAIL, 1.0 - _TAIL]))
    intercept = float(b[0] - mean @ b[1:]) + _TO_STD
    return HorizonSpread(horizon, (intercept, *b[1:].tolist()), low - MARGIN, high + MARGIN)


def spread_scale(spreads: tuple[HorizonSpread, ...], scale: FloatMatrix, terms: FloatMatrix) -> FloatMatrix:
    """The combined scale of every row and horizon, float64 (n, H); NaN where scale or terms are.

    One compiled loop: a row has the same bits alone and in any batch.
    """
    out = np.empty(scale.shape)
    table = np.array([(s.low, s.high, 0.5 * math.log(s.horizon), *s.coefficients) for s in spreads])
    _scales(np.ascontiguousarray(scale), np.ascontiguousarray(terms), table, out)
    return out


@cached(nogil=True, error_model="numpy")
def _scales(scale: Any, terms: Any, table: Any, out: Any) -> None:
    n, horizons = scale.shape
    for i in range(n):
        for j in range(horizons):
            garch = math.log(scale[i, j]) - table[j, 2] if scale[i, j] > 0.0 else math.nan
            eta = table[j, 3] + table[j, 4] * (garch - terms[i, 0])
            for k in range(terms.shape[1]):
                eta += table[j, 5 + k] * terms[i, k]
            if eta < table[j, 0]:
                eta = table[j, 0]
            elif eta > table[j, 1]:
                eta = table[j, 1]
            out[i, j] = math.exp(0.5 * garch + 0.5 * terms[i, 0] + eta)


def _gamma_regression(design: FloatMatrix, size: FloatVector, start: FloatVector, ridge: FloatVector) -> FloatVector:
    """Newton's method on a convex loss; a step that does not lower the loss is halved."""

    def loss(b: FloatVector) -> float:
        eta = design @ b
        return float(np.mean(size * np.exp(-eta) + eta) + 0.5 * np.sum(ridge * (b - start) ** 2))

    b, found = start, loss(start)
    for _ in range(50):
        weight = size * np.exp(-(design @ b))
        gradient = design.T @ (1.0 - weight) / len(size) + ridge * (b - start)
        hessian = (design * weight[:, None]).T @ design / len(size) + np.diag(ridge + 1e-9)
        step = -np.linalg.solve(hessian, gradient)
        while (trial := loss(b + step)) > found and np.abs(step).max() > 1e-12:
            step = 0.5 * step
        b, before, found = b + step, found, trial
        if before - found < 1e-12:
            break
    return b
