"""Training on files larger than memory: the bits of training in memory where the libraries allow, as good where not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.errors import ConfigError
from mlkit.models.ensemble.learners.learner import DiskBatches
from mlkit.models.ensemble.learners.lightgbm import RUN_ROWS, block_rows
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays

HORIZONS = (1, 5)
SETTINGS = EnsembleSettings.smoke(n_threads=1, n_estimators=40)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """24,000 rows in files; two features tell a tenth of the next move, the first 300 rows are a warm-up."""
    rng, n, folder = np.random.default_rng(3), 24_000, tmp_path_factory.mktemp("arrays")
    X = rng.standard_normal((n, 12)).astype(np.float32)
    spread = 0.001 * np.exp(0.3 * np.sin(np.arange(n) / 300))
    price = np.cumsum(spread * (rng.standard_normal(n) + 0.3 * np.roll(X[:, 0] + np.sign(X[:, 1]), 1)))
    Y, end = np.full((n, 2), np.nan), np.full((n, 2), -1)
    for j, h in enumerate(HORIZONS):
        Y[:-h, j], end[:-h, j] = price[h:] - price[:-h], np.arange(h, n)
    X[:300, 3] = np.nan
    terms = np.column_stack([np.log(spread), rng.standard_normal((n, 3))])
    made = {"X": X, "Y": Y, "end": end, "scale": spread[:, None] * np.sqrt(HORIZONS), "terms": terms}
    files = {}
    for name, values in made.items():
        files[name] = np.memmap(folder / name, dtype=values.dtype, mode="w+", shape=values.shape)
        files[name][:] = values
    return files


@pytest.fixture(scope="module")
def inside(arrays: dict[str, Any]) -> PricePredictor:
    return PricePredictor.fit(TrainingArrays(**arrays, horizons=HORIZONS), SETTINGS, seed=7)


def outside(arrays: dict[str, Any], folder: Path, batch: int) -> PricePredictor:
    disk = DiskBatches(folder, batch)
    return PricePredictor.fit(TrainingArrays(**arrays, horizons=HORIZONS), SETTINGS, seed=7, disk=disk)


def files_of(model: PricePredictor, name: str) -> dict[str, bytes]:
    return model.learners[name].to_bytes()


def test_xgboost_and_the_forest_have_the_bits_of_training_in_memory(
    arrays: dict[str, Any], inside: PricePredictor, tmp_path: Path
) -> None:
    model = outside(arrays, tmp_path, 1500)
    for name in ("xgboost", "random_forest"):
        assert files_of(model, name) == files_of(inside, name)
    assert files_of(model, "lightgbm") != files_of(inside, "lightgbm")  # several blocks: another sample a tree
    assert model.spreads == inside.spreads
    assert model.training["rows"] == inside.training["rows"] and model.training["batch"] == 1500
    assert list(tmp_path.iterdir()) == []  # working files are gone
    again = outside(arrays, tmp_path, 1500)
    assert again.to_bytes() == model.to_bytes()


def test_lightgbm_in_blocks_is_as_good(arrays: dict[str, Any], inside: PricePredictor, tmp_path: Path) -> None:
    model = outside(arrays, tmp_path, 1500)
    rows = slice(-3600, -5)  # the calibration part: no tree has seen it
    X, y = np.array(arrays["X"][rows]), arrays["Y"][rows] / arrays["scale"][rows]
    for j in range(len(HORIZONS)):
        ours, theirs = (m.learners["lightgbm"].predict(X)[:, j] for m in (model, inside))
        skill, reference = (np.corrcoef(z, y[:, j])[0, 1] for z in (ours, theirs))
        assert reference > 0.1 and skill > 0.8 * reference


def test_what_fits_into_a_batch_is_trained_in_memory(
    arrays: dict[str, Any], inside: PricePredictor, tmp_path: Path
) -> None:
    assert outside(arrays, tmp_path, 24_000).to_bytes() == inside.to_bytes()


def test_rows_with_holes_and_shared_times_learn_as_in_memory(arrays: dict[str, Any], tmp_path: Path) -> None:
    holes = {name: np.array(values) for name, values in arrays.items()}
    holes["Y"][5000:5200] = np.nan  # an outage
    positions = np.arange(24_000) // 2  # two markets
    holes["end"] = np.where(holes["end"] >= 0, positions[holes["end"]] + 1, -1)
    made = TrainingArrays(**holes, horizons=HORIZONS, positions=positions)
    inside = PricePredictor.fit(made, SETTINGS, seed=7)
    model = PricePredictor.fit(made, SETTINGS, seed=7, disk=DiskBatches(tmp_path, 1500))
    assert model.training["rows"] == inside.training["rows"]
    assert files_of(model, "xgboost") == files_of(inside, "xgboost")
    assert files_of(model, "random_forest") == files_of(inside, "random_forest")


def test_blocks_hold_every_row_once_from_all_of_the_history() -> None:
    blocks = block_rows(50 * RUN_ROWS + 7, 4, seed=1)
    assert np.array_equal(np.sort(np.concatenate(blocks)), np.arange(50 * RUN_ROWS + 7))
    assert all(block[0] < 12 * RUN_ROWS and block[-1] > 38 * RUN_ROWS for block in blocks)


def test_a_batch_of_a_few_rows_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rows must be at least 1000, got 10"):
        outside(arrays, tmp_path, 10)
