"""Signals, case by case, from hand-written evidence."""

import math
from typing import Any

import pytest

from mlkit.inference.insight_data import PatternEvidence, PatternReading, PricePrediction, Signal
from mlkit.inference.signals import (
    NO_EDGE,
    SignalRules,
    combine_signals,
    pattern_signals,
    price_signals,
)

RULES = SignalRules(min_confidence=0.5, cost_bps=1.0)  # a round trip costs 2 basis points
NOW = 100.0


def measured(verdict: Any = "edge", hit_rate: float = 0.61, **changes: Any) -> PatternEvidence:
    fields: dict[str, Any] = {
        "horizon": 5,
        "cases": 212,
        "hit_rate": hit_rate,
        "low": 0.0,
        "high": 1.0,
        "base_rate": 0.52,
        "edge_bps": 12.4,
        "lower_bps": 3.1,
        "verdict": verdict,
    }
    return PatternEvidence(**{**fields, **changes})


def reading(
    direction: int, probability: float = 0.85, name: str = "hammer", evidence: PatternEvidence | None = None
) -> PatternReading:
    return PatternReading(
        detected={name: probability},
        count=1,
        strongest=(name, probability),
        directions={name: direction},
        evidence={} if evidence is None else {name: evidence},
    )


def forecast(move_bps: float, confidence: float | None = 0.7, **changes: Any) -> PricePrediction:
    price = NOW * math.exp(move_bps * 1e-4)
    fields: dict[str, Any] = {
        "prediction": price,
        "xgboost": price,
        "lightgbm": price,
        "random_forest": price,
        "confidence": confidence,
        "log_return": move_bps * 1e-4,
        "verdict": "edge",
    }
    return PricePrediction(**{**fields, **changes})


def test_the_documented_example() -> None:
    (signal,) = pattern_signals(reading(1, evidence=measured()), RULES)
    assert signal.model_dump() == {
        "type": "BUY",
        "source": "Pattern: hammer",
        "reason": "Hammer pattern detected; the price went its way in 61% of 212 cases within 5 bars, "
        "+12 bps after costs",
        "confidence": 0.61,
    }


@pytest.mark.parametrize(
    ("given", "expected", "confidence", "words"),
    [
        (reading(1, evidence=measured()), "BUY", 0.61, "pattern detected"),
        (reading(-1, evidence=measured(horizon=1)), "SELL", 0.61, "within 1 bar, +12 bps"),
        (reading(1), "HOLD", None, "was not measured on this market"),
        (reading(-1, 0.99), "HOLD", None, "was not measured on this market"),  # however sure of the shape
        (reading(1, 0.99, evidence=measured("no edge")), "HOLD", 0.61, "no edge measured"),
        (reading(0, 0.99, "doji", measured()), "HOLD", None, "no direction"),
        (reading(1, 0.50, evidence=measured()), "BUY", 0.61, "pattern detected"),  # the threshold itself is enough
        (reading(1, 0.49, evidence=measured()), "HOLD", 0.61, "49% sure of the shape, below the minimum"),
        (reading(1, evidence=measured(hit_rate=0.49)), "HOLD", 0.49, "hit rate below the minimum confidence 50%"),
    ],
)
def test_patterns(given: PatternReading, expected: str, confidence: float | None, words: str) -> None:
    (signal,) = pattern_signals(given, RULES)
    assert (signal.type, signal.confidence) == (expected, confidence)
    assert words in signal.reason


def test_patterns_come_strongest_first() -> None:
    patterns = PatternReading(
        detected={"doji": 0.6, "hammer": 0.9}, count=2, strongest=("hammer", 0.9), directions={"hammer": 1}
    )
    assert [s.source for s in pattern_signals(patterns, RULES)] == ["Pattern: hammer", "Pattern: doji"]


@pytest.mark.parametrize(
    ("prediction", "expected", "words"),
    [
        (forecast(10.0), "BUY", "3 of 3 models agree"),
        (forecast(-10.0), "SELL", "-0.10% expected in 5 bars"),
        (forecast(10.0, verdict=None), "BUY", "+0.10% expected"),  # not measured is not "no edge"
        (forecast(10.0, verdict="no edge"), "HOLD", NO_EDGE),
        (forecast(-10.0, 0.99, verdict="no edge"), "HOLD", NO_EDGE),
        (forecast(2.0), "HOLD", "inside the round-trip cost of 0.02%"),  # strictly more is asked for
        (forecast(2.1), "BUY", "models agree"),
        (forecast(-1.9), "HOLD", "inside the round-trip cost"),
        (forecast(0.0, 0.9), "HOLD", "no change expected in 5 bars"),
        (forecast(10.0, 0.5), "HOLD", "only 50%"),  # a coin
        (forecast(10.0, 0.4), "HOLD", "only 40%"),  # p_up contradicts the point forecast
        (forecast(10.0, None), "HOLD", "no calibrated probability"),
        (forecast(10.0, random_forest=99.0), "BUY", "2 of 3 models agree"),
        (forecast(10.0, random_forest=99.0, lightgbm=99.0), "HOLD", "only 1 of 3 models agree"),
        (forecast(10.0, xgboost=None, lightgbm=None, random_forest=None), "BUY", "70% sure"),
    ],
)
def test_price_forecasts(prediction: PricePrediction, expected: str, words: str) -> None:
    (signal,) = price_signals({"5": prediction}, NOW, RULES)
    assert signal.type == expected
    assert words in signal.reason
    assert signal.source == "Price forecast: 5 bars"
    assert signal.confidence == prediction.confidence


def test_a_demanding_threshold_holds() -> None:
    (signal,) = price_signals({"1": forecast(10.0, 0.7)}, NOW, SignalRules(min_confidence=0.71))
    assert signal.type == "HOLD"
    assert "below the minimum confidence 71%" in signal.reason
    assert signal.source == "Price forecast: 1 bar"


def test_a_missing_forecast_gives_no_signal() -> None:
    assert price_signals({"1": PricePrediction(reason="not trained")}, NOW, RULES) == []


def signal(kind: Any, confidence: float | None, source: str = "x") -> Signal:
    return Signal(type=kind, source=source, reason="r", confidence=confidence)


@pytest.mark.parametrize(
    ("signals", "lead", "confidence"),
    [
        ([signal("HOLD", 0.9), signal("BUY", 0.6)], "BUY", 0.6),
        ([signal("BUY", 0.6), signal("BUY", 0.8)], "BUY", 0.8),
        ([signal("SELL", 0.6), signal("HOLD", None)], "SELL", 0.6),
        ([signal("HOLD", 0.3), signal("HOLD", 0.4)], "HOLD", 0.4),
        ([signal("BUY", 0.9), signal("SELL", 0.6)], "HOLD", None),
        ([], "HOLD", None),
    ],
)
def test_the_first_signal_leads(signals: list[Signal], lead: str, confidence: float | None) -> None:
    ordered = combine_signals(signals)
    assert (ordered[0].type, ordered[0].confidence) == (lead, confidence)
    assert all(s in ordered for s in signals)


def test_a_contradiction_is_named_and_nothing_is_hidden() -> None:
    ordered = combine_signals([signal("BUY", 0.9, "Pattern: hammer"), signal("SELL", 0.6, "Price forecast: 5 bars")])
    assert ordered[0].source == "Contradiction"
    assert "1 BUY (first Pattern: hammer) against 1 SELL (first Price forecast: 5 bars)" in ordered[0].reason
    assert [s.type for s in ordered[1:]] == ["BUY", "SELL"]


def test_agreement_leads_with_the_stronger_confidence() -> None:
    given = [
        signal("SELL", 0.6, "Price forecast: 5 bars"),
        signal("SELL", 0.55, "Price forecast: 1 bar"),
        signal("SELL", 0.58, "Pattern: shooting_star"),
        signal("HOLD", 0.9, "Pattern: doji"),
    ]
    lead, *rest = combine_signals(given)
    assert (lead.type, lead.source, lead.confidence) == ("SELL", "Agreement", 0.6)
    assert lead.reason == "Pattern: shooting_star and Price forecast: 5 bars point the same way"
    assert rest[0].source == "Price forecast: 5 bars" and len(rest) == 4
    assert combine_signals(given[:2])[0].source == "Price forecast: 5 bars"  # two forecasts are one voice


def test_no_evidence_says_why() -> None:
    (only,) = combine_signals([], missing="Models not trained yet")
    assert (only.type, only.reason) == ("HOLD", "Models not trained yet")


def test_round_trip_cost() -> None:
    assert SignalRules(cost_bps=5.0).round_trip == pytest.approx(10e-4)
