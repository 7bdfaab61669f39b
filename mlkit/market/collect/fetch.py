"""Bars from an exchange into the lake: what is missing is asked for, page by page, and committed as it comes."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Literal

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, FetchError, MlkitError
from mlkit.market.bars import Float64Array, make_bars, open_times
from mlkit.market.collect.exchange import Exchange, Halted, connect
from mlkit.market.collect.progress_lines import Collected, FetchReport, Progress, ProgressLines, utc
from mlkit.market.lake.store import BarStore
from mlkit.market.sources import check_free
from mlkit.market.symbols import check_symbol
from mlkit.market.times import Int64Array, floor_times, moment, timeframe_ns

OVERLAP = 10  # bars on either side of what is missing that are fetched again and compared
_COMMIT = 10_000  # bars a commit: some ten pages of the large exchanges
_FOREIGN = 3  # so many differing bars, and at least half of those compared: another market, not a revision
_JOIN = 10.0  # seconds given to the threads to commit what they have after an interrupt

Revised = Literal["replace", "keep"]
Time = str | pd.Timestamp


def fetch_bars(
    symbols: str | Sequence[str],
    timeframe: str,
    *,
    since: Time | None = None,
    until: Time | None = None,
    exchange: str | Exchange = "binance",
    name: str | None = None,
    revised: Revised = "replace",
    progress: bool | Callable[[Progress], None] = False,
    jobs: int = 4,
    settings: Settings | None = None,
) -> FetchReport:
    """Collect closed bars from an exchange into the lake; calling it again resumes and continues.

    What the lake lacks between ``since`` and ``until`` is asked for: before its first bar, after its last, and
    in its holes. So an interrupted collection is resumed by the same call, from the last committed bar. Around
    what is missing, ten bars are fetched again and compared with the lake. Bars are committed every
    10,000; the candle that is still open by the exchange's clock is never taken. A page that lacks bars is asked
    for twice before the exchange is believed that it has none.

    Parameters
    ----------
    symbols: the exchange's ids or ccxt's names, such as ``"BTCUSDT"`` or ``"BTC/USDT"``; spot before futures.
    timeframe: one that the exchange has, such as ``"1m"``.
    since, until: half-open span of open times; ISO 8601 or Timestamp, naive is UTC. ``since`` may be left out
        where the lake has bars (its last one then), ``until`` is now by default.
    exchange: ccxt's name of the exchange, or an ``Exchange`` around a client of your own.
    name: the lake's name of the one symbol, where it is to differ; two exchanges' bars need two names.
    revised: what to do with an overlap bar that the exchange now tells differently: ``"replace"`` takes its
        newer word, ``"keep"`` the lake's. Either is counted. Where 3 bars or more and at least half of
        those compared differ, the lake holds another market, and the symbol ends with an error.
    progress: True shows a line a symbol (tqdm); or a function that is called with each ``Progress``.
    jobs: symbols collected at a time; their requests share one rate limit.
    settings: names the lake; ``Settings()`` by default.

    Returns a FetchReport, one row a symbol, when every symbol ended well.

    Raises ConfigError for names and times that are wrong, DependencyError without ccxt, FetchError when a symbol
    failed (after the others are done; ``error.report`` holds all of them). KeyboardInterrupt commits the
    pages at hand first.
    """
    names = [symbols] if isinstance(symbols, str) else list(symbols)
    if not names or (name is not None and len(names) != 1):
        raise ConfigError("name= needs exactly one symbol" if names else "no symbol to fetch; give at least one")
    if revised not in ("replace", "keep"):
        raise ConfigError(f"revised={revised!r} is unknown; use 'replace' or 'keep'")
    markets = {check_symbol(name or symbol): symbol for symbol in names}
    for symbol in markets:
        check_free(symbol, timeframe)
    span = (moment("since", since), moment("until", until))
    exchange = Exchange(connect(exchange)) if isinstance(exchange, str) else exchange
    exchange.check_timeframe(timeframe)
    exchange.halt.clear()
    exchange.ask("the list of markets", exchange.client.load_markets)
    exchange.now()
    store = BarStore((settings or Settings()).lake)
    lines = ProgressLines() if progress is True else None
    show = lines or (progress if callable(progress) else lambda state: None)
    collectors = [
        Collector(exchange.twin(), store, lake_name, market, timeframe, span, revised, show)
        for lake_name, market in markets.items()
    ]
    try:
        _run(collectors, jobs, exchange.halt)
    finally:
        if lines is not None:
            lines.close()
    report = FetchReport(tuple(collector.result for collector in collectors))
    if report.failed:
        raise _failure(report)
    return report


def missing_spans(have: Int64Array, start: int, stop: int, step: int, join: int) -> list[tuple[int, int]]:
    """Half-open spans of the grid in [start, stop) that hold none of ``have``; those less than ``join`` apart are one.

    ``have``: sorted open times on the grid; all times and ``step`` in ns.
    """
    inside = have[(have >= start) & (have < stop)]
    edges = np.concatenate([[start - step], inside, [stop]])
    lacking = np.flatnonzero(np.diff(edges) > step)
    spans: list[tuple[int, int]] = []
    for begin, end in zip((edges[lacking] + step).tolist(), edges[lacking + 1].tolist(), strict=True):
        if spans and begin - spans[-1][1] < join:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    return spans


def refuse_foreign(store: BarStore, bars: pd.DataFrame, source: str) -> None:
    """BarsError where bars disagree with the lake's so often that they are those of another market."""
    symbol, timeframe = bars.attrs["symbol"], bars.attrs["timeframe"]
    ours = store.read(symbol, timeframe, since=bars.index[0], until=bars.index[-1] + pd.Timedelta(1, "ns"))
    common = ours.index.intersection(bars.index)
    differs = (ours.loc[common].to_numpy() != bars.loc[common].to_numpy()).any(axis=1)
    if differs.sum() >= _FOREIGN and 2 * differs.sum() >= differs.size:
        raise BarsError(
            f"{int(differs.sum())} of {differs.size} bars that the lake already has differ from those of {source}, "
            f"the first at {common[int(np.argmax(differs))]:%Y-%m-%d %H:%M}: it is another market; collect it "
            "under another name (--as NAME)"
        )


class Collector:
    """Collects one symbol; ``result`` tells what became of it."""

    def __init__(
        self,
        exchange: Exchange,
        store: BarStore,
        symbol: str,
        market: str,
        timeframe: str,
        span: tuple[pd.Timestamp | None, pd.Timestamp | None],
        revised: Revised,
        show: Callable[[Progress], None],
    ) -> None:
        self.exchange, self.store = exchange, store
        self.symbol, self.wanted, self.timeframe = symbol, market, timeframe
        self.span, self.revised, self.show = span, revised, show
        self.step = timeframe_ns(timeframe)
        self.result = Collected(symbol, timeframe, exchange.name)
        self.have: Int64Array = np.empty(0, dtype=np.int64)  # open times in the lake, within reach of the span
        self.pages: list[tuple[Int64Array, Float64Array]] = []  # fetched, not committed
        self.committed: list[Int64Array] = []  # open times
        self.done = self.total = 0
        self.newest: int | None = None  # open time of the exchange's newest candle, once asked for
        exchange.notice = self._tell

    def run(self) -> None:
        """Collect; errors of ours end up in ``result``."""
        try:
            try:
                self.collect()
            finally:
                self._commit()
        except Halted:
            self._update(error=f"interrupted, {self._resumes()}")
        except (ConfigError, BarsError) as error:
            self._update(error=str(error))
        except (MlkitError, OSError) as error:
            self._update(error=f"{' '.join(str(error).split())}; {self._resumes()}")
        self._tell()

    def collect(self) -> None:
        """Fetch and commit what is missing; errors are raised as they come."""
        market = self.exchange.market(self.wanted)
        self.page = self.exchange.page_size(market)
        start, stop = self._bounds(market)
        margin = OVERLAP * self.step
        if self.store.last(self.symbol, self.timeframe) is not None:
            reach = {"since": _time(start - margin), "until": _time(stop + margin)}
            self.have = open_times(self.store.read(self.symbol, self.timeframe, **reach))
        spans = missing_spans(self.have, start, stop, self.step, self.page * self.step)
        self.total = sum(end - begin for begin, end in spans) // self.step
        self._tell()
        for begin, end in spans:
            self._walk(market, begin, end)
        self._commit()
        if not self.have.size and not self.committed:
            raise ConfigError(f"{self.exchange.name} has no {self.wanted} {self.timeframe} bars from {_time(start)} on")
        self._count_absent(start, stop)

    def _bounds(self, market: str) -> tuple[int, int]:
        """First grid time to ask for, and the bound of those that are to be had by now."""
        since, until = self.span
        since = self.store.last(self.symbol, self.timeframe) if since is None else since
        if since is None:
            raise ConfigError(f"the lake has no {self.symbol} {self.timeframe} to continue; give since (--since DATE)")
        self.closed = self._ceil(self.exchange.closed(self.timeframe))
        stop = self.closed if until is None else min(self.closed, self._ceil(until.value))
        if self.span[0] is not None and self._ceil(since.value) >= stop:
            raise ConfigError(f"no bar has closed from {since} to {_time(stop)}; move --since or --until")
        start = self._ceil(max(since.value, self.exchange.opened(market)))
        return min(start, stop), stop

    def _walk(self, market: str, begin: int, end: int) -> None:
        """Fetch what is missing in [begin, end), and the bars that the lake has beside it."""
        margin = OVERLAP * self.step
        beside = self.have[(self.have >= begin - margin) & (self.have < end + margin)]
        cursor = min([begin, *beside.tolist()])
        stop = min(max([end, *(beside + self.step).tolist()]), self.closed)
        walked = self.done
        while cursor < stop:
            limit = min(self.page, (stop - cursor) // self.step)
            times, values = self._page(market, cursor, limit)
            if not times.size and self._newest(market) < cursor:
                break
            past = times < stop
            if past.any():
                self.pages.append((times[past], values[:, past]))
            cursor = int(times[-1]) + self.step if times.size else cursor + limit * self.step
            self.done = walked + (min(max(cursor, begin), end) - begin) // self.step
            if sum(times.size for times, _ in self.pages) >= _COMMIT:
                self._commit()
            self._tell()
        self.done = walked + (end - begin) // self.step

    def _page(self, market: str, cursor: int, limit: int) -> tuple[Int64Array, Float64Array]:
        """One page; asked for twice, and the fuller answer taken, where bars are lacking."""
        times, values = self.exchange.candles(market, self.timeframe, cursor, limit, self.closed)
        if not times.size or (times[-1] - cursor) // self.step + 1 > times.size:
            again = self.exchange.candles(market, self.timeframe, cursor, limit, self.closed)
            if again[0].size >= times.size:
                times, values = again
        return times, values

    def _newest(self, market: str) -> int:
        if self.newest is None:
            self.newest = self.exchange.newest(market, self.timeframe)
        return self.newest

    def _commit(self) -> None:
        """Write the pages at hand into the lake."""
        if not self.pages:
            return
        times, order = np.unique(np.concatenate([times for times, _ in self.pages]), return_index=True)
        values = np.ascontiguousarray(np.concatenate([values for _, values in self.pages], axis=1)[:, order])
        self.pages = []
        index = pd.DatetimeIndex(times, tz="UTC")
        bars = make_bars(index, values, symbol=self.symbol, timeframe=self.timeframe)
        if np.searchsorted(self.have, times[0]) < np.searchsorted(self.have, times[-1], "right"):
            refuse_foreign(self.store, bars, self.exchange.name)
        commit = self.store.append(bars, on_conflict=self.revised, source=self.exchange.name)
        self.committed.append(times)
        done = self.result
        self._update(
            added=done.added + commit.added, known=done.known + commit.known, revised=done.revised + commit.revised
        )

    def _count_absent(self, start: int, stop: int) -> None:
        held = np.unique(np.concatenate([self.have, *self.committed]))
        inside = held[(held >= start) & (held < stop)]
        if inside.size:
            self._update(absent=int((stop - inside[0]) // self.step - inside.size))

    def _update(self, **changes: int | str) -> None:
        manifest = self.store.manifest(self.symbol, self.timeframe)
        span = {} if manifest is None else {"first": manifest.first, "last": manifest.last}
        self.result = replace(self.result, retries=self.exchange.retries, **span, **changes)  # type: ignore[arg-type]

    def _resumes(self) -> str:
        last = self.store.last(self.symbol, self.timeframe)
        return f"committed up to {utc(last)}, the same command resumes" if last is not None else "nothing committed yet"

    def _tell(self, note: str = "") -> None:
        done = self.result
        self.show(Progress(self.symbol, self.timeframe, self.done, self.total, done.added, done.last, note))

    def _ceil(self, time: int) -> int:
        floor = int(floor_times(np.array([time]), self.timeframe)[0])
        return floor if floor == time else floor + self.step


def _run(collectors: list[Collector], jobs: int, halt: threading.Event) -> None:
    """Run all collectors on at most ``jobs`` threads; an interrupt lets them commit what they have."""
    waiting: SimpleQueue[Collector] = SimpleQueue()
    for collector in collectors:
        waiting.put(collector)
    crashes: list[BaseException] = []

    def work() -> None:
        try:
            while not halt.is_set():
                waiting.get_nowait().run()
        except Empty:
            pass
        except BaseException as crash:  # a fault of mlkit: carried to the caller's thread
            crashes.append(crash)
            halt.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(collectors)))]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.1)
    except KeyboardInterrupt:
        halt.set()
        for thread in threads:
            thread.join(_JOIN)
        raise
    if crashes:
        raise crashes[0]


def _failure(report: FetchReport) -> FetchError:
    first, count = report.failed[0], len(report.failed)
    others = f" ({count} of {len(report.results)} symbols failed)" if len(report.results) > 1 else ""
    error = FetchError(f"{first}{others}")
    error.report = report
    return error


def _time(time_ns: int) -> pd.Timestamp:
    return pd.Timestamp(int(time_ns), tz="UTC")
