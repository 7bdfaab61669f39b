"""The endpoints: the same values as the insight, every error a document, nothing computed twice."""

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.inference.api.app import create_app
from mlkit.inference.api.options import ServeOptions
from mlkit.inference.api.schemas import (
    InsightAnswer,
    PatternsAnswer,
    PricePredictionAnswer,
    SignalsAnswer,
    StatusAnswer,
)
from mlkit.inference.markets import Markets
from mlkit.inference.panel import panel_module
from mlkit.inference.predictor import insights
from mlkit.models.bundle import ModelBundle
from mlkit.models.publishing import publish

NOW = datetime(2019, 1, 3, 12, tzinfo=UTC)
URL = "/api/ml/insights/TEST?timeframe=1d"
TOKEN = "0123456789abcdef0123456789abcdef"
Serve = Callable[..., Any]


def reason(response: Any, status: int) -> str:
    """The reason of an error document, after a look at the rest of it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    error = response.json()["error"]
    assert error["status"] == status and error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text and str(Path(__file__).parents[3]) not in response.text
    return str(error["reason"])


# --- what is answered ----------------------------------------------------------------------------------


def test_the_endpoints_say_what_the_insight_says(
    serve: Serve, market: tuple[Settings, pd.DataFrame], trained: ModelBundle
) -> None:
    settings = market[0]
    client = serve()
    expected = insights("TEST", "1d", settings, now=NOW).model_dump(mode="json")
    whole = client.get(URL).json()
    assert whole == expected | {"candles": None, "marks": None}
    assert whole["bundle"] == trained.id and whole["freshness"]["as_of"] == "2019-01-03T12:00:00"
    assert whole["freshness"]["data_age_seconds"] == 2.5 * 86400 and whole["freshness"]["bars_stale"] is False
    for part, model, keys in (
        ("patterns", PatternsAnswer, {"patterns"}),
        ("price-prediction", PricePredictionAnswer, {"price_predictions"}),
        ("signals", SignalsAnswer, {"signals", "confidence"}),
    ):
        document = client.get(f"/api/ml/{part}/TEST?timeframe=1d").json()
        assert keys <= document.keys()
        assert document == {name: expected[name] for name in document}
        assert model.model_validate(document).model_dump(mode="json") == document
    assert client.app.state.desk.insights.computed == 1


def test_candles_come_along(serve: Serve, market: tuple[Settings, pd.DataFrame]) -> None:
    client, bars = serve(), market[1]
    document = client.get(f"{URL}&candles=3").json()
    assert InsightAnswer.model_validate(document).candles is not None
    expected = [
        [int(t.timestamp()), *row] for t, row in zip(bars.index[-3:], bars.to_numpy()[-3:].tolist(), strict=True)
    ]
    assert document["candles"] == expected
    assert len(client.get(f"{URL}&candles=1000").json()["candles"]) == 1000
    marks = client.get(f"{URL}&candles=200").json()["marks"]
    first = int(bars.index[-200].timestamp())
    assert marks and all(time >= first and side in (-1, 0, 1) for time, _, side in marks)
    assert client.get(URL).json()["candles"] is None
    for bad in ("-1", "1001", "x", "1.5", ""):
        assert "candles" in reason(client.get(f"{URL}&candles={bad}"), 422)


def test_status_tells_markets_and_what_was_measured(serve: Serve, trained: ModelBundle) -> None:
    document = serve().get("/api/ml/status").json()
    status = StatusAnswer.model_validate(document)
    markets = {(m.symbol, m.timeframe): m for m in status.markets}
    assert markets["TEST", "1d"].bundle == trained.id
    assert markets["TEST", "1d"].metrics == trained.manifest.metrics
    assert markets["SP500", "1d"].bundle is None and markets["SP500", "1d"].reason == "Models not trained yet"
    assert status.models_loaded and status.packages["torch"]


def test_health_and_metrics(serve: Serve) -> None:
    client = serve()
    assert client.get("/healthz").json()["status"] == "ok"
    client.get(URL), client.get(URL), client.get("/nowhere")
    text = client.get("/metrics").text
    assert 'mlkit_requests_total{route="/api/ml/insights/{symbol:path}",status="200"} 2.0' in text
    assert 'mlkit_requests_total{route="other",status="404"} 1.0' in text
    assert 'mlkit_cache_lookups_total{result="hit"} 1.0' in text
    assert "mlkit_compute_seconds_count 1.0" in text


def test_an_untrained_market_has_the_same_schema(serve: Serve) -> None:
    document = serve().get("/api/ml/insights/SP500?timeframe=1d").json()
    assert InsightAnswer.model_validate(document)
    assert document["message"] == "Models not trained yet" and document["price_predictions"] == {}
    assert "mlkit train --symbol SP500" in document["model_status"]["reasons"]["price_predictor"]


def test_too_few_bars_say_so(serve: Serve, market: tuple[Settings, pd.DataFrame]) -> None:
    settings, bars = market
    few = bars.iloc[:10].copy()
    few.attrs.update(symbol="FEW", timeframe="1d")
    mlkit.save_bars(few, settings)
    assert reason(serve().get("/api/ml/insights/FEW?timeframe=1d"), 422).startswith("FEW 1d: need 20 bars")


def test_symbols_of_exchanges(serve: Serve, market: tuple[Settings, pd.DataFrame]) -> None:
    settings, bars = market
    other = bars.iloc[:60].copy()
    other.attrs.update(symbol="BTC/USDT:USDT", timeframe="1d")
    mlkit.save_bars(other, settings)
    for spelled in ("BTC/USDT:USDT", "BTC%2FUSDT%3AUSDT"):
        assert serve().get(f"/api/ml/signals/{spelled}?timeframe=1d").json()["symbol"] == "BTC/USDT:USDT"


# --- HTTP ----------------------------------------------------------------------------------------------


def test_tags_and_ages(serve: Serve) -> None:
    client = serve()
    first = client.get(URL)
    assert first.headers["etag"].startswith('W/"') and first.headers["vary"] == "Accept-Encoding"
    assert first.headers["cache-control"] in ("private, max-age=29", "private, max-age=30")
    for given in (first.headers["etag"], f'"x", {first.headers["etag"]}', first.headers["etag"][2:], "*"):
        again = client.get(URL, headers={"If-None-Match": given})
        assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == first.headers["etag"]
    assert client.get(URL, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get(URL + "&candles=1").headers["etag"] != first.headers["etag"]


def test_time_alone_is_no_new_tag_but_staleness_is(serve: Serve) -> None:
    tags = [
        serve(clock=lambda when=when: when).get(URL).headers["etag"]
        for when in (NOW, NOW.replace(hour=13), NOW.replace(year=2020))
    ]
    assert tags[0] == tags[1] != tags[2]


@pytest.mark.parametrize(
    ("header", "zipped"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("gzip;q=0.0", False),
     ("identity", False), ("", False), ("gzipped", False), (";;,q=", False)],
)  # fmt: skip
def test_gzip(serve: Serve, header: str, zipped: bool) -> None:
    client = serve()

    async def raw() -> tuple[dict[bytes, bytes], bytes]:
        sent: list[Any] = []
        scope = {
            "type": "http", "method": "GET", "path": "/api/ml/insights/TEST", "query_string": b"timeframe=1d",
            "headers": [(b"host", b"localhost"), (b"accept-encoding", header.encode())],
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await client.app(scope, receive, send)
        return dict(sent[0]["headers"]), sent[1]["body"]

    headers, body = client.run(raw())
    assert (headers.get(b"content-encoding") == b"gzip") is zipped
    assert int(headers[b"content-length"]) == len(body)
    assert json.loads(gzip.decompress(body) if zipped else body)["symbol"] == "TEST"


def test_request_ids(serve: Serve) -> None:
    client = serve()
    assert client.get(URL, headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("", "a b", "x" * 65, "<script>", "a,b"):
        assert len(client.get(URL, headers={"X-Request-ID": bad}).headers["x-request-id"]) == 32


def test_no_document_of_another_origin_may_read(serve: Serve) -> None:
    response = serve().get(URL, headers={"Origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff"


# --- who may ask ---------------------------------------------------------------------------------------


def test_a_token_is_asked_for_everywhere_but_where_nothing_is_told(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    client = serve(token_file=file, host="0.0.0.0")
    for path in (URL, "/api/ml/status", "/metrics", "/openapi.json", "/nowhere", "/static"):
        assert "token" in reason(client.get(path), 401)
        assert client.get(path).headers["www-authenticate"] == "Bearer"
    for bad in (f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer{TOKEN}"):
        assert client.get(URL, headers={"Authorization": bad}).status_code == 401, bad
    for good in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
        assert client.get(URL, headers={"Authorization": good}).status_code == 200
    assert client.get("/healthz").status_code == 200
    page, module = client.get("/"), client.get("/static/panel.js")
    assert page.status_code == module.status_code == 200 and client.get("/static/x.js").status_code == 404
    assert "script-src 'self';" in page.headers["content-security-policy"] and "'unsafe" not in str(page.headers)
    assert module.headers["content-type"].startswith("text/javascript") and module.text == panel_module()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "[::]", "127.0.0.1.example.org"])
def test_other_machines_only_with_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token of at least 32 bytes"):
        create_app(Settings(), ServeOptions(host=host))
    short = tmp_path / "short"
    short.write_text("x" * 31)
    with pytest.raises(ConfigError, match="31 bytes are too few"):
        ServeOptions(host=host, token_file=short).token()
    short.write_text(TOKEN + "\n")
    assert ServeOptions(host=host, token_file=short).token() == TOKEN.encode()
    short.write_text(f"{TOKEN} {TOKEN}")
    with pytest.raises(ConfigError, match="one word"):
        ServeOptions(host=host, token_file=short).token()
    with pytest.raises(ConfigError, match="cannot be read"):
        ServeOptions(host=host, token_file=tmp_path / "none").token()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8", "LOCALHOST"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServeOptions(host=host).token() is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LOCALHOST:1", 200), ("127.0.0.1:99", 200), ("[::1]:8000", 200),
        ("panel.internal", 200), ("evil.example", 400), ("localhost.evil.example", 400), ("", 400),
        ("localhost:x", 400), ("localhost:80:80", 400), ("[::1", 200), ("127.0.0.2", 400), ("localhost@evil", 400),
    ],
)  # fmt: skip
def test_hosts(serve: Serve, host: str, status: int) -> None:
    client = serve(allowed_hosts=("Panel.Internal",))
    response = client.get(URL, headers={"Host": host})
    assert response.status_code == status
    if status == 400:
        assert "--allow-host" in reason(response, 400)


# --- hostile requests ----------------------------------------------------------------------------------

SYMBOLS = [
    "..", "../..", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e", "%00", "TEST%00", "TEST%0a", "TEST%0d%0aX-Evil:1",
    "TEST%20", "%20TEST", ".TEST", "-TEST", "/TEST", "//TEST", "TEST/", "TEST%2F..", "TEST%2F..%2FTEST", "TEST;ls",
    "TEST|ls", "$(ls)", "`ls`", "<script>alert(1)</script>", "%3Cscript%3E", "'OR'1'='1", "TEST%27--", "%C3%A9",
    "%E2%80%AE", "%FF%FE", "T" * 33, "T" * 4000, "TEST%25", "{symbol}", "~", "*", "TEST?", "%5C%5Cserver%5Cshare",
    "C:%5C", "test", "Test", "TEST..1d", "NOWHERE", "0", "TEST-1d", "symbol=TEST",
]  # fmt: skip


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_hostile_symbols(serve: Serve, symbol: str) -> None:
    client = serve()
    for endpoint in ("insights", "patterns", "price-prediction", "signals"):
        response = client.get(
            f"/api/ml/{endpoint}/{symbol}?timeframe=1d" if symbol != "TEST?" else "/api/ml/signals/%3F"
        )
        assert response.status_code in (404, 422)
        said = reason(response, response.status_code)
        assert len(said) < 400 and "\n" not in said
    assert client.app.state.desk.insights.computed == 0


@pytest.mark.parametrize(
    "query",
    [
        "timeframe=", "timeframe=1D", "timeframe=1d%20", "timeframe=1d%0a", "timeframe=../1d", "timeframe=1d/..",
        "timeframe=%00", "timeframe=999m", "timeframe=-1m", "timeframe=1d&timeframe=7q", "timeframe[]=7q&timeframe=7q",
        "timeframe=" + "1" * 5000, "timeframe=<b>", "timeframe=1%C2%A0d", "timeframe=%F0%9F%92%A9", "timeframe=None",
        "timeframe=1d;1m", "timeframe=1m", "timeframe=1w", "",
    ],
)  # fmt: skip
def test_hostile_timeframes(serve: Serve, query: str) -> None:
    client = serve()
    response = client.get(f"/api/ml/insights/TEST?{query}")
    assert response.status_code in (404, 422)
    assert len(reason(response, response.status_code)) < 6000
    assert client.app.state.desk.insights.computed == 0


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


# --- one computation, a bounded pool, a deadline ---------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Computations wait until the event is set."""
    gate, real = threading.Event(), Markets.answer

    def wait(self: Markets, key: Any) -> Any:
        assert gate.wait(30)
        return real(self, key)

    monkeypatch.setattr(Markets, "answer", wait)
    return gate


def test_a_hundred_cold_requests_are_one_computation(serve: Serve, slow: threading.Event) -> None:
    client = serve()
    parts = ("insights", "patterns", "price-prediction", "signals")

    async def storm() -> list[Any]:
        asks = [asyncio.ensure_future(client.ask(f"/api/ml/{parts[i % 4]}/TEST?timeframe=1d")) for i in range(100)]
        await asyncio.sleep(0.5)
        slow.set()
        return await asyncio.gather(*asks)

    answers = client.run(storm())
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 4
    assert client.app.state.desk.insights.computed == 1


def test_a_full_pool_refuses_at_once(serve: Serve, slow: threading.Event) -> None:
    client = serve(jobs=1, seats=1)
    markets = ["TEST?timeframe=1d", "SP500?timeframe=1d", "NASDAQ?timeframe=1d"]

    async def crowd() -> tuple[Any, float, list[Any]]:
        held = [asyncio.ensure_future(client.ask(f"/api/ml/insights/{name}")) for name in markets[:2]]
        while client.app.state.desk.insights.flights < 2:
            await asyncio.sleep(0.01)
        begun = time.perf_counter()
        refused = await client.ask(f"/api/ml/insights/{markets[2]}")
        waited = time.perf_counter() - begun
        slow.set()
        return refused, waited, await asyncio.gather(*held)

    refused, waited, held = client.run(crowd())
    assert reason(refused, 503).startswith("busy") and refused.headers["retry-after"] == "1"
    assert waited < 5.0  # at once, on whatever machine; the bench prints the figure
    assert {a.status_code for a in held} == {200}
    assert client.get(f"/api/ml/insights/{markets[2]}").status_code == 200


def test_a_deadline_ends_the_wait_not_the_work(serve: Serve, slow: threading.Event) -> None:
    client = serve(deadline=0.2)
    late = client.get(URL)
    assert "too long" in reason(late, 503) and late.headers["retry-after"] == "1"
    slow.set()
    while client.app.state.desk.insights.flights:
        client.run(asyncio.sleep(0.02))
    assert client.get(URL).status_code == 200
    assert client.app.state.desk.insights.computed == 1


def test_too_many_requests_at_a_time(serve: Serve, slow: threading.Event) -> None:
    client = serve(in_flight=3)

    async def crowd() -> list[Any]:
        held = [asyncio.ensure_future(client.ask(URL)) for _ in range(3)]
        await asyncio.sleep(0.2)
        refused = await client.ask("/healthz")
        slow.set()
        return [refused, *await asyncio.gather(*held)]

    refused, *held = client.run(crowd())
    assert "too many requests" in reason(refused, 503) and refused.headers["retry-after"] == "1"
    assert {a.status_code for a in held} == {200}


# --- what changes under a running server -----------------------------------------------------------------


def test_a_promoted_bundle_answers_at_once_and_alone(
    serve: Serve,
    market: tuple[Settings, pd.DataFrame],
    small_bundle: Callable[..., ModelBundle],
    trained: ModelBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, bars = market
    monkeypatch.setattr("mlkit.inference.api.app.LOOK_AGAIN", 0.0)
    verdicts = {"1": {"verdict": "edge"}, "5": {"verdict": "no edge"}}  # the other way round, so that answers differ
    other = small_bundle(bars.iloc[:2200], seed=8, root=settings.models / "TEST-1d", metrics=verdicts)
    client = serve()
    try:
        seen = []
        for bundle in (trained, other, trained):
            publish(bundle)
            document = client.get(URL).json()
            seen.append(document["price_predictions"])
            assert document["bundle"] == bundle.id
            assert client.get("/api/ml/price-prediction/TEST?timeframe=1d").json()["bundle"] == bundle.id
        assert seen[0] == seen[2] != seen[1]
        assert client.app.state.desk.insights.computed == 3
    finally:
        publish(trained)


def test_new_bars_are_taken_one_by_one_and_changed_history_starts_again(
    serve: Serve, market: tuple[Settings, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, bars = market
    settings = settings.model_copy(update={"ml_cache_ttl": 0})

    def save(rows: pd.DataFrame) -> None:
        rows = rows.copy()
        rows.attrs.update(symbol="GROWS", timeframe="1d")
        mlkit.save_bars(rows, settings)

    starts = []
    real = Markets._start
    monkeypatch.setattr(Markets, "_start", lambda *a: starts.append(1) or real(*a))
    client = serve(settings)
    revised = bars.iloc[:704].copy()
    revised.iloc[650, 4] += 1.0
    holed = bars.iloc[:705].drop(bars.index[300])
    for rows, expected in (
        (bars.iloc[:700], 1),
        (bars.iloc[:700], 1),
        (bars.iloc[:701], 1),
        (bars.iloc[:704], 1),
        (revised, 2),
        (holed, 3),
        (bars.iloc[:650], 4),
    ):
        save(rows)
        document = client.get("/api/ml/insights/GROWS?timeframe=1d").json()
        said = insights("GROWS", "1d", settings, now=NOW).model_dump(mode="json")
        assert document == said | {"candles": None, "marks": None}
        assert len(starts) == expected, len(rows)


def test_an_answer_is_kept_for_its_time(serve: Serve, market: tuple[Settings, pd.DataFrame]) -> None:
    client = serve(market[0].model_copy(update={"ml_cache_ttl": 0}))
    for _ in range(3):
        assert client.get(URL).headers["cache-control"] == "private, max-age=0"
    assert client.app.state.desk.insights.computed == 3


# --- damage ----------------------------------------------------------------------------------------------


def test_a_damaged_bundle_is_said_without_its_path(
    serve: Serve, market: tuple[Settings, pd.DataFrame], small_bundle: Callable[..., ModelBundle]
) -> None:
    settings, bars = market
    sick = bars.iloc[:2200].copy()
    sick.attrs.update(symbol="SICK", timeframe="1d")
    mlkit.save_bars(sick, settings)
    bundle = small_bundle(sick, root=settings.models / "SICK-1d")
    publish(bundle)
    file = next(bundle.path.glob("xgb_*"))
    file.write_bytes(file.read_bytes()[:-1])
    response = serve().get("/api/ml/insights/SICK?timeframe=1d")
    assert "cannot be read" in reason(response, 503) and response.headers["retry-after"] == "30"
    assert str(settings.models) not in response.text and bundle.id not in response.text


def test_a_fault_of_our_own_is_a_document_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret /path")

    monkeypatch.setattr(Markets, "answer", fail)
    response = serve().get(URL)
    assert response.status_code == 500 and "secret" not in response.text
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


def test_no_number_is_nan(serve: Serve) -> None:
    def check(value: Any) -> None:
        if isinstance(value, float):
            assert np.isfinite(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(serve().get(URL + "&candles=50").json())
