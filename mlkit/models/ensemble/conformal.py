"""Adaptive conformal intervals with a finite lookback: several experts adapt to outcomes and are mixed by their loss.

Every expert holds four interval bounds: quantiles of the residual (outcome less forecast) in units of the expert's own
scale; ``experts`` describes the scales. A bound moves by ``rate * (level - 1{score <= bound})`` at every outcome that
becomes known, so that too many misses on one side push that side out. The error at bar s is that of the bound as it
was issued, ``horizon`` bars before its outcome: without this delay, long horizons adapt to the noise of overlapping
outcomes and undercover. A second coefficient, on the logarithm of the scale, adapts in the same way and evens out
coverage between calm and wild bars. One expert takes long steps, which costs score while the market is stable and
saves coverage when it changes.

The interval is the mean of the experts' bounds, level by level, weighted by ``exp(-learning * loss)`` with the
cumulative pinball loss of each expert, in training and since. The mixture costs hardly more than the best expert, and
often less. No expert falls further behind than ``MAX_GAP``, so one that was poor for years regains its weight within
bars when the market changes, for instance after an outage.

The calendar is cut into blocks of ``BARS_PER_BLOCK`` bars. In each the bounds start from those of the bundle,
``lookback`` outcomes before the newest one known at its first row, and adapt to all since: a row depends on the bundle
and on a bounded number of rows before it, the same ones in a batch and live.

Sources: Gibbs and Candès (2021), *NeurIPS*: adaptive conformal inference. Angelopoulos, Candès and Tibshirani (2023),
*NeurIPS*: quantile tracking. Koenker and Bassett (1978): the loss whose gradient this step is. Vovk (1990), *COLT*:
aggregating strategies; Herbster and Warmuth (1998), *Machine Learning* 32: tracking the best expert.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from mlkit.compiled import cached
from mlkit.models.ensemble.settings import FloatMatrix, FloatVector, IntVector

BOUND_LEVELS = np.array([0.05, 0.1, 0.9, 0.95])  # quantile levels of the bounds low90, low80, high80, high90
STEP_FACTORS = np.array([1.5, 1.0, 1.0, 1.5])  # the 90 % bounds take longer steps: few scores come near them
LOG_SCALE_LIMIT = 1.5  # standard deviations beyond which the log scale is clipped
COMBINED = 2  # experts with the combined scale, the first ones; the next one's scale is constant
LOOKBACK = 4000  # outcomes that the first row of a block depends on; the last one on BARS_PER_BLOCK - 1 more
BARS_PER_BLOCK = 500  # short enough to forget soon, long enough to share one pass over the lookback among many rows
NORMAL_LOSS = np.array([0.1031, 0.1755, 0.1755, 0.1031])  # pinball loss of a standard normal at BOUND_LEVELS, the unit
FULL_HISTORY = 8000  # bars of training from which on steps are shortest
MAX_GAP = 6.0  # no weight falls below exp(-MAX_GAP) of the best expert's


def adaptation_rate(horizon: int, bars: int = FULL_HISTORY) -> float:
    """Step of a bound at one score, in units of the scale.

    It falls with the horizon, as overlapping outcomes repeat an error for ``horizon`` bars, and with the root of the
    bars of training: quantiles from few bars are less certain and must adapt more. A longer step covers better and,
    after a long training, scores worse. Chosen on bars before those that the study scores.
    """
    return float(0.005 * horizon**-0.3 * min(max(math.sqrt(FULL_HISTORY / bars), 1.0), 3.0))


def slope_rate(horizon: int) -> float:
    """Step of the slope on the log scale; long horizons have too few outcomes to estimate one."""
    return adaptation_rate(horizon) / (1.0 + (horizon / 20.0) ** 2)


def learning_rate(horizon: int) -> float:
    """Weight of an expert's loss at one outcome; overlapping outcomes repeat it ``horizon`` times."""
    return 0.1 / horizon


def block_numbers(times: IntVector, bar: int) -> IntVector:
    """Calendar block of each bar, (n,), from its open time and the length of a bar in the same unit."""
    return times // (BARS_PER_BLOCK * bar)


class AdaptiveExperts(NamedTuple):
    """E experts of one horizon, as the compiled loop takes them; matrices are (E, 4), a column a bound."""

    bounds: FloatMatrix  # before any outcome is known, in units of the expert's scale, increasing
    losses: FloatMatrix  # cumulative pinball losses at the start, times the learning rate
    rate: FloatMatrix  # step of each bound at one score
    slope_rate: FloatMatrix  # step of each bound's slope on the log scale
    price: FloatVector  # (4,) learning rate over the pinball loss of a standard normal
    horizon: int
    lookback: int  # outcomes read at the first row of a block


def make_experts(
    bounds: FloatMatrix,
    losses: FloatMatrix,
    rate: FloatVector,
    slopes: FloatVector,
    learning: float,
    horizon: int,
    lookback: int,
) -> AdaptiveExperts:
    """Experts from their start (E, 4), the step of each (E,) and of its slope (E,), and the weight of a loss."""
    steps = np.outer(rate, STEP_FACTORS), np.outer(slopes, STEP_FACTORS)
    return AdaptiveExperts(bounds, learning * losses, *steps, learning / NORMAL_LOSS, horizon, lookback)


def adaptive_bounds(
    outcome: FloatVector,
    scales: FloatMatrix,
    log_scale: FloatVector,
    experts: AdaptiveExperts,
    block: IntVector,
    first: int = 0,
) -> FloatMatrix:
    """Interval bounds at rows ``first`` and later, each from the outcomes known at its close.

    ``outcome``: outcome less forecast, of consecutive bars, (n,); NaN where there is none. Row s is known at the close
    of row ``s + horizon``, and no row before that reads it.
    ``scales``: scale of every expert, (n, E), positive; NaN where a row has no forecast.
    ``log_scale``: standardised logarithm of the first scale, (n,), within ±LOG_SCALE_LIMIT; NaN counts as 0.
    ``block``: of every row, (n,), not falling: where it rises the bounds start again from those of the bundle.

    Returns: float64 (n - first, 4), in units of the outcome, increasing along a row.
    """
    out = np.empty((len(outcome) - first, len(BOUND_LEVELS)))
    starts = np.append(np.flatnonzero(np.diff(block, prepend=np.iinfo(np.int64).min)), len(block))
    _adapt(outcome, scales, np.nan_to_num(log_scale, nan=0.0), experts, starts, first, out)
    out.sort(axis=1)
    return out


@cached(nogil=True, error_model="numpy")
def _adapt(outcome: Any, scales: Any, u: Any, experts: Any, starts: Any, first: Any, out: Any) -> None:
    """The bounds of all experts side by side: each is a chain of dependent steps, and many fill the processor.

    An expert's loss counts in a unit half way between a constant and the first scale: wild bars count more, as they do
    in an interval score, but a single one does not decide.
    """
    horizon, n_experts = experts.horizon, experts.bounds.shape[0]
    reference = min(COMBINED, n_experts - 1)
    shape = (n_experts, 4)
    issued = np.empty((horizon, n_experts, 4))  # bounds of the last ``horizon`` forecasts, in units of the scale
    a, b, cost, bounds = np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape)
    score = np.empty(n_experts)
    for turn in range(starts.shape[0] - 1):
        begin, end = starts[turn], starts[turn + 1]
        if end <= first:
            continue
        a[:], b[:], cost[:], issued[:], at = experts.bounds, 0.0, experts.losses, experts.bounds, 0
        s = max(0, begin - horizon - experts.lookback + 1)
        for t in range(max(begin, first), end):
            while s <= t - horizon:  # the outcome of row s is known at the close of row t
                known = True
                for e in range(n_experts):
                    score[e] = outcome[s] / scales[s, e]
                    known = known and math.isfinite(score[e])
                if known:
                    unit = math.sqrt(scales[s, 0] * scales[s, reference])
                    for e in range(n_experts):
                        worth = scales[s, e] / unit
                        for k in range(4):
                            gap = score[e] - issued[at, e, k]
                            missed = BOUND_LEVELS[k] - (1.0 if gap <= 0.0 else 0.0)
                            cost[e, k] += experts.price[k] * worth * missed * gap
                            a[e, k] += experts.rate[e, k] * missed
                            b[e, k] += experts.slope_rate[e, k] * u[s] * missed
                    for k in range(4):
                        most = cost[:, k].min() + MAX_GAP
                        for e in range(n_experts):
                            cost[e, k] = min(cost[e, k], most)
                for e in range(n_experts):
                    for k in range(4):
                        issued[at, e, k] = a[e, k] + b[e, k] * u[s + horizon]
                at += 1
                if at == horizon:
                    at = 0
                s += 1
            for e in range(n_experts):
                for k in range(4):
                    bounds[e, k] = scales[t, e] * (a[e, k] + b[e, k] * u[t])
            _mix(bounds, cost, out[t - first])


@cached(nogil=True, error_model="numpy", inline="always")
def _mix(bounds: Any, cost: Any, out: Any) -> None:
    """The experts' bounds, weighted by exp(-cost)."""
    for k in range(4):
        least = cost[:, k].min()
        total, weighted = 0.0, 0.0
        for e in range(cost.shape[0]):
            weight = math.exp(least - cost[e, k])
            total += weight
            weighted += weight * bounds[e, k]
        out[k] = weighted / total
