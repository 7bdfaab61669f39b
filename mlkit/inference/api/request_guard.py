"""Middleware around every request: request id, Host and token checks, a limit on their number, metrics and log."""

import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlkit.inference.api.request_metrics import RequestMetrics

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_OPEN = ("/healthz", "/", "/static/")  # answered without a token: they show nothing about a market
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_PARAMETERS = ("timeframe", "candles")  # of the endpoints
_log = logging.getLogger("mlkit.serve")


def error_response(request_id: str, status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as the documented JSON."""
    document = {"error": {"reason": reason, "status": status, "request_id": request_id}}
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return Response(json.dumps(document), status, headers, "application/json")


class RequestGuard:
    """ASGI middleware: refuses requests that must not reach the application and never shows a traceback.

    ``hosts`` are the names that a Host header may have, in lower case; ``token`` is required in
    ``Authorization: Bearer``, where there is one; more than ``in_flight`` requests at a time are answered 503.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: frozenset[str], token: bytes | None, in_flight: int, metrics: RequestMetrics
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
        start, given = time.perf_counter(), headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
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
            await (self._refusal(scope, headers, request_id) or self._app)(scope, receive, answer)
        except Exception:
            _log.exception("failed", extra={"fields": {"request_id": request_id, "path": scope["path"][:200]}})
            refusal = error_response(request_id, 500, "internal error; the log knows this request by its id")
            await refusal(scope, receive, answer)
        finally:
            self._running -= 1
            self._record(scope, status, time.perf_counter() - start, request_id)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], request_id: str) -> Response | None:
        """The answer to a refused request, None for one that is passed on."""
        path = scope["path"]
        if self._running > self._in_flight:
            self._metrics.refused.labels("in flight").inc()
            reason = "busy: too many requests at a time; ask again in a second"
            return error_response(request_id, 503, reason, {"Retry-After": "1"})
        if _host(headers.get(b"host", b"")) not in self._hosts:
            self._metrics.refused.labels("host").inc()
            reason = "this Host is not answered here; mlkit serve --allow-host NAME adds one"
            return error_response(request_id, 400, reason)
        if any(ord(letter) < 32 or letter == "\x7f" for letter in path):  # a router's `$` lets a last newline pass
            return error_response(request_id, 422, "the address holds control characters")
        if self._token is None or path in _OPEN[:2] or path.startswith(_OPEN[2]):
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), self._token)
        if kind.lower() == b"bearer" and right:
            return None
        self._metrics.refused.labels("token").inc()
        reason = "the token is missing or wrong; send Authorization: Bearer <token>"
        return error_response(request_id, 401, reason, {"WWW-Authenticate": "Bearer"})

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


def _host(header: bytes) -> str:
    """Name in a Host header, lower case, without port and brackets; empty for a malformed one."""
    name = header.decode("latin-1").lower()
    if name.startswith("["):
        name, _, port = name[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = name.partition(":")
    return name if port == "" or (port.isascii() and port.isdigit()) else ""
