"""The documented JSON, key by key, and the refusal of every number that is none."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import NOT_TRAINED, ModelStatus, PatternReading, PricePrediction, Signal

# The documented example, written out by hand: key -> type, nested.
HORIZON = {
    "prediction": float,
    "xgboost": float,
    "lightgbm": float,
    "random_forest": float,
    "confidence": float,
    "std": float,
    "interval": [float, float],
}
DOCUMENTED: dict[str, Any] = {
    "symbol": str,
    "timeframe": str,
    "patterns": {
        "detected": {"hammer": float, "doji": float},
        "count": int,
        "strongest": [str, float],
    },
    "price_predictions": {"1": HORIZON, "5": HORIZON},
    "signals": [{"type": str, "source": str, "reason": str, "confidence": float}],
    "confidence": float,
    "timestamp": str,
    "current_price": float,
    "model_status": {
        "pattern_cnn_loaded": bool,
        "price_predictor_loaded": bool,
        "models_loaded": bool,
    },
}


def assert_shape(value: Any, shape: Any, at: str = "$") -> None:
    """``value`` has the keys and exact types of ``shape``, and maybe more keys."""
    if isinstance(shape, dict):
        assert type(value) is dict, at
        for key, inner in shape.items():
            assert key in value, f"{at}.{key}"
            assert_shape(value[key], inner, f"{at}.{key}")
    elif isinstance(shape, list):
        assert type(value) is list and len(value) == len(shape), at
        for i, inner in enumerate(shape):
            assert_shape(value[i], inner, f"{at}[{i}]")
    else:
        assert type(value) is shape, f"{at}: {type(value).__name__}, not {shape.__name__}"


def horizon() -> PricePrediction:
    return PricePrediction(
        prediction=43250.5,
        xgboost=43200.0,
        lightgbm=43300.0,
        random_forest=43250.0,
        confidence=0.78,
        std=50.5,
        interval=(43100.0, 43410.0),
        p_up=0.78,
        log_return=math.log(43250.5 / 43000.0),
    )


def example(**changes: Any) -> Insight:
    fields: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "patterns": PatternReading(detected={"hammer": 0.85, "doji": 0.62}, count=2, strongest=("hammer", 0.85)),
        "price_predictions": {"1": horizon(), "5": horizon()},
        "signals": [Signal(type="BUY", source="Pattern: hammer", reason="Hammer pattern detected", confidence=0.85)],
        "confidence": 0.75,
        "timestamp": datetime(2024, 12, 10, 20, 53),
        "current_price": 43000.0,
    }
    return Insight(**{**fields, **changes})


def test_json_has_the_documented_keys_and_types() -> None:
    document = example().model_dump(mode="json")
    assert_shape(document, DOCUMENTED)
    assert document["timestamp"] == "2024-12-10T20:53:00"
    assert document["patterns"]["strongest"] == ["hammer", 0.85]
    assert document["price_predictions"]["1"]["interval"] == [43100.0, 43410.0]
    assert document["signals"][0]["source"] == "Pattern: hammer"


def test_every_dump_is_the_same_document() -> None:
    insight = example()
    assert insight.model_dump() == insight.model_dump(mode="json") == json.loads(insight.model_dump_json())
    assert Insight.model_validate(insight.model_dump()) == insight
    assert Insight.model_validate_json(insight.model_dump_json()) == insight


def test_untrained_has_the_same_schema_with_empty_parts() -> None:
    document = Insight(
        symbol="BTCUSDT",
        timeframe="1m",
        timestamp=datetime(2024, 12, 10, 20, 53),
        current_price=43000.0,
        message=NOT_TRAINED,
    ).model_dump()
    assert set(document) >= set(DOCUMENTED)
    assert document["patterns"]["detected"] == {} and document["patterns"]["count"] == 0
    assert document["patterns"]["strongest"] is None
    assert document["price_predictions"] == {} and document["signals"] == []
    assert document["confidence"] is None
    loaded = dict.fromkeys(DOCUMENTED["model_status"], False)
    assert document["model_status"] == {**loaded, "reasons": {}, "drift": None}
    assert document["message"] == "Models not trained yet"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("model", "field"),
    [
        (PricePrediction, "prediction"),
        (PricePrediction, "std"),
        (PricePrediction, "log_return"),
        (PricePrediction, "confidence"),
    ],
)
def test_a_number_that_is_none_is_refused(model: type[PricePrediction], field: str, bad: float) -> None:
    with pytest.raises(ValidationError):
        model(**{field: bad})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_containers_refuse_them_too(bad: float) -> None:
    with pytest.raises(ValidationError):
        PricePrediction(interval=(1.0, bad))
    with pytest.raises(ValidationError):
        PatternReading(detected={"doji": bad}, count=1, strongest=("doji", bad))
    with pytest.raises(ValidationError):
        example(current_price=bad)
    with pytest.raises(ValidationError):
        example(confidence=bad)


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": 1.01},
        {"current_price": 0.0},
        {"current_price": -1.0},
        {"timestamp": datetime(2024, 12, 10, tzinfo=UTC)},
        {"surprise": 1},
        {"signals": [{"type": "STRONG BUY", "source": "", "reason": "", "confidence": 0.5}]},
        {"model_status": {"pattern_cnn_loaded": True, "models_loaded": True}},
        {"patterns": {"detected": {"doji": 0.6}, "count": 2, "strongest": ("doji", 0.6)}},
        {"patterns": {"detected": {"doji": 0.6, "hammer": 0.7}, "count": 2, "strongest": ("doji", 0.6)}},
    ],
)
def test_contradictions_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        example(**change)


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        example().confidence = 0.9  # type: ignore[misc]


def test_all_models_loaded_is_both() -> None:
    assert ModelStatus(pattern_cnn_loaded=True, price_predictor_loaded=True, models_loaded=True).models_loaded


def test_text_is_a_summary() -> None:
    text = str(example())
    assert text.splitlines()[0] == "BTCUSDT 1m  2024-12-10 20:53 UTC  43,000"
    assert "+1 bar: 43,250 (+0.58%), 90% in 43,100 to 43,410, P(rise) 78%, not measured" in text
    assert "hammer 85%, doji 62%" in text
    assert "BUY  Pattern: hammer (85%): Hammer pattern detected" in text
    untrained = str(example(message=NOT_TRAINED, price_predictions={}, reasons={"price_predictions": "run x"}))
    assert "prices: run x" in untrained
