"""Adaptive conformal intervals with a finite memory: each end follows the outcomes that have become known.

The score of a forecast is its outcome's distance from the centre in units of the forecast scale. Each of four ends
is a quantile of that score; it moves by ``rate * (level - 1{score <= end})`` at every score that becomes known, so too
many misses on one side push that side out. The error counted at bar s is that of the end as it stood when the
forecast was made, ``horizon`` bars before its outcome: without this delay, long horizons adapt to the noise of
outcomes that overlap, and undercover. A second coefficient, on the logarithm of the scale, follows in the same way
and evens out coverage between calm and wild bars.

Row t starts from the bundle's quantiles ``memory`` scores before the newest known one and goes through them: what it
gives depends on the bundle and on rows ``t - horizon - memory + 1 .. t - horizon`` only, in a batch and live alike.

References
----------
Gibbs and Candès (2021), *NeurIPS*: adaptive conformal inference. Angelopoulos, Candès and Tibshirani (2023), *NeurIPS*:
quantile tracking. Koenker and Bassett (1978): the loss whose gradient this step is.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from mlkit.models.base import FloatMatrix, FloatVector

LEVELS = (0.05, 0.1, 0.9, 0.95)  # of the score: the ends low90, low80, high80, high90
OUTER = np.array([1.5, 1.0, 1.0, 1.5])  # the 90 % ends take longer steps: few scores come near them
REACH = 1.5  # standard deviations of the log scale beyond which it counts no more


def adaptation_rate(horizon: int) -> float:
    """Step of an end at one score, in units of the scale.

    It falls with the horizon, as overlapping outcomes repeat an error for ``horizon`` bars. A longer step covers
    better and scores worse; this one was chosen on bars before those that the study scores.
    """
    return float(0.02 * horizon**-0.3)


def adaptation_memory(horizon: int) -> int:
    """Scores that a row's ends may depend on; the short steps of long horizons need many to make up for an error."""
    return min(2000 + 100 * horizon, 8000)


def lean_rate(horizon: int) -> float:
    """Step of the slope on the logarithm of the scale: the long horizons have too few outcomes to tell one."""
    return adaptation_rate(horizon) / (1.0 + (horizon / 20.0) ** 2)


def follow_ends(
    score: FloatVector,
    log_scale: FloatVector,
    start: FloatVector,
    horizon: int,
    memory: int,
    rate: float,
    lean: float,
    first: int,
) -> FloatMatrix:
    """Ends of the score's intervals at rows ``first`` and later, each in the light of what was known there.

    Parameters
    ----------
    score
        ``(outcome - centre) / scale`` of consecutive bars, (n,); NaN where there is none. Row s is known at the
        close of row ``s + horizon``, and no row before that reads it.
    log_scale
        Standardised logarithm of the scale, (n,), within ±REACH; NaN counts as 0.
    start
        Ends before any score is known, (4,), in the order of ``LEVELS``.
    memory, rate, lean
        Scores read, step of an end, and step of its slope on ``log_scale``.

    Returns
    -------
    float64 (n - first, 4), increasing along a row.
    """
    out = np.empty((len(score) - first, len(LEVELS)))
    lean_at = np.nan_to_num(log_scale, nan=0.0)
    _follow(score, lean_at, start, np.array(LEVELS), horizon, memory, rate * OUTER, lean * OUTER, first, out)
    out.sort(axis=1)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _follow(
    score: Any, u: Any, start: Any, levels: Any, horizon: Any, memory: Any, rate: Any, lean: Any, first: Any, out: Any
) -> None:
    """The four ends side by side: each is a chain of dependent steps, and four chains fill the processor."""
    issued, slope = np.empty((horizon, 4)), np.empty((horizon, 4))  # as they stood at the last forecasts
    a, b = np.empty(4), np.empty(4)
    for t in range(first, score.shape[0]):
        a[:], b[:], at = start, 0.0, 0
        issued[:], slope[:] = start, 0.0
        for s in range(max(0, t - horizon - memory + 1), t - horizon + 1):
            if math.isnan(score[s]):
                for k in range(4):
                    issued[at, k], slope[at, k] = a[k], b[k]
            else:
                for k in range(4):
                    missed = levels[k] - (1.0 if score[s] <= issued[at, k] + slope[at, k] * u[s] else 0.0)
                    a[k] += rate[k] * missed
                    b[k] += lean[k] * u[s] * missed
                    issued[at, k], slope[at, k] = a[k], b[k]
            at += 1
            if at == horizon:
                at = 0
        for k in range(4):
            out[t - first, k] = a[k] + b[k] * u[t]
