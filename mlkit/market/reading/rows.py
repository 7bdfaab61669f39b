"""Rows of files and frames become bars: checked or repaired, then sorted, without repeats, month by month."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from mlkit.errors import BarsError
from mlkit.market.bars import (
    COLUMNS,
    BarArrays,
    Float64Array,
    Month,
    bars_of,
    by_month,
    check_values,
    validate_bars,
)
from mlkit.market.calendar import ALWAYS_OPEN, get_calendar
from mlkit.market.calendar_choice import CalendarChoice, check_fit, check_span, choose_calendar, inside_sessions
from mlkit.market.grids import check_grid, date_labels, fine_offsets, is_date_labelled, label_zones, refuse_offsets
from mlkit.market.reading.headers import Piece, frame_piece
from mlkit.market.reading.instruments import check_instrument
from mlkit.market.reading.repair import RepairReport, RowRepair
from mlkit.market.reading.tables import file_pieces
from mlkit.market.symbols import check_symbol
from mlkit.market.times import TIMEFRAMES, Int64Array, month_slots, such_rows, timeframe_delta, timeframe_ns

_REPEATS = 4  # rows that a file may hold for each bar, beside `_SPARE_ROWS` a month
_SPARE_ROWS = 100_000
_SPILL = 1 << 26  # bytes of rows that are kept in memory; more are written to temporary files, one a month
_CONFLICTS, _CONFLICT_SHARE = 5, 0.01  # rows whose prices disagree, of all rows: more are no single mistakes
_ENOUGH = 20  # distances between bars from which their timeframe is checked


_MEND_FEW = "keep one of each, or --repair keeps the last"
_MEND_MANY = "so many are two markets, sources or versions, which no repair may choose from; import one of them"


def source_pieces(source: Any, where: str, counts: dict[str, int] | None = None) -> Iterator[Piece]:
    """The rows of a path or of a frame in memory; ``counts`` as for `file_pieces`, ``where`` names a frame."""
    if isinstance(source, str | Path):
        return file_pieces(Path(source), counts)
    return iter((frame_piece(source, where, {} if counts is None else counts),))


@dataclass(frozen=True)
class Hours:
    """In which hours bars are expected.

    Parameters
    ----------
    calendar: that the bars must fit; None chooses one from all open times, unless ``stored`` is given.
    stored: calendar that the market has in the lake.
    regular: drop the bars outside the sessions, which are counted.
    """

    calendar: str | None = None
    stored: str | None = None
    regular: bool = False


class Intake:
    """Collects the rows of one market, strictly or with repair, and makes bars of them.

    Rows may come in any order; rows that repeat another exactly are dropped. Both are counted. Other faults
    are refused, or repaired with ``repair=True``: see `mlkit.repair_bars`. Use it in a ``with`` statement: rows beyond
    64 MB are kept in a temporary folder, which is removed at its end.

    Parameters
    ----------
    symbol, timeframe: labels of the bars.
    tz: zone of times written without one; None refuses such times.
    now: bars that close after it are not closed yet; None: not checked.
    hours: calendar of the bars; by default one is chosen from all open times.
    """

    def __init__(
        self,
        symbol: str,
        timeframe: str,
        *,
        tz: str | None = "UTC",
        repair: bool = False,
        now: pd.Timestamp | None = None,
        hours: Hours | None = None,
    ) -> None:
        timeframe_delta(timeframe)
        hours = hours or Hours()
        calendar, stored = hours.calendar, hours.stored
        self._given, self._regular = calendar, hours.regular
        self.choice: CalendarChoice | None = None  # where neither was given, after all rows are taken
        self.calendar = get_calendar(calendar or stored or ALWAYS_OPEN)
        self._known = calendar is not None or stored is not None
        self._zone: str | None = None  # in whose midnights daily bars open; None where they are labelled by dates
        self.symbol, self.timeframe = check_symbol(symbol), timeframe
        self._tz, self._repair = tz, repair
        self._now = None if now is None else now.as_unit("ns").value
        self._counts: dict[str, int] = {"rows out of order": 0, "exact duplicates dropped": 0}
        self._rows_in = self._rows_out = 0
        self._last: int | None = None
        self._spool = _Spool(f"{symbol} {timeframe}", _SPARE_ROWS + _REPEATS * month_slots(timeframe))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, source: Any) -> None:
        """Take the rows of a path or of a frame in memory. Raises BarsError or ConfigError, naming the place."""
        where = f"{self.symbol} {self.timeframe}"
        for piece in source_pieces(source, where, self._counts if self._repair else None):
            check_instrument(piece, self.symbol)
            self.add_piece(piece)

    def add_piece(self, piece: Piece) -> None:
        """Take rows of this market. Raises BarsError, naming the place."""
        self._rows_in += len(piece)
        if self._repair:
            times, data = RowRepair(self.timeframe, self.calendar, self._counts, self._tz, self._now).rows(piece)
        else:
            times, data = piece.values(self._tz)
            self._check(times, data, piece)
            late = int((np.diff(times) < 0).sum()) + (self._last is not None and times[0] < self._last)
            self._counts["rows out of order"] += int(late)
        if len(times):
            self._last = int(times[-1])
            self._spool.add(times, data)

    def bars(self) -> pd.DataFrame:
        """All rows as bars (n_bars, 5), in memory. BarsError for rows of one time that disagree, or none."""
        self.settle_times()
        values = self._settled(*self._spool.whole())
        self._rows_out = len(values[0])
        self._need_rows()
        return bars_of(values, symbol=self.symbol, timeframe=self.timeframe, calendar=self.calendar.name)

    def months(self) -> Iterator[Month]:
        """The bars month by month, in bounded memory. BarsError as `bars`, at the month where it shows."""
        # A new label may lie in another month than the time that was written.
        for values in self._spool.pieces() if self._zone is None else (self._spool.whole(),):
            for month in by_month(*self._settled(*values)):
                self._rows_out += len(month[1])
                yield month
        self._need_rows()

    @property
    def report(self) -> RepairReport:
        """What was changed so far; complete after `bars` or `months`."""
        counts: Mapping[str, int] = MappingProxyType(dict(self._counts))
        return RepairReport(self.symbol, self.timeframe, self._rows_in, self._rows_out, counts)

    def _check(self, times: Int64Array, data: Float64Array, piece: Piece) -> None:
        """BarsError for times off the grid, bars that are not closed yet, and values that no bar has."""
        index = pd.DatetimeIndex(times, tz="UTC")
        offsets = fine_offsets(times, self.timeframe)
        if offsets.any():
            refuse_offsets(times, offsets, self.timeframe, piece.where, piece.first_row)
        if self._now is not None:
            early = self.calendar.bar_closes(times, self.timeframe) > self._now
            if early.any():
                row = int(np.argmax(early))
                raise BarsError(
                    f"{piece.where}: row {row + piece.first_row} ({index[row]}): the bar is not closed yet by this "
                    f"machine's clock ({pd.Timestamp(self._now, tz='UTC'):%Y-%m-%d %H:%M} UTC); drop it, or mend with "
                    f"--repair{such_rows(early)}"
                )
        check_values(data, index, piece.where, piece.first_row)

    def settle_times(self) -> str:
        """Find calendar, grid and labels of all open times, and return the calendar's name; before `months`.

        BarsError where they have no grid in common, or do not fit the calendar that was asked for.
        """
        times, where = np.unique(self._spool.times()), f"{self.symbol} {self.timeframe}"
        if not len(times):
            return self.calendar.name
        if not is_date_labelled(times, self.timeframe):
            zones = label_zones(self.calendar if self._known else None)
            times, self._zone = date_labels(times, self.timeframe, zones, where)
        if not self._known:
            self.choice = choose_calendar(times, self.timeframe, self._zone)
            self.calendar = get_calendar(self.choice.calendar)
        check_span(self.calendar, times, where)
        if self._given is not None:
            check_fit(self.calendar, times, self.timeframe, where)
        check_grid(times, self.timeframe, self.calendar, where)
        return self.calendar.name

    def _settled(self, times: Int64Array, data: Float64Array) -> BarArrays:
        """Labelled, sorted and without repeated times; of the regular sessions only, where that is asked for."""
        if self._zone is not None:
            times = date_labels(times, self.timeframe, [self._zone], self.symbol)[0]
        if self._regular:
            inside = inside_sessions(self.calendar, times, self.timeframe)
            kind = "bars outside the sessions dropped"
            self._counts[kind] = self._counts.get(kind, 0) + int((~inside).sum())
            times, data = times[inside], data[:, inside]
        steps = np.diff(times)
        if (steps <= 0).any():
            order = np.argsort(times, kind="stable")
            times, data = times[order], data[:, order]
            times, data = self._once(times, data)
            steps = np.diff(times)
        self._check_steps(times, steps)
        return times, np.ascontiguousarray(data)

    def _once(self, times: Int64Array, data: Float64Array) -> BarArrays:
        """One row a time, the last one; BarsError where they disagree, unless repaired."""
        again = np.append(times[1:] == times[:-1], False)
        if not again.any():
            return times, data
        first = np.flatnonzero(np.append(True, times[1:] != times[:-1]))
        group = np.cumsum(np.append(0, times[1:] != times[:-1]))
        differ = (data != data[:, first[group]]).any(axis=0)
        moments = np.unique(times[differ])
        prices = (data[:4] != data[:4, first[group]]).any(axis=0)
        few = int(prices.sum()) <= max(_CONFLICTS, _CONFLICT_SHARE * len(times))
        if len(moments) and not (self._repair and few):
            shown = ", ".join(f"{pd.Timestamp(int(moment)):%Y-%m-%d %H:%M}" for moment in moments[:5])
            row = int(np.argmax(differ))
            column = int(np.argmax(data[:, row] != data[:, first[group[row]]]))
            values = f"{float(data[column, first[group[row]]])!r} and {float(data[column, row])!r}"
            raise BarsError(
                f"{self.symbol} {self.timeframe}: {len(moments)} times have rows that disagree ({shown}"
                f"{', ...' if len(moments) > 5 else ''}; column {COLUMNS[column]!r} is {values}); "
                f"{_MEND_FEW if few else _MEND_MANY}"
            )
        conflicts = len(moments)
        self._counts["conflicting rows dropped"] = self._counts.get("conflicting rows dropped", 0) + conflicts
        self._counts["exact duplicates dropped"] += int(again.sum()) - conflicts
        return times[~again], data[:, ~again]

    def _check_steps(self, times: Int64Array, steps: Int64Array) -> None:
        """BarsError for bars of another timeframe: all of them, or 20 in a row, are further apart."""
        step = timeframe_ns(self.timeframe)
        if len(steps) < _ENOUGH or steps.min() == steps.max() == step:
            return
        names = {timeframe_ns(name): name for name in TIMEFRAMES}
        smallest = int(steps.min())
        if smallest > step and smallest in names and (steps == smallest).mean() > 0.5:
            raise BarsError(
                f"{self.symbol} {self.timeframe}: no two bars are closer than {names[smallest]}; "
                f"these are {names[smallest]} bars, pass that timeframe"
            )
        bounds = np.flatnonzero(np.diff(steps, prepend=0, append=0))
        for start, stop in pairwise(bounds):
            if stop - start >= 2 * _ENOUGH and int(steps[start]) != step and int(steps[start]) in names:
                raise BarsError(
                    f"{self.symbol} {self.timeframe}: {stop - start} bars from {pd.Timestamp(int(times[start]))} on "
                    f"are {names[int(steps[start])]} apart: timeframes are mixed; import each under its own"
                )

    def _need_rows(self) -> None:
        if not self._rows_out:
            raise BarsError(
                f"{self.symbol} {self.timeframe}: no valid row is left of {self._rows_in}; "
                "check that the columns hold prices"
            )


def repair_bars(
    frame: Any, *, symbol: str, timeframe: str, calendar: str | None = None
) -> tuple[pd.DataFrame, RepairReport]:
    """Make valid bars of an untidy frame, counting every repair; ``frame`` is left as it is.

    Row by row: columns named as in ``read_bars`` and other columns left out; times read as UTC (naive ones taken
    as UTC) and, within two seconds of the grid, snapped to it; text read as numbers; rows with a missing, infinite or
    non-positive price dropped; volume that is missing, infinite or negative set to 0; high and low widened to hold
    open and close (swapped where high < low). Then rows sorted, exact duplicates dropped, and of conflicting rows
    with one time the last one kept. Repairing repaired bars changes nothing.

    No bar is moved to another time beyond that: a bar that counts as known before its close would be a leak. Daily
    bars that open at midnight of one zone are labelled by their local date.

    Parameters
    ----------
    frame: any OHLCV frame of pandas, polars or pyarrow, (n_rows, >= 5).
    symbol, timeframe: labels of the result.
    calendar: see `validate_bars`.

    Returns
    -------
    (bars, report): valid bars and a RepairReport.

    Raises BarsError where no honest repair exists: a missing column, times or units that are mixed, decimal commas
    and thousands separators, no row left, bars of another timeframe (resample finer ones), times off the grid.
    """
    with Intake(symbol, timeframe, repair=True, hours=Hours(calendar)) as intake:
        intake.add(frame)
        return validate_bars(intake.bars()), intake.report


class _Spool:
    """Rows that are not sorted yet: in memory up to 64 MB, then in temporary files, one a month.

    A month of more than ``most`` rows is refused: a small file may hold billions of equal ones.
    """

    def __init__(self, market: str, most: int) -> None:
        self._market, self._most = market, most
        self._rows: Counter[str] = Counter()
        self._chunks: list[BarArrays] = []
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, times: Int64Array, data: Float64Array) -> None:
        self._chunks.append((times, data))
        self._bytes += times.nbytes + data.nbytes
        if self._bytes > _SPILL:
            self._spill()

    def times(self) -> Int64Array:
        """Open times of all rows."""
        files = [] if self._folder is None else sorted(Path(self._folder.name).iterdir())
        stored = [np.memmap(path, np.int64, "r").reshape(-1, 1 + len(COLUMNS))[:, 0].copy() for path in files]
        return np.concatenate([*stored, *(times for times, _ in self._chunks)] or [np.empty(0, np.int64)])

    def whole(self) -> BarArrays:
        """Every row, in the order in which they came (by month, where they were spilled)."""
        return _joined(list(self.pieces()))

    def pieces(self) -> Iterator[BarArrays]:
        """The rows month by month, or all at once where they fit."""
        if self._folder is None:
            yield _joined(self._chunks)
            return
        self._spill()
        for path in sorted(Path(self._folder.name).iterdir()):
            rows = np.fromfile(path, dtype=np.float64).reshape(-1, 1 + len(COLUMNS)).T
            yield np.ascontiguousarray(rows[0]).view(np.int64), np.ascontiguousarray(rows[1:])

    def close(self) -> None:
        """Remove the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mlkit-import-")
        for times, data in self._chunks:
            for month, opens, values in by_month(times, data):
                self._rows[month] += len(opens)
                if self._rows[month] > self._most:
                    raise BarsError(
                        f"{self._market}: {month} has more than {self._most:,} rows, several for each bar of that "
                        "timeframe; pass the timeframe of the file, or export its bars once"
                    )
                with (Path(self._folder.name) / month).open("ab") as file:
                    np.ascontiguousarray(np.vstack([opens.view(np.float64), values]).T).tofile(file)
        self._chunks, self._bytes = [], 0
        pa.default_memory_pool().release_unused()  # else Arrow keeps the memory of the parsed pieces


def _joined(chunks: list[BarArrays]) -> BarArrays:
    if len(chunks) == 1:
        return chunks[0]
    times = np.concatenate([chunk[0] for chunk in chunks] or [np.empty(0, np.int64)])
    return times, np.concatenate([chunk[1] for chunk in chunks] or [np.empty((len(COLUMNS), 0))], axis=1)
