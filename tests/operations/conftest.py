"""A market that is trained in half a second, and an empty place for its models."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import mlkit
from mlkit.market.simulate import null_market
from mlkit.models.base import EnsembleSettings
from mlkit.models.bundle import ModelBundle
from mlkit.operations import training

FEW = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)


@pytest.fixture
def home(tmp_path: Path) -> mlkit.Settings:
    """Settings with an empty lake, no models, and one horizon."""
    return mlkit.Settings(
        model_storage_path=tmp_path / "models",
        training_data_path=tmp_path / "bars",
        ledger_path=tmp_path / "ledger.jsonl",
        prediction_horizons=(1,),
        n_threads=1,
    )


@pytest.fixture(scope="session")
def judged() -> pd.DataFrame:
    """A walk-forward that stands for every other one."""
    settings = mlkit.Settings(prediction_horizons=(1,), n_threads=1)
    return training.walk_forward(null_market(1200, seed=1, timeframe="1h"), settings, n_splits=1, ensemble=FEW)


@pytest.fixture
def quick(judged: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> EnsembleSettings:
    """A small ensemble; walk-forward and patterns, which have tests of their own, are not measured again."""
    monkeypatch.setattr(training, "walk_forward", lambda *arguments, **options: judged)
    monkeypatch.setattr(training, "measure_patterns", lambda *arguments, **options: {})
    return FEW


@pytest.fixture
def fitted(quick: EnsembleSettings, home: mlkit.Settings) -> Callable[..., ModelBundle]:
    """``fitted(bars, ensemble=..., **settings)``: a bundle trained on all of these bars, written and not published."""

    def make(bars: pd.DataFrame, ensemble: EnsembleSettings = quick, **changes: object) -> ModelBundle:
        return training.train(bars, home.model_copy(update=changes), ensemble=ensemble, publish=False)

    return make
