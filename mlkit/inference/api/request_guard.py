"""Middleware around every request: request id, Host and token checks, a limit on their number, metrics and log."""

import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mlkit.inference.api.request_metrics import RequestMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_OPEN = ("/healthz", "/", "/static/")  # answered without a token: they show nothing about a market
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_PARAMETERS = ("timeframe", "candles")  # of the endpoints
_log = logging.getLogger("mlkit.serve")


def error_body(reason: str, status: int, request_id: str) -> bytes:
    """The document of an error."""
    return json.dumps({"error": {"reason": reason, "status": status, "request_id": request_id}}).encode()


class RequestGuard:
    """ASGI middleware: refuses requests that must not reach the application and never shows a traceback.

    Parameters
    ----------
    hosts : names that a Host header may have, lower case.
    token : required in ``Authorization: Bearer``; None where requests need none.
    in_flight : requests at a time; one more is answered 503.
    """

    def __init__(
        self, app: App, *, hosts: frozenset[str], token: bytes | None, in_flight: int, metrics: RequestMetrics
    ) -> None:
        self._app, self._hosts, self._in_flight, self._metrics = app, hosts, in_flight, metrics
        self._token = None if token is None else hashlib.sha256(token).digest()
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # the first of a repeated header counts
        start, request_id = time.perf_counter(), _request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = [*message.get("headers", []), *_HEADERS, (b"x-request-id", request_id.encode())]
                message = {**message, "headers": named}
            await send(message)

        self._running += 1
        try:
            refusal = self._refusal(scope, headers)
            if refusal is None:
                await self._app(scope, receive, answer)
            else:
                await _refuse(answer, *refusal, request_id=request_id)
        except Exception:
            _log.exception("failed", extra={"fields": {"request_id": request_id, "path": scope["path"][:200]}})
            await _refuse(answer, 500, "internal error; the log knows this request by its id", request_id=request_id)
        finally:
            self._running -= 1
            self._record(scope, status, time.perf_counter() - start, request_id)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Status and reason of a refusal, None for a request that is passed on."""
        if self._running > self._in_flight:
            self._metrics.refused.labels("in flight").inc()
            return 503, "busy: too many requests at a time; ask again in a second"
        if _host(headers.get(b"host", b"")) not in self._hosts:
            self._metrics.refused.labels("host").inc()
            return 400, "this Host is not answered here; mlkit serve --allow-host NAME adds one"
        path = scope["path"]
        if any(ord(letter) < 32 or letter == "\x7f" for letter in path):  # a router's `$` lets a last newline pass
            return 422, "the address holds control characters"
        if self._token is None or path in _OPEN[:2] or path.startswith(_OPEN[2]):
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._token)
        if kind.lower() == b"bearer" and right:
            return None
        self._metrics.refused.labels("token").inc()
        return 401, "the token is missing or wrong; send Authorization: Bearer <token>"

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        """Count a request and log it."""
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if _log.isEnabledFor(logging.INFO):
            fields = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"][:200],
                "query": _logged(scope["query_string"][:200].decode("latin-1")),
                "status": status,
                "ms": round(1e3 * seconds, 3),
            }
            _log.info("request", extra={"fields": fields})


def _logged(query: str) -> str:
    """The parameters of the endpoints; any other may be a secret, such as a token that a client put there."""
    return "&".join(part for part in query.split("&") if part.partition("=")[0] in _PARAMETERS)


async def _refuse(send: Send, status: int, reason: str, *, request_id: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = error_body(reason, status, request_id)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(given: bytes) -> str:
    """The id that the client sent, where it is a plain word, else a new one."""
    text = given.decode("latin-1")
    return text if _ID.fullmatch(text) else uuid.uuid4().hex


def _host(header: bytes) -> str:
    """Name in a Host header, lower case, without port and brackets; empty for a malformed one."""
    name = header.decode("latin-1").lower()
    if name.startswith("["):
        name, _, port = name[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = name.partition(":")
    return name if port == "" or (port.isascii() and port.isdigit()) else ""
