"""Rows of files become bars: each row checked or mended as it comes, then sorted, once each, month by month."""

import tempfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from mlkit.errors import BarsError
from mlkit.market.bars import COLUMNS, Float64Array, check_grid, check_values, make_bars
from mlkit.market.lake.index import month_starts
from mlkit.market.lake.partitions import Month, Values
from mlkit.market.reading.headers import Block, read_frame
from mlkit.market.reading.repair import RepairReport, mend_rows
from mlkit.market.reading.tables import read_blocks, read_raw
from mlkit.market.symbols import check_symbol
from mlkit.market.times import TIMEFRAMES, Int64Array, such_rows, timeframe_delta, timeframe_ns

_SPILL = 1 << 26  # bytes of rows that are kept in memory; beyond, they wait on disk by month
_ENOUGH = 20  # bars from which the distances between them say what their timeframe is


class Intake:
    """Takes the rows of one market, strictly or with repair, and gives its bars.

    Rows may come in any order; rows that repeat another exactly are dropped. Both are counted. All else that is
    wrong is refused, or mended where ``repair`` says so: see `mlkit.repair_bars`. Use it in a ``with`` statement:
    rows that do not fit into memory wait in a temporary folder, which is removed at its end.

    Parameters
    ----------
    symbol, timeframe: labels of the bars.
    tz: zone of times written without one; None refuses such times.
    now: bars that close after it are not closed yet; None leaves the clock out.
    """

    def __init__(
        self,
        symbol: str,
        timeframe: str,
        *,
        tz: str | None = "UTC",
        repair: bool = False,
        now: pd.Timestamp | None = None,
    ) -> None:
        timeframe_delta(timeframe)
        self.symbol, self.timeframe = check_symbol(symbol), timeframe
        self._tz, self._repair = tz, repair
        self._now = None if now is None else now.as_unit("ns").value
        self._counts: dict[str, int] = {"rows out of order": 0, "exact duplicates dropped": 0}
        self._rows_in = self._rows_out = 0
        self._last: int | None = None
        self._spool = _Spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def add(self, source: Any) -> None:
        """Take the rows of a path or of a frame in memory. Raises BarsError or ConfigError, naming the place."""
        named = isinstance(source, str | Path)
        where = str(source) if named else f"{self.symbol} {self.timeframe}"
        if self._repair:
            for frame in read_raw(Path(source), self._counts) if named else (source,):
                self._rows_in += len(frame)
                mended = mend_rows(frame, self.timeframe, where, self._counts, tz=self._tz, now=self._now)
                if len(mended[0]):
                    self._take(*mended, ordered=True)
            return
        blocks = read_blocks(Path(source), self._tz) if named else (read_frame(source, self._tz),)
        for block in blocks:
            self._rows_in += len(block.times)
            if len(block.times):
                self._check(block, where)
                self._take(block.times, block.data)

    def bars(self) -> pd.DataFrame:
        """All rows as bars (n_bars, 5), in memory. BarsError for rows of one time that disagree, or none."""
        times, data = self._settled(*self._spool.whole())
        self._rows_out = len(times)
        self._need_rows()
        return make_bars(pd.DatetimeIndex(times, tz="UTC"), data, symbol=self.symbol, timeframe=self.timeframe)

    def months(self) -> Iterator[Month]:
        """The bars month by month, in bounded memory. BarsError as `bars`, at the month where it shows."""
        for values in self._spool.pieces():
            times, data = self._settled(*values)
            months, starts = month_starts(times)
            for month, start, stop in zip(months, starts, starts[1:], strict=False):
                self._rows_out += int(stop - start)
                yield month, times[start:stop], data[:, start:stop]
        self._need_rows()

    @property
    def report(self) -> RepairReport:
        """What was changed so far; complete after `bars` or `months`."""
        counts: Mapping[str, int] = MappingProxyType(dict(self._counts))
        return RepairReport(self.symbol, self.timeframe, self._rows_in, self._rows_out, counts)

    def _check(self, block: Block, where: str) -> None:
        index = pd.DatetimeIndex(block.times, tz="UTC")
        check_grid(index, self.timeframe, where, block.first_row)
        if self._now is not None:
            early = block.times + timeframe_ns(self.timeframe) > self._now
            if early.any():
                row = int(np.argmax(early))
                raise BarsError(
                    f"{where}: row {row + block.first_row} ({index[row]}): the bar is not closed yet by this machine's "
                    f"clock ({pd.Timestamp(self._now, tz='UTC'):%Y-%m-%d %H:%M} UTC); drop it, or mend with --repair"
                    f"{such_rows(early)}"
                )
        check_values(block.data, index, where, block.first_row)

    def _take(self, times: Int64Array, data: Float64Array, *, ordered: bool = False) -> None:
        if not ordered:
            late = int((np.diff(times) < 0).sum()) + (self._last is not None and times[0] < self._last)
            self._counts["rows out of order"] += int(late)
        self._last = int(times[-1])
        self._spool.add(times, data)

    def _settled(self, times: Int64Array, data: Float64Array) -> Values:
        """Sorted, each time once."""
        steps = np.diff(times)
        if (steps <= 0).any():
            order = np.argsort(times, kind="stable")
            times, data = times[order], data[:, order]
            times, data = self._once(times, data)
            steps = np.diff(times)
        self._check_steps(times, steps)
        return times, np.ascontiguousarray(data)

    def _once(self, times: Int64Array, data: Float64Array) -> Values:
        """Of rows with one time the last; where they disagree, only with repair."""
        again = np.append(times[1:] == times[:-1], False)
        if not again.any():
            return times, data
        first = np.flatnonzero(np.append(True, times[1:] != times[:-1]))
        group = np.cumsum(np.append(0, times[1:] != times[:-1]))
        differ = (data != data[:, first[group]]).any(axis=0)
        if differ.any() and not self._repair:
            moments = np.unique(times[differ])
            shown = ", ".join(f"{pd.Timestamp(int(moment)):%Y-%m-%d %H:%M}" for moment in moments[:5])
            row = int(np.argmax(differ))
            column = int(np.argmax(data[:, row] != data[:, first[group[row]]]))
            values = f"{float(data[column, first[group[row]]])!r} and {float(data[column, row])!r}"
            raise BarsError(
                f"{self.symbol} {self.timeframe}: {len(moments)} times have rows that disagree ({shown}"
                f"{', ...' if len(moments) > 5 else ''}; column {COLUMNS[column]!r} is {values}); "
                "keep one of each, or --repair keeps the last"
            )
        conflicts = len(np.unique(group[differ]))
        self._counts["conflicting rows dropped"] = self._counts.get("conflicting rows dropped", 0) + conflicts
        self._counts["exact duplicates dropped"] += int(again.sum()) - conflicts
        return times[~again], data[:, ~again]

    def _check_steps(self, times: Int64Array, steps: Int64Array) -> None:
        """Bars that are all, or for long, further apart than they are said to be are of another timeframe."""
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


class _Spool:
    """Rows waiting for their month: in memory while they are few, else in a temporary folder."""

    def __init__(self) -> None:
        self._chunks: list[Values] = []
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, times: Int64Array, data: Float64Array) -> None:
        self._chunks.append((times, data))
        self._bytes += times.nbytes + data.nbytes
        if self._bytes > _SPILL:
            self._spill()

    def whole(self) -> Values:
        """Every row, in the order in which they came (by month, where they were spilled)."""
        if self._folder is not None:
            self._chunks = list(self.pieces())
        return _joined(self._chunks)

    def pieces(self) -> Iterator[Values]:
        """The rows month by month, or all at once where they fit."""
        if self._folder is None:
            yield _joined(self._chunks)
            return
        self._spill()
        for path in sorted(Path(self._folder.name).iterdir()):
            rows = np.fromfile(path, dtype=np.float64).reshape(-1, 1 + len(COLUMNS)).T
            yield np.ascontiguousarray(rows[0]).view(np.int64), np.ascontiguousarray(rows[1:])

    def close(self) -> None:
        """Remove what waits on disk."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mlkit-import-")
        for times, data in self._chunks:
            months, starts = month_starts(times)
            rows = np.concatenate([times.view(np.float64)[None], data])
            for month, start, stop in zip(months, starts, starts[1:], strict=False):
                with (Path(self._folder.name) / month).open("ab") as file:
                    np.ascontiguousarray(rows[:, start:stop].T).tofile(file)
        self._chunks, self._bytes = [], 0
        pa.default_memory_pool().release_unused()  # or what the pieces were parsed in stays with the process


def _joined(chunks: list[Values]) -> Values:
    if len(chunks) == 1:
        return chunks[0]
    times = np.concatenate([chunk[0] for chunk in chunks] or [np.empty(0, np.int64)])
    return times, np.concatenate([chunk[1] for chunk in chunks] or [np.empty((len(COLUMNS), 0))], axis=1)
