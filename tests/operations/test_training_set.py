"""A training set in files holds what one in memory holds, and is fitted as that is."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import mlkit
from mlkit.features.engine import DEFAULT_GARCH
from mlkit.market.simulate import planted_edge
from mlkit.models import external_memory
from mlkit.operations.training import fit_price, prepare


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
    monkeypatch.setattr(external_memory, "BATCH", 1000)
    model = fit_price(outside, rows, settings)
    assert model.training["batch"] == 1000
    assert model.learners["xgboost"].to_bytes() == reference.learners["xgboost"].to_bytes()
