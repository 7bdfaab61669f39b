"""How far the price may go: one scale a horizon, combined from many causal estimates of volatility.

The scale of horizon h is log-linear in the terms of ``mlkit.features.volatility``. Half GARCH term structure and half
RiskMetrics average is where it starts, and where it stays when the rows prove nothing: a ridge holds every
coefficient at 0, the tighter the fewer independent outcomes there are. So a short daily history keeps a forecast
that is hard to beat, and a long one learns the hour of the day and which memory matters.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numba import njit

from mlkit.errors import BundleError
from mlkit.models.ensemble.settings import FloatMatrix, FloatVector

RIDGE = 6.0  # prior precision of a coefficient: one of 0.3 is no surprise
MEMORY = 60  # bars over which volatility itself stays: rows nearer than that are hardly a second witness
MARGIN = 0.3  # how far the combination may leave the range seen in training, in logs
_FAR = 0.001  # share of training rows beyond that range, on each side
_TO_STD = math.log(math.sqrt(math.pi / 2.0))  # a normal deviation over its mean absolute value


@dataclass(frozen=True)
class HorizonSpread:
    """Coefficients of one horizon's scale: intercept, GARCH over EWMA, then one a term."""

    horizon: int
    coefficients: tuple[float, ...]
    low: float  # range of the combination
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"coefficients": list(self.coefficients)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The spread that :meth:`to_dict` described; BundleError on anything else."""
        if not isinstance(values, dict) or values.keys() != {"horizon", "coefficients", "low", "high"}:
            raise BundleError("spread: expected the keys horizon, coefficients, low, high; train the bundle again")
        coefficients, horizon = values["coefficients"], values["horizon"]
        if not isinstance(coefficients, list) or not 3 <= len(coefficients) <= 1000:
            raise BundleError("spread: coefficients must be a list of numbers; train the bundle again")
        numbers = [*coefficients, values["low"], values["high"]]
        kinds = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
        if not kinds or not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 1:
            raise BundleError("spread: every value must be a finite number; train the bundle again")
        low, high = float(values["low"]), float(values["high"])
        if low > high or high > 50.0 or low < -50.0:
            raise BundleError(f"spread of horizon {horizon}: low and high contradict each other")
        return cls(horizon, tuple(float(x) for x in coefficients), low, high)


def fit_spread(
    scale: FloatVector, terms: FloatMatrix, y: FloatVector, horizon: int, crowd: float = 1.0
) -> HorizonSpread:
    """Fit the scale of one horizon: a gamma regression of ``|y|`` with a logarithmic link and a ridge.

    Minimises ``mean(|y| exp(-η) + η) + ridge / 2 |b|²``, ``η`` the logarithm of the expected ``|y|``: the likelihood of
    Laplace outcomes, which outliers move less than the squared one. ``ridge = RIDGE (h + MEMORY) / n``.

    Parameters
    ----------
    scale
        GARCH's expected deviation over the horizon, (n,), positive.
    terms
        (n, K) of ``volatility_terms``, finite.
    y
        Log returns over the horizon, (n,), finite: rows of training only.
    horizon
        Bars a label spans.
    crowd
        Rows that share a bar time, more than 1 where symbols are pooled.

    References
    ----------
    Bollerslev, Patton and Quaedvlieg (2016), *J. Econometrics* 192; McCullagh and Nelder (1989), ch. 8.
    """
    garch = np.log(scale) - 0.5 * math.log(horizon)
    base = 0.5 * garch + 0.5 * terms[:, 0]
    columns = np.column_stack([garch - terms[:, 0], terms])
    mean = columns.mean(axis=0)
    design = np.column_stack([np.ones(len(y)), columns - mean])
    size = np.abs(y) / np.exp(base) + 1e-12  # a price that never moved has a scale too
    start = np.zeros(design.shape[1])
    start[0] = math.log(float(size.mean()))
    ridge = np.full(len(start), RIDGE * (horizon + MEMORY) * crowd / len(y))
    ridge[0] = 0.0
    b = _gamma_regression(design, size, start, ridge)
    fitted = design @ b
    low, high = np.quantile(fitted, [_FAR, 1.0 - _FAR])
    intercept = float(b[0] - mean @ b[1:]) + _TO_STD
    return HorizonSpread(
        horizon, (intercept, *b[1:].tolist()), float(low) + _TO_STD - MARGIN, float(high) + _TO_STD + MARGIN
    )


def spread_scale(spreads: tuple[HorizonSpread, ...], scale: FloatMatrix, terms: FloatMatrix) -> FloatMatrix:
    """The combined scale of every row and horizon, float64 (n, H); NaN where scale or terms are.

    One compiled loop, so a row alone has the bits it has in company.
    """
    out = np.empty(scale.shape)
    table = np.array([(s.low, s.high, 0.5 * math.log(s.horizon), *s.coefficients) for s in spreads])
    _scales(np.ascontiguousarray(scale), np.ascontiguousarray(terms), table, out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
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
    """Newton's steps on a convex loss, halved while they do not help."""

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
