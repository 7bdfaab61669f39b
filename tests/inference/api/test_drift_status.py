"""The status and the insights of a server say what `mlkit drift` last found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlkit.config import Settings
from mlkit.models.bundle.bundle import ModelBundle


@pytest.mark.parametrize("verdict", ["drift", "no drift", "not enough bars"])
def test_what_was_found_is_in_the_status_and_in_the_insight(
    serve: Callable[..., Any], market: tuple[Settings, pd.DataFrame], trained: ModelBundle, verdict: str
) -> None:
    file = Path(market[0].models) / "TEST-1d" / "drift.json"
    said = {"checked": "2019-01-01T00:00:00", "verdict": verdict, "reasons": ["one"]}
    file.write_text(json.dumps({**said, "bundle": trained.id, "symbol": "TEST", "timeframe": "1d"}))
    try:
        client = serve()
        (status,) = [m for m in client.get("/api/ml/status").json()["markets"] if m["symbol"] == "TEST"]
        assert status["drift"] == said
        assert client.get("/api/ml/insights/TEST?timeframe=1d").json()["model_status"]["drift"] == said
        file.write_text("{")
        (status,) = [m for m in serve().get("/api/ml/status").json()["markets"] if m["symbol"] == "TEST"]
        assert status["drift"] is None
    finally:
        file.unlink()
