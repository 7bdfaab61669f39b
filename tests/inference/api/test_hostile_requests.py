"""Hostile symbols, timeframes, methods and headers: a document each, and nothing is computed."""

from collections.abc import Callable
from typing import Any

import pytest

URL = "/api/ml/insights/TEST?timeframe=1d"
Serve = Callable[..., Any]
Reason = Callable[[Any, int], str]


SYMBOLS = [
    "..", "../..", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "%00", "TEST%00", "TEST%0a", "TEST%0d%0aX-Evil:1",
    "TEST%20", "%20TEST", ".TEST", "-TEST", "/TEST", "//TEST", "TEST/", "TEST%2F..", "TEST%2F..%2FTEST", "TEST;ls",
    "TEST|ls", "$(ls)", "`ls`", "<script>alert(1)</script>", "%3Cscript%3E", "'OR'1'='1", "TEST%27--", "%C3%A9",
    "%E2%80%AE", "%FF%FE", "T" * 33, "T" * 4000, "TEST%25", "{symbol}", "~", "*", "TEST?", "%5C%5Cserver%5Cshare",
    "C:%5C", "test", "Test", "TEST..1d", "NOWHERE", "0", "TEST-1d", "symbol=TEST",
]  # fmt: skip


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_hostile_symbols(serve: Serve, symbol: str, reason: Reason) -> None:
    client = serve()
    for endpoint in ("insights", "patterns", "price-prediction", "signals"):
        response = client.get(
            f"/api/ml/{endpoint}/{symbol}?timeframe=1d" if symbol != "TEST?" else "/api/ml/signals/%3F"
        )
        assert response.status_code in (404, 422)
        said = reason(response, response.status_code)
        assert len(said) < 400 and "\n" not in said
    assert client.app.state.service.insights.computed == 0


@pytest.mark.parametrize(
    "query",
    [
        "timeframe=", "timeframe=1D", "timeframe=1d%20", "timeframe=1d%0a", "timeframe=../1d", "timeframe=1d/..",
        "timeframe=%00", "timeframe=999m", "timeframe=-1m", "timeframe=1d&timeframe=7q", "timeframe[]=7q&timeframe=7q",
        "timeframe=" + "1" * 5000, "timeframe=<b>", "timeframe=1%C2%A0d", "timeframe=%F0%9F%92%A9", "timeframe=None",
        "timeframe=1d;1m", "timeframe=1m", "timeframe=1w", "",
    ],
)  # fmt: skip
def test_hostile_timeframes(serve: Serve, query: str, reason: Reason) -> None:
    client = serve()
    response = client.get(f"/api/ml/insights/TEST?{query}")
    assert response.status_code in (404, 422)
    assert len(reason(response, response.status_code)) < 6000
    assert client.app.state.service.insights.computed == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW"])
def test_other_methods(serve: Serve, method: str) -> None:
    for path in (URL, "/api/ml/status", "/healthz", "/metrics"):
        response = serve().get(path, method=method)
        assert response.status_code == 405
        assert response.headers["allow"] == "GET"


@pytest.mark.parametrize(
    "headers",
    [
        {"If-None-Match": "\x00"}, {"If-None-Match": "," * 5000}, {"Accept-Encoding": "q;" * 2000},
        {"Accept-Encoding": "gzip;q=x"}, {"Accept-Encoding": "gzip;q="}, {"X-Request-ID": "\xff\xfe"},
        {"Authorization": "Bearer \xff"}, {"Content-Length": "0"}, {"Range": "bytes=0-1"}, {"Accept": "text/html"},
        {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil.example"}, {"Cookie": "a=" + "b" * 9000},
    ],
)  # fmt: skip
def test_hostile_headers(serve: Serve, headers: dict[str, str]) -> None:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    response = serve().get(URL, headers=encoded)
    assert response.status_code == 200 and response.json()["symbol"] == "TEST"
