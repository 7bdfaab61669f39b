"""Adaptive conformal intervals with a finite memory: experts that follow the outcomes, mixed by what they cost.

Every expert holds four ends, quantiles of the outcome's distance from the centre in units of the expert's own scale
(``experts`` says which scales). An end moves by ``rate * (level - 1{score <= end})`` at every outcome
that becomes known, so too many misses on one side push that side out. The error counted at bar s is that of the end as
it stood when the forecast was made, ``horizon`` bars before its outcome: without this delay, long horizons adapt to the
noise of outcomes that overlap, and undercover. A second coefficient, on the logarithm of the scale, may follow in the
same way and evens out coverage between calm and wild bars. One expert takes long steps, which costs score while nothing
changes and saves coverage when something does.

What is told is the mean of the experts' ends, level by level, with weights ``exp(-learning * loss)``: the quantile loss
that each has summed up, in training and since. The mixture costs hardly more than the best expert would have, whichever
that is, and often less than any. No expert falls further behind than ``MOST``, so one that was poor for years is back
within bars when the market changes, after an outage for instance.

The calendar is cut into blocks of ``BLOCK`` bars. In each the ends start anew from the bundle, ``memory`` outcomes
before the newest one known at its first row, and go through all since: what a row gives depends on the bundle and on a
bounded number of rows before it, the same ones in a batch and live.

References
----------
Gibbs and Candès (2021), *NeurIPS*: adaptive conformal inference. Angelopoulos, Candès and Tibshirani (2023), *NeurIPS*:
quantile tracking. Koenker and Bassett (1978): the loss whose gradient this step is. Vovk (1990), *COLT*: aggregating
strategies; Herbster and Warmuth (1998), *Machine Learning* 32: experts that take turns.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from mlkit.models.ensemble.settings import FloatMatrix, FloatVector, IntVector

LEVELS = (0.05, 0.1, 0.9, 0.95)  # of the score: the ends low90, low80, high80, high90
OUTER = np.array([1.5, 1.0, 1.0, 1.5])  # the 90 % ends take longer steps: few scores come near them
REACH = 1.5  # standard deviations of the log scale beyond which it counts no more
PLAIN = 2  # experts with the first scale; the next one's is constant
MEMORY = 4000  # outcomes that the first row's intervals of a block depend on; the last one's on BLOCK - 1 more
BLOCK = 500  # bars: short enough to forget soon, long enough to go through the memory once for many rows
NORMAL_LOSS = np.array([0.1031, 0.1755, 0.1755, 0.1031])  # quantile loss of a standard normal at LEVELS, the unit
KNOWN = 8000  # bars of training from which on the ends follow no slower
MOST = 6.0  # no expert's weight falls below exp(-MOST) of the best one's


def adaptation_rate(horizon: int, bars: int = KNOWN) -> float:
    """Step of an end at one score, in units of the scale.

    It falls with the horizon, as overlapping outcomes repeat an error for ``horizon`` bars, and with the root of the
    bars of training: where the quantiles to start from are known less, more is left to follow. A longer step covers
    better and, after a long training, scores worse. Chosen on bars before those that the study scores.
    """
    return float(0.005 * horizon**-0.3 * min(max(math.sqrt(KNOWN / bars), 1.0), 3.0))


def lean_rate(horizon: int) -> float:
    """Step of the slope on the logarithm of the scale: the long horizons have too few outcomes to tell one."""
    return adaptation_rate(horizon) / (1.0 + (horizon / 20.0) ** 2)


def learning_rate(horizon: int) -> float:
    """Weight of an expert's loss at one outcome: outcomes that overlap say the same ``horizon`` times."""
    return 0.1 / horizon


def block_numbers(times: IntVector, bar: int) -> IntVector:
    """Block of the calendar that each bar lies in, (n,), from its open time and a bar's length in the same unit."""
    return times // (BLOCK * bar)


def follow_ends(
    outcome: FloatVector,
    scales: FloatMatrix,
    log_scale: FloatVector,
    start: FloatMatrix,
    losses: FloatMatrix,
    horizon: int,
    *,
    block: IntVector,
    memory: int,
    rate: FloatVector,
    lean: FloatVector,
    learning: float,
    first: int,
) -> FloatMatrix:
    """Ends of the intervals at rows ``first`` and later, each in the light of what was known there.

    Parameters
    ----------
    outcome
        Realised outcome less the centre, of consecutive bars, (n,); NaN where there is none. Row s is known at the
        close of row ``s + horizon``, and no row before that reads it.
    scales
        Scale of every expert, (n, E), positive; NaN where a row has no forecast.
    log_scale
        Standardised logarithm of the first scale, (n,), within ±REACH; NaN counts as 0.
    start, losses
        Ends of every expert before any outcome is known, in units of its scale, (E, 4), in the order of ``LEVELS``, and
        the loss it starts with.
    block
        Of every row, (n,), not falling: where it rises the ends start anew.
    memory, rate, lean, learning
        Outcomes read at the first row of a block, step of every expert's ends (E,), step of their slopes on
        ``log_scale`` (E,), weight of a loss.

    Returns
    -------
    float64 (n - first, 4), in units of the outcome, increasing along a row.
    """
    out = np.empty((len(outcome) - first, len(LEVELS)))
    plain = min(PLAIN, scales.shape[1] - 1)
    lean_at = np.nan_to_num(log_scale, nan=0.0)
    levels, price = np.array(LEVELS), learning / NORMAL_LOSS
    steps = np.outer(rate, OUTER), np.outer(lean, OUTER)
    starts = np.append(np.flatnonzero(np.diff(block, prepend=np.iinfo(np.int64).min)), len(block))
    costs = learning * losses
    _follow(outcome, plain, scales, lean_at, start, levels, *steps, price, costs, horizon, memory, starts, first, out)
    out.sort(axis=1)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _follow(
    outcome: Any,
    plain: Any,
    scales: Any,
    u: Any,
    start: Any,
    levels: Any,
    rate: Any,
    lean: Any,
    price: Any,
    losses: Any,
    horizon: Any,
    memory: Any,
    starts: Any,
    first: Any,
    out: Any,
) -> None:
    """The ends of all experts side by side: each is a chain of dependent steps, and many fill the processor.

    An expert's loss counts in a unit half way between a constant and the first scale: wild bars count more, as they do
    in an interval score, but a single one does not decide.
    """
    experts = start.shape[0]
    issued = np.empty((horizon, experts, 4))  # as they stood at the last forecasts
    a, b, cost, ends = np.empty((experts, 4)), np.empty((experts, 4)), np.empty((experts, 4)), np.empty((experts, 4))
    score = np.empty(experts)
    for turn in range(starts.shape[0] - 1):
        begin, end = starts[turn], starts[turn + 1]
        if end <= first:
            continue
        a[:], b[:], cost[:], issued[:], at = start, 0.0, losses, start, 0
        s = max(0, begin - horizon - memory + 1)
        for t in range(max(begin, first), end):
            while s <= t - horizon:
                known = True
                for e in range(experts):
                    score[e] = outcome[s] / scales[s, e]
                    known = known and math.isfinite(score[e])
                if known:
                    unit = math.sqrt(scales[s, 0] * scales[s, plain])
                    for e in range(experts):
                        worth = scales[s, e] / unit
                        for k in range(4):
                            apart = score[e] - issued[at, e, k]
                            missed = levels[k] - (1.0 if apart <= 0.0 else 0.0)
                            cost[e, k] += price[k] * worth * missed * apart
                            a[e, k] += rate[e, k] * missed
                            b[e, k] += lean[e, k] * u[s] * missed
                    _catch_up(cost)
                for e in range(experts):
                    for k in range(4):
                        issued[at, e, k] = a[e, k] + b[e, k] * u[s + horizon]
                at += 1
                if at == horizon:
                    at = 0
                s += 1
            for e in range(experts):
                for k in range(4):
                    ends[e, k] = scales[t, e] * (a[e, k] + b[e, k] * u[t])
            _mix(ends, cost, out[t - first])


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _catch_up(cost: Any) -> None:
    """No expert is further behind the best than MOST, at any level."""
    for k in range(4):
        most = cost[0, k]
        for e in range(1, cost.shape[0]):
            most = min(most, cost[e, k])
        most += MOST
        for e in range(cost.shape[0]):
            cost[e, k] = min(cost[e, k], most)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _mix(ends: Any, cost: Any, out: Any) -> None:
    """The experts' ends, weighted."""
    for k in range(4):
        least = cost[0, k]
        for e in range(1, cost.shape[0]):
            least = min(least, cost[e, k])
        total, end = 0.0, 0.0
        for e in range(cost.shape[0]):
            weight = math.exp(least - cost[e, k])
            total += weight
            end += weight * ends[e, k]
        out[k] = end / total
