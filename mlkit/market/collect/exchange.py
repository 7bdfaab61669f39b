"""One exchange through ccxt: paced, patient, by its own clock; every candle checked before it is believed."""

import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from threading import Event, Lock
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError, DependencyError, FetchError
from mlkit.market.bars import Float64Array, make_bars, validate_bars
from mlkit.market.times import TIMEFRAMES, Int64Array, timeframe_delta, timeframe_ns

Clock = Callable[[], float]  # seconds since the epoch
Sleep = Callable[[float], object]  # seconds
Answer = TypeVar("Answer")

_MS = 1_000_000  # ns in a millisecond
SETTLE = 2.0  # seconds after its close until a candle counts as final: late trades still change it
_DRIFT = 3600.0  # seconds for which a comparison of the clocks is believed
_FINAL = frozenset({400, 401, 403, 404, 405, 407, 410, 422, 451})  # asking again gives the same answer
# What ccxt's parsers raise on an answer of another shape than the exchange documents.
_SHAPE = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError)


class Halted(Exception):
    """A wait ended because the work is to end."""


@dataclass(frozen=True)
class Patience:
    """How long a request is tried again: ``attempts`` in all, waiting ``first * 2**k`` seconds up to ``most``,
    each shortened by up to half at random so that many clients do not return at once. A Retry-After of the
    exchange is waited out when it is at most ``longest`` seconds, and ends the collection when it is longer."""

    attempts: int = 8
    first: float = 1.0
    most: float = 60.0
    longest: float = 600.0

    def wait(self, attempt: int, chance: random.Random) -> float:
        """Seconds to wait after the given attempt, from 1, has failed."""
        return min(self.most, self.first * 2.0 ** (attempt - 1)) * chance.uniform(0.5, 1.0)


class Pace:
    """Slots for requests, shared by all threads: an exchange counts the requests of an address together."""

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock, self._sleep = clock, sleep
        self._free = 0.0
        self._lock = Lock()

    def take(self, seconds: float) -> None:
        """Wait for the next free slot and keep it for ``seconds``."""
        with self._lock:
            now = self._clock()
            start = max(now, self._free)
            self._free = start + seconds
        if start > now:
            self._sleep(start - now)

    def hold(self, seconds: float) -> None:
        """No slot for anyone within the next ``seconds``."""
        with self._lock:
            self._free = max(self._free, self._clock() + seconds)


def connect(name: str) -> Any:
    """A ccxt client of the exchange, nothing asked yet.

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
    patience: the retries.
    clock, sleep: time of this machine and how to wait; by default a wait that ``halt`` ends.
    seed: of the random part of the waits.
    """

    def __init__(
        self,
        client: Any,
        *,
        patience: Patience | None = None,
        clock: Clock = time.time,
        sleep: Sleep | None = None,
        seed: int | None = None,
    ) -> None:
        self.client = client
        self.name = str(client.id)
        self.halt = Event()  # set to end every wait and request with Halted
        self.notice: Callable[[str], None] = lambda text: None  # told of every wait for another attempt
        self.retries = 0
        self._sleep = sleep or self.halt.wait
        self._patience = patience or Patience()
        self._clock = clock
        self._pace = Pace(clock, self.wait)
        self._random = random.Random(seed)
        self._status: int | None = None  # of the answer at hand
        self._headers: dict[str, str] = {}
        self._ahead = 0.0  # seconds the exchange's clock is ahead of ours
        self._set: float | None = None  # when that was measured, by our clock
        self._hook()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until ``halt`` is set; Halted is raised then."""
        self._sleep(seconds)
        if self.halt.is_set():
            raise Halted

    def twin(self) -> "Exchange":
        """The same exchange for another thread: markets, clock and pace shared, connection and hooks its own."""
        other = copy.copy(self)
        other.client = copy.copy(self.client)
        other.client.session = type(self.client.session)()
        other.client.session.trust_env = self.client.session.trust_env
        other._hook()
        return other

    def now(self) -> int:
        """Time in ns since the epoch by the exchange's clock where it tells it, else by ours."""
        if self.client.has.get("fetchTime") and (self._set is None or abs(self._clock() - self._set) > _DRIFT):
            self._ahead, self._set = self._skew(), self._clock()
        return round((self._clock() + self._ahead) * 1e9)

    def closed(self, timeframe: str) -> int:
        """Exclusive bound of the open times, in ns, of bars that are finished now."""
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
            found = [market for market in markets.values() if _bare(_pair(market)) == _bare(symbol)]
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
        """Time in ns at which the market opened, 0 where the exchange does not tell."""
        return int(self.client.market(market).get("created") or 0) * _MS

    def candles(
        self, market: str, timeframe: str, since: int, limit: int, stop: int
    ) -> tuple[Int64Array, Float64Array]:
        """One page of bars: ``limit`` rows from ``since`` on asked for, of which those with open time < ``stop``.

        Sorted and without repeats, valid by the Bars contract. An answer that is not, or where two candles of one
        time disagree, is asked for again like a lost one.

        Returns open times in ns (n,) and values (5, n); both empty where the exchange has none.
        Raises FetchError when patience ends.
        """

        def page() -> tuple[Int64Array, Float64Array]:
            rows = self.client.fetch_ohlcv(market, timeframe, -(-since // _MS), limit)
            return self._checked(rows, timeframe, since, stop)

        return self.ask(f"{market} {timeframe} candles from {_utc(since)}", page)

    def newest(self, market: str, timeframe: str) -> int:
        """Open time in ns of the newest candle, open or closed; -1 where the exchange has none."""
        rows = self.ask(
            f"newest {market} {timeframe} candle", lambda: self.client.fetch_ohlcv(market, timeframe, None, 5)
        )
        return max((int(row[0]) * _MS for row in rows), default=-1)

    def ask(self, what: str, request: Callable[[], Answer]) -> Answer:
        """The answer to a request, tried again while that can help. Raises FetchError when it cannot."""
        import ccxt

        for attempt in range(1, self._patience.attempts + 1):
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
            if attempt < self._patience.attempts:
                self._back_off(what, attempt, reason)
        raise FetchError(f"{self.name}: no {what} after {self._patience.attempts} attempts; the last one: {reason}")

    def _back_off(self, what: str, attempt: int, reason: str) -> None:
        patience = self._patience
        wait = patience.wait(attempt, self._random)
        told = retry_after(self._headers, self._clock())
        if told is not None and told > patience.longest:
            raise FetchError(
                f"{self.name}: {reason}, and asks to come back in {told:,.0f} s; run the same command again then"
            )
        if told is not None:
            wait = max(wait, told)
            self._pace.hold(wait)  # the exchange means every request of this address
        self.retries += 1
        self.notice(f"{reason}; attempt {attempt + 1} of {patience.attempts} in {wait:,.1f} s")
        self.wait(wait)

    def _skew(self) -> float:
        before = self._clock()
        theirs = self.ask("its time", lambda: float(self.client.fetch_time()) / 1e3)
        return theirs - (before + self._clock()) / 2

    def _hook(self) -> None:
        """Let our pace, and our check that an answer is JSON and its rows are candles, into the client."""
        client, kind = self.client, type(self.client)

        def throttle(cost: float | None = None) -> None:  # ccxt's cost of the request, a slot of ours
            self._pace.take(client.rateLimit * (1 if cost is None else cost) / 1e3)

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
            if not all(isinstance(value, int | float) for value in candle[:6]):  # else ccxt drops it unsaid
                raise _bad_response(f"not a candle: {_short(str(row), 80)}")
            return candle

        client.throttle, client.on_rest_response = throttle, on_rest_response
        client.fetch, client.parse_ohlcv = fetch, parse_ohlcv

    def _checked(self, rows: list[Any], timeframe: str, since: int, stop: int) -> tuple[Int64Array, Float64Array]:
        table = np.array(rows, dtype=np.float64).reshape(-1, 6)
        times = table[:, 0].astype(np.int64) * _MS
        keep = (times >= since) & (times < stop)
        order = np.argsort(times[keep], kind="stable")
        times, table = times[keep][order], table[keep][order]
        again = np.flatnonzero(np.diff(times) == 0) + 1
        if (table[again] != table[again - 1]).any():
            raise _bad_response(f"two candles of {_utc(int(times[again[0]]))} disagree")
        times, table = np.delete(times, again), np.delete(table, again, axis=0)
        values = np.ascontiguousarray(table[:, 1:].T)
        if times.size:
            try:
                index = pd.DatetimeIndex(times, tz="UTC")
                validate_bars(make_bars(index, values, symbol=self.name, timeframe=timeframe))
            except BarsError as error:
                raise _bad_response(str(error)) from None
        return times, values

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


def retry_after(headers: dict[str, str], now: float) -> float | None:
    """Seconds to wait by the header Retry-After, a number or an HTTP date (RFC 9110, 10.2.3)."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None  # unreadable: our own back-off is used


def _region(status: int | None) -> str:
    return "; it may not serve your country, try another --exchange" if status in (403, 451) else ""


def _pair(market: Any) -> str:
    return f"{market.get('base')}{market.get('quote')}"


def _bare(name: str) -> str:
    return "".join(letter for letter in name.upper() if letter.isalnum())


def _short(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _utc(time_ns: int) -> str:
    return f"{pd.Timestamp(time_ns, tz='UTC'):%Y-%m-%d %H:%M}"
