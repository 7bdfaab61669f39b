"""One exchange through ccxt: its rate limit kept, failed requests made again, every candle checked."""

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from difflib import get_close_matches
from threading import Event, Lock
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError, DependencyError, FetchError
from mlkit.market.bars import BarArrays, bars_of, validate_bars
from mlkit.market.calendar import ALWAYS_OPEN
from mlkit.market.collect.patience import Patience, TemporaryError, retry_after
from mlkit.market.times import TIMEFRAMES, timeframe_delta, timeframe_ns

_T = TypeVar("_T")

_MS = 1_000_000  # ns in a millisecond
SETTLE = 2.0  # seconds after its close until a candle counts as final: late trades still change it
_CLOCK_AGE = 3600.0  # seconds after which the exchange's clock is compared with ours again
_FINAL = frozenset({400, 401, 403, 404, 405, 407, 410, 422, 451})  # statuses that another attempt would give again
# What ccxt's parsers raise on an answer of another shape than the exchange documents.
_SHAPE = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError)


class Halted(Exception):
    """A wait was ended by ``Exchange.halt``."""


def connect(name: str) -> Any:
    """A ccxt client of the exchange; no request is made yet.

    Raises DependencyError without ccxt, ConfigError for an exchange that ccxt does not know or that has no candles.
    """
    try:
        import ccxt
    except ModuleNotFoundError:
        raise DependencyError('mlkit fetch needs ccxt; install it: pip install "mlkit[data]"') from None
    if name not in ccxt.exchanges:
        near = get_close_matches(name, ccxt.exchanges, 3) or ["binance", "bybit", "kraken"]
        raise ConfigError(f"exchange {name!r} is unknown to ccxt; did you mean {', '.join(near)}?")
    client = getattr(ccxt, name)({"timeout": 30_000})
    if not client.has.get("fetchOHLCV"):
        raise ConfigError(f"exchange {name!r} offers no candles through ccxt; use another one")
    return client


class Exchange:
    """Candles of one exchange.

    Parameters
    ----------
    client: a ccxt client (synchronous), such as ``connect("binance")`` or your own with a proxy set.
    patience: how often a failed request is made again.
    clock: this machine's time in seconds since the epoch.
    sleep: waits some seconds for another attempt; by default until then or until ``halt`` is set.
    """

    def __init__(
        self,
        client: Any,
        *,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.client = self._first_client = client
        self.name = str(client.id)
        self.halt = Event()  # set to end every wait and request with Halted
        self.notice: Callable[[str], None] = lambda text: None  # called before every wait for another attempt
        self.retries = 0
        self._sleep = sleep or self.halt.wait
        self._patience = patience or Patience()
        self._clock = clock
        self._limit = Lock()  # held by the thread that waits for the rate limit
        self._status: int | None = None  # of the last answer
        self._headers: dict[str, str] = {}
        self._ahead = 0.0  # seconds the exchange's clock is ahead of ours
        self._compared: float | None = None  # when that was measured, by our clock
        self._hook()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until ``halt`` is set; Halted is raised then."""
        self._sleep(seconds)
        if self.halt.is_set():
            raise Halted

    def twin(self) -> "Exchange":
        """The same exchange for another thread: markets, clock and rate limit shared, the connection its own."""
        other = copy.copy(self)
        other.client = copy.copy(self.client)
        other.client.session = type(self.client.session)()
        other.client.session.trust_env = self.client.session.trust_env
        other._hook()
        return other

    def now(self) -> int:
        """Time in ns since the epoch: the exchange's where it has a time endpoint, else this machine's."""
        if self.client.has.get("fetchTime") and (
            self._compared is None or abs(self._clock() - self._compared) > _CLOCK_AGE
        ):
            before = self._clock()
            theirs = self.ask("its time", lambda: float(self.client.fetch_time()) / 1e3)
            self._compared = self._clock()
            self._ahead = theirs - (before + self._compared) / 2
        return round((self._clock() + self._ahead) * 1e9)

    def closed(self, timeframe: str) -> int:
        """Exclusive bound of the open times, in ns, of the bars that have closed by now."""
        step = timeframe_ns(timeframe)
        return self.now() - round(SETTLE * 1e9) - step + 1

    def check_timeframe(self, timeframe: str) -> None:
        """Raise ConfigError for a timeframe that mlkit or the exchange does not have."""
        timeframe_delta(timeframe)
        theirs = self.client.timeframes or {}
        if timeframe not in theirs:
            both = ", ".join(name for name in TIMEFRAMES if name in theirs)
            raise ConfigError(f"{self.name} has no {timeframe} candles; it has {both}")

    def market(self, symbol: str) -> str:
        """ccxt's name of a market given by the exchange's id (BTCUSDT), ccxt's (BTC/USDT) or base and quote.

        Spot before futures. Raises ConfigError for a market that does not exist or is not the only one meant.
        """
        markets = self.ask("the list of markets", self.client.load_markets)
        if symbol in markets:
            return symbol
        found = self.client.markets_by_id.get(symbol) or self.client.markets_by_id.get(symbol.upper()) or []
        if not found:
            wanted = _bare(symbol)
            found = [market for market in markets.values() if _bare(f"{market['base']}{market['quote']}") == wanted]
        for kind in ("spot", "linear", "inverse"):
            of_kind = [market for market in found if market.get(kind) and not market.get("option")]
            whole = [market for market in of_kind if not market.get("expiry")] or of_kind
            if len(whole) == 1:
                return str(whole[0]["symbol"])
            if whole:
                names = ", ".join(sorted(str(market["symbol"]) for market in whole)[:6])
                raise ConfigError(f"{symbol} names several markets of {self.name}: {names}; ask for one of them")
        near = get_close_matches(symbol.upper(), [str(name) for name in self.client.markets_by_id], 5)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ConfigError(f"{self.name} has no market {symbol!r}{hint}")

    def page_size(self, market: str) -> int:
        """The most candles that one request gives."""
        return int(self.client.feature_value(market, "fetchOHLCV", "limit", 500) or 500)

    def opened(self, market: str) -> int:
        """Time in ns at which the market opened, 0 where the exchange does not report it."""
        return int(self.client.market(market).get("created") or 0) * _MS

    def candles(self, market: str, timeframe: str, since: int, limit: int, stop: int) -> BarArrays:
        """One page of bars: ``limit`` rows from ``since`` on asked for, of which those with open time < ``stop``.

        Sorted and without repeats, valid by the Bars contract. An answer that is not, or where two candles of one
        time disagree, is asked for again like a lost one.

        Returns open times in ns (n,) and values (5, n); both empty where the exchange has none.
        Raises FetchError when patience ends.
        """
        asked = market, timeframe, -(-since // _MS), limit
        return self.ask(
            f"{market} {timeframe} candles from {_utc(since)}",
            lambda: self._checked(self.client.fetch_ohlcv(*asked), timeframe, since, stop),
        )

    def newest(self, market: str, timeframe: str) -> int:
        """Open time in ns of the newest candle, open or closed; -1 where the exchange has none."""
        rows = self.ask(
            f"newest {market} {timeframe} candle", lambda: self.client.fetch_ohlcv(market, timeframe, None, 5)
        )
        return max((int(row[0]) * _MS for row in rows), default=-1)

    def ask(self, what: str, request: Callable[[], _T]) -> _T:
        """The answer to a request, made again while that can help. Raises FetchError when it cannot."""
        import ccxt

        def attempt() -> _T:
            if self.halt.is_set():
                raise Halted
            self._status, self._headers = None, {}
            try:
                return request()
            except ccxt.OperationFailed as error:
                reason = self._reason(error)
                if self._status in _FINAL:
                    raise FetchError(f"{self.name} refuses {what}: {reason}{_region(self._status)}") from None
            except ccxt.BaseError as error:
                reason = self._reason(error)
                if self._status is None or self._status < 500:  # a server's fault may carry any code
                    raise FetchError(f"{self.name} refuses {what}: {_short(str(error))}") from None
            except _SHAPE as error:
                reason = f"an answer of another shape ({type(error).__name__}: {_short(str(error))})"
            after = self._retry_after()
            if after is not None and after > self._patience.longest:
                raise FetchError(
                    f"{self.name}: {reason}, and asks to come back in {after:,.0f} s; run the same command again then"
                )
            raise TemporaryError(reason, after)

        try:
            return self._patience.call(attempt, self._pause, self._again)
        except TemporaryError as last:
            attempts = self._patience.attempts
            raise FetchError(f"{self.name}: no {what} after {attempts} attempts; the last one: {last}") from None

    def _retry_after(self) -> float | None:
        return retry_after(self._headers, self._clock())

    def _pause(self, seconds: float) -> None:
        # A Retry-After is meant for every request of this address: no other thread gets past the rate limit meanwhile.
        with nullcontext() if self._retry_after() is None else self._limit:
            self.wait(seconds)

    def _again(self, notice: str) -> None:
        self.retries += 1
        self.notice(notice)

    def _hook(self) -> None:
        """Share the client's rate limiter among threads, and check that answers are JSON and their rows candles."""
        client, kind, first = self.client, type(self.client), self._first_client

        def throttle(cost: float | None = None) -> None:
            with self._limit:  # an exchange counts the requests of an address, so all threads use one limiter
                kind.throttle(first, cost)
                first.lastRestRequestTimestamp = first.milliseconds()

        def on_rest_response(code: int, *rest: Any) -> Any:
            self._status, self._headers = code, dict(rest[3])
            return kind.on_rest_response(client, code, *rest)

        def fetch(url: str, *rest: Any) -> Any:
            answer = kind.fetch(client, url, *rest)
            if not isinstance(answer, dict | list):  # ccxt hands HTML and cut JSON on as text
                raise _bad_response(f"not JSON: {_short(str(answer), 60)!r}")
            return answer

        def parse_ohlcv(row: Any, market: Any = None) -> Any:
            candle = kind.parse_ohlcv(client, row, market)
            if not all(isinstance(value, int | float) for value in candle[:6]):  # ccxt drops it silently
                raise _bad_response(f"not a candle: {_short(str(row), 80)}")
            return candle

        client.throttle, client.on_rest_response = throttle, on_rest_response
        client.fetch, client.parse_ohlcv = fetch, parse_ohlcv

    def _checked(self, rows: list[Any], timeframe: str, since: int, stop: int) -> BarArrays:
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        times = table[:, 0].astype(np.int64) * _MS
        keep = (times >= since) & (times < stop)
        order = np.argsort(times[keep], kind="stable")
        times, table = times[keep][order], table[keep][order]
        again = np.flatnonzero(np.diff(times) == 0) + 1
        if (table[again] != table[again - 1]).any():
            raise _bad_response(f"two candles of {_utc(int(times[again[0]]))} disagree")
        values = np.delete(times, again), np.ascontiguousarray(np.delete(table, again, axis=0)[:, 1:].T)
        if times.size:
            try:
                validate_bars(bars_of(values, symbol=self.name, timeframe=timeframe, calendar=ALWAYS_OPEN))
            except BarsError as error:
                raise _bad_response(str(error)) from None
        return values

    def _reason(self, error: Exception) -> str:
        """A ccxt error in a few words: the HTTP status, or what became of the connection."""
        import ccxt

        if self._status is not None and self._status >= 400:
            return f"HTTP {self._status}"
        if isinstance(error, ccxt.RequestTimeout):
            return f"no answer within {self.client.timeout / 1e3:g} s"
        if isinstance(error, ccxt.BadResponse) or self._status is not None:
            return _short(str(error))
        cause = error.__cause__ or error
        return f"the connection failed ({type(cause).__name__})"


def _bad_response(text: str) -> Exception:
    import ccxt

    return ccxt.BadResponse(text)  # type: ignore[no-any-return]


def _region(status: int | None) -> str:
    return "; it may not serve your country, try another --exchange" if status in (403, 451) else ""


def _bare(name: str) -> str:
    return "".join(letter for letter in name.upper() if letter.isalnum())


def _short(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _utc(time_ns: int) -> str:
    return f"{pd.Timestamp(time_ns, tz='UTC'):%Y-%m-%d %H:%M}"
