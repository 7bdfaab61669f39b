"""Findings in valid bars: gaps, outages, frozen prices, wicks, split-like jumps, bars without volume."""

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from mlkit.market.bars import BoolArray, Float64Array, calendar_of, ohlcv_arrays, open_times, validate_bars
from mlkit.market.outages import unbroken_runs
from mlkit.market.times import Int64Array, timeframe_ns

_FROZEN = 30  # bars in a row that repeat one price with a volume of their own
_WICK = 15.0  # wick in median ranges of the 200 bars around
_JUMP = 0.28  # log distance between a close and the next open, from which it is compared with a split
_SPLITS = np.log([1.5, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 50, 100])
_NEAR = 0.03  # how near a jump must be to a split's logarithm
_STRIP_COLUMNS = 120  # of the figure


@dataclass(frozen=True)
class Finding:
    """One kind of finding in valid bars."""

    kind: str
    count: int
    first: tuple[pd.Timestamp, ...]  # open times of up to five of them
    answer: str  # how mlkit treats them


@dataclass(frozen=True, repr=False)
class QualityReport:
    """Findings in valid bars as a table, and where in time they are."""

    symbol: str
    timeframe: str
    rows: int
    first: pd.Timestamp
    last: pd.Timestamp
    complete: float | None  # share of the grid's bars that are there; None for markets that close
    segments: int  # pieces between outages
    findings: tuple[Finding, ...]
    strips: dict[str, Float64Array]  # kind -> share of bars concerned, in 120 equal spans of time

    @property
    def total(self) -> int:
        """Findings of all kinds."""
        return sum(finding.count for finding in self.findings)

    def frame(self) -> pd.DataFrame:
        """The findings as a table: kind (index), count, first, answer."""
        rows = [(each.kind, each.count, ", ".join(map(_short, each.first)), each.answer) for each in self.findings]
        return pd.DataFrame(rows, columns=["kind", "count", "first", "answer"]).set_index("kind")

    def __str__(self) -> str:
        lines = [self._title()]
        for each in self.findings:
            where = f"  first {_short(each.first[0])}" if each.first else ""
            lines.append(f"  {each.kind:18} {each.count:>9,}{where}" + (f"; {each.answer}" if each.count else ""))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(each.kind)}</td><td>{each.count:,}</td>"
            f"<td>{escape(', '.join(map(_short, each.first)))}</td><td>{escape(each.answer)}</td></tr>"
            for each in self.findings
        )
        head = "<tr><th>kind</th><th>count</th><th>first</th><th>what happens</th></tr>"
        return f"<table><caption>{escape(self._title())}</caption>{head}{rows}</table>{self.svg()}"

    def svg(self) -> str:
        """The strips as a small figure: time from left to right, darker where a larger share is concerned."""
        height, left, wide = 16, 130, 4
        width = left + _STRIP_COLUMNS * wide
        parts = []
        for number, (kind, shares) in enumerate(self.strips.items()):
            top = number * (height + 4)
            parts.append(f'<text x="0" y="{top + 12}" font-size="11" fill="#57606a">{escape(kind)}</text>')
            parts.append(
                f'<rect x="{left}" y="{top}" width="{_STRIP_COLUMNS * wide}" height="{height}" fill="#eef1f4"/>'
            )
            for column in np.flatnonzero(shares > 0):
                shade = 0.25 + 0.75 * min(1.0, float(shares[column]) ** 0.5)
                parts.append(
                    f'<rect x="{left + column * wide}" y="{top}" width="{wide}" height="{height}" '
                    f'fill="#D55E00" fill-opacity="{shade:.2f}"/>'
                )
        bottom = len(self.strips) * (height + 4) + 12
        ends = (("start", left, self.first), ("end", width, self.last))
        parts += [
            f'<text x="{x}" y="{bottom}" font-size="11" text-anchor="{anchor}" fill="#57606a">{time:%Y-%m-%d}</text>'
            for anchor, x, time in ends
        ]
        label = escape(f"where gaps, spikes and empty volume of {self.symbol} {self.timeframe} are in time")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" font-family="sans-serif" '
            f'width="{width}" height="{bottom + 6}" viewBox="0 0 {width} {bottom + 6}">{"".join(parts)}</svg>'
        )

    def _title(self) -> str:
        whole = "" if self.complete is None else f", {self.complete:.2%} of the grid"
        pieces = "1 segment" if self.segments == 1 else f"{self.segments} segments"
        return (
            f"{self.symbol} {self.timeframe}: {self.rows:,} bars, {_short(self.first)} to {_short(self.last)} UTC"
            f"{whole}, {pieces}"
        )


def quality(bars: pd.DataFrame) -> QualityReport:
    """Count what the Bars contract allows but a researcher should know before training.

    It uses all bars at once, later ones too, so its numbers are never features. Counted are: gaps (more than one
    timeframe between two bars), outages (`mlkit.segments` cuts there), bars without volume, frozen prices (30 or
    more bars in a row with one price although something traded), wicks beyond 15 median ranges of the 200 bars
    around, and jumps between a close and the next open that are near a split's ratio.

    Parameters
    ----------
    bars: valid bars (n_bars, 5).

    Returns a `QualityReport`; it prints as a table and shows itself in a notebook. BarsError for bars that break
    the contract.
    """
    bars = validate_bars(bars)
    times, step = open_times(bars), timeframe_ns(bars.attrs["timeframe"])
    o, h, lo, c, v = ohlcv_arrays(bars)
    gap = np.append(False, np.diff(times) > step)
    runs = unbroken_runs(bars)
    outage = np.append(False, np.diff(runs) > 0)
    wick = _wicks(o, h, lo, c)
    jump = _jumps(o, c)
    slots = int(times[-1] - times[0]) // step + 1
    marks: list[tuple[str, BoolArray, str]] = [
        ("gaps", gap, "kept: horizons and windows count bars"),
        ("outages", outage, "segments: no label crosses them"),
        ("zero volume", v == 0, "kept: ratios of volume are NaN or 0 there"),
        ("frozen price", _frozen(h, lo, c, v), "kept: no move to learn; ask the source"),
        ("outlier wicks", wick, "kept: compare with another source"),
        ("split-like jumps", jump, "kept: adjust the older bars if it was a split"),
    ]
    findings = tuple(Finding(kind, int(mark.sum()), _first(bars, mark), answer) for kind, mark, answer in marks)
    missing = np.append(0, np.maximum(np.diff(times) // step - 1, 0)).astype(np.float64)
    never = calendar_of(bars).never_closes
    strips = {
        "gaps": _strip(times, missing / (1.0 + missing) if never else outage.astype(np.float64), largest=True),
        "spikes": _strip(times, (wick | jump).astype(np.float64), largest=True),
        "zero-volume share": _strip(times, (v == 0).astype(np.float64), largest=False),
    }
    index = pd.DatetimeIndex(bars.index)
    complete = len(bars) / slots if never else None
    market = bars.attrs["symbol"], bars.attrs["timeframe"]
    return QualityReport(*market, len(bars), index[0], index[-1], complete, int(runs[-1]) + 1, findings, strips)


def _wicks(o: Float64Array, h: Float64Array, lo: Float64Array, c: Float64Array) -> BoolArray:
    """Bars whose log shadow is above 15 median log ranges of the 200 bars around."""
    body_top, body_low = np.maximum(o, c), np.minimum(o, c)
    shadow = np.maximum(np.log(h / body_top), np.log(body_low / lo))
    spans = pd.Series(np.log(h / lo))
    usual = spans.rolling(200, center=True, min_periods=20).median().to_numpy()
    return np.asarray((shadow > _WICK * usual) & (usual > 0))


def _jumps(o: Float64Array, c: Float64Array) -> BoolArray:
    """Opens whose log distance to the previous close is near that of a split."""
    jump = np.append(0.0, np.abs(np.log(o[1:] / c[:-1])))
    near = np.abs(jump[:, None] - _SPLITS).min(axis=1) < _NEAR if (jump > _JUMP).any() else np.zeros(len(o), bool)
    return np.asarray((jump > _JUMP) & near)


def _frozen(h: Float64Array, lo: Float64Array, c: Float64Array, v: Float64Array) -> BoolArray:
    """Bars of a run that repeats one price, although volume is reported."""
    still = np.append(False, (h[1:] == lo[1:]) & (c[1:] == c[:-1]) & (v[1:] > 0))
    edges = np.flatnonzero(np.diff(still, prepend=False, append=False))
    mark = np.zeros(len(c), dtype=bool)
    for start, stop in edges.reshape(-1, 2):
        if stop - start >= _FROZEN:
            mark[start:stop] = True
    return mark


def _first(bars: pd.DataFrame, mark: BoolArray) -> tuple[pd.Timestamp, ...]:
    return tuple(pd.DatetimeIndex(bars.index)[np.flatnonzero(mark)[:5]])


def _strip(times: Int64Array, values: Float64Array, *, largest: bool) -> Float64Array:
    """BarArrays in equal spans of time: their largest, or their mean."""
    span = int(times[-1] - times[0]) // _STRIP_COLUMNS + 1
    column = (times - times[0]) // span
    strip = np.zeros(_STRIP_COLUMNS)
    if largest:
        np.maximum.at(strip, column, values)
        return strip
    counts = np.bincount(column, minlength=_STRIP_COLUMNS)
    return np.asarray(np.bincount(column, values, _STRIP_COLUMNS) / np.maximum(counts, 1))


def _short(time: pd.Timestamp) -> str:
    return f"{time:%Y-%m-%d}" if time == time.normalize() else f"{time:%Y-%m-%d %H:%M}"
