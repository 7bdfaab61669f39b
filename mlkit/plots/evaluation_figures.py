"""Figures of out-of-sample results, each beside its naive baseline."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from mlkit.evaluation import aligned, wilson_interval
from mlkit.plots.look import (
    BLUE,
    GREY,
    INK,
    PALE,
    PALETTE,
    RED,
    SKY,
    bars_ahead,
    date_axis,
    horizon_axis,
    legend_above,
    legend_beside,
    padded,
    words,
)  # fmt: skip


def horizon_scores(ax: Axes, table: pd.DataFrame, *, unit: str, naive: float = 0.0) -> Axes:
    """A score and its interval at every horizon, beside the naive forecast's score.

    ``table``: index the horizon in bars; columns ``value``, ``low``, ``high`` (interval bounds). With several rows a
    horizon, the column ``model`` names the line of each.
    """
    horizons = list(dict.fromkeys(table.index))
    models = list(dict.fromkeys(table["model"])) if "model" in table else [""]
    for k, model in enumerate(models):
        rows = table[table["model"] == model] if model else table
        x = np.array([horizons.index(h) for h in rows.index]) + (k - (len(models) - 1) / 2) * 0.16
        value, low, high = (rows[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
        colour = PALETTE[k % len(PALETTE)]
        ax.errorbar(x, value, [value - low, high - value], fmt="o", ms=6, capsize=4, color=colour, label=model or None)
    ax.axhline(naive, color=GREY, ls="--", lw=1.2, label="naive: no change")
    horizon_axis(ax, horizons)
    ax.set_ylabel(unit)
    legend_above(ax, len(models) + 1)
    return ax


def folds(ax: Axes, splits: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]], index: pd.DatetimeIndex) -> Axes:
    """Walk-forward folds on the time axis: training rows, purged rows, test rows."""
    count = 0
    for count, (train, test) in enumerate(splits, start=1):
        for rows, colour, label in ((train, SKY, "train"), (test, RED, "test")):
            start, end = index[rows[0]], index[rows[-1]]
            ax.barh(count, end - start, left=start, height=0.6, color=colour, label=label if count == 1 else None)
        gap, name = [index[train[-1]], index[test[0]]], "purged" if count == 1 else None
        ax.plot(gap, [count, count], color=INK, lw=3, solid_capstyle="butt", label=name)
    ax.set_yticks(range(1, count + 1))
    ax.set_ylim(count + 0.5, 0.5)
    ax.grid(axis="y", visible=False)
    ax.set_ylabel("fold")
    date_axis(ax)
    legend_above(ax, 3)
    return ax


def forecast_vs_outcome(ax: Axes, predicted: npt.ArrayLike, realised: npt.ArrayLike, *, bins: int = 12) -> Axes:
    """Mean realised return in bins of equally many forecasts, with 95 % intervals (1.96 standard errors).

    The means of a useful forecast lie along the dotted diagonal, those of one without information on the dashed
    no-change line. Outcomes of horizons above 1 overlap, so the true intervals are wider than those drawn.

    ``predicted``, ``realised``: log returns, (n,) each; pairs with a NaN are left out.
    """
    p, r = (1e4 * values for values in aligned("forecast_vs_outcome", predicted=predicted, realised=realised))
    known = np.isfinite(p) & np.isfinite(r)
    order = np.argsort(p[known], kind="stable")
    groups = [rows for rows in np.array_split(order, bins) if len(rows) > 1]
    p, r = p[known], r[known]
    x = np.array([p[rows].mean() for rows in groups])
    mean = np.array([r[rows].mean() for rows in groups])
    error = np.array([1.96 * r[rows].std(ddof=1) / np.sqrt(len(rows)) for rows in groups])
    ax.axhline(0, color=GREY, ls="--", lw=1.2, label="no change")
    span = np.array([x.min(), x.max()])
    ax.plot(span, span, color=INK, ls=":", lw=1.2, label="forecast came true")
    ax.errorbar(x, mean, error, fmt="o", ms=5, capsize=3, color=BLUE, label="mean outcome, 95 % interval")
    ax.set(xlabel="forecast log return (bp)", ylabel="realised log return (bp)")
    legend_above(ax, 3)
    return ax


def reliability(ax: Axes, table: pd.DataFrame) -> Axes:
    """Reliability diagram: forecast probability against observed frequency, with 95 % intervals and the counts.

    ``table``: one row a bin, columns ``forecast`` (mean), ``observed`` (share) and ``rows`` (count), as from
    `mlkit.evaluation.reliability_table`; empty bins are left out.
    """
    rows = table[table["rows"] > 0]
    p, share, n = (rows[name].to_numpy(dtype=float) for name in ("forecast", "observed", "rows"))
    low, high = wilson_interval(share, n)
    ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.2, label="calibrated")
    ax.errorbar(p, share, [share - low, high - share], fmt="o-", ms=5, capsize=3, color=BLUE, label="measured")
    width = float(np.diff(p).min()) if len(p) > 1 else 0.05
    ax.set(xlim=padded(float(p.min()) - width / 2, float(p.max()) + width / 2))
    bottom, top = padded(min(float(low.min()), float(p.min())), max(float(high.max()), float(p.max())))
    ax.set_ylim(bottom - 0.25 * (top - bottom), top)
    counts = ax.inset_axes((0.0, 0.0, 1.0, 0.18), sharex=ax, zorder=0)
    drawn = counts.bar(p, n, 0.6 * width, color=PALE)
    counts.bar_label(drawn, labels=[f"{k:,.0f}" for k in n], fontsize=7, color=GREY, padding=1)
    counts.set_ylim(0, n.max() * 1.5)
    counts.axis("off")
    ax.set(xlabel="stated probability", ylabel="share that came true")
    ax.legend(loc="upper left")
    return ax


def coverage(ax: Axes, table: pd.DataFrame) -> Axes:
    """Coverage of the intervals at every horizon, beside their nominal level.

    ``table``: index the horizon in bars; one column for each nominal level (0.8, 0.9), values the coverage.
    """
    x = np.arange(len(table))
    for k, level in enumerate(table.columns):
        colour = PALETTE[k % len(PALETTE)]
        ax.axhline(float(level), color=colour, ls="--", lw=1.2)
        ax.plot(x, table[level].to_numpy(dtype=float), "o", ms=7, color=colour, label=f"{float(level):.0%} interval")
    lowest = min(float(np.nanmin(table.to_numpy(dtype=float))), *map(float, table.columns))
    horizon_axis(ax, table.index)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set(ylim=(max(0.0, lowest - 0.1), 1.005), ylabel="outcomes inside (dashed: promised)")
    legend_above(ax, table.shape[1])
    return ax


def equity(ax: Axes, curves: pd.DataFrame) -> Axes:
    """Growth of 1 over time, one line a strategy, on a log scale; the final value beside each name.

    ``curves``: index UTC timestamps, columns the strategies, values wealth (1 at the start), net of costs.
    """
    for k, name in enumerate(curves.columns):
        wealth = curves[name].dropna()
        label = f"{words(name)}: {wealth.iloc[-1]:.4g}"
        ax.plot(wealth.index, wealth.to_numpy(), lw=1.3, color=PALETTE[k % len(PALETTE)], label=label)
    ax.axhline(1.0, color=GREY, ls="--", lw=1.2)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(_log_ticks(curves))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_locator(FixedLocator([]))
    ax.set_ylabel("growth of 1 (log scale)")
    date_axis(ax)
    legend_beside(ax)
    return ax


def risk_coverage(ax: Axes, curves: dict[int, pd.DataFrame], *, unit: str, naive: float) -> Axes:
    """Risk-coverage curve: skill on the most confident share of the bars, with intervals; one line a horizon.

    ``curves``: horizon to the table of `mlkit.evaluation.risk_coverage`: index the share, columns ``value``, ``low``,
    ``high``.
    ``unit``, ``naive``: what the value is, and its value without skill.
    """
    for k, (horizon, table) in enumerate(curves.items()):
        colour, share = PALETTE[k % len(PALETTE)], table.index.to_numpy(dtype=float)
        value, low, high = (table[name].to_numpy(dtype=float) for name in ("value", "low", "high"))
        ax.fill_between(share, low, high, color=colour, alpha=0.12, lw=0)
        ax.plot(share, value, "o-", ms=4, lw=1.3, color=colour, label=bars_ahead(horizon))
    ax.axhline(naive, color=GREY, ls="--", lw=1.2, label="no skill")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set(xlabel="share of the bars acted on, most confident first", ylabel=unit)
    legend_above(ax, len(curves) + 1)
    return ax


def random_entry(ax: Axes, draws: npt.ArrayLike, strategy: float, *, bins: int = 40) -> Axes:
    """Net return of the strategy, among those of the same positions entered at other times.

    ``draws``, ``strategy``: ``draws`` and ``net_return`` of ``Backtest.random_entry()``.
    """
    values = 100.0 * np.asarray(draws, dtype=float)
    spread = max(float(np.ptp(values)), 1e-6)
    edges = np.linspace(values.min() - 0.02 * spread, values.max() + 0.02 * spread, bins + 1)
    ax.hist(values, bins=list(edges), color=PALE, label="entered at another time")
    ax.axvline(float(np.median(values)), color=GREY, ls="--", lw=1.2, label="their median")
    ax.axvline(100.0 * strategy, color=BLUE, lw=2, label="as the forecast said")
    ax.set(xlabel="net return over the test span (%, not compounded)", ylabel="rotations")
    legend_above(ax, 3)
    return ax


def _log_ticks(curves: pd.DataFrame) -> FixedLocator:
    """Ticks at round numbers, for a range of a few per cent or of decades."""
    low, high = float(np.nanmin(curves.to_numpy())), float(np.nanmax(curves.to_numpy()))
    if high < 4 * low:
        return FixedLocator(list(MaxNLocator(6).tick_values(low, high)))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    return FixedLocator([step * 10.0**decade for decade in decades for step in steps])
