"""Metrics of forecasts: arrays in, a float out.

Every metric broadcasts its arguments and leaves out the rows in which any of them is NaN, since a row without
a forecast or an outcome cannot be scored. Without any row left, or if the formula divides by zero, it is NaN.

Ties: bars often close unchanged. An outcome of exactly zero counts as half a rise and half a fall:
:func:`direction` is 0.5, :func:`hit_rate` counts half a hit, and likewise for a forecast of exactly zero.
So a forecast without skill scores 0.5 whatever the share of ties, and a calibrated ``p_up`` is the
probability of a rise plus half that of no change.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from mlkit.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
Table = pd.Series | pd.DataFrame


def aligned(caller: str, **values: Any) -> tuple[FloatArray, ...]:
    """The values as float64 arrays whose rows stand for the same bars; arrays without an index are taken as they are.

    Raises ConfigError where two pandas objects have other rows, or the same rows in another order: their arrays would
    pair the outcome of one bar with the forecast of another.
    """
    indexed = [(name, value.index) for name, value in values.items() if isinstance(value, Table)]
    for name, index in indexed[1:]:
        first, expected = indexed[0]
        if not index.equals(expected):
            n = min(len(index), len(expected))
            rows = np.flatnonzero(index[:n] != expected[:n])
            at = int(rows[0]) if len(rows) else n
            shown = [repr(str(one[at])) if at < len(one) else "missing" for one in (expected, index)]
            raise ConfigError(
                f"{caller}: {first} and {name} have different rows (row {at} is {shown[0]} and {shown[1]}); "
                f"align them, as {name}.reindex({first}.index), or pass arrays"
            )
    return tuple(np.asarray(value, dtype=np.float64) for value in values.values())


def r2_no_change(y: ArrayLike, pred: ArrayLike) -> float:
    """Out-of-sample R² against the forecast of no change: ``1 - sum((y - pred)²) / sum(y²)``.

    Parameters
    ----------
    y, pred : realised and forecast log return, (n,).

    Source: Campbell & Thompson (2008), *Review of Financial Studies* 21, eq. 1, with zero as the benchmark.
    """
    y, pred = _scored(y, pred)
    return 1.0 - _ratio(np.sum((y - pred) ** 2), np.sum(y**2))


def mae(y: ArrayLike, pred: ArrayLike) -> float:
    """Mean absolute error, in units of ``y``."""
    y, pred = _scored(y, pred)
    return _mean(np.abs(y - pred))


def rank_ic(y: ArrayLike, pred: ArrayLike) -> float:
    """Rank information coefficient: Spearman's correlation of forecast and outcome, ties at mean rank."""
    a, b = (rank - _mean(rank) for rank in map(average_rank, _scored(y, pred)))
    return _ratio(float(a @ b), float(np.sqrt((a @ a) * (b @ b))))


def direction(y: ArrayLike) -> FloatArray:
    """Direction of each outcome: 1 for a rise, 0 for a fall, 0.5 for no change; NaN stays NaN."""
    signs: FloatArray = np.sign(np.asarray(y, dtype=np.float64))
    return 0.5 * (1.0 + signs)


def logistic(z: ArrayLike) -> FloatArray:
    """Probability of log-odds ``z``: ``1 / (1 + exp(-z))``, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(z, dtype=np.float64))))


def hit_rate(y: ArrayLike, pred: ArrayLike) -> float:
    """Share of forecasts with the right sign; a tie on either side is half a hit.

    ``mean((1 + sign(y) sign(pred)) / 2)``. Compare with :func:`hit_rate_baseline`, not with 0.5.
    """
    y, pred = _scored(y, pred)
    return _mean(0.5 * (1.0 + np.sign(y) * np.sign(pred)))


def hit_rate_baseline(y: ArrayLike) -> float:
    """Hit rate of the better constant direction: ``(1 + |mean(sign(y))|) / 2``, ties as in hit_rate."""
    (y,) = _scored(y)
    return 0.5 * (1.0 + abs(_mean(np.sign(y))))


def brier(outcome: ArrayLike, p: ArrayLike) -> float:
    """Brier score ``mean((p - outcome)²)``; lower is better, 0.25 for a constant 0.5 without ties.

    Parameters
    ----------
    outcome : 1 or 0, or 0.5 for a tie: ``direction(y)``.
    p : forecast probability that the outcome is 1.

    Source: Brier (1950), *Monthly Weather Review* 78.
    """
    outcome, p = _scored(outcome, p)
    return _mean((p - outcome) ** 2)


def brier_skill(outcome: ArrayLike, p: ArrayLike, reference: float = 0.5) -> float:
    """Brier skill score ``1 - brier(p) / brier(reference)``; above 0 is better than the reference.

    ``reference`` is a constant probability fixed beforehand: 0.5, or the base rate of the training rows.
    """
    outcome, p = _scored(outcome, p)
    return 1.0 - _ratio(_mean((p - outcome) ** 2), _mean((reference - outcome) ** 2))


def expected_calibration_error(outcome: ArrayLike, p: ArrayLike, bins: int = 10) -> float:
    """Mean ``|observed - forecast|`` over equal-width probability bins, weighted by the rows in each.

    Sources: Naeini, Cooper & Hauskrecht (2015), *AAAI*; Guo et al. (2017), *ICML*, eq. 3.
    """
    table = reliability_table(outcome, p, bins)
    gap = (table["observed"] - table["forecast"]).abs()
    return _ratio(float((gap * table["rows"]).sum()), float(table["rows"].sum()))


def reliability_table(outcome: ArrayLike, p: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Forecast against observed frequency in equal-width bins of the forecast probability.

    Returns: one row a bin that holds at least one forecast: ``low``, ``high`` (the bin), ``rows``, ``forecast`` (mean
    probability), ``observed`` (mean outcome). Bins are ``[low, high)``; the last includes 1.
    """
    outcome, p = _scored(outcome, p)
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    rows = np.bincount(which, minlength=bins)
    held = np.flatnonzero(rows)
    return pd.DataFrame(
        {
            "low": edges[held],
            "high": edges[held + 1],
            "rows": rows[held],
            "forecast": np.bincount(which, weights=p, minlength=bins)[held] / rows[held],
            "observed": np.bincount(which, weights=outcome, minlength=bins)[held] / rows[held],
        }
    )


def coverage(y: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of outcomes inside ``[low, high]``; compare with the nominal level of the interval."""
    y, low, high = _scored(y, low, high)
    return _mean((low <= y) & (y <= high))


def coverage_noise(rows: float, horizon: int, level: float) -> float:
    """Standard error of the coverage of the true quantiles, over outcomes that overlap.

    ``sqrt(level (1 - level) / n * (1 + 2 Σ (1 - k / n) ρ_k))`` with the autocorrelation ``ρ_k`` of the hits of a random
    walk's ``horizon``-bar returns, k < horizon: two of them correlate by ``1 - k / horizon``. A deviation of up to
    twice this is no evidence against a forecaster.

    Parameters
    ----------
    rows : consecutive rows scored.
    horizon : bars an outcome spans.
    level : nominal coverage of the central interval.
    """
    from scipy.special import ndtr, ndtri

    z = float(ndtri(0.5 * (1.0 + level)))
    x, weight = np.polynomial.legendre.leggauss(64)
    weight = z * weight * np.exp(-0.5 * (z * x) ** 2) / np.sqrt(2.0 * np.pi)
    x = z * x
    k = np.arange(1, horizon)
    rho = (1.0 - k / horizon)[:, None]
    spread = np.sqrt(1.0 - rho**2)
    both = (ndtr((z - rho * x) / spread) - ndtr((-z - rho * x) / spread)) @ weight
    return _overlapped(rows, k, (both - level**2) / (level * (1.0 - level)), level * (1.0 - level))


def direction_noise(rows: float, horizon: int, p: float = 0.5) -> float:
    """Standard error of the share of rises over overlapping outcomes: signs correlate by ``2/π asin(1 - k/h)``."""
    k = np.arange(1, horizon)
    return _overlapped(rows, k, 2.0 / np.pi * np.arcsin(1.0 - k / horizon), p * (1.0 - p))


def _overlapped(rows: float, k: npt.NDArray[np.int64], rho: FloatArray, variance: float) -> float:
    inflation = 1.0 + 2.0 * float(np.sum(np.maximum(1.0 - k / rows, 0.0) * rho))
    return float(np.sqrt(variance * inflation / rows))


def calibration_noise(outcome: ArrayLike, p: ArrayLike, horizon: int, bins: int = 10) -> float:
    """`expected_calibration_error` of perfect probabilities that miss by 1.96 standard errors in every bin."""
    table = reliability_table(outcome, p, bins)
    pairs = zip(table["rows"], table["forecast"], strict=True)
    errors = [n * 1.96 * direction_noise(n, horizon, forecast) for n, forecast in pairs]
    return _ratio(float(np.sum(errors)), float(table["rows"].sum()))


def wilson_interval(share: ArrayLike, n: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Lower and upper bound of the 95 % interval of a share of ``n`` independent cases; broadcasts.

    Source: Wilson (1927), *JASA* 22. ``scipy.stats.binomtest`` has it for whole hits only, and ties are half a hit
    here.
    """
    share, n = np.asarray(share, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding must not put a share of 0 or 1 outside its own interval.
    return np.clip(middle - half, 0.0, share), np.clip(middle + half, share, 1.0)


def interval_score(y: ArrayLike, low: ArrayLike, high: ArrayLike, level: float) -> float:
    """Interval score of a central ``level`` interval, in units of ``y``; lower is better.

    ``mean(high - low + 2/α max(low - y, 0) + 2/α max(y - high, 0))`` with ``α = 1 - level``: width, plus a
    penalty for each miss; the true quantiles have the lowest expected score.

    Source: Gneiting & Raftery (2007), *JASA* 102, eq. 43.
    """
    y, low, high = _scored(y, low, high)
    return _mean(interval_scores(y, low, high, level))


def interval_scores(y: FloatArray, low: FloatArray, high: FloatArray, level: float) -> FloatArray:
    """The interval score of every row, (n,); its mean is :func:`interval_score`."""
    miss = np.maximum(low - y, 0.0) + np.maximum(y - high, 0.0)
    return np.asarray(high - low + 2.0 / (1.0 - level) * miss, dtype=np.float64)


def _scored(*arrays: ArrayLike) -> tuple[FloatArray, ...]:
    """The arguments as float64 vectors of one length, without the rows where any is NaN."""
    named = {f"argument {number}": array for number, array in enumerate(arrays, 1)}
    columns = np.broadcast_arrays(*aligned("metric", **named))
    keep = ~np.any([np.isnan(c) for c in columns], axis=0)
    return tuple(c[keep] for c in columns)


def _mean(values: FloatArray | npt.NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if values.size else float("nan")


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")


def average_rank(values: FloatArray) -> FloatArray:
    """Rank 1..n; equal values share the mean of their ranks."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)
