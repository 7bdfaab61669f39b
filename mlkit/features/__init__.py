"""Level 2: bars to a float32 matrix by causal step kernels.

Each name is imported on first use, so ``import mlkit.features`` compiles nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlkit.features.catalogue import feature_catalogue as feature_catalogue
    from mlkit.features.engine import FeatureStream as FeatureStream
    from mlkit.features.engine import build_features as build_features
    from mlkit.features.feature_set import FeatureSet as FeatureSet
    from mlkit.features.indicators import pandas_ta as pandas_ta
    from mlkit.features.laws import LawError as LawError
    from mlkit.features.laws import LawReport as LawReport
    from mlkit.features.laws import check_feature as check_feature
    from mlkit.features.own import Feature as Feature
    from mlkit.features.own import feature as feature

_PUBLIC = {
    "Feature": "own",
    "FeatureSet": "feature_set",
    "FeatureStream": "engine",
    "LawError": "laws",
    "LawReport": "laws",
    "build_features": "engine",
    "check_feature": "laws",
    "feature": "own",
    "feature_catalogue": "catalogue",
    "pandas_ta": "indicators",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'mlkit.features' has no attribute {name!r}")
    value = getattr(import_module(f"mlkit.features.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
