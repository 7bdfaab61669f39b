"""Bars from an exchange into the lake: the missing ones are fetched page by page and committed every 10,000."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, MlkitError
from mlkit.market.bars import BarArrays
from mlkit.market.collect.collector import Collector, Request, Revised, Show, Time, lake_names, report_of, shown
from mlkit.market.collect.exchange import Exchange, Halted, connect
from mlkit.market.collect.progress_lines import FetchReport, utc
from mlkit.market.lake.store import BarStore
from mlkit.market.times import Int64Array, floor_times, moment

OVERLAP = 10  # bars on either side of what is missing that are fetched again and compared
_COMMIT = 10_000  # bars a commit: some ten pages of the large exchanges


def fetch_bars(
    symbols: str | Sequence[str],
    timeframe: str,
    *,
    since: Time | None = None,
    until: Time | None = None,
    exchange: str | Exchange = "binance",
    name: str | None = None,
    revised: Revised = "replace",
    progress: bool | Show = False,
    jobs: int = 4,
    settings: Settings | None = None,
) -> FetchReport:
    """Collect closed bars from an exchange into the lake; calling it again resumes and continues.

    Fetched is what the lake lacks between ``since`` and ``until``: before its first bar, after its last, and in its
    holes. So the same call resumes an interrupted collection. Ten bars on either side of what is missing are fetched
    again and compared. Bars are committed every 10,000; the candle that is still open by the exchange's time is never
    taken. A page that lacks bars is asked for twice, and what is lacking then counts as absent.

    Parameters
    ----------
    symbols: the exchange's ids or ccxt's names, such as ``"BTCUSDT"`` or ``"BTC/USDT"``; spot before futures.
    timeframe: one that the exchange has, such as ``"1m"``.
    since, until: half-open span of open times; ISO 8601 or Timestamp, naive is UTC. ``since`` is the lake's last bar
        by default, ``until`` is now.
    exchange: ccxt's name of the exchange, or an ``Exchange`` around a client of your own.
    name: the lake's name of the one symbol, where it is to differ; two exchanges' bars need two names.
    revised: whether a bar that the exchange now gives other values gets these, ``"replace"``, or keeps the lake's,
        ``"keep"``. Either is counted. Where 3 bars or more and at least half of those compared differ, the lake holds
        another market, and the symbol ends with an error.
    progress: True shows a line a symbol (tqdm); or a function that is called with each ``FetchProgress``.
    jobs: symbols collected at a time; their requests share one rate limit.
    settings: names the lake; ``Settings()`` by default.

    Returns a FetchReport, one row a symbol. Raises ConfigError for names and times that are wrong, DependencyError
    without ccxt, FetchError when a symbol failed (after the others are done; ``error.report`` holds all of them).
    KeyboardInterrupt commits the fetched pages first.
    """
    markets = lake_names(symbols, name, timeframe)
    span = (moment("since", since), moment("until", until))
    exchange = opened(exchange, timeframe)
    # Once for all symbols, before the threads start: the list of markets and the exchange's time.
    exchange.ask("the list of markets", exchange.client.load_markets)
    exchange.now()
    with shown(progress) as show:
        request = Request(BarStore((settings or Settings()).lake), timeframe, *span, revised, show)
        collectors = [ExchangeCollector(request, exchange.twin(), *market) for market in markets.items()]
        _run(collectors, jobs, exchange.halt)
    return report_of([collector.result for collector in collectors])


def opened(exchange: str | Exchange, timeframe: str) -> Exchange:
    """The exchange, by its name or as it is. ConfigError for a timeframe that it does not have."""
    exchange = Exchange(connect(exchange)) if isinstance(exchange, str) else exchange
    exchange.check_timeframe(timeframe)
    exchange.halt.clear()
    return exchange


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


class ExchangeCollector(Collector):
    """Collects one symbol from an exchange."""

    source: Exchange

    def __init__(self, request: Request, exchange: Exchange, symbol: str, market: str) -> None:
        super().__init__(request, exchange, symbol, market)
        self.newest: int | None = None  # open time of the exchange's newest candle, once asked for
        exchange.notice = self.show

    def run(self) -> None:
        """Collect; an error of mlkit or the system is stored in ``result``."""
        try:
            try:
                self.collect()
            finally:
                self.commit()
        except Halted:
            self.update(error=f"interrupted, {self._resumes()}")
        except (ConfigError, BarsError) as error:
            self.update(error=str(error))
        except (MlkitError, OSError) as error:
            self.update(error=f"{' '.join(str(error).split())}; {self._resumes()}")
        self.show()

    def collect(self) -> None:
        """Fetch and commit what is missing; errors are raised as they come."""
        market = self.source.market(self.market)
        self.page = self.source.page_size(market)
        start, stop = self._bounds(market)
        margin = OVERLAP * self.step
        self.look_up(_time(start - margin), _time(stop + margin))
        spans = missing_spans(self.have, start, stop, self.step, self.page * self.step)
        self.total = sum(end - begin for begin, end in spans) // self.step
        self.show()
        for begin, end in spans:
            self._walk(market, begin, end)
        self.commit()
        if not self.have.size:
            raise ConfigError(f"{self.source.name} has no {self.market} {self.timeframe} bars from {_time(start)} on")
        self.count_absent(start, stop)

    def _bounds(self, market: str) -> tuple[int, int]:
        """First grid time to ask for, and the exclusive bound of the bars that are closed by now."""
        since, until = self.request.since, self.request.until
        since = self.last() if since is None else since
        if since is None:
            raise ConfigError(f"the lake has no {self.symbol} {self.timeframe} to continue; give since (--since DATE)")
        self.closed = self._ceil(self.source.closed(self.timeframe))
        stop = self.closed if until is None else min(self.closed, self._ceil(until.value))
        if self.request.since is not None and self._ceil(since.value) >= stop:
            raise ConfigError(f"no bar has closed from {since} to {_time(stop)}; move --since or --until")
        start = self._ceil(max(since.value, self.source.opened(market)))
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
            if not times.size:
                if self.newest is None:
                    self.newest = self.source.newest(market, self.timeframe)
                if self.newest < cursor:
                    break
            past = times < stop
            if past.any():
                self.pending.append((times[past], values[:, past]))
            cursor = int(times[-1]) + self.step if times.size else cursor + limit * self.step
            self.done = walked + (min(max(cursor, begin), end) - begin) // self.step
            if sum(times.size for times, _ in self.pending) >= _COMMIT:
                self.commit()
            self.show()
        self.done = walked + (end - begin) // self.step

    def _page(self, market: str, cursor: int, limit: int) -> BarArrays:
        """One page; asked for twice, and the fuller answer taken, where bars are lacking."""
        times, values = self.source.candles(market, self.timeframe, cursor, limit, self.closed)
        if not times.size or (times[-1] - cursor) // self.step + 1 > times.size:
            again = self.source.candles(market, self.timeframe, cursor, limit, self.closed)
            if again[0].size >= times.size:
                times, values = again
        return times, values

    def _resumes(self) -> str:
        last = self.last()
        return f"committed up to {utc(last)}, the same command resumes" if last is not None else "nothing committed yet"

    def _ceil(self, time: int) -> int:
        floor = int(floor_times(np.array([time]), self.timeframe)[0])
        return floor if floor == time else floor + self.step


def _run(collectors: list[ExchangeCollector], jobs: int, halt: Event) -> None:
    """Run all collectors on at most ``jobs`` threads; an interrupt lets them commit what they have."""
    if jobs < 1:
        raise ConfigError(f"jobs={jobs!r} is not 1 or more")
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(collector.run) for collector in collectors]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            halt.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _time(time_ns: int) -> pd.Timestamp:
    return pd.Timestamp(int(time_ns), tz="UTC")
