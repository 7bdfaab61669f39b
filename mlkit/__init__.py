"""Honest machine-learning research on market bars.

The names below are the public surface. Each is imported on first use, so ``import mlkit`` costs
little more than nothing and pulls in no numerical library before it is needed.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlkit.config import Settings as Settings
    from mlkit.evaluation.guard import FinalSpan as FinalSpan
    from mlkit.evaluation.ledger import Ledger as Ledger
    from mlkit.evaluation.splits import CombinatorialPurged as CombinatorialPurged
    from mlkit.evaluation.splits import WalkForward as WalkForward
    from mlkit.features.catalogue import feature_catalogue as feature_catalogue
    from mlkit.features.engine import FeatureStream as FeatureStream
    from mlkit.features.engine import build_features as build_features
    from mlkit.features.feature_set import FeatureSet as FeatureSet
    from mlkit.features.own import feature as feature
    from mlkit.inference.insight import Insight as Insight
    from mlkit.inference.panel import panel as panel
    from mlkit.inference.predictor import Predictor as Predictor
    from mlkit.inference.predictor import insights as insights
    from mlkit.labels import forward_returns as forward_returns
    from mlkit.labels import pattern_labels as pattern_labels
    from mlkit.market.bars import validate_bars as validate_bars
    from mlkit.market.fetch import fetch_bars as fetch_bars
    from mlkit.market.quality import quality as quality
    from mlkit.market.repair import repair_bars as repair_bars
    from mlkit.market.resample import resample as resample
    from mlkit.market.segments import segments as segments
    from mlkit.market.sources import import_bars as import_bars
    from mlkit.market.sources import load_bars as load_bars
    from mlkit.market.sources import read_bars as read_bars
    from mlkit.market.sources import save_bars as save_bars
    from mlkit.market.status import data_status as data_status
    from mlkit.models.bundle import ModelBundle as ModelBundle
    from mlkit.operations.training import train as train

_PUBLIC = {
    "CombinatorialPurged": "mlkit.evaluation.splits",
    "FinalSpan": "mlkit.evaluation.guard",
    "FeatureSet": "mlkit.features.feature_set",
    "FeatureStream": "mlkit.features.engine",
    "Insight": "mlkit.inference.insight",
    "Ledger": "mlkit.evaluation.ledger",
    "ModelBundle": "mlkit.models.bundle",
    "Predictor": "mlkit.inference.predictor",
    "Settings": "mlkit.config",
    "WalkForward": "mlkit.evaluation.splits",
    "data_status": "mlkit.market.status",
    "build_features": "mlkit.features.engine",
    "feature": "mlkit.features.own",
    "feature_catalogue": "mlkit.features.catalogue",
    "fetch_bars": "mlkit.market.fetch",
    "forward_returns": "mlkit.labels",
    "import_bars": "mlkit.market.sources",
    "insights": "mlkit.inference.predictor",
    "load_bars": "mlkit.market.sources",
    "panel": "mlkit.inference.panel",
    "pattern_labels": "mlkit.labels",
    "quality": "mlkit.market.quality",
    "read_bars": "mlkit.market.sources",
    "repair_bars": "mlkit.market.repair",
    "resample": "mlkit.market.resample",
    "save_bars": "mlkit.market.sources",
    "segments": "mlkit.market.segments",
    "train": "mlkit.operations.training",
    "validate_bars": "mlkit.market.bars",
}

__all__ = sorted(_PUBLIC)

try:
    __version__ = version("mlkit")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'mlkit' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
