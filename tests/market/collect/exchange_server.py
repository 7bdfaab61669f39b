"""A local exchange: the candle endpoints of Binance and Bybit over HTTP, which misbehaves when told to.

Loaded by the tests with ``runpy``; the clients that talk to it are those of ccxt.
"""

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd

Rows = list[list[Any]]
MS = 1_000_000
PATIENCE = 4.0  # s a client waits for an answer: more than a busy machine takes for one
PATHS = {
    "exchangeInfo": "markets",
    "instruments-info": "markets",
    "time": "time",
    "klines": "klines",
    "kline": "klines",
}


class Answer:
    """An HTTP answer, or what happens instead of one."""

    def __init__(self, body: Any, status: int = 200, headers: dict[str, str] | None = None, then: str = "") -> None:
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status, self.headers, self.then = status, headers or {}, then


def edit(change: Callable[[Rows], Any]) -> Callable[[Rows], Answer]:
    return lambda rows: Answer(change(rows))


def cell(row: int, column: int, value: Any) -> Callable[[Rows], Answer]:
    """One value of one row is another."""

    def change(rows: Rows) -> Rows:
        rows[row] = [*rows[row][:column], value, *rows[row][column + 1 :]]
        return rows

    return edit(change)


def refuse(status: int, message: str = "no", **headers: str) -> Callable[[Rows], Answer]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda rows: Answer({"code": -1, "msg": message} if status != 418 else {}, status, names)


def earlier(rows: Rows, count: int) -> Rows:
    """Rows before the first one, as a server that rounds ``startTime`` down sends them."""
    step = int(rows[1][0]) - int(rows[0][0])
    return [[int(rows[0][0]) - step * (count - k), *rows[0][1:]] for k in range(count)]


# What the server does instead of answering a page of candles properly.
FAULTS: dict[str, Callable[[Rows], Answer]] = {
    "429, Retry-After 7": refuse(429, Retry_After="7"),
    "429, Retry-After as a date": lambda rows: Answer(
        {}, 429, {"Retry-After": formatdate(CLOCK["now"] + 9, usegmt=True)}
    ),
    "429 without Retry-After": refuse(429),
    "418, Retry-After 120": refuse(418, Retry_After="120"),
    "418, Retry-After one day": refuse(418, Retry_After="86400"),
    "500": refuse(500),
    "502 with an HTML body": lambda rows: Answer(
        b"<html><h1>Bad gateway</h1></html>", 502, {"Content-Type": "text/html"}
    ),
    "503": refuse(503),
    "451, another country": lambda rows: Answer({"code": 0, "msg": "restricted location"}, 451),
    "403 of a firewall": lambda rows: Answer(b"<html>forbidden</html>", 403, {"Content-Type": "text/html"}),
    "error -1121 in the body": lambda rows: Answer({"code": -1121, "msg": "Invalid symbol."}, 400),
    "no answer in time": lambda rows: Answer(rows, then="hang"),
    "connection reset": lambda rows: Answer(rows, then="reset"),
    "body cut off on the way": lambda rows: Answer(rows, then="cut"),
    "JSON cut, length agrees": lambda rows: Answer(json.dumps(rows).encode()[:-500]),
    "HTML with status 200": lambda rows: Answer(b"<html>maintenance</html>", headers={"Content-Type": "text/html"}),
    "an empty body": lambda rows: Answer(b""),
    "an object instead of rows": edit(lambda rows: {"rows": 3}),
    "numbers instead of rows": edit(lambda rows: [row[0] for row in rows]),
    "rows of three columns": edit(lambda rows: [row[:3] for row in rows]),
    "null instead of a price": cell(3, 4, None),
    "text instead of a price": cell(3, 4, "n/a"),
    "text instead of a time": cell(3, 0, "soon"),
    "NaN as a price": cell(3, 2, "NaN"),
    "a price of zero": cell(3, 3, "0.0"),
    "a negative volume": cell(3, 5, "-1.0"),
    "high below low": cell(3, 2, "0.5"),
    "an off-grid time": edit(lambda rows: [rows[0], [rows[1][0] + 1, *rows[1][1:]], *rows[2:]]),
    "an empty page": edit(lambda rows: []),
    "a hole in the page": edit(lambda rows: rows[:100] + rows[105:]),
    "first rows missing": edit(lambda rows: rows[50:]),
    "half a page": edit(lambda rows: rows[: len(rows) // 2]),
    "one row": edit(lambda rows: rows[:1]),
    "every row twice": edit(lambda rows: [row for row in rows for _ in range(2)]),
    "one time, two candles": edit(lambda rows: [*rows[:5], [rows[4][0], *rows[3][1:]], *rows[5:]]),
    "newest first": edit(lambda rows: rows[::-1]),
    "shuffled": edit(lambda rows: [rows[k] for k in np.random.default_rng(1).permutation(len(rows))]),
    "rows before since": edit(lambda rows: earlier(rows, 40) + rows),
}
CLOCK = {"now": 0.0}  # the client's clock, for dates in headers


class ExchangeServer:
    """Serves ``truth`` (symbol -> bars) until ``now``; the bar that is open at ``now`` is served unfinished.

    ``faults``: names of ``FAULTS`` or None, one for each request of candles in turn; ``forever`` when they are used
    up. ``asked``: every request as (kind, parameters). ``hook``: called before each answer with the
    number of requests of candles so far.
    """

    def __init__(self, truth: dict[str, pd.DataFrame], now: pd.Timestamp | None = None) -> None:
        self.truth = truth
        self.now = now or max(bars.index[-1] for bars in truth.values()) + pd.Timedelta(days=1)
        self.faults: deque[str | None] = deque()
        self.forever: str | None = None
        self.other_faults: dict[str, deque[str]] = {"time": deque(), "markets": deque()}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.hook: Callable[[int], None] = lambda count: None
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10
            disable_nagle_algorithm = True  # else an answer waits 40 ms for an acknowledgement

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # clients are killed, and connections reset, on purpose
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def pages(self) -> int:
        return sum(kind == "klines" for kind, _ in self.asked)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        kind = PATHS.get(url.path.rsplit("/", 1)[-1], "unknown")
        query = dict(parse_qsl(url.query))
        bybit = "/v5/" in url.path
        with self.lock:
            self.asked.append((kind, query))
            if kind == "klines":
                fault = self.faults.popleft() if self.faults else self.forever
            else:
                waiting = self.other_faults.get(kind)
                fault = waiting.popleft() if waiting else None
        if kind == "klines":
            self.hook(self.pages)
        body = {"markets": self._markets, "time": self._time, "klines": self._rows}.get(kind, lambda *_: {})(
            query, url.path
        )
        found = Answer(body) if fault is None else FAULTS[fault](body)
        if bybit and kind == "klines" and fault is None:
            found = Answer({"retCode": 0, "retMsg": "OK", "result": {"list": body[::-1]}})
        _send(request, found)

    def _time(self, query: dict[str, str], path: str) -> Any:
        now = self.now.value // MS
        return (
            {"retCode": 0, "result": {"timeNano": str(now * MS)}, "time": now}
            if "/v5/" in path
            else {"serverTime": now}
        )

    def _markets(self, query: dict[str, str], path: str) -> Any:
        if "/v5/" in path:
            mine = query.get("category") == "spot"
            return {"retCode": 0, "result": {"list": [_bybit(name) for name in self.truth] if mine else []}}
        spot = "/api/" in path
        return {"symbols": [_binance(name, spot) for name in self.truth if "dapi" not in path]}

    def _rows(self, query: dict[str, str], path: str) -> Rows:
        bars = self.truth[query["symbol"]]
        step = bars.index[1] - bars.index[0]
        bars = bars[bars.index <= self.now]
        since, limit = query.get("startTime", query.get("start")), int(query.get("limit", 500))
        if since is None:
            bars = bars.iloc[-limit:]
        else:
            bars = bars[bars.index >= pd.Timestamp(int(since) * MS, tz="UTC")].iloc[:limit]
        return [
            _row(time, values, time + step > self.now) for time, values in zip(bars.index, bars.to_numpy(), strict=True)
        ]


def _row(time: pd.Timestamp, values: Any, unfinished: bool) -> list[Any]:
    o, h, low, c, v = (float(value) for value in values)
    if unfinished:
        h, low, c, v = o, o, o, v / 3
    start = time.value // MS
    return [start, repr(o), repr(h), repr(low), repr(c), repr(v), start + 59_999, "0", 1, "0", "0", "0"]


def _binance(name: str, spot: bool) -> dict[str, Any]:
    base, quote = name[:-4], name[-4:]
    future = {} if spot else {"contractType": "PERPETUAL", "marginAsset": quote, "pair": name, "onboardDate": 0}
    return {
        "symbol": name,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": quote,
        "isSpotTradingAllowed": spot,
        "permissions": ["SPOT"],
        "filters": [],
        **future,
    }


def _bybit(name: str) -> dict[str, Any]:
    return {
        "symbol": name,
        "baseCoin": name[:-4],
        "quoteCoin": name[-4:],
        "status": "Trading",
        "lotSizeFilter": {
            "basePrecision": "0.000001",
            "quotePrecision": "0.01",
            "minOrderQty": "0",
            "maxOrderQty": "9",
        },
        "priceFilter": {"tickSize": "0.01"},
    }


def _send(request: BaseHTTPRequestHandler, answer: Answer) -> None:
    if answer.then == "reset":
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.close_connection = True
        request.connection.close()
        return
    if answer.then == "hang":
        time.sleep(1.2 * PATIENCE)  # the client gives up before
        request.close_connection = True
        return
    body = answer.body if answer.then != "cut" else answer.body[: len(answer.body) // 2]
    try:
        request.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(answer.body)))
        request.end_headers()
        request.wfile.write(body)
    except OSError:  # the client was killed or has left
        request.close_connection = True
    if answer.then == "cut":
        request.close_connection = True


def client_for(url: str, name: str = "binance", timeout: float = PATIENCE) -> Any:
    """The real ccxt client of an exchange, pointed at ``url``."""
    import ccxt

    client = getattr(ccxt, name)({"timeout": timeout * 1000})
    client.urls["api"] = _moved(client.urls["api"], url)
    return client


def _moved(place: Any, url: str) -> Any:
    if isinstance(place, dict):
        return {key: _moved(value, url) for key, value in place.items()}
    return url + urlsplit(place.replace("{hostname}", "host")).path
