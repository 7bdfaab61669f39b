"""A bundle of small trees for any bars: seconds to fit, the real files on disk."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from mlkit.features.engine import DEFAULT_GARCH
from mlkit.features.feature_set import FeatureSet
from mlkit.market.bars import fingerprint
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays
from mlkit.operations.training.training_set import prepare

HORIZONS = (1, 5, 15, 60)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelBundle]:
    """``small_bundle(bars, seed=7, features=None, root=None, **manifest fields)``, written, not published."""
    made: dict[Any, PricePredictor] = {}

    def make(
        bars: pd.DataFrame, *, seed: int = 7, features: FeatureSet | None = None, root: Any = None, **changes: Any
    ) -> ModelBundle:
        key = (fingerprint(bars), seed, features)
        if key not in made:
            data = prepare(bars, HORIZONS, DEFAULT_GARCH, features)
            made[key] = PricePredictor.fit(
                TrainingArrays(data.X, data.Y, data.end, data.scale, HORIZONS),
                EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1),
                seed=seed,
            )
        fields = {
            "created": "2024-01-01T00:00:00Z",
            "symbol": bars.attrs["symbol"],
            "timeframe": bars.attrs["timeframe"],
            "calendar": bars.attrs["calendar"],
            "feature_names": (features or FeatureSet()).names,
            "horizons": HORIZONS,
            "training_span": {"start": str(bars.index[0]), "end": str(bars.index[-1]), "bars": len(bars)},
            "data_sha256": fingerprint(bars),
            "seed": seed,
            "settings": {},
            "metrics": {"1": {"verdict": "no edge"}, "5": {"verdict": "edge"}},
        }
        return write_bundle(root or tmp_path_factory.mktemp("bundles"), {**fields, **changes}, price=made[key])

    return make
