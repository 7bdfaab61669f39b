"""One more learner of the ensemble is one new file and one entry in the registry, and it shows everywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MLKIT = Path(__file__).parents[3] / "mlkit"
FOLDER = Path("models", "ensemble", "learners")

LEARNER = '''
"""Scikit-learn's extremely randomised trees."""

from collections.abc import Iterator

from mlkit.models.ensemble.learners.learner import DiskBatches, Learner, TrainedModel, TrainingParts
from mlkit.models.ensemble.learners.random_forest import forest_model
from mlkit.models.ensemble.settings import EnsembleSettings


class ExtraTrees(Learner):
    module = "sklearn"
    distributions = ("scikit-learn",)
    prefix = "et"
    mean = True

    def train(
        self, parts: TrainingParts, settings: EnsembleSettings, seed: int, disk: DiskBatches | None = None
    ) -> Iterator[TrainedModel]:
        from sklearn.ensemble import ExtraTreesRegressor

        for z in parts.early.z.T:
            trees = ExtraTreesRegressor(n_estimators=8, max_depth=4, min_samples_leaf=20, random_state=seed)
            yield forest_model(trees.fit(parts.early.X, z))
'''

SCRIPT = """
import json
import mlkit
import numpy as np
from mlkit.market.simulate.markets import planted_edge
from mlkit.operations.training import walk_forward

settings = mlkit.Settings(n_threads=1, prediction_horizons=(1, 5), tracking=False)
bars = planted_edge(1400, seed=1, symbol="TEST", timeframe="1h")
forecasts = walk_forward(bars, settings, n_splits=1)
bundle = mlkit.ModelBundle.open(mlkit.train(bars, settings, forecasts=forecasts).path)
price, X = bundle.price, mlkit.build_features(bars).to_numpy()[-5:]
insight = mlkit.Predictor(bundle, settings).insight(bars)
forecast = insight.price_predictions["5"]
print(json.dumps({
    "weights": price.weights,
    "columns": list(forecasts.columns),
    "files": sorted(bundle.manifest.files),
    "json": list(insight.model_dump()["price_predictions"]["5"]),
    "attribute": forecast.extra_trees,
    "members": forecast.members,
    "again": mlkit.Insight.model_validate_json(insight.model_dump_json()) == insight,
    "card": insight._repr_html_(),
    "schema": mlkit.Insight.model_json_schema()["$defs"]["PricePrediction"]["additionalProperties"],
    "importance": list(price.feature_importance().columns),
    "attributed": bool(np.allclose(
        price.attributions(X, 5).sum(axis=1),
        sum(w * price.learners[name].predict(X)[:, 1] for name, w in price.weights.items()), rtol=1e-4, atol=1e-6)),
}))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a copy of the package with the new learner shows after a training with it."""
    root = tmp_path_factory.mktemp("copy")
    copied = Path(shutil.copytree(MLKIT, root / "mlkit"))  # compiled kernels come along
    (copied / FOLDER / "extra_trees.py").write_text(LEARNER)
    registry = copied / FOLDER / "__init__.py"
    text = registry.read_text()
    first = "from mlkit.models.ensemble.learners.learner import Learner\n"
    entry = '    "random_forest": RandomForest(),\n'
    assert first in text and entry in text
    text = text.replace(first, f"from mlkit.models.ensemble.learners.extra_trees import ExtraTrees\n{first}")
    registry.write_text(text.replace(entry, f'{entry}    "extra_trees": ExtraTrees(),\n'))
    changed = [
        str(path.relative_to(copied))
        for path in sorted(copied.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
        if not (MLKIT / path.relative_to(copied)).is_file()
        or path.read_bytes() != (MLKIT / path.relative_to(copied)).read_bytes()
    ]
    assert changed == [str(FOLDER / "__init__.py"), str(FOLDER / "extra_trees.py")]
    weights = json.dumps({"extra_trees": 0.25})
    environment = os.environ | {"PYTHONPATH": str(root), "MLKIT_HOME": str(root), "MLKIT_LEARNER_WEIGHTS": weights}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_one_file_and_one_entry_add_a_learner(shown: dict[str, object]) -> None:
    assert shown["weights"] == pytest.approx(
        {"xgboost": 0.32, "lightgbm": 0.32, "random_forest": 0.16, "extra_trees": 0.2}
    )
    assert "extra_trees" in shown["columns"]  # type: ignore[operator]
    assert {"et_1.npz", "et_5.npz"} <= set(shown["files"])  # type: ignore[call-overload]
    assert shown["json"][:4] == ["prediction", "xgboost", "lightgbm", "random_forest"]  # type: ignore[index]
    assert "extra_trees" in shown["json"]  # type: ignore[operator]
    assert shown["attribute"] == shown["members"]["extra_trees"] > 0  # type: ignore[index]
    assert list(shown["members"]) == ["xgboost", "lightgbm", "random_forest", "extra_trees"]  # type: ignore[call-overload]
    assert shown["again"] is True
    assert "Extra trees" in str(shown["card"]) and "Random forest" in str(shown["card"])
    assert "number" in json.dumps(shown["schema"])
    assert shown["importance"] == ["xgboost", "lightgbm", "random_forest", "extra_trees", "mean"]
    assert shown["attributed"] is True
