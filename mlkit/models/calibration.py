"""What the raw scores of an ensemble are worth: shrinkage, direction probability, intervals.

All is fitted on calibration rows that no model has seen, in **normalised units**: a log return over h bars
divided by ``volatility per bar * sqrt(h)``. ``z`` is the raw ensemble score and ``y`` the outcome, both so.
Overlapping labels share bars: n rows hold about ``1.5 n / h`` independent outcomes, and every test here uses
a long-run variance with a bandwidth of 1.5 h.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from mlkit.errors import BundleError, ConfigError
from mlkit.evaluation.metrics import direction
from mlkit.evaluation.significance import t_under_null
from mlkit.models.base import FloatVector

CRITICAL = 1.96
MIN_ROWS = 40
MIN_OUTCOMES = 5  # independent ones


@dataclass(frozen=True)
class HorizonCalibration:
    """Calibration of one horizon; every number is in normalised units."""

    horizon: int
    rows: int  # it was fitted on
    t_stat: float  # of the slope of outcome on score
    shrink: float  # factor on the score, in [0, 1]; 0 is the forecast of no change
    intercept: float  # of the direction's log odds
    slope: float  # of the direction's log odds on the raw score, >= 0
    std: float  # of the outcome around the shrunk score
    low80: float  # quantiles of that residual, finite-sample corrected
    high80: float
    low90: float
    high90: float

    def p_up(self, z: FloatVector) -> FloatVector:
        """Calibrated probability of a rise (half of no change included) for raw scores ``z``."""
        return _sigmoid(self.intercept + self.slope * z)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The calibration that :meth:`to_dict` described; BundleError on anything else."""
        kinds = {f.name: f.type for f in fields(cls)}
        if not isinstance(values, dict) or values.keys() != kinds.keys():
            raise BundleError(f"calibration: expected the keys {', '.join(kinds)}; train the bundle again")
        for name, value in values.items():
            number = isinstance(value, int) if kinds[name] is int else isinstance(value, int | float)
            if not number or isinstance(value, bool) or not np.isfinite(value):
                raise BundleError(f"calibration: {name} must be a finite number, got {value!r}")
        made = cls(**values)
        ordered = made.low90 <= made.low80 <= made.high80 <= made.high90
        if not (made.horizon >= 1 and 0 <= made.shrink <= 1 and made.slope >= 0 and made.std >= 0 and ordered):
            raise BundleError(f"calibration of horizon {made.horizon}: values contradict each other")
        return made


def fit_calibration(z: FloatVector, y: FloatVector, horizon: int) -> HorizonCalibration:
    """Calibrate one horizon on held-out rows in time order.

    Parameters
    ----------
    z, y
        Raw ensemble score and outcome, normalised, (n,), finite.
    horizon
        Bars a label spans.

    Raises
    ------
    ConfigError
        Fewer than ``MIN_ROWS`` rows.
    """
    demand_rows(len(z), horizon)
    shrink, trust, t_stat = shrinkage(z, y, horizon)
    intercept, slope = fit_direction(z, direction(y), horizon, trust)
    residual = y - shrink * z
    low80, high80 = conformal_quantiles(residual, 0.8, horizon)
    low90, high90 = conformal_quantiles(residual, 0.9, horizon)
    return HorizonCalibration(
        horizon=horizon,
        rows=len(z),
        t_stat=t_stat,
        shrink=shrink,
        intercept=intercept,
        slope=slope,
        std=float(np.sqrt(np.mean(residual**2))),
        low80=low80,
        high80=high80,
        low90=low90,
        high90=high90,
    )


def least_rows(horizon: int) -> int:
    """Held-out rows that the calibration of a horizon takes: enough of them must be independent outcomes."""
    return max(MIN_ROWS, math.ceil(MIN_OUTCOMES * horizon / 1.5))


def demand_rows(rows: int, horizon: int) -> None:
    """ConfigError unless that many held-out rows can calibrate the horizon."""
    least = least_rows(horizon)
    if rows < least:
        raise ConfigError(
            f"calibration of horizon {horizon}: {rows} held-out rows, it takes {least};"
            " pass more bars or drop the horizon"
        )


def shrinkage(z: FloatVector, y: FloatVector, horizon: int) -> tuple[float, float, float]:
    """Factor that shrinks a score towards no change, as far as its slope is not significant.

    ``clip(slope * trust, 0, 1)``: ``slope = Σ z y / Σ z²`` is the factor with the least squared error and
    ``trust = max(0, 1 - (1.96 / t)²)`` the non-negative garrote on it, for t > 0, with the t of ``mean(z y)``
    under the null of no predictability. Noise is kept once in 40 times, and then hardly; t = 10 keeps 96 %.

    Returns
    -------
    shrink, trust, t.

    References
    ----------
    Mincer & Zarnowitz (1969): the slope of outcome on forecast. Breiman (1995), *Technometrics* 37: the
    garrote, the positive-part James-Stein rule for one coefficient.
    """
    power = float(z @ z)
    slope = float(z @ y) / power if power > 0 else 0.0
    trust, t_stat = _trust(z * y, horizon)
    return (min(slope * trust, 1.0), trust, t_stat) if slope > 0 else (0.0, 0.0, t_stat)


def fit_direction(z: FloatVector, rise: FloatVector, horizon: int, trust: float) -> tuple[float, float]:
    """Intercept and slope of the log odds of a rise, each discounted by its own significance.

    Platt's logistic fit; the slope times ``trust`` of the forecast and never below 0, so a higher score
    never means a lower probability; then the intercept, times the garrote of the mean residual without it.
    With slope 0 the probability is the base rate of a rise, as far as that differs from 1/2 for sure.

    Parameters
    ----------
    z, rise
        Raw score, and 1 for a rise, 0 for a fall, 0.5 for no change, (n,).
    trust
        Share of the score that is significant, from :func:`shrinkage`.
    """
    intercept, slope = (0.0, 0.0) if trust == 0 else fit_logistic(z, rise)
    slope = max(slope, 0.0) * trust
    if slope == 0.0:
        rate = float(np.clip(np.mean(rise), 1e-3, 1.0 - 1e-3))
        intercept = float(np.log(rate / (1.0 - rate)))
    kept, _ = _trust(rise - _sigmoid(slope * z), horizon)
    return (intercept * kept if kept else 0.0), slope


def fit_logistic(z: FloatVector, rise: FloatVector) -> tuple[float, float]:
    """Intercept and slope of Platt's logistic regression of a (tie-aware) direction on a score.

    Targets are pulled in to ``(N+ + 1) / (N+ + 2)`` and ``1 / (N- + 2)``, so separable rows have an answer.

    References
    ----------
    Platt (1999), *Advances in Large Margin Classifiers*; Lin, Lin & Weng (2007), *Machine Learning* 68.
    """
    high = (np.sum(rise == 1.0) + 1.0) / (np.sum(rise == 1.0) + 2.0)
    low = 1.0 / (np.sum(rise == 0.0) + 2.0)
    target = low + (high - low) * rise
    unit = float(np.sqrt(np.mean(z**2))) or 1.0
    design = np.column_stack([np.ones_like(z), z / unit])
    beta = np.zeros(2)
    loss = _log_loss(design @ beta, target)
    for _ in range(100):
        p = _sigmoid(design @ beta)
        hessian = (design * (p * (1.0 - p))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (target - p))
        while (trial := _log_loss(design @ (beta + step), target)) > loss and np.abs(step).max() > 1e-12:
            step = 0.5 * step
        beta, loss = beta + step, trial
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1] / unit)


def conformal_quantiles(residual: FloatVector, level: float, horizon: int = 1) -> tuple[float, float]:
    """Ends of a central interval of the residual that covers a new one with probability >= ``level``.

    Each tail is its own order statistic at ``(1 + level) / 2 * (1 + 1 / m)``, split-conformal with
    ``m = n`` for independent rows. Outcomes over h bars overlap, so there ``m = 1.5 n / h``, the number of
    independent pieces with a triangular autocorrelation; without it 90 % at h = 60 covers 83 % of a random
    walk (600 rows). Where m is too small for the level the ends are the extremes seen, and not guaranteed.

    References
    ----------
    Lei et al. (2018), *JASA* 113, split conformal; Romano, Patterson & Candès (2019), each tail apart.
    """
    n = len(residual)
    pieces = min(float(n), 1.5 * n / horizon)
    rank = min(int(np.ceil(0.5 * (1.0 + level) * (1.0 + 1.0 / pieces) * n - 1e-9)), n)
    ordered = np.sort(residual)
    return float(ordered[n - rank]), float(ordered[rank - 1])


def _trust(values: FloatVector, horizon: int) -> tuple[float, float]:
    """Garrote ``max(0, 1 - (1.96 / t)²)`` on a mean that is 0 under the null, and its t."""
    t_stat = t_under_null(values, int(1.5 * horizon) + 1)
    return (max(0.0, 1.0 - (CRITICAL / t_stat) ** 2) if t_stat else 0.0), t_stat


def _sigmoid(x: FloatVector) -> FloatVector:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float64)


def _log_loss(logit: FloatVector, target: FloatVector) -> float:
    return float(np.mean(np.logaddexp(0.0, logit) - target * logit))
