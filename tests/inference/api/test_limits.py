"""One computation however many wait, a bounded pool, a deadline: never more work than that."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.inference.served_markets import Markets

URL = "/api/ml/insights/TEST?timeframe=1d"
Serve = Callable[..., Any]
Reason = Callable[[Any, int], str]


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
    assert client.app.state.service.insights.computed == 1


def test_a_full_pool_refuses_at_once(serve: Serve, slow: threading.Event, reason: Reason) -> None:
    client = serve(jobs=1, seats=1)
    markets = ["TEST?timeframe=1d", "SP500?timeframe=1d", "NASDAQ?timeframe=1d"]

    async def crowd() -> tuple[Any, list[Any]]:
        held = [asyncio.ensure_future(client.ask(f"/api/ml/insights/{name}")) for name in markets[:2]]
        while client.app.state.service.insights.flights < 2:
            await asyncio.sleep(0.01)
        refused = await client.ask(f"/api/ml/insights/{markets[2]}")  # while both others still wait
        assert not any(ask.done() for ask in held)
        slow.set()
        return refused, await asyncio.gather(*held)

    refused, held = client.run(crowd())
    assert reason(refused, 503).startswith("busy") and refused.headers["retry-after"] == "1"
    assert client.app.state.service.insights.refused == 1
    assert {a.status_code for a in held} == {200}
    assert client.get(f"/api/ml/insights/{markets[2]}").status_code == 200


def test_a_deadline_ends_the_wait_not_the_work(serve: Serve, slow: threading.Event, reason: Reason) -> None:
    client = serve(deadline=0.2)
    late = client.get(URL)
    assert "too long" in reason(late, 503) and late.headers["retry-after"] == "1"
    slow.set()
    while client.app.state.service.insights.flights:
        client.run(asyncio.sleep(0.02))
    assert client.get(URL).status_code == 200
    assert client.app.state.service.insights.computed == 1


def test_too_many_requests_at_a_time(serve: Serve, slow: threading.Event, reason: Reason) -> None:
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


def test_a_known_market_is_not_looked_for_again(
    serve: Serve, market: tuple[Settings, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    """Nobody waits for a list of the lake but those who ask for what is not in the last one."""
    monkeypatch.setattr("mlkit.inference.api.insight_service.NAMES_TTL", 0.0)
    settings, bars = market
    client = serve(settings.model_copy(update={"ml_cache_ttl": 0}))
    names = client.app.state.service.names
    for _ in range(3):
        assert client.get(URL).status_code == 200
    assert names.computed == 1
    assert client.get("/api/ml/insights/LATER?timeframe=1d").status_code == 404
    later = bars.iloc[:60].copy()
    later.attrs.update(symbol="LATER", timeframe="1d")
    mlkit.save_bars(later, settings)
    assert client.get("/api/ml/insights/LATER?timeframe=1d").status_code == 200
    assert names.computed == 3
    gone = [folder for folder in settings.lake.rglob("*LATER*") if folder.is_dir()]
    for folder in gone:
        shutil.rmtree(folder)
    assert gone and "there are no bars LATER 1d" in reason(client.get("/api/ml/insights/LATER?timeframe=1d"), 404)
