"""A training set in files holds what one in memory holds, and is fitted as that is."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.features.engine import DEFAULT_GARCH
from mlkit.market.simulate.markets import planted_edge
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training import training
from mlkit.operations.training.execution import Execution, resumable
from mlkit.operations.training.training import fit_price, walk_forward
from mlkit.operations.training.training_set import TrainingSet, prepare


@pytest.mark.parametrize("symbols", [("AAA",), ("AAA", "BBB")])
def test_a_set_in_files_is_that_in_memory_and_fits_alike(
    symbols: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = mlkit.Settings(prediction_horizons=(1, 5), n_threads=1)
    bars = {name: planted_edge(2000, seed=k, symbol=name, timeframe="1h") for k, name in enumerate(symbols)}
    inside = prepare(bars, (1, 5), DEFAULT_GARCH)
    outside = prepare(bars, (1, 5), DEFAULT_GARCH, folder=tmp_path)
    for field in fields(inside):
        ours, theirs = getattr(outside, field.name), getattr(inside, field.name)
        if isinstance(theirs, np.ndarray):
            assert np.array_equal(ours, theirs, equal_nan=theirs.dtype.kind == "f")
    assert isinstance(outside.X, np.memmap) and not isinstance(inside.X, np.memmap)
    rows = np.flatnonzero((inside.end >= 0).all(axis=1))
    reference = fit_price(inside, rows, settings)
    assert fit_price(outside, rows, settings).to_bytes() == reference.to_bytes()
    monkeypatch.setattr("mlkit.models.ensemble.ROWS_IN_MEMORY", 1000)
    model = fit_price(outside, rows, settings)
    assert model.training["batch"] == 1000
    assert model.learners["xgboost"].to_bytes() == reference.learners["xgboost"].to_bytes()


FEW = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)


@pytest.fixture(scope="module")
def pool() -> dict[str, pd.DataFrame]:
    return {name: planted_edge(1400, seed=k, symbol=name, timeframe="1h") for k, name in enumerate(("AAA", "BBB"))}


@pytest.fixture
def settings(tmp_path: Path) -> mlkit.Settings:
    return mlkit.Settings(
        prediction_horizons=(1, 5),
        model_storage_path=tmp_path / "models",
        ledger_path=tmp_path / "ledger.jsonl",
        n_threads=1,
    )


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every training set's features were: an array in memory or a file, and which folder it lay in."""
    made: list[Any] = []

    def watched(*arguments: Any, **options: Any) -> TrainingSet:
        data = prepare(*arguments, **options)
        made.append(Path(data.X.filename).parent if isinstance(data.X, np.memmap) else None)
        assert made[-1] is None or made[-1].is_dir()
        return data

    monkeypatch.setattr(training, "prepare", watched)
    return made


def test_a_training_in_files_makes_the_same_bundle_and_leaves_nothing(
    pool: dict[str, pd.DataFrame], settings: mlkit.Settings, sets: list[Any], tmp_path: Path
) -> None:
    files = tmp_path / "files"
    elsewhere = settings.model_copy(update={"ledger_path": tmp_path / "other.jsonl"})
    inside = mlkit.train(pool, elsewhere, ensemble=FEW, publish=False)
    assert set(sets) == {None}
    sets.clear()
    outside = mlkit.train(pool, settings, ensemble=FEW, execution=Execution(arrays=files), publish=False)
    assert outside.id == inside.id
    assert len(sets) == len(set(sets)) == 4 and {path.parent for path in sets} == {
        files
    }  # three folds and the last fit
    assert list(files.iterdir()) == []


def test_a_training_larger_than_a_batch_is_a_trial_of_its_own(
    pool: dict[str, pd.DataFrame], settings: mlkit.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, in_files = [Source.of(bars) for bars in pool.values()], Execution(arrays=tmp_path)
    reference = walk_forward(pool, settings, n_splits=1, ensemble=FEW)
    walk_forward(pool, settings, n_splits=1, ensemble=FEW, execution=in_files)
    assert Ledger.of(settings).trials(sources) == 1  # up to a batch nothing differs
    monkeypatch.setattr("mlkit.models.ensemble.ROWS_IN_MEMORY", 1000)
    forecasts = walk_forward(pool, settings, n_splits=1, ensemble=FEW, execution=in_files)
    assert Ledger.of(settings).trials(sources) == 2
    keys = ["timestamp", "symbol", "bar", "horizon", "outcome", "xgboost"]
    pd.testing.assert_frame_equal(forecasts[keys], reference[keys], check_exact=True)
    bundle = mlkit.train(pool, settings, ensemble=FEW, forecasts=forecasts, execution=in_files, publish=False)
    assert bundle.price is not None and bundle.price.training["batch"] == 1000
    assert mlkit.Predictor(bundle, settings).insight(pool["AAA"]).price_predictions
    assert not list(tmp_path.glob(".training-set-*"))


def test_what_a_killed_training_left_in_files_goes_first(
    pool: dict[str, pd.DataFrame], settings: mlkit.Settings
) -> None:
    folders = []
    for in_files in (False, True):
        with pytest.raises(KeyboardInterrupt), resumable(pool, settings, in_files=in_files) as execution:
            assert execution.stages is not None
            left = execution.stages / ".training-set-killed"
            left.mkdir()
            (left / "X").write_bytes(b"much")
            execution.save("one", {"a": b"1"})
            raise KeyboardInterrupt
        assert left.is_dir()
        with resumable(pool, settings, in_files=in_files) as execution:
            assert not left.exists() and execution.load("one") == {"a": b"1"}
            folders.append(execution.stages)
    assert len(set(folders)) == 2  # beyond a batch these are different fits
