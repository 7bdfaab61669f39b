"""Agreement of probabilities with flags, returns after patterns, and what probabilities add to flags.

No pattern is named here. Flags are signed, one column a pattern: +1 where it is found and bullish, -1 where it is
found and bearish, 0 elsewhere.

Returns after patterns are asked about twice. :func:`returns_after` is for research: the mean directed return before
costs, two-sided. :func:`traded_patterns` is for a pattern's signal: the return after costs, one-sided, for the
best of the horizons, with a bound that allows for the choice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from mlkit.errors import ConfigError
from mlkit.evaluation.metrics import aligned, average_rank, direction, expected_calibration_error, wilson_interval
from mlkit.evaluation.significance import LEVEL, default_block, t_under_null

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Fold = tuple[IntArray, IntArray]  # rows to fit on, rows to score
RIDGE = 10.0  # penalty in rows, so that columns that are seldom non-zero have small weights


def agreement(
    truth: pd.DataFrame, p: pd.DataFrame, thresholds: ArrayLike, *, bins: int = 15, draws: int = 5, seed: int = 7
) -> pd.DataFrame:
    """How well probabilities reproduce flags, column by column.

    Parameters
    ----------
    truth, p : (n, k) each, the same columns: bool flags, and probabilities of them. Rows where ``p`` is NaN are left
        out.
    thresholds : (k,), probability from which a flag counts as predicted; not chosen on these rows.
    bins, draws, seed : of the calibration error and its noise floor.

    Returns: one row a column of ``truth``: positives, F1, precision, recall, AP (average precision), ECE (expected
    calibration error, equal-width bins) and ECE noise: the mean ECE of outcomes drawn from the very probabilities,
    which a perfect calibration would show. F1, precision, recall and AP are NaN without a positive.
    """
    from sklearn.metrics import average_precision_score

    if set(p.columns) != set(truth.columns):
        raise ConfigError(f"agreement: truth has the columns {list(truth.columns)}, p has {list(p.columns)}")
    known = p.notna().all(axis=1).to_numpy()
    flags, q = (table[known] for table in aligned("agreement", truth=truth, p=p[list(truth.columns)]))
    y = flags.astype(bool)
    hit = q >= np.asarray(thresholds)
    both, found, there = (a.sum(axis=0).astype(np.float64) for a in (hit & y, hit, y))
    some = np.where(there > 0, 1.0, np.nan)
    rng = np.random.default_rng(seed)
    noise = [[expected_calibration_error(rng.random(len(c)) < c, c, bins) for _ in range(draws)] for c in q.T]
    return pd.DataFrame(
        {
            "positives": there.astype(int),
            "F1": some * 2.0 * both / np.maximum(found + there, 1.0),
            "precision": some * both / np.maximum(found, 1.0),
            "recall": some * both / np.maximum(there, 1.0),
            "AP": [average_precision_score(a, b) if a.any() else np.nan for a, b in zip(y.T, q.T, strict=True)],
            "ECE": [expected_calibration_error(a, b, bins) for a, b in zip(y.T, q.T, strict=True)],
            "ECE noise": np.mean(noise, axis=1),
        },
        index=truth.columns,
    )


def returns_after(
    flags: pd.DataFrame, returns: pd.DataFrame, *, least: int = 50, reps: int = 500, seed: int = 7
) -> pd.DataFrame:
    """Mean forward return after each pattern in the direction it claims, beyond that of all bars.

    The mean over hits of ``d (r - mean(r))``: d the direction, r the return, ``mean(r)`` over every bar with a
    return, so that a rising market is not taken for a bullish pattern. Stationary bootstrap of the rows, mean
    block ``max(10, 2 h)``; interval and two-sided p-value by Student's t with the bootstrap standard error and
    half a degree of freedom a block, and no more of them than hits (see ``significance``).

    Parameters
    ----------
    flags : (n, k), one column a pattern: -1, 0 or +1, known at the row's close.
    returns : (n, H), one column a horizon in bars; log return that begins at the row's close, NaN where none.
    least : patterns with fewer hits are left out.
    reps, seed : resamples of the bootstrap, its seed.

    Returns: one row a pattern and horizon: pattern, horizon, hits, mean_bps, low_bps, high_bps (basis points), p.
    Raises ConfigError when the two have different rows.
    Source: Politis & Romano (1994), *JASA* 89: the stationary bootstrap (``arch.bootstrap``).
    """
    from scipy.stats import t

    sides, gains = aligned("returns_after", flags=flags, returns=returns)
    rows: list[tuple[object, ...]] = []
    for horizon, r in zip(returns.columns, gains.T, strict=True):
        known = np.isfinite(r)
        d, r = sides[known], r[known, None]
        hits, block = np.count_nonzero(d, axis=0), default_block(int(horizon))
        kept = np.flatnonzero(hits >= least)
        if not len(kept):
            continue
        d, hits = d[:, kept], hits[kept]
        mean, draws = _bootstrap(_excess, np.concatenate([d * r, d, np.abs(d), r], axis=1), block, reps, seed)
        error, freedom = draws.std(axis=0), np.maximum(np.minimum(len(d) / (2.0 * block), hits - 1.0), 1.0)
        reach = t.ppf(0.5 * (1.0 + LEVEL), freedom) * error
        p = 2.0 * t.sf(np.divide(np.abs(mean), error, out=np.zeros_like(mean), where=error > 0), freedom)
        bps = 1e4 * np.stack([mean, mean - reach, mean + reach])
        rows += zip(flags.columns[kept], repeat(int(horizon)), hits.tolist(), *bps, p)
    return pd.DataFrame(rows, columns=["pattern", "horizon", "hits", "mean_bps", "low_bps", "high_bps", "p"])


def _excess(sums: FloatArray, n: int) -> FloatArray:
    """Mean directed excess return (k,) from the sums of d r, d and |d| (k each) and of r over n rows."""
    gain, net, hits = np.split(sums[:-1], 3)
    return np.asarray(np.divide(gain - net * sums[-1] / n, hits, out=np.zeros(len(hits)), where=hits > 0))


def _bootstrap(
    statistic: Callable[[FloatArray, int], FloatArray], columns: FloatArray, block: float, reps: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """A statistic (k,) of the sums of columns (n, m) and of n; and of ``reps`` stationary bootstraps, (reps, k)."""
    from arch.bootstrap import StationaryBootstrap

    n = len(columns)

    def resampled(rows: IntArray) -> FloatArray:
        # A resample is a weight for each row.
        return statistic(np.bincount(rows, minlength=n) @ columns, n)

    rows = np.arange(n)
    return resampled(rows), StationaryBootstrap(block, rows, seed=seed).apply(resampled, reps)


def traded_patterns(
    flags: pd.DataFrame,
    returns: pd.DataFrame,
    *,
    cost_bps: float,
    least: int = 30,
    least_disjoint: int = 10,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """Return of trading each pattern in its direction, at the horizon with the highest lower bound.

    A case earns its direction times the return beyond the mean of all bars, less a round trip. The standard error is
    that of the whole series, zero where there is no case, over ``1.5 h`` overlapping bars and under the null
    (`t_under_null`); the quantile is Student's at Bonferroni's level for all patterns and horizons with enough cases.

    Parameters
    ----------
    flags : (n_bars, n_patterns) -1, 0 or +1, known at the row's close.
    returns : (n_bars, n_horizons), one column a horizon in bars; log return from the next open, NaN where none.
    cost_bps : one-way cost, basis points.
    least, least_disjoint : cases needed, and how many of them must have outcomes that share no bar.
    level : of the one-sided lower bound, for all claims together.

    Returns: by pattern: horizon, cases, hit_rate with its 95 % interval (low, high), base_rate (hit rate of the same
    directions at any bar), edge_bps (mean), lower_bps and verdict ("edge" where lower_bps is above 0).
    """
    from scipy.stats import t

    sides, gains = aligned("traded_patterns", flags=flags, returns=returns)
    known, horizons = np.isfinite(gains), [int(h) for h in returns.columns]
    measured = []
    for k in range(sides.shape[1]):
        for j, h in enumerate(horizons):
            rows = np.flatnonzero((sides[:, k] != 0) & known[:, j])
            disjoint = _disjoint(rows, h)
            if len(rows) >= least and disjoint >= least_disjoint:
                measured.append((k, j, disjoint))
    found: dict[str, dict[str, Any]] = {}
    for k, j, disjoint in measured:
        quantile = float(t.ppf(1.0 - (1.0 - level) / len(measured), disjoint - 1))
        one = _traded(sides[:, k], gains[:, j], horizons[j], cost_bps, disjoint, quantile)
        best = found.get(flags.columns[k])
        if best is None or one["lower_bps"] > best["lower_bps"]:
            found[flags.columns[k]] = one
    return found


def _traded(
    side: FloatArray, gain: FloatArray, horizon: int, cost_bps: float, disjoint: int, quantile: float
) -> dict[str, Any]:
    """Return of trading one pattern at one horizon."""
    known = np.isfinite(gain)
    side, gain = np.where(known, side, 0.0), np.where(known, gain, 0.0)
    rows = np.flatnonzero(side)
    excess = side * (gain - gain[known].mean()) - 2e-4 * cost_bps * np.abs(side)
    edge = excess.sum() / len(rows)
    score = t_under_null(excess[known], max(int(1.5 * horizon), 1))
    lower = edge - quantile * (abs(edge / score) if score else 0.0)
    hit_rate, up = float(np.mean(direction(side[rows] * gain[rows]))), float(np.mean(direction(gain[known])))
    low, high = wilson_interval(hit_rate, disjoint)
    return {
        "horizon": horizon,
        "cases": len(rows),
        "hit_rate": hit_rate,
        "low": float(low),
        "high": float(high),
        "base_rate": float(np.mean(np.where(side[rows] > 0, up, 1.0 - up))),
        "edge_bps": 1e4 * float(edge),
        "lower_bps": 1e4 * float(lower),
        "verdict": "edge" if lower > 0 else "no edge",
    }


def _disjoint(rows: IntArray, horizon: int) -> int:
    """How many of the cases have outcomes that share no bar, picked in the order of time."""
    count, free = 0, -1
    for row in rows.tolist():
        if row >= free:
            count, free = count + 1, row + horizon
    return count


def with_discoveries(table: pd.DataFrame, *, level: float = 0.05, method: str = "by") -> pd.DataFrame:
    """The table with ``q``, p-values adjusted for false discoveries over all rows, and ``found``, q <= ``level``.

    Parameters
    ----------
    table : rows with a column ``p``, such as several of :func:`returns_after` concatenated.
    level : false discovery rate: expected share of the rows found that are false.
    method : "by" under any dependence (Benjamini & Yekutieli 2001, *Annals of Statistics* 29), "bh" when tests are
        independent or positively dependent (Benjamini & Hochberg 1995, *JRSS B* 57).
    """
    from scipy.stats import false_discovery_control

    q = false_discovery_control(table["p"], method=method) if len(table) else np.empty(0)
    return table.assign(q=q, found=q <= level)


@dataclass(frozen=True)
class Interval:
    """A point estimate and its bootstrap interval bounds."""

    estimate: float
    low: float
    high: float
    level: float  # nominal coverage


@dataclass(frozen=True)
class Increment:
    """Out-of-sample rank IC of two nested regressions, and of what the larger adds."""

    base: Interval  # IC of the forecasts from the base columns
    full: Interval  # IC of those from base and extra columns
    gain: Interval  # full less base, resampled together
    rows: int  # scored out of sample


def incremental_ic(
    returns: ArrayLike,
    base: ArrayLike,
    extra: ArrayLike,
    folds: Iterable[Fold],
    *,
    block: float,
    level: float = LEVEL,
    reps: int = 500,
    seed: int = 7,
) -> Increment:
    """What ``extra`` adds to ``base`` in forecasting returns, fitted and scored on different rows.

    In every fold two ridge regressions are fitted on its training rows, on ``base`` and on both, columns
    standardised by their training rows; both forecast its test rows. The rank ICs are over all test rows
    together, their intervals by the stationary bootstrap.

    Parameters
    ----------
    returns : (n,), NaN where none.
    base, extra : (n, k) and (n, m); rows with NaN in either are left out of both.
    folds : training and test rows, purged by the time a label is known (``WalkForward.split``).
    block : mean block of the bootstrap in rows, at least the horizon.
    level : of the intervals; 1 - 0.05 / m for m questions at once (Bonferroni).
    reps, seed : resamples of the bootstrap, its seed.

    Raises ConfigError: without a fold, or when a fold has no row with all its numbers.
    """
    y, small, more = aligned("incremental_ic", returns=returns, base=base, extra=extra)
    large = np.concatenate([small, more], axis=1)
    usable = np.isfinite(y) & np.isfinite(large).all(axis=1)
    scored: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    for train, test in folds:
        train, test = train[usable[train]], test[usable[test]]
        if not (len(train) and len(test)):
            raise ConfigError("incremental_ic: a fold has no complete row to fit or to score; pass more bars")
        scored.append((y[test], *(_ridge_forecast(x, y, train, test) for x in (small, large))))
    if not scored:
        raise ConfigError("incremental_ic: no fold; pass those of WalkForward.split")
    # Ranks are taken once, among all scored rows; a resample then weighs them.
    ranks = np.stack([average_rank(np.concatenate(column)) for column in zip(*scored, strict=True)], axis=1)
    ranks = ranks / len(ranks) - 0.5
    columns = np.concatenate([ranks, ranks**2, ranks[:, :1] * ranks[:, 1:]], axis=1)
    estimate, draws = _bootstrap(_rank_ics, columns, block, reps, seed)
    low, high = np.quantile(draws, [0.5 * (1 - level), 0.5 * (1 + level)], axis=0)
    bounds = np.stack([estimate, low, high], axis=1).tolist()
    base_ic, full_ic, gain = (Interval(middle, least, most, level) for middle, least, most in bounds)
    return Increment(base_ic, full_ic, gain, len(ranks))


def _rank_ics(sums: FloatArray, n: int) -> FloatArray:
    """Correlation of the outcome with each of two forecasts, and their difference, from sums over n rows.

    The sums are those of three ranks (outcome first), of their squares, and of the outcome's rank times the others.
    """
    mean = sums / n
    variance = np.maximum(mean[3:6] - mean[:3] ** 2, 0.0)
    spread = np.sqrt(variance[0] * variance[1:])
    ic = np.divide(mean[6:] - mean[0] * mean[1:3], spread, out=np.zeros(2), where=spread > 1e-12)
    return np.append(ic, ic[1] - ic[0])


def _ridge_forecast(x: FloatArray, y: FloatArray, train: IntArray, test: IntArray) -> FloatArray:
    """Forecasts for the test rows, beyond the mean return of training: that mean is the fold's, it ranks no row of it.

    Columns that never vary in training say nothing.
    """
    centre, spread = x[train].mean(axis=0), x[train].std(axis=0)
    scale = np.where(spread > 0, spread, np.inf)
    z = (x[train] - centre) / scale
    weights = np.linalg.solve(z.T @ z + RIDGE * np.eye(z.shape[1]), z.T @ (y[train] - y[train].mean()))
    return np.asarray((x[test] - centre) / scale @ weights)
