"""`mlkit drift`: a table with reasons or JSON, the file for the badge, one line where there is no model."""

import json
from pathlib import Path

import pandas as pd
import pytest

import mlkit
from mlkit.cli import main
from mlkit.features.engine import DEFAULT_GARCH
from mlkit.features.feature_set import FeatureSet
from mlkit.inference.drift_note import read_drift
from mlkit.market.bars import fingerprint
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.bundle.publishing import publish
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays
from mlkit.operations.training.training_set import prepare

MARKET = ["--symbol", "TEST", "--timeframe", "1d"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sp500: pd.DataFrame) -> pd.DataFrame:
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    bars = sp500.iloc[-2300:].copy()
    bars.attrs.update(symbol="TEST", timeframe="1d")
    mlkit.save_bars(bars)
    return bars


@pytest.fixture
def published(home: pd.DataFrame) -> ModelBundle:
    bars, horizons = home.iloc[:2100], (1, 5)
    data = prepare(bars, horizons, DEFAULT_GARCH)
    tiny = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
    price = PricePredictor.fit(TrainingArrays(data.X, data.Y, data.end, data.scale, horizons), tiny)
    fields = {
        "created": "2024-01-01T00:00:00Z", "symbol": "TEST", "timeframe": "1d", "feature_names": FeatureSet().names,
        "calendar": bars.attrs["calendar"],
        "horizons": horizons, "data_sha256": fingerprint(bars), "seed": 7, "settings": {}, "metrics": {},
        "training_span": {"start": str(bars.index[0]), "end": str(bars.index[-1]), "bars": len(bars)},
    }  # fmt: skip
    bundle = write_bundle(mlkit.Settings().models / "TEST-1d", fields, price=price)
    publish(bundle)
    return bundle


def test_the_table_says_why_and_the_file_is_written(published: ModelBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", *MARKET]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"TEST 1d, bundle {published.id}: not enough bars")
    assert "no drift reference" in shown and "the bars are stale" in shown and "coverage" in shown
    found = read_drift(published.path.parent, "TEST", "1d", published.id)
    assert found is not None and found.verdict == "not enough bars"
    assert main(["drift", *MARKET, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((published.path.parent / "drift.json").read_text())


def test_without_a_model_one_line_says_what_to_run(home: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drift", *MARKET]) == 2
    assert "mlkit train --symbol TEST --timeframe 1d" in capsys.readouterr().err
