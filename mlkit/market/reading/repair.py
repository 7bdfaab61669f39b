"""Repair of single rows, every repair counted; see `repair_bars` for the rules."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from mlkit.errors import BarsError
from mlkit.market.bar_columns import BAR_COLUMNS, COLUMNS
from mlkit.market.bars import BarArrays, BoolArray, Float64Array
from mlkit.market.calendar import Calendar
from mlkit.market.grids import fine_offsets, refuse_offsets, snapped
from mlkit.market.reading.headers import Piece, as_pandas, joined_times, parse_numbers
from mlkit.market.times import Int64Array, RowError, floor_times, parse_times


@dataclass(frozen=True)
class RepairReport:
    """What ``repair_bars`` changed: rows in and out, and how many rows (or columns) each repair touched."""

    symbol: str
    timeframe: str
    rows_in: int
    rows_out: int
    counts: Mapping[str, int]  # repair -> rows it touched, every kind present

    @property
    def total(self) -> int:
        """Repairs of all kinds; 0 means that the bars were valid as they came."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        done = ", ".join(f"{kind} {count}" for kind, count in self.counts.items() if count) or "nothing to repair"
        return f"{self._title()}; {done}"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(kind)}</td><td>{count}</td></tr>" for kind, count in self.counts.items())
        title = escape(self._title())
        return f"<table><caption>{title}</caption><tr><th>repair</th><th>rows</th></tr>{rows}</table>"

    def _title(self) -> str:
        return f"{self.symbol} {self.timeframe}: {self.rows_in} rows in, {self.rows_out} out"


class RowRepair:
    """Repairs rows one by one; ``counts`` says how many rows each repair touched.

    Parameters
    ----------
    timeframe: of the bars; times within two seconds of a possible open time are snapped to it.
    calendar: says when a bar closes.
    counts: is added to.
    tz: zone of times written without one; None refuses such times.
    now: ns since the epoch; rows of bars that close after it are dropped.
    """

    def __init__(
        self, timeframe: str, calendar: Calendar, counts: dict[str, int], tz: str | None, now: int | None
    ) -> None:
        self._timeframe, self._calendar, self._counts, self._tz, self._now = timeframe, calendar, counts, tz, now

    def rows(self, piece: Piece) -> BarArrays:
        """The rows of a piece that each alone would be a valid bar, in their order, which may still repeat times."""
        dated, times = self._times(piece)
        data = self._numbers(piece)[:, dated]
        opened = snapped(times, self._timeframe)
        _check_finer(opened, floor_times(opened, self._timeframe), self._timeframe, piece.where)
        offsets = fine_offsets(opened, self._timeframe)
        if offsets.any():
            refuse_offsets(times, offsets, self._timeframe, piece.where, piece.first_row)
        self._count("times snapped to the grid", opened != times)
        self._count("rows out of order", np.diff(opened) < 0)
        keep = np.ones(len(times), dtype=bool)
        for values, column in zip(data, BAR_COLUMNS, strict=True):
            if column.neutral is None:
                keep &= np.isfinite(values) & (values >= column.least)
        self._count("rows without a valid price dropped", ~keep)
        if self._now is not None:
            closed = self._calendar.bar_closes(opened, self._timeframe) <= self._now
            self._count("bars not closed yet dropped", keep & ~closed)
            keep &= closed
        return opened[keep], self._valid(data[:, keep])

    def _count(self, kind: str, rows: BoolArray) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + int(rows.sum())

    def _times(self, piece: Piece) -> tuple[BoolArray, Int64Array]:
        """Which rows have a time (n,), and these times in ns."""
        written = joined_times(piece.columns).reset_index(drop=True)
        dated = written.notna().to_numpy(copy=True)
        if written.dtype == object or isinstance(written.dtype, pd.StringDtype):
            dated &= written.astype("str").str.strip().ne("").to_numpy()
        self._count("rows without a time dropped", ~dated)
        if not dated.any():
            raise BarsError(f"{piece.where}: no row has a time; set the index to the bars' open times")
        with piece.located("timestamp"):
            try:
                times = parse_times(written[dated].reset_index(drop=True), tz=self._tz)
            except RowError as error:
                raise RowError(int(np.flatnonzero(dated)[error.row]), error.detail) from None
        utc = not pd.api.types.is_datetime64_any_dtype(written.dtype) or str(getattr(written.dtype, "tz", "")) == "UTC"
        self._count("times converted to UTC", dated & (not utc))
        return dated, np.asarray(times.asi8)

    def _numbers(self, piece: Piece) -> Float64Array:
        data = np.empty((len(COLUMNS), len(piece)))
        texts = np.zeros(len(piece), dtype=bool)
        for row, role in enumerate(COLUMNS):
            with piece.located(role):
                data[row], bad = parse_numbers(piece.columns[role])
            if bad.any():
                column = as_pandas(piece.columns[role])
                texts |= bad & column.notna().to_numpy() & column.astype("str").str.strip().ne("").to_numpy()
        self._count("rows with text for a number", texts)
        return data

    def _valid(self, data: Float64Array) -> Float64Array:
        """Invalid values that have a neutral value set to it; high and low widened to hold all four prices."""
        for row, column in enumerate(BAR_COLUMNS):
            if column.neutral is not None:
                bad = ~np.isfinite(data[row]) | (data[row] < column.least)
                self._count(f"{column.name}s set to {column.neutral:g}", bad)
                data[row, bad] = column.neutral
        high, low = data[:4].max(axis=0, initial=0.0), data[:4].min(axis=0, initial=np.inf)
        self._count("ranges widened", (high != data[1]) | (low != data[2]))
        data[1], data[2] = high, low
        return data


def _check_finer(times: Int64Array, floored: Int64Array, timeframe: str, where: str) -> None:
    """Refuse rows of a finer timeframe: floored, most of them would share a bar and be dropped."""
    if (floored == times).all():
        return
    slots, moments = (1 + np.count_nonzero(np.diff(np.sort(column))) for column in (floored, times))
    if slots * 2 < moments:
        raise BarsError(
            f"{where}: {moments} times (first {pd.Timestamp(int(times[0]), tz='UTC')}) fall into {slots} "
            f"bars; they are finer than {timeframe}: pass their own timeframe, or resample them"
        )
