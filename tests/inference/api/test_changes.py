"""What changes under a running server: bundles, bars, time."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.inference.predictor import insights
from mlkit.inference.served_markets import Markets
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import publish

NOW = datetime(2019, 1, 3, 12, tzinfo=UTC)
URL = "/api/ml/insights/TEST?timeframe=1d"
Serve = Callable[..., Any]


def test_a_promoted_bundle_answers_at_once_and_alone(
    serve: Serve,
    market: tuple[Settings, pd.DataFrame],
    small_bundle: Callable[..., ModelBundle],
    trained: ModelBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, bars = market
    monkeypatch.setattr("mlkit.inference.api.insight_service.BUNDLE_TTL", 0.0)
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
        assert client.app.state.service.insights.computed == 3
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
    assert client.app.state.service.insights.computed == 3
