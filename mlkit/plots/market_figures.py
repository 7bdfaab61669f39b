"""Figures of bars, their returns, features and patterns, and of a forecast beside them."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter

from mlkit.errors import ConfigError
from mlkit.labels import BULLISH
from mlkit.plots.look import BLUE, GREY, INK, PALE, RED, SKY, date_axis, legend_beside, padded, words
from mlkit.plots.model_figures import grouped_bars

_CONE = ("log_return", "lo80", "hi80", "lo90", "hi90")


def candles(ax: Axes, bars: pd.DataFrame, *, markers: pd.DataFrame | None = None, max_labels: int = 12) -> Axes:
    """Candlesticks side by side (nights and weekends take no room), with marked patterns.

    ``bars``: bars to draw; some 40 to 150 read well.
    ``markers``: bool (n_bars, n_patterns), such as ``pattern_labels(bars)``; a name is written at the bar whose close
    completes the pattern: names of bullish patterns below the candles, the others above.
    ``max_labels``: at most so many names on each side, the latest ones.
    """
    x = np.arange(len(bars))
    o, h, lo, c = (bars[name].to_numpy() for name in ("open", "high", "low", "close"))
    for rows, colour in ((c >= o, BLUE), (c < o, RED)):
        wicks = [((i, lo[i]), (i, h[i])) for i in x[rows]]
        ax.add_collection(LineCollection(wicks, colors=colour, linewidths=0.9))
        body = np.maximum(np.abs(c - o), 0.001 * (h.max() - lo.min()))[rows]
        ax.bar(x[rows], body, bottom=np.minimum(o, c)[rows], width=0.66, color=colour, linewidth=0)
    ax.set(xlim=(-1, len(bars)), ylim=padded(lo.min(), h.max()))
    if markers is not None:
        _mark_patterns(ax, bars, markers.reindex(bars.index, fill_value=False), max_labels)
    # Dates at bar numbers, with the time of day if bars are shorter than a day.
    times = pd.DatetimeIndex(bars.index)
    rows = np.unique(np.linspace(0, len(times) - 1, min(7, len(times))).round().astype(int))
    daily = bool((times == times.normalize()).all())
    ax.set_xticks(rows, [times[i].strftime("%Y-%m-%d" if daily else "%m-%d\n%H:%M") for i in rows])
    ax.grid(axis="x", visible=False)
    ax.set(ylabel="price", xlabel="bar open, UTC")
    return ax


def _mark_patterns(ax: Axes, bars: pd.DataFrame, markers: pd.DataFrame, most: int) -> None:
    """Write each pattern's name as near to its bar as the candles and the names already drawn allow."""
    low, high = bars["low"].to_numpy(), bars["high"].to_numpy()
    inches = ax.get_window_extent().width / ax.figure.dpi
    letter = 0.075 * (len(bars) + 1) / inches  # width of a letter of 8 points, in bars
    line = 0.06 * float(high.max() - low.min())  # height of a line of text, in units of the price
    boxes: list[tuple[float, float, float, float]] = []  # left, right, bottom, top
    for below, tips, side in ((True, low, -1), (False, high, 1)):
        names = [name for name in markers.columns if (name in BULLISH) == below]
        hits = markers[names].to_numpy(dtype=bool)
        for i in np.flatnonzero(hits.any(axis=1))[-most:]:
            found = [words(name) for name, hit in zip(names, hits[i], strict=True) if hit]
            half = (max(map(len, found)) + 1) * letter / 2
            x = min(max(float(i), half - 1), len(bars) - half)
            near = slice(max(0, int(x - half)), int(x + half) + 2)
            y = float(tips[i]) + side * 0.6 * line
            while True:
                bottom, top = sorted((y, y + side * line * len(found)))
                candle = (low[near] < top) & (high[near] > bottom)
                text = any(x - half < r and x + half > le and bottom < t and top > b for le, r, b, t in boxes)
                if not candle.any() and not text:
                    break
                y += side * 0.25 * line
            boxes.append((x - half, x + half, bottom, top))
            ax.plot([i, i], [tips[i], y], color=GREY, lw=0.7, ls=":", zorder=0.5)
            # A background of its own, over the dotted lines of other names.
            blank = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.4}
            spot: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "linespacing": 1.0, "bbox": blank}
            ax.text(x, (bottom + top) / 2, "\n".join(found), **spot)
    if boxes:
        lowest, highest = min(box[2] for box in boxes), max(box[3] for box in boxes)
        ax.set_ylim(*padded(min(low.min(), lowest), max(high.max(), highest), 0.02))


def returns_histogram(ax: Axes, log_returns: pd.Series, *, bins: int = 81) -> Axes:
    """Density of log returns beside the normal law of the same spread, on a log scale: the tails."""
    values = log_returns.dropna().to_numpy() * 100
    centre, spread = values.mean(), values.std()
    reach = np.abs(values - centre).max() * 1.02
    count, edges = np.histogram(values, bins=bins, range=(centre - reach, centre + reach))
    width = edges[1] - edges[0]
    ax.bar(edges[:-1], count / (count.sum() * width), width, align="edge", color=SKY, label="measured")
    grid = np.linspace(centre - reach, centre + reach, 401)
    normal = np.exp(-0.5 * ((grid - centre) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
    ax.plot(grid, normal, color=INK, ls="--", label=f"normal, same mean and std ({spread:.2f} %)")
    ax.set_yscale("log")
    ax.set_ylim(0.5 / (count.sum() * width), 2 * max(normal.max(), (count / (count.sum() * width)).max()))
    ax.set(xlabel="log return of one bar (%)", ylabel="density (per %)")
    ax.legend(loc="upper left")
    return ax


def calendar_gaps(ax: Axes, bars: pd.DataFrame, *, most: int = 8) -> Axes:
    """Counts of the times between successive opens: one timeframe, or more over nights, weekends and gaps."""
    index = pd.DatetimeIndex(bars.index)
    gaps = pd.Series(index[1:] - index[:-1]).value_counts().sort_index()
    shown = gaps if len(gaps) <= most else gaps.iloc[: most - 1]
    labels = [_duration(pd.Timedelta(gap)) for gap in shown.index]
    heights = [int(n) for n in shown]
    if len(gaps) > most:
        labels.append("longer")
        heights.append(int(gaps.iloc[most - 1 :].sum()))
    drawn = ax.bar(range(len(heights)), heights, width=0.7, color=[SKY if i else BLUE for i in range(len(heights))])
    ax.bar_label(drawn, labels=[f"{n:,}" for n in heights], padding=2, fontsize=9)
    ax.set_xticks(range(len(labels)), labels)
    ax.grid(axis="x", visible=False)
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(0, max(heights) * 4)
    ax.set(xlabel="time from one bar's open to the next", ylabel="number of gaps (log scale)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return ax


def _duration(gap: pd.Timedelta) -> str:
    """A time span in its largest unit, such as ``3 d``."""
    seconds = int(gap.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds} s"


def feature_panel(ax: Axes, series: pd.Series, *, unit: str = "") -> Axes:
    """One feature over time; its warm-up, in which it is NaN, is shaded."""
    known = series.notna().to_numpy()
    first = int(known.argmax()) if known.any() else len(series)
    if first:
        ax.axvspan(series.index[0], series.index[min(first, len(series) - 1)], color=PALE, alpha=0.6, lw=0)
        ax.text(0.005, 0.96, f"warm-up: {first:,} bars", transform=ax.transAxes, va="top", fontsize=8, color=GREY)
    ax.plot(series.index, series.to_numpy(), lw=0.9)
    ax.set_xlim(series.index[0], series.index[-1])
    date_axis(ax)
    name = str(series.name) if series.name is not None else "value"
    ax.set_ylabel(f"{name} ({unit})" if unit else name)
    return ax


def base_rates(ax: Axes, table: pd.DataFrame, *, unit: str = "hits per 1,000 bars") -> Axes:
    """How often each pattern occurs; a column for each standard, a row for each pattern."""
    return grouped_bars(ax, table, unit=unit, digits=4)


def cones(ax: Axes, bars: pd.DataFrame, forecasts: pd.DataFrame, *, n_past: int = 60) -> Axes:
    """The last closes before a forecast, its 80 and 90 % intervals, the no-change line, and the outcome.

    ``forecasts``: rows of ``Predictor.forecasts`` for one bar, the latest where there are several: columns timestamp,
    horizon (bars), log_return, lo80, hi80, lo90, hi90. Closes of later bars in ``bars`` are drawn as the outcome. The
    intervals exist at the horizons; between them the cone is straight.
    """
    rows = forecasts if "timestamp" in forecasts else forecasts.reset_index()
    rows = rows[rows["timestamp"] == rows["timestamp"].max()].sort_values("horizon")
    now = int(bars.index.get_indexer(pd.DatetimeIndex(rows["timestamp"].iloc[:1]))[0])
    if now < 0:
        raise ConfigError(f"cones: the forecast is of {rows['timestamp'].iloc[0]}, which is no bar of these")
    closes = bars["close"].to_numpy()
    last = float(closes[now])
    x = np.concatenate([[0.0], rows["horizon"].to_numpy(dtype=float)])
    path = {c: last * np.exp(np.concatenate([[0.0], rows[c].to_numpy(dtype=float)])) for c in rows if c in _CONE}
    ax.fill_between(x, path["lo90"], path["hi90"], color=SKY, alpha=0.30, lw=0, label="90 % interval")
    ax.fill_between(x, path["lo80"], path["hi80"], color=SKY, alpha=0.55, lw=0, label="80 % interval")
    past = closes[max(0, now - n_past) : now + 1]
    ax.plot(np.arange(1 - len(past), 1), past, color=INK, label="close")
    later = closes[now : now + int(x[-1]) + 1]
    if len(later) > 1:
        ax.plot(np.arange(len(later)), later, color=RED, lw=1.2, label="what came")
    ax.axhline(last, color=GREY, ls="--", lw=1.2, label="no change")
    ax.plot(x[1:], path["log_return"][1:], "o-", ms=5, lw=1, color=BLUE, label="forecast")
    ax.axvline(0, color=PALE, lw=1)
    ax.set(xlabel="bars from the forecast", ylabel="price", xlim=(1 - len(past), x[-1] * 1.03))
    legend_beside(ax)
    return ax
