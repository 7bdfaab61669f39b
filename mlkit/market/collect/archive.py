"""Binance's archive of candles into the lake: monthly files, then daily ones where bars are lacking."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, MlkitError
from mlkit.market.bars import open_times
from mlkit.market.collect.archive_files import ArchiveFolder, ArchiveSite, Period, open_archive, read_zip
from mlkit.market.collect.collector import Collector, Request, Revised, Show, Time, lake_names, report_of, shown
from mlkit.market.collect.progress_lines import FetchReport, utc
from mlkit.market.lake.store import BarStore
from mlkit.market.times import moment

_ID = re.compile(r"[A-Za-z0-9_]{1,32}", re.ASCII)  # Binance's ids; they become part of a path


def fetch_archive(
    symbols: str | Sequence[str],
    timeframe: str,
    archive: str | Path | ArchiveFolder | ArchiveSite,
    *,
    since: Time | None = None,
    until: Time | None = None,
    name: str | None = None,
    revised: Revised = "replace",
    progress: bool | Show = False,
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
        ``https://data.binance.vision/data/spot``; or either as `open_archive` gives it.
    since, until: half-open span of open times. An address needs ``since``; its months cannot be listed.
    name, revised, progress, settings: as in ``fetch_bars``.

    Returns a FetchReport. Raises ConfigError for names, times and places that are wrong, FetchError when a symbol
    failed (after the others are done; ``error.report`` holds all of them).
    """
    markets = lake_names(symbols, name, timeframe)
    for market in markets.values():
        if not _ID.fullmatch(market):
            raise ConfigError(f"symbol {market!r} is not a name of Binance's archive; use one such as BTCUSDT")
    span = (moment("since", since), moment("until", until))
    files = open_archive(archive) if isinstance(archive, str | Path) else archive
    with shown(progress) as show:
        request = Request(BarStore((settings or Settings()).lake), timeframe, *span, revised, show)
        collectors = [_ArchiveCollector(request, files, *market) for market in markets.items()]
        for collector in collectors:
            collector.run()
    return report_of([collector.result for collector in collectors])


class _ArchiveCollector(Collector):
    """Reads one symbol's files."""

    source: ArchiveFolder | ArchiveSite
    checks_overlap = False  # each file is compared when it is read, so that a bad one does not stop the others

    def __init__(self, request: Request, files: ArchiveFolder | ArchiveSite, symbol: str, market: str) -> None:
        super().__init__(request, files, symbol, market)
        self.refused: list[str] = []

    def run(self) -> None:
        """Read what the lake lacks; an error of mlkit or the system is stored in ``result``."""
        try:
            self._read()
        except (MlkitError, OSError) as error:
            self.refused.append(" ".join(str(error).split()))
        others = f" (and {len(self.refused) - 1} files more)" if len(self.refused) > 1 else ""
        self.update(error=(self.refused or [""])[0] + others)

    def _read(self) -> None:
        since, until = self.request.since, self.request.until
        end = pd.Timestamp.now(tz="UTC").floor("D")
        if since is None or isinstance(self.source, ArchiveFolder):
            first, end = self.source.span(self.market, self.timeframe)
            since = first if since is None else max(since, first)
        until = end if until is None else min(until, end)
        self.look_up(since, until)
        self.total = max(0, until.value - since.value) // self.step
        period = Period(since.normalize().replace(day=1), False)
        while period.start < until:
            try:
                self._month(period, since, until)
            finally:
                self.commit()
            self.done = min(self.total, (period.stop.value - since.value) // self.step)
            self.show()
            period = Period(period.stop, False)
        if not (self.have >= since.value).any() and not self.refused:
            raise ConfigError(f"the archive has no {self.market} {self.timeframe} from {utc(since)} to {utc(until)}")
        self.count_absent(since.value, until.value)

    def _month(self, period: Period, since: pd.Timestamp, until: pd.Timestamp) -> None:
        """The monthly file, then the daily ones of the days that are still lacking."""
        there = not self._lacks(period, since, until) or self._file(period, since, until)
        if pd.Timedelta(self.step, "ns") > pd.Timedelta(days=1):
            return  # most days have no bar
        last_day = Period(period.stop - pd.DateOffset(days=1), True)
        web = isinstance(self.source, ArchiveSite) and period.stop < until
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
            with self.source.open(self.market, self.timeframe, period) as file:
                if file is None:
                    return False
                bars = read_zip(file, file_name, period, symbol=self.symbol, timeframe=self.timeframe)
            bars = bars.loc[(bars.index >= since) & (bars.index < until)]
            if bars.empty:
                return True
            if self.last() is not None and np.isin(open_times(bars), self.have).any():
                self.refuse_foreign(bars, "the archive")
        except BarsError as error:
            self.refused.append(f"{file_name}: {' '.join(str(error).split())}")
            return True
        self.pending.append((open_times(bars), bars.to_numpy().T))
        self.have = np.union1d(self.have, open_times(bars))
        return True
