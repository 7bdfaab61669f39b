"""Intervals and tests that respect serial dependence, and the verdict on a forecast.

Outcomes over several bars overlap, so rows are not independent: an ordinary t-test finds an edge in noise. Blocks of
rows are resampled, and variances include autocovariances.

The verdict
-----------
The strategy holds the sign of the forecast for h bars in h tranches, one of which is renewed at every bar; a tranche
pays the cost of a side when it is opened, reversed or closed. The verdict is ``edge`` only if all of these hold:

1. R² against no change is above 0 (Campbell & Thompson 2008, *Review of Financial Studies* 21);
2. the lower bound of the mean net return is above 0, with Bonferroni's correction for all claims;
3. so is that of the net excess profitability ``mean(s y) - mean(s) mean(y) - cost`` (Anatolyev & Gerko 2005, *J.
   Business & Economic Statistics* 23): a signal s that is always long in a rising market earns the market's return,
   which is no forecast.

The bound is ``estimate - t(1 - α / trials; n / (2 block)) se`` with the bootstrap standard error. With the normal
quantile, or percentiles, noise passes three times too often if the sample has few blocks; half a degree of freedom a
block brings the rate back to nominal in simulation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from mlkit.errors import ConfigError
from mlkit.evaluation.metrics import aligned, r2_no_change

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[..., Any]  # a float, or a vector of them
LEVEL = 0.95  # of the verdict's lower bounds, before Bonferroni's correction
REPS = 500  # resamples of a verdict


def metric_intervals(
    metrics: Callable[[Mapping[str, FloatArray]], Mapping[str, float]],
    columns: Mapping[str, ArrayLike],
    *,
    horizon: int,
    level: float = 0.95,
    reps: int = 300,
    seed: int = 7,
) -> pd.DataFrame:
    """Intervals of several metrics: ``estimate ± t(n / (2 block)) se``, with se from one stationary bootstrap.

    Whole rows are resampled, so all metrics of a draw are of the same rows; the quantile is that of the verdict
    (see the head of this module), two-sided.

    Parameters
    ----------
    metrics : takes the columns and returns name to value.
    columns : (n,) each, consecutive bars in time order; NaN where the metrics accept it.
    horizon : bars a label spans; the mean block is ``max(10, 2 horizon)`` rows.

    Returns: DataFrame, index the metrics' names: ``value``, ``low``, ``high``; NaN bounds if a metric is undefined in
    some draw, or if there are fewer than four blocks.
    Source: Politis & Romano (1994), *JASA* 89: the stationary bootstrap (``arch.bootstrap``).
    """
    from scipy.stats import t

    names = list(columns)
    data = list(aligned("metric_intervals", **columns))
    block = default_block(horizon)
    value = dict(metrics(dict(zip(names, data, strict=True))))

    def stat(*resampled: FloatArray) -> FloatArray:
        drawn = metrics(dict(zip(names, resampled, strict=True)))
        return np.array([drawn[name] for name in value], dtype=np.float64)

    frame = pd.DataFrame({"value": value})
    if len(data[0]) < 4 * block:
        return frame.assign(low=np.nan, high=np.nan)
    spread = _resample(stat, data, block, reps, seed).reshape(reps, -1).std(axis=0)
    half = t.ppf(0.5 * (1.0 + level), len(data[0]) / (2.0 * block)) * spread
    return frame.assign(low=frame["value"] - half, high=frame["value"] + half)


def default_block(horizon: int) -> float:
    """Mean bootstrap block for labels over ``horizon`` bars: ``max(10, 2 horizon)`` rows."""
    return max(10.0, 2.0 * horizon)


@dataclass(frozen=True)
class Verdict:
    """Whether the forecasts of one horizon earn money out of sample, and the reason."""

    horizon: int
    verdict: Literal["edge", "no edge"]
    reason: str
    r2: float  # against the forecast of no change
    mean_bps: float  # mean net return of one position held `horizon` bars, basis points
    lower_bps: float  # its lower confidence bound
    rows: int  # scored


@dataclass(frozen=True)
class _Positions:
    """Scored rows as the bootstrap resamples them, and the two statistics that are bounded."""

    columns: list[FloatArray]
    net: Statistic
    net_excess: Statistic
    acted: bool  # whether any position is not flat
    rows: int


def verdict(
    y: ArrayLike,
    pred: ArrayLike,
    *,
    horizon: int,
    cost_bps: float = 1.0,
    trials: int = 1,
    earned: ArrayLike | None = None,
    seed: int = 7,
) -> Verdict:
    """Judge the out-of-sample forecasts of one horizon (see the head of this module).

    Parameters
    ----------
    y, pred : realised and forecast log return over ``horizon`` bars, (n,), consecutive bars in time order. Rows with
        NaN hold no position and are not scored.
    cost_bps : cost of one side, basis points.
    trials : number of claims tested together: horizons times configurations tried.
    earned : log return that acting on the forecast earns, (n,), such as open to open from the next bar on. Default
        ``y``, which assumes a fill at the close at which the forecast is made.
    """
    y, pred, gain = aligned("verdict", y=y, pred=pred, earned=y if earned is None else earned)
    scored, signal, cost = _positions(y, pred, gain, horizon, cost_bps)
    columns = [signal[scored], gain[scored], cost[scored]]
    held = _Positions(columns, _net, _net_excess, bool(signal.any()), len(columns[0]))
    return _judge(held, horizon, r2_no_change(y, pred), cost_bps, trials, seed)


def pool_verdict(
    markets: Sequence[Mapping[str, ArrayLike]], *, horizon: int, cost_bps: float = 1.0, trials: int = 1, seed: int = 7
) -> Verdict:
    """Judge the forecasts of several markets together, each with its own positions.

    Markets move together, so the bootstrap resamples bar times, with all rows of a time; the mean is over all
    positions, the excess that of each market over its own mean. R² is that of returns in units of ``scale``.

    Parameters
    ----------
    markets : of each: ``times`` int64 (n,), ``y``, ``pred`` and ``earned`` as in :func:`verdict`, ``scale`` positive,
        (n,).
    horizon, cost_bps, trials, seed : as in :func:`verdict`.
    """
    times = np.unique(np.concatenate([np.asarray(market["times"]) for market in markets]))
    net, excess, rows = (np.zeros(len(times)) for _ in range(3))
    y, pred, acted = [], [], False
    for market in markets:
        named = {name: values for name, values in market.items() if name != "times"}
        of = dict(zip(named, aligned("pool_verdict", **named), strict=True))
        known, signal, cost = _positions(of["y"], of["pred"], of["earned"], horizon, cost_bps)
        at = np.searchsorted(times, np.asarray(market["times"])[known])
        held, gain, paid = signal[known], of["earned"][known], cost[known]
        # The sum of these is that of the excess; centred, each row is also its influence on the excess.
        timed = (held - held.mean()) * (gain - gain.mean()) if known.any() else held
        for total, values in ((net, held * gain - paid), (excess, timed - paid), (rows, np.ones(len(at)))):
            np.add.at(total, at, values)
        y.append(of["y"] / of["scale"])
        pred.append(of["pred"] / of["scale"])
        acted = acted or bool(held.any())
    columns = [total[rows > 0] for total in (net, excess, rows)]
    positions = _Positions(columns, _pool_net, _pool_excess, acted, int(rows.sum()))
    return _judge(positions, horizon, r2_no_change(np.hstack(y), np.hstack(pred)), cost_bps, trials, seed)


def _judge(held: _Positions, horizon: int, r2: float, cost_bps: float, trials: int, seed: int) -> Verdict:
    """The three conditions in their order; the reason is the first that fails."""
    n, block, alpha = len(held.columns[0]), default_block(horizon), (1.0 - LEVEL) / trials
    mean = low = float("nan")
    if n < 4 * block:
        reason = f"{n} rows are too few, blocks of {block:g} need {4 * block:g}"
    elif not held.acted:
        reason = "the forecast is no change"
    else:
        mean = 1e4 * held.net(*held.columns)
        low, excess = (_lower_bound(stat, held.columns, block, alpha, seed) for stat in (held.net, held.net_excess))
        low *= 1e4
        if not r2 > 0:
            reason = f"R² against no change is {r2:.2g}"
        elif not low > 0:
            reason = f"net {mean:.2f} bps a position, but the lower bound is {low:.2f}"
        elif not excess > 0:
            reason = "the net return is that of holding one direction, not of timing it"
        else:
            reason = f"net {mean:.2f} bps a position, lower bound {low:.2f}, after {cost_bps:g} bps a side"
            return Verdict(horizon, "edge", reason, r2, mean, low, held.rows)
    return Verdict(horizon, "no edge", reason, r2, mean, low, held.rows)


def verdict_table(
    y: ArrayLike, pred: ArrayLike, horizons: Sequence[int], *, trials: int = 1, **options: Any
) -> pd.DataFrame:
    """Verdicts of all horizons, one row each; ``trials`` configurations make ``trials * H`` claims.

    ``y`` and ``pred`` are (n, H); ``options`` are those of :func:`verdict`, ``earned`` (n, H) if given.
    """
    earned = options.pop("earned", None)
    y, pred, gain = aligned("verdict_table", y=y, pred=pred, earned=y if earned is None else earned)
    if y.shape != pred.shape or y.shape[1:] != (len(horizons),):
        raise ConfigError(
            f"verdict_table: y and pred must both be (n, {len(horizons)}), got {y.shape} and {pred.shape}"
        )
    claims = trials * len(horizons)
    judged = [
        verdict(y[:, j], pred[:, j], earned=gain[:, j], horizon=h, trials=claims, **options)
        for j, h in enumerate(horizons)
    ]
    return pd.DataFrame([asdict(v) for v in judged]).set_index("horizon")


def net_rows(y: ArrayLike, pred: ArrayLike, earned: ArrayLike, horizon: int, cost_bps: float) -> FloatArray:
    """Net log return of the tranche that each row opens, (n,), as in the verdict; NaN where a row is not scored."""
    y, pred, gain = aligned("net_rows", y=y, pred=pred, earned=earned)
    scored, signal, cost = _positions(y, pred, gain, horizon, cost_bps)
    return np.where(scored, signal * gain - cost, np.nan)


def _positions(
    y: FloatArray, pred: FloatArray, gain: FloatArray, horizon: int, cost_bps: float
) -> tuple[npt.NDArray[np.bool_], FloatArray, FloatArray]:
    """Rows that are scored, the sign that is held, and the cost of its turnover, (n,) each."""
    scored = np.isfinite(y) & np.isfinite(pred) & np.isfinite(gain)
    signal = np.where(scored, np.sign(pred), 0.0)
    return scored, signal, 1e-4 * cost_bps * tranche_turnover(signal, horizon)


def tranche_turnover(signal: FloatArray, horizon: int) -> FloatArray:
    """Sides traded per row when the tranche opened ``horizon`` rows earlier is renewed with this signal.

    ``|s[t] - s[t - horizon]|``, from flat at the start; the last ``horizon`` tranches also pay their exit.
    """
    before = np.concatenate([np.zeros(horizon), signal])[: len(signal)]
    sides: FloatArray = np.abs(signal - before)
    sides[-horizon:] += np.abs(signal[-horizon:])
    return sides


def t_under_null(values: FloatArray, bandwidth: int) -> float:
    """t-statistic of a mean of serially dependent values, its variance taken under the null of mean zero.

    ``sum(x) / sqrt(n ω)`` with ``n ω = Σ x² + 2 Σ_{k < bandwidth} (1 - k / bandwidth) Σ x[t] x[t - k]``, not
    centred. It never exceeds ``sqrt(n / bandwidth)``, so few independent pieces are never significant; with a
    centred variance a short trend would be. 0 if all values are zero.

    Sources: Newey & West (1987), *Econometrica* 55: the kernel. Hodrick (1992), *Review of Financial Studies* 5:
    imposing the null under overlapping returns.
    """
    power = values @ values
    for k in range(1, min(bandwidth, len(values))):
        power += 2.0 * (1.0 - k / bandwidth) * (values[k:] @ values[:-k])
    return float(values.sum() / np.sqrt(power)) if power > 0 else 0.0


def _net(signal: FloatArray, gain: FloatArray, cost: FloatArray) -> float:
    return float(np.mean(signal * gain - cost))


def _net_excess(signal: FloatArray, gain: FloatArray, cost: FloatArray) -> float:
    return float(np.mean(signal * gain - cost) - np.mean(signal) * np.mean(gain))


def _pool_net(net: FloatArray, excess: FloatArray, rows: FloatArray) -> float:
    return float(np.sum(net) / np.sum(rows))


def _pool_excess(net: FloatArray, excess: FloatArray, rows: FloatArray) -> float:
    return float(np.sum(excess) / np.sum(rows))


def _lower_bound(stat: Statistic, data: list[FloatArray], block: float, alpha: float, seed: int) -> float:
    from scipy.stats import t

    draws = _resample(stat, data, block, REPS, seed)
    quantile = t.ppf(1.0 - alpha, len(data[0]) / (2.0 * block))
    return float(stat(*data) - quantile * draws.std())


def _resample(stat: Statistic, data: Sequence[npt.NDArray[Any]], block: float, reps: int, seed: int) -> FloatArray:
    """``stat`` of each resample of the stationary bootstrap, concatenated, (reps * size,)."""
    from arch.bootstrap import StationaryBootstrap

    draws: FloatArray = StationaryBootstrap(block, *data, seed=seed).apply(stat, reps)
    return draws.ravel()
