"""What a model is trained on and judged by: features and labels of a history as arrays."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlkit.config import Settings
from mlkit.evaluation.ledger import Source
from mlkit.evaluation.splits import label_end_positions
from mlkit.features.engine import volatility_scale
from mlkit.features.feature_set import FeatureSet
from mlkit.features.volatility import volatility_terms
from mlkit.labels import earned_returns, forward_returns
from mlkit.market.bars import validate_bars
from mlkit.models.base import EnsembleSettings, Float32Matrix, FloatMatrix, IntMatrix
from mlkit.operations.trials import feature_digest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Arrays of one history; row t is bar t, its features known at its close."""

    index: "pd.DatetimeIndex"  # (n,) bar open times
    X: Float32Matrix  # (n, F)
    scale: FloatMatrix  # (n, H) deviation of the log return over each horizon that GARCH expects
    terms: FloatMatrix  # (n, K) what the forecast of the scale looks at
    Y: FloatMatrix  # (n, H) forward log returns, NaN where the future does not exist
    end: IntMatrix  # (n, H) bar at whose close a label is known, -1 where there is none
    earned: FloatMatrix  # (n, H) log return from the open of t + 1 to the open of t + 1 + h: what a trader gets
    warm_up: int  # rows at the start without every feature
    sources: tuple[Source, ...]  # which data these are, for the trial ledger
    features: str  # digest of the feature definitions


def ensemble_settings(settings: Settings) -> EnsembleSettings:
    """The ensemble's settings for a profile, with the weights and threads of ``settings``."""
    make = EnsembleSettings.smoke if settings.profile == "smoke" else EnsembleSettings.full
    return make(
        xgboost_weight=settings.xgboost_weight,
        lightgbm_weight=settings.lightgbm_weight,
        random_forest_weight=settings.random_forest_weight,
        n_threads=settings.n_threads,
    )


def prepare(
    bars: "pd.DataFrame",
    horizons: tuple[int, ...],
    garch: tuple[float, float, float],
    features: FeatureSet | None = None,
) -> TrainingSet:
    """Features and labels of a history as arrays.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
    horizons : bars ahead
    garch : GARCH parameters, fitted on bars before any that will be scored
    features : the catalogue, and own features if any; the catalogue by default
    """
    import pandas as pd

    bars = validate_bars(bars)
    features = features or FeatureSet()
    table = features.build(bars, garch=garch)
    labels = forward_returns(bars, horizons)
    return TrainingSet(
        index=pd.DatetimeIndex(bars.index),
        X=table.to_numpy(),
        scale=volatility_scale(table, horizons, garch),
        terms=volatility_terms(table, bars.attrs["timeframe"]),
        Y=labels["log_return"].to_numpy(dtype=np.float64),
        end=label_end_positions(labels),
        earned=earned_returns(bars, horizons).to_numpy(),
        warm_up=features.warm_up,
        sources=(Source.of(bars),),
        features=feature_digest(features),
    )
