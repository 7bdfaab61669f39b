"""What the raw score of an ensemble is worth: shrinkage, direction probability, interval quantiles.

All is in **normalised units**, a log return over h bars divided by its expected scale: ``z`` is the raw ensemble score
and ``y`` the outcome. What depends on the score is fitted on calibration rows that no model has seen; the base rate of
a rise and the quantiles of the outcome do not depend on the trees and use all training rows. Overlapping labels share
bars: n rows hold about ``1.5 n / h`` independent outcomes, and every test here uses a long-run variance with a
bandwidth of 1.5 h. Rows of several markets at one bar time are correlated: the test is then on their sum, one value a
bar time (Driscoll and Kraay 1998, *Review of Economics and Statistics* 80).
"""

from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from mlkit.errors import ConfigError
from mlkit.evaluation import direction, logistic, t_under_null
from mlkit.models.ensemble.conformal import LOOKBACK, adaptation_rate, slope_rate
from mlkit.models.ensemble.settings import FloatVector, IntVector
from mlkit.models.ensemble.spread import STRICT

T_95 = 1.96  # a two-sided test at 5 %
MIN_T = 3.0  # t below which a score is not used: a study looks at hundreds of them
STABLE_PARTS = 3  # the slope must be positive in each of so many parts of the calibration rows
BASE_RATE_T = 1.0  # of the base rate's garrote: markets do drift, so it needs less proof than a forecast
MIN_ROWS = 40

NonNegative = Annotated[float, Field(ge=0.0)]


@dataclass(frozen=True, config=STRICT)
class HorizonCalibration:
    """Calibration of one horizon; every number is in normalised units."""

    horizon: Annotated[int, Field(ge=1)]
    rows: int  # it was fitted on
    t_stat: float  # of the slope of outcome on score
    shrink: Annotated[float, Field(ge=0.0, le=1.0)]  # factor on the score; 0 is the forecast of no change
    intercept: float  # of the direction's log odds
    slope: NonNegative  # of the direction's log odds on the raw score
    std: NonNegative  # of the outcome around the shrunk score
    low80: float  # quantiles of that residual, finite-sample corrected
    high80: float
    low90: float
    high90: float
    log_scale: float  # mean logarithm of the scale in training
    log_scale_std: NonNegative  # and its standard deviation
    lookback: Annotated[int, Field(ge=0, le=100_000)]  # outcomes that an adaptive interval may depend on
    rate: NonNegative  # step of its bounds at one score
    slope_rate: NonNegative  # step of their slope on the logarithm of the scale

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if list(self.bounds) != sorted(self.bounds):
            raise ValueError(f"calibration of horizon {self.horizon}: values contradict each other")
        return self

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Quantiles of the residual in the order of the conformal levels."""
        return self.low90, self.low80, self.high80, self.high90

    def p_up(self, z: FloatVector) -> FloatVector:
        """Calibrated probability of a rise (half of no change included) for raw scores ``z``."""
        return logistic(self.intercept + self.slope * z)


def fit_calibration(
    z: FloatVector,
    y: FloatVector,
    horizon: int,
    *,
    history: FloatVector | None = None,
    log_scale: FloatVector | None = None,
    times: IntVector | None = None,
    history_times: IntVector | None = None,
) -> HorizonCalibration:
    """Calibrate one horizon on held-out rows in time order; ConfigError for fewer than ``MIN_ROWS`` of them.

    ``z``, ``y``: raw ensemble score and outcome, normalised, (n,), finite.
    ``horizon``: bars a label spans.
    ``history``: normalised outcomes of all training rows in time order, these n among them, (m,): the base rate and the
    quantiles are theirs. Default ``y``.
    ``log_scale``: logarithm of the scale in the rows of ``history``, (m,). Default 0.
    ``times``, ``history_times``: number of each row's bar time, counted from 0, (n,) and (m,), where rows of several
    markets share them.
    """
    demand_rows(len(z), horizon)
    history, logs = y if history is None else history, np.zeros(1) if log_scale is None else log_scale
    shrink, trust, t_stat = shrinkage(z, y, horizon, times)
    intercept, slope = fit_direction(z, direction(y), horizon, trust, direction(history), times, history_times)
    residual = y - shrink * z if shrink else history
    (low80, high80), (low90, high90) = (conformal_quantiles(residual, level) for level in (0.8, 0.9))
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
        log_scale=float(np.mean(logs)),
        log_scale_std=float(np.std(logs)),
        lookback=LOOKBACK,
        rate=adaptation_rate(horizon, len(history) if history_times is None else len(np.unique(history_times))),
        slope_rate=slope_rate(horizon),
    )


def demand_rows(rows: int, horizon: int) -> None:
    """ConfigError unless there are enough held-out rows to calibrate the horizon."""
    if rows < MIN_ROWS:
        raise ConfigError(
            f"calibration of horizon {horizon}: {rows} held-out rows, it takes {MIN_ROWS};"
            " pass more bars or drop the horizon"
        )


def shrinkage(
    z: FloatVector, y: FloatVector, horizon: int, times: IntVector | None = None
) -> tuple[float, float, float]:
    """Factor that shrinks a score towards no change, as far as its slope is not significant.

    ``min(slope, 1) * trust``: ``slope = Σ z y / Σ z²`` is the factor with the least squared error, and
    ``trust = 1 - 1.96 / t`` leaves the lower bound of its 95 % interval, with the t of ``mean(z y)`` under the null of
    no predictability, because a score that was selected for its fit is overestimated. t = 10 keeps 80 %. Both are 0
    unless t is at least 3, which noise reaches once in 700 times, and the slope is positive in each of three
    chronological parts.

    Returns: shrink, trust, t.
    Source: Mincer & Zarnowitz (1969): the slope of outcome on forecast.
    """
    power = float(z @ z)
    slope = float(z @ y) / power if power > 0 else 0.0
    t_stat = t_under_null(_by_time(z * y, times), int(1.5 * horizon) + 1)
    parts = zip(np.array_split(z, STABLE_PARTS), np.array_split(y, STABLE_PARTS), strict=True)
    steady = all(float(a @ b) > 0 for a, b in parts)
    if not steady or t_stat < MIN_T:
        return 0.0, 0.0, t_stat
    trust = 1.0 - T_95 / t_stat
    return min(slope, 1.0) * trust, trust, t_stat


def fit_direction(
    z: FloatVector,
    rise: FloatVector,
    horizon: int,
    trust: float,
    history: FloatVector | None = None,
    times: IntVector | None = None,
    history_times: IntVector | None = None,
) -> tuple[float, float]:
    """Intercept and slope of the log odds of a rise, each discounted by its own significance.

    Platt's logistic fit; the slope times ``trust`` of the forecast and never below 0, so that a higher score
    never means a lower probability; then the intercept, times the garrote of the mean residual without it.
    With slope 0 the probability is the base rate of a rise in ``history``, shrunk towards 1/2 by
    ``max(0, 1 - (1 / t)²)``, Stein's rule: a rate that is not distinguishable from 1/2 becomes 1/2.

    ``z``, ``rise``: raw score, and 1 for a rise, 0 for a fall, 0.5 for no change, (n,).
    ``trust``: share of the score that is significant, from :func:`shrinkage`.
    ``history``: direction of all training rows, (m,). Default ``rise``.
    ``times``, ``history_times``: as in :func:`fit_calibration`.
    """
    intercept, slope = (0.0, 0.0) if trust == 0 else fit_logistic(z, rise)
    slope = max(slope, 0.0) * trust
    if slope == 0.0:
        history = rise if history is None else history
        kept = _garrote(_by_time(history - 0.5, history_times), horizon, BASE_RATE_T)
        rate = float(np.clip(0.5 + kept * (np.mean(history) - 0.5), 1e-3, 1.0 - 1e-3))
        return float(np.log(rate / (1.0 - rate))), 0.0
    kept = _garrote(_by_time(rise - logistic(slope * z), times), horizon, T_95)
    return (intercept * kept if kept else 0.0), slope


def fit_logistic(z: FloatVector, rise: FloatVector) -> tuple[float, float]:
    """Intercept and slope of Platt's logistic regression of a (tie-aware) direction on a score.

    Targets are ``(N+ + 1) / (N+ + 2)`` and ``1 / (N- + 2)``, so that separable rows have a finite solution.

    Sources: Platt (1999), *Advances in Large Margin Classifiers*; Lin, Lin & Weng (2007), *Machine Learning* 68.
    """
    high = (np.sum(rise == 1.0) + 1.0) / (np.sum(rise == 1.0) + 2.0)
    low = 1.0 / (np.sum(rise == 0.0) + 2.0)
    target = low + (high - low) * rise
    unit = float(np.sqrt(np.mean(z**2))) or 1.0
    design = np.column_stack([np.ones_like(z), z / unit])
    beta = np.zeros(2)
    loss = _log_loss(design @ beta, target)
    for _ in range(100):
        p = logistic(design @ beta)
        hessian = (design * (p * (1.0 - p))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (target - p))
        while (trial := _log_loss(design @ (beta + step), target)) > loss and np.abs(step).max() > 1e-12:
            step = 0.5 * step
        beta, loss = beta + step, trial
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1] / unit)


def conformal_quantiles(residual: FloatVector, level: float) -> tuple[float, float]:
    """Bounds of a central interval of the residual that covers a new one with probability >= ``level``.

    Each tail is its own order statistic at ``(1 + level) / 2 * (1 + 1 / n)``: split-conformal, exact for exchangeable
    rows. Rows of overlapping outcomes are not exchangeable; ``mlkit.models.ensemble.conformal`` adapts bar by bar.

    Sources: Lei et al. (2018), *JASA* 113, split conformal; Romano, Patterson & Candès (2019), each tail apart.
    """
    n = len(residual)
    rank = min(int(np.ceil(0.5 * (1.0 + level) * (n + 1.0) - 1e-9)), n)
    ordered = np.sort(residual)
    return float(ordered[n - rank]), float(ordered[rank - 1])


def _garrote(values: FloatVector, horizon: int, critical: float) -> float:
    """Factor ``max(0, 1 - (critical / t)²)`` on a mean that is 0 under the null."""
    t_stat = t_under_null(values, int(1.5 * horizon) + 1)
    return max(0.0, 1.0 - (critical / t_stat) ** 2) if t_stat else 0.0


def _by_time(values: FloatVector, times: IntVector | None) -> FloatVector:
    """Sum of the values at each bar time; the values themselves where each row has its own."""
    return values if times is None else np.asarray(np.bincount(times, weights=values), dtype=np.float64)


def _log_loss(logit: FloatVector, target: FloatVector) -> float:
    return float(np.mean(np.logaddexp(0.0, logit) - target * logit))
