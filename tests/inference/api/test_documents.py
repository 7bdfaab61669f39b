"""The JSON of each endpoint on real markets, against the OpenAPI document by jsonschema; `pytest -s` prints it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import publish

MODELS = {
    "insights": "InsightAnswer",
    "patterns": "PatternsAnswer",
    "price-prediction": "PricePredictionAnswer",
    "signals": "SignalsAnswer",
}
DOCUMENTED = {  # the keys that are fixed
    "insights": {"symbol", "timeframe", "patterns", "price_predictions", "signals", "confidence", "timestamp",
                 "current_price", "model_status"},
    "patterns": {"patterns"},
    "price-prediction": {"price_predictions"},
    "signals": {"signals"},
}  # fmt: skip
HORIZON = {"prediction", "xgboost", "lightgbm", "random_forest", "confidence", "std", "interval"}


def check(client: Any, symbol: str, timeframe: str, *, trained: bool) -> None:
    openapi = client.get("/openapi.json").json()
    for part, model in MODELS.items():
        document = client.get(f"/api/ml/{part}/{symbol}?timeframe={timeframe}&candles=2").json()
        schema = {"$ref": f"#/components/schemas/{model}", "components": openapi["components"]}
        jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, "surprise": 1}, schema, cls=jsonschema.Draft202012Validator)
        assert DOCUMENTED[part] <= document.keys()
        for horizon in document.get("price_predictions", {}).values():
            assert horizon.keys() >= HORIZON
        assert bool(document.get("price_predictions", trained)) is trained
        print(f"\nGET /api/ml/{part}/{symbol}?timeframe={timeframe}\n{json.dumps(document)[:1500]}")
    status = client.get("/api/ml/status").json()
    schema = {"$ref": "#/components/schemas/StatusAnswer", "components": openapi["components"]}
    jsonschema.validate(status, schema, cls=jsonschema.Draft202012Validator)


def test_documents_of_the_built_in_market(serve: Callable[..., Any]) -> None:
    check(serve(), "SP500", "1d", trained=False)
    check(serve(), "TEST", "1d", trained=True)


def test_documents_of_bitcoin_minutes(
    real_bars: Callable[[str], pd.DataFrame],
    small_bundle: Callable[..., ModelBundle],
    serve: Callable[..., Any],
    tmp_path: Any,
) -> None:
    settings = Settings(model_storage_path=tmp_path / "models", training_data_path=tmp_path / "bars")
    bars = real_bars("BTCUSDT_BYBIT-1m").iloc[-4000:].copy()
    bars.attrs.update(symbol="BTCUSDT", timeframe="1m")
    mlkit.save_bars(bars, settings)
    publish(small_bundle(bars.iloc[:3000], root=tmp_path / "models" / "BTCUSDT-1m"))
    now = bars.index[-1].to_pydatetime().astimezone(UTC)
    client = serve(settings, clock=lambda: now)
    check(client, "BTCUSDT", "1m", trained=True)
    said = client.get("/api/ml/insights/BTCUSDT").json()  # 1m is the default
    assert said["patterns"]["standard"] == "continuous" and said["timeframe"] == "1m"
    assert said["freshness"]["bars_stale"] is False and said["freshness"]["model_stale"] is True
    assert datetime.fromisoformat(said["timestamp"]) == bars.index[-1].tz_localize(None)
