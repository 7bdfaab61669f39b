"""A server in this process: a lake, a bundle, a clock that stands still, and a client without a network."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.inference.api.app import create_app
from mlkit.inference.api.options import ServeOptions
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import publish

NOW = datetime(2019, 1, 3, 12, tzinfo=UTC)


class Client:
    """Requests to one application, one at a time or many at once."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    async def ask(self, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            method = options.pop("method", "GET")
            return await client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        response: httpx.Response = self.run(self.ask(path, **options))
        return response

    def close(self) -> None:
        self._runner.close()


@pytest.fixture(scope="session")
def market(sp500: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, pd.DataFrame]:
    """Settings of a lake that holds 2,300 daily bars of TEST, and these bars."""
    root = tmp_path_factory.mktemp("served")
    settings = Settings(model_storage_path=root / "models", training_data_path=root / "bars")
    bars = sp500.iloc[-2300:].copy()
    bars.attrs.update(symbol="TEST", timeframe="1d")
    mlkit.save_bars(bars, settings)
    return settings, bars


@pytest.fixture(scope="session")
def trained(market: tuple[Settings, pd.DataFrame], small_bundle: Callable[..., ModelBundle]) -> ModelBundle:
    settings, bars = market
    bundle = small_bundle(bars.iloc[:2200], root=Path(settings.models) / "TEST-1d")
    publish(bundle)
    return bundle


@pytest.fixture
def serve(market: tuple[Settings, pd.DataFrame], trained: ModelBundle) -> Iterator[Callable[..., Client]]:
    """``serve(settings=..., clock=..., **options)``: a client of a new server, TEST 1d trained and current."""
    made: list[Client] = []

    def make(settings: Settings | None = None, clock: Callable[[], datetime] = lambda: NOW, **options: Any) -> Client:
        client = Client(create_app(settings or market[0], ServeOptions(**options), clock=clock))
        made.append(client)
        return client

    yield make
    for client in made:
        client.app.state.service.close()
        client.close()


@pytest.fixture(scope="session")
def reason() -> Callable[[Any, int], str]:
    """``reason(response, status)``: the reason of an error document, after a look at the rest of it."""

    def read(response: Any, status: int) -> str:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        assert response.headers["cache-control"] == "no-store"
        error = response.json()["error"]
        assert error["status"] == status and error["request_id"] == response.headers["x-request-id"]
        assert "Traceback" not in response.text and str(Path(__file__).parents[3]) not in response.text
        return str(error["reason"])

    return read
