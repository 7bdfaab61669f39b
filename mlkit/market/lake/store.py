"""The Parquet lake: ``symbol=<S>/timeframe=<tf>/YYYY-MM.parquet`` beside a manifest that lists what is committed.

A write stages new months under hidden names and syncs them. Then it replaces the manifest in one step, which is the
commit. Then it renames the new months, which replaces the old ones. A reader takes the digest of each month from the
manifest and accepts no other bytes, under either name; where a writer was faster it starts again. So it sees the
state before a commit or after it. What a crash leaves behind is either not committed (hidden files, removed by the
next write) or committed (hidden files that the manifest names, read where they are and renamed by the next write).

Other engines that read ``symbol=*/timeframe=*/*.parquet`` see each month as it was before or after a commit, and
never twice; while a commit of several months is being named they may see some of them new and some old.

On an object store the same holds as far as it replaces one object in one step (S3 and its kin do). Its lock is
local: keep the writers of one symbol on one machine.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError, LakeError
from mlkit.market.bars import COLUMNS, Month, bars_of, by_month, ohlcv_arrays, open_times, validate_bars
from mlkit.market.lake.commits import Commit, Conflict, Write
from mlkit.market.lake.folders import open_folder
from mlkit.market.lake.index import LakeManifest
from mlkit.market.lake.partitions import LakeMarket, Overtaken
from mlkit.market.symbols import folder_symbol, symbol_folder
from mlkit.market.times import TIMEFRAMES

_ATTEMPTS = 200  # of a read, which starts again when a commit replaces a month meanwhile


class BarStore:
    """Bars kept by (symbol, timeframe) in a local folder or behind an fsspec URL.

    Parameters
    ----------
    location: path or URL of the lake; nothing is created before the first write.
    lock_timeout: seconds to wait for another writer of the same symbol.

    Every method raises ConfigError for a symbol or timeframe that mlkit does not know, and LakeError for files
    that are damaged or refused by the system; what was committed before stays.
    """

    def __init__(self, location: str | Path, *, lock_timeout: float = 60.0) -> None:
        self._folder = open_folder(location)
        self.location = self._folder.location  # path or URL
        self._lock_timeout = lock_timeout

    # --- reading ----------------------------------------------------------------------------------

    def markets(self) -> list[tuple[str, str]]:
        """Every (symbol, timeframe) that has bars, sorted."""
        found = []
        for folder in self._folder.names(""):
            if not folder.startswith("symbol="):
                continue
            try:
                symbol = folder_symbol(folder.removeprefix("symbol="))
            except ConfigError:
                continue  # not written by mlkit
            for name in self._folder.names(folder):
                timeframe = name.removeprefix("timeframe=")
                if name != timeframe and timeframe in TIMEFRAMES and self._market(symbol, timeframe).has_bars():
                    found.append((symbol, timeframe))
        return sorted(found)

    def has_bars(self, symbol: str, timeframe: str) -> bool:
        """Whether there are bars, from the names of the files."""
        return self._market(symbol, timeframe).has_bars()

    def manifest(self, symbol: str, timeframe: str) -> LakeManifest | None:
        """The committed state, from one small file; None where there are no bars."""
        return self._market(symbol, timeframe).manifest()

    def last(self, symbol: str, timeframe: str) -> pd.Timestamp | None:
        """Open time of the newest bar, UTC; None where there are no bars."""
        found = self.manifest(symbol, timeframe)
        return None if found is None else found.last

    def read(
        self,
        symbol: str,
        timeframe: str,
        since: pd.Timestamp | None = None,
        until: pd.Timestamp | None = None,
    ) -> pd.DataFrame:
        """Bars with ``since <= open time < until``, (n_bars, 5), as one commit left them; n_bars may be 0.

        Only the months that the span touches are opened, and each is compared with its digest. BarsError where
        the market has no bars at all.
        """
        market = self._market(symbol, timeframe)
        start = -(2**63) if since is None else since.as_unit("ns").value
        stop = 2**63 - 1 if until is None else until.as_unit("ns").value
        found = market.manifest()
        if found is None:
            raise BarsError(f"{symbol} {timeframe}: no bars in {self.location}")
        for _ in range(_ATTEMPTS):
            try:
                return _months(market, found, start, stop)
            except Overtaken as overtaken:
                newer = market.manifest()
                if newer is None or newer.generation == found.generation:
                    raise LakeError(str(overtaken)) from None
                found = newer
        raise LakeError(f"{symbol} {timeframe}: written too fast to be read; try again")

    # --- writing ----------------------------------------------------------------------------------

    @contextmanager
    def lock(self, symbol: str) -> Iterator[None]:
        """Lock a symbol against other writers; re-entrant within a thread. LakeError after the timeout."""
        from filelock import FileLock, Timeout

        path = self._folder.lock_path(symbol_folder(symbol))
        lock = FileLock(path, is_singleton=True)
        try:
            lock.acquire(timeout=self._lock_timeout)
        except Timeout:
            raise LakeError(f"{symbol}: another process is writing its bars ({path}); wait for it") from None
        except OSError as error:
            raise LakeError(f"{path}: cannot lock ({error.strerror}); the last committed bars are kept") from error
        try:
            yield
        finally:
            lock.release()

    def append(self, bars: pd.DataFrame, *, on_conflict: Conflict = "refuse", source: str | None = None) -> Commit:
        """Add bars to their market, in any order and with any overlap; all of them in one commit.

        Parameters
        ----------
        bars: valid bars (n_bars, 5); attrs name the market, and its calendar where it is new.
        on_conflict: for bars that are there with other values: "refuse" raises BarsError and writes nothing,
            "keep" leaves the old ones, "replace" takes the new ones. Both count them.
        source: where the bars come from, kept in the manifest.
        """
        bars = validate_bars(bars)
        market = bars.attrs["symbol"], bars.attrs["timeframe"]
        there = self.manifest(*market)
        calendar = bars.attrs["calendar"] if there is None else there.calendar
        return self.append_months(*market, _months_of(bars), calendar=calendar, on_conflict=on_conflict, source=source)

    def replace(self, bars: pd.DataFrame, *, source: str | None = None) -> Commit:
        """Make the market exactly these valid bars, in one commit."""
        bars = validate_bars(bars)
        symbol, timeframe = bars.attrs["symbol"], bars.attrs["timeframe"]
        with self.lock(symbol):
            write = Write(self._market(symbol, timeframe), bars.attrs["calendar"], "replace", source)
            return write.run(_months_of(bars), exact=True)

    def append_months(
        self,
        symbol: str,
        timeframe: str,
        months: Iterable[Month],
        *,
        calendar: str,
        on_conflict: Conflict = "refuse",
        source: str | None = None,
    ) -> Commit:
        """`append` of valid bars that come month by month, each month once; one is in memory at a time.

        ``calendar`` is that of the market from now on.
        """
        if on_conflict not in get_args(Conflict):
            raise ConfigError(f"on_conflict={on_conflict!r} is unknown; use {', '.join(get_args(Conflict))}")
        market = self._market(symbol, timeframe)
        with self.lock(symbol):
            return Write(market, calendar, on_conflict, source).run(months)

    def _market(self, symbol: str, timeframe: str) -> LakeMarket:
        return LakeMarket(self._folder, symbol, timeframe)


def _months_of(bars: pd.DataFrame) -> Iterator[Month]:
    return by_month(open_times(bars), np.stack(ohlcv_arrays(bars)))


def _months(market: LakeMarket, manifest: LakeManifest, start: int, stop: int) -> pd.DataFrame:
    """Bars of the months that the span touches, cut to it: ns since the epoch, half open."""
    parts = [market.month(part) for part in manifest.files if part.last_ns >= start and part.first_ns < stop]
    times = np.concatenate([part[0] for part in parts] or [np.empty(0, np.int64)])
    data = np.concatenate([part[1] for part in parts] or [np.empty((len(COLUMNS), 0))], axis=1)
    low, high = np.searchsorted(times, start), np.searchsorted(times, stop)
    return bars_of(
        (times[low:high], data[:, low:high]),
        symbol=market.symbol,
        timeframe=market.timeframe,
        calendar=manifest.calendar,
    )
