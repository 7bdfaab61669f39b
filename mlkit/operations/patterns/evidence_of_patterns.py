"""What followed each pattern on the training bars: the measure that a pattern's signal is calibrated on.

The pattern CNN learned shapes from simulated bars, so what real prices did after them was seen by nobody; only the
choice of pattern and horizon is a search, and the lower bounds are corrected for it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlkit.evaluation import t_under_null
from mlkit.features import PATTERNS
from mlkit.labels import earned_returns, market_standard, pattern_direction
from mlkit.market import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
MIN_CASES = 30
MIN_APART = 10  # cases whose outcomes share no bar
LEVEL = 0.95


def measure_patterns(bars: "pd.DataFrame", horizons: tuple[int, ...], *, cost_bps: float) -> dict[str, dict[str, Any]]:
    """Evidence of every pattern that the shipped CNN detects often enough, for a manifest's ``pattern_evidence``.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), the training bars
    horizons : bars ahead
    cost_bps : one-way cost, basis points

    Returns
    -------
    {pattern: fields of `mlkit.inference.insight.PatternEvidence`}, each at the horizon with the highest lower bound.
    """
    from mlkit.models.patterns import pretrained

    cnn = pretrained(market_standard(bars))
    values = bars[list(COLUMNS)].to_numpy()
    with np.errstate(invalid="ignore"):  # the first bars have no window
        detected = cnn.probabilities(values) >= cnn.thresholds
    signals = pattern_sides(detected, values)
    return weigh_patterns(signals, earned_returns(bars, horizons).to_numpy(), horizons, cost_bps=cost_bps)


def pattern_sides(detected: npt.NDArray[np.bool_], ohlcv: FloatArray) -> FloatArray:
    """Side of every pattern at every bar, (n_bars, 15): -1 or +1 where it is detected and has a direction, else 0."""
    colour = np.where(ohlcv[:, 3] >= ohlcv[:, 0], 1, -1)
    previous = np.concatenate([colour[:1], colour[:-1]])
    sides = np.zeros(detected.shape)
    for k, name in enumerate(PATTERNS):
        of = {(a, b): pattern_direction(name, a, b) for a in (-1, 1) for b in (-1, 1)}
        direction = np.select([(colour == a) & (previous == b) for a, b in of], list(of.values()))
        sides[:, k] = np.where(detected[:, k], direction, 0)
    return sides


def weigh_patterns(
    sides: FloatArray, earned: FloatArray, horizons: tuple[int, ...], *, cost_bps: float
) -> dict[str, dict[str, Any]]:
    """Evidence from arrays alone.

    A case earns its side times the return beyond the mean of all bars, less a round trip. The standard error is
    that of the whole series, zero where there is no case, over ``1.5 h`` overlapping bars and under the null
    (`t_under_null`); the quantile is Student's at Bonferroni's level for all patterns and horizons with enough
    cases.

    Parameters
    ----------
    sides : (n_bars, 15) of `pattern_sides`
    earned : (n_bars, n_horizons) log return from the next open, NaN where there is none
    horizons, cost_bps : as in `measure_patterns`
    """
    measured = {
        (k, j): rows
        for k in range(sides.shape[1])
        for j, h in enumerate(horizons)
        if len(rows := np.flatnonzero((sides[:, k] != 0) & np.isfinite(earned[:, j]))) >= MIN_CASES
        and _apart(rows, h) >= MIN_APART
    }
    found: dict[str, dict[str, Any]] = {}
    for (k, j), rows in measured.items():
        one = _weigh(sides[:, k], earned[:, j], rows, horizons[j], cost_bps, claims=len(measured))
        best = found.get(PATTERNS[k])
        if best is None or one["lower_bps"] > best["lower_bps"]:
            found[PATTERNS[k]] = one
    return found


def _weigh(
    sides: FloatArray, earned: FloatArray, rows: npt.NDArray[np.int64], horizon: int, cost_bps: float, *, claims: int
) -> dict[str, Any]:
    """Evidence of one pattern at one horizon."""
    from scipy.stats import t

    known = np.isfinite(earned)
    gains, taken = np.where(known, earned, 0.0), np.where(known, sides, 0.0)
    excess = taken * (gains - gains[known].mean()) - 2e-4 * cost_bps * np.abs(taken)
    apart = _apart(rows, horizon)
    edge = excess.sum() / len(rows)
    score = t_under_null(excess[known], max(int(1.5 * horizon), 1))
    error = abs(edge / score) if score else 0.0
    lower = edge - float(t.ppf(1.0 - (1.0 - LEVEL) / claims, apart - 1)) * error
    hits = float(np.mean(_hits(taken[rows] * gains[rows])))
    up = float(np.mean(_hits(gains[known])))
    low, high = _wilson(hits, apart)
    return {
        "horizon": horizon,
        "cases": len(rows),
        "hit_rate": hits,
        "low": low,
        "high": high,
        "base_rate": float(np.mean(np.where(taken[rows] > 0, up, 1.0 - up))),
        "edge_bps": 1e4 * float(edge),
        "lower_bps": 1e4 * float(lower),
        "verdict": "edge" if lower > 0 else "no edge",
    }


def _hits(gains: FloatArray) -> FloatArray:
    """1 for a gain, 0 for a loss, one half for no change."""
    return np.where(gains == 0, 0.5, gains > 0)


def _apart(rows: npt.NDArray[np.int64], horizon: int) -> int:
    """How many of the cases can be picked, first come first served, whose outcomes share no bar."""
    count, free = 0, -1
    for row in rows.tolist():
        if row >= free:
            count, free = count + 1, row + horizon
    return count


def _wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of ``n`` independent cases (Wilson 1927, *JASA* 22)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return max(middle - half, 0.0), min(middle + half, 1.0)
