"""What the endpoints say: the values of the insight, errors as documents, no number that is none."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.inference.api.schemas import (
    InsightAnswer,
    PatternsAnswer,
    PricePredictionAnswer,
    SignalsAnswer,
)
from mlkit.inference.predictor import insights
from mlkit.inference.readiness import StatusAnswer
from mlkit.inference.served_markets import Markets
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import publish

NOW = datetime(2019, 1, 3, 12, tzinfo=UTC)
URL = "/api/ml/insights/TEST?timeframe=1d"
Serve = Callable[..., Any]
Reason = Callable[[Any, int], str]


def test_the_endpoints_say_what_the_insight_says(
    serve: Serve, market: tuple[Settings, pd.DataFrame], trained: ModelBundle
) -> None:
    settings = market[0]
    client = serve()
    expected = insights("TEST", "1d", settings, now=NOW).model_dump(mode="json")
    whole = client.get(URL).json()
    assert whole == expected | {"candles": None, "marks": None}
    assert whole["bundle"] == trained.id and whole["freshness"]["as_of"] == "2019-01-03T12:00:00"
    assert (
        whole["freshness"]["data_age_seconds"] == 2.5 * 86400 + 3 * 3600 and whole["freshness"]["bars_stale"] is False
    )
    for part, model, keys in (
        ("patterns", PatternsAnswer, {"patterns"}),
        ("price-prediction", PricePredictionAnswer, {"price_predictions"}),
        ("signals", SignalsAnswer, {"signals", "confidence"}),
    ):
        document = client.get(f"/api/ml/{part}/TEST?timeframe=1d").json()
        assert keys <= document.keys()
        assert document == {name: expected[name] for name in document}
        assert model.model_validate(document).model_dump(mode="json") == document
    assert client.app.state.service.insights.computed == 1


def test_candles_come_along(serve: Serve, market: tuple[Settings, pd.DataFrame], reason: Reason) -> None:
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


def test_too_few_bars_say_so(serve: Serve, market: tuple[Settings, pd.DataFrame], reason: Reason) -> None:
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


def test_a_damaged_bundle_is_said_without_its_path(
    serve: Serve, market: tuple[Settings, pd.DataFrame], small_bundle: Callable[..., ModelBundle], reason: Reason
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
