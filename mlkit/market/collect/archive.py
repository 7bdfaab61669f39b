"""Binance's archive of candles into the lake: monthly files, then daily ones where bars are lacking."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, FetchError, MlkitError
from mlkit.market.bars import open_times
from mlkit.market.collect.archive_files import Folder, Period, Web, open_archive, read_zip
from mlkit.market.collect.exchange import Patience, Sleep
from mlkit.market.collect.fetch import Revised, Time, refuse_foreign
from mlkit.market.collect.progress_lines import Collected, FetchReport, Progress, ProgressLines, utc
from mlkit.market.lake.store import BarStore
from mlkit.market.sources import check_free
from mlkit.market.symbols import check_symbol
from mlkit.market.times import moment, timeframe_delta, timeframe_ns

_ID = re.compile(r"[A-Za-z0-9_]{1,32}", re.ASCII)  # Binance's ids; they become part of a path


def fetch_archive(
    symbols: str | Sequence[str],
    timeframe: str,
    archive: str | Path,
    *,
    since: Time | None = None,
    until: Time | None = None,
    name: str | None = None,
    revised: Revised = "replace",
    progress: bool | Callable[[Progress], None] = False,
    patience: Patience | None = None,
    sleep: Sleep = time.sleep,
    settings: Settings | None = None,
) -> FetchReport:
    """Read Binance's candle archive into the lake, month by month; what the lake has already is left out.

    The monthly file comes first; days that the lake lacks after it come from daily files. A file with a
    ``.CHECKSUM`` beside it must agree with it. A file that is damaged or holds anything but the valid bars of
    its period is refused; the others are still read, and the symbol then ends with an error.

    Parameters
    ----------
    symbols, timeframe: in the names of the files, such as ``"BTCUSDT"`` and ``"1m"``.
    archive: a folder that holds the zip files at any depth, or the web address above ``monthly/klines``, such as
        ``https://data.binance.vision/data/spot``.
    since, until: half-open span of open times. An address needs ``since``; its months cannot be listed.
    name, revised, progress, settings: as in ``fetch_bars``.
    patience, sleep: the retries of downloads, and how to wait.

    Returns a FetchReport. Raises ConfigError for names, times and places that are wrong, FetchError when a symbol
    failed (after the others are done; ``error.report`` holds all of them).
    """
    names = [symbols] if isinstance(symbols, str) else list(symbols)
    if not names or (name is not None and len(names) != 1):
        raise ConfigError("name= needs exactly one symbol" if names else "no symbol to read; give at least one")
    timeframe_delta(timeframe)
    span = (moment("since", since), moment("until", until))
    place = open_archive(archive, patience or Patience(), sleep)
    store = BarStore((settings or Settings()).lake)
    lines = ProgressLines() if progress is True else None
    show = lines or (progress if callable(progress) else lambda state: None)
    readers = []
    for market in names:
        if not _ID.fullmatch(market):
            raise ConfigError(f"symbol {market!r} is not a name of Binance's archive; use one such as BTCUSDT")
        check_free(check_symbol(name or market), timeframe)
        readers.append(_Reader(place, store, name or market, market, timeframe, revised, show))
    try:
        for reader in readers:
            reader.run(*span)
    finally:
        if lines is not None:
            lines.close()
    report = FetchReport(tuple(reader.result for reader in readers))
    if report.failed:
        count = f" ({len(report.failed)} of {len(names)} symbols failed)" if len(names) > 1 else ""
        error = FetchError(f"{report.failed[0]}{count}")
        error.report = report
        raise error
    return report


class _Reader:
    """Reads one symbol's files; ``result`` tells what became of it."""

    def __init__(
        self,
        place: Folder | Web,
        store: BarStore,
        symbol: str,
        market: str,
        timeframe: str,
        revised: Revised,
        show: Callable[[Progress], None],
    ) -> None:
        self.place, self.store, self.show = place, store, show
        self.symbol, self.market, self.timeframe, self.revised = symbol, market, timeframe, revised
        self.step = timeframe_ns(timeframe)
        self.result = Collected(symbol, timeframe, "archive")
        self.have = np.empty(0, dtype=np.int64)
        self.pending: list[pd.DataFrame] = []  # read, not committed
        self.refused: list[str] = []

    def run(self, since: pd.Timestamp | None, until: pd.Timestamp | None) -> None:
        """Read what the lake lacks; errors of ours end up in ``result``."""
        try:
            self._read(since, until)
        except (MlkitError, OSError) as error:
            self.refused.append(" ".join(str(error).split()))
        others = f" (and {len(self.refused) - 1} files more)" if len(self.refused) > 1 else ""
        self.result = replace(self.result, retries=self.place.retries, error=(self.refused or [""])[0] + others)
        manifest = self.store.manifest(self.symbol, self.timeframe)
        if manifest is not None:
            self.result = replace(self.result, first=manifest.first, last=manifest.last)

    def _read(self, since: pd.Timestamp | None, until: pd.Timestamp | None) -> None:
        today = pd.Timestamp.now(tz="UTC").floor("D")
        if since is None or isinstance(self.place, Folder):
            first, today = self.place.span(self.market, self.timeframe)
            since = first if since is None else max(since, first)
        until = today if until is None else min(until, today)
        if self.store.last(self.symbol, self.timeframe) is not None:
            self.have = open_times(self.store.read(self.symbol, self.timeframe, since=since, until=until))
        total = max(0, until.value - since.value) // self.step
        period = Period(since.normalize().replace(day=1), False)
        while period.start < until:
            try:
                self._month(period, since, until)
            finally:
                self._commit()
            done = min(total, (period.stop.value - since.value) // self.step)
            last = self.store.last(self.symbol, self.timeframe)
            self.show(Progress(self.symbol, self.timeframe, done, total, self.result.added, last))
            period = Period(period.stop, False)
        held = self.have[self.have >= since.value]
        if not held.size and not self.refused:
            raise ConfigError(f"the archive has no {self.market} {self.timeframe} from {utc(since)} to {utc(until)}")
        if held.size:
            self.result = replace(self.result, absent=int((until.value - held[0]) // self.step - held.size))

    def _month(self, period: Period, since: pd.Timestamp, until: pd.Timestamp) -> None:
        """The monthly file, then the daily ones of the days that are still lacking."""
        there = not self._lacks(period, since, until) or self._file(period, since, until)
        if pd.Timedelta(self.step, "ns") > pd.Timedelta(days=1):
            return  # most days have no bar
        last_day = Period(period.stop - pd.DateOffset(days=1), True)
        web = isinstance(self.place, Web) and period.stop < until
        if web and not there and not self._file(last_day, since, until):
            return  # neither: the market was not listed then, and thirty more requests would find the same
        day = max(period.start, since.normalize())
        while day < min(period.stop, until):
            if self._lacks(Period(day, True), since, until):
                self._file(Period(day, True), since, until)
            day += pd.DateOffset(days=1)

    def _lacks(self, period: Period, since: pd.Timestamp, until: pd.Timestamp) -> bool:
        start, stop = max(period.start, since).value, min(period.stop, until).value
        held = np.searchsorted(self.have, stop) - np.searchsorted(self.have, start)
        return bool(held < max(1, (stop - start) // self.step)) and start < stop

    def _file(self, period: Period, since: pd.Timestamp, until: pd.Timestamp) -> bool:
        """Read one file's bars; a bad file is noted, and the next ones still read. False where there is none."""
        file_name = period.file(self.market, self.timeframe)
        try:
            with self.place.open(self.market, self.timeframe, period) as file:
                if file is None:
                    return False
                bars = read_zip(file, file_name, period, symbol=self.symbol, timeframe=self.timeframe)
            bars = bars.loc[(bars.index >= since) & (bars.index < until)]
            if bars.empty:
                return True
            held = self.store.last(self.symbol, self.timeframe) is not None
            if held and np.isin(open_times(bars), self.have).any():
                refuse_foreign(self.store, bars, "the archive")
        except BarsError as error:
            self.refused.append(f"{file_name}: {' '.join(str(error).split())}")
            return True
        self.pending.append(bars)
        self.have = np.union1d(self.have, open_times(bars))
        return True

    def _commit(self) -> None:
        """Write the bars at hand into the lake."""
        if not self.pending:
            return
        bars = pd.concat(self.pending)
        bars = bars[~bars.index.duplicated()].sort_index()  # the month's bar goes before the day's
        bars.attrs = {"symbol": self.symbol, "timeframe": self.timeframe}
        self.pending = []
        commit = self.store.append(bars, on_conflict=self.revised, source="archive")
        done = self.result
        self.result = replace(
            done,
            added=done.added + commit.added,
            known=done.known + commit.known,
            revised=done.revised + commit.revised,
        )
