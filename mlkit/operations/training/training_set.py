"""Features and labels of one market or several as arrays: what a model is trained on and judged by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.evaluation import Source, label_end_positions
from mlkit.features import FeatureSet, volatility_scale, volatility_terms
from mlkit.labels import earned_returns, forward_returns
from mlkit.models.ensemble import EnsembleSettings, Float32Matrix, FloatMatrix, IntMatrix, IntVector
from mlkit.operations.tracking.trials import feature_digest
from mlkit.operations.training.panel_layout import Bars, Garch, Layout, lay_out, markets_of


@dataclass(frozen=True, eq=False)
class TrainingSet(Layout):
    """Arrays of one market, row t its bar t, or of several in one time order; features are known at the row's close."""

    index: pd.DatetimeIndex  # (n,) bar open times
    X: Float32Matrix  # (n, F)
    scale: FloatMatrix  # (n, H) standard deviation of the log return over each horizon that GARCH expects
    terms: FloatMatrix  # (n, K) inputs of the forecast of the scale
    Y: FloatMatrix  # (n, H) forward log returns, NaN where the future does not exist
    end: IntMatrix  # (n, H) position of the bar at whose close a label is known, -1 where there is none
    earned: FloatMatrix  # (n, H) log return from the open of t + 1 to the open of t + 1 + h: what a trader gets
    warm_up: int  # age from which on every feature exists
    sources: tuple[Source, ...]  # the data as the trial ledger names them, ordered by symbol
    features: str  # digest of the feature definitions
    garch: Mapping[str, Garch]  # parameters of each symbol

    def warm(self, rows: IntVector) -> IntVector:
        """Those of the rows that have every feature."""
        return rows[self.age[rows] >= self.warm_up]


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """The choices of a training: markets, settings, features and ensemble."""

    markets: tuple[pd.DataFrame, ...]  # validated, ordered by symbol
    settings: Settings
    features: FeatureSet
    ensemble: EnsembleSettings | None = None  # `ensemble_settings` of the settings by default

    @property
    def symbols(self) -> list[str]:
        """Symbol of each market."""
        return [str(bars.attrs["symbol"]) for bars in self.markets]

    @property
    def timeframe(self) -> str:
        """Timeframe of all markets."""
        return str(self.markets[0].attrs["timeframe"])

    @property
    def sources(self) -> tuple[Source, ...]:
        """The data as the trial ledger names them."""
        return tuple(map(Source.of, self.markets))

    def title(self, name: str | None = None) -> str:
        """Name of the tracked run."""
        return f"{(name or '+'.join(self.symbols))[:60]}-{self.timeframe}"


def ensemble_settings(settings: Settings) -> EnsembleSettings:
    """The ensemble's settings for a profile, with the weights and threads of ``settings``."""
    make = EnsembleSettings.smoke if settings.profile == "smoke" else EnsembleSettings.full
    return make(weights=settings.weights, n_threads=settings.n_threads)


def prepare(
    bars: Bars,
    horizons: tuple[int, ...],
    garch: Garch | Mapping[str, Garch],
    features: FeatureSet | None = None,
    *,
    folder: Path | None = None,
) -> TrainingSet:
    """Features and labels of a market, or of several, as arrays.

    Rows of several markets are ordered by open time and, at one time, by symbol; ``end`` is a position on the axis of
    all their open times, so that a label of one market purges the rows of another by time.

    Parameters
    ----------
    bars, features : as in `train`
    horizons : bars ahead, each in the bars of its own market
    garch : GARCH parameters, fitted on bars before any that will be scored; of several markets, by symbol
    folder : the arrays become files there, with one market at a time in memory; a set that is larger than memory is
        fitted batch by batch (`mlkit.models.ensemble.DiskBatches`)
    """
    markets = markets_of(bars)
    features, layout = features or FeatureSet(), lay_out(markets)
    fitted = garch if isinstance(garch, Mapping) else {str(one.attrs["symbol"]): garch for one in markets}

    def arrays(number: int, one: pd.DataFrame) -> dict[str, Any]:
        own = fitted[one.attrs["symbol"]]
        table, labels = features.build(one, garch=own), forward_returns(one, horizons)
        return {
            "X": table.to_numpy(),
            "scale": volatility_scale(table, horizons, own),
            "terms": volatility_terms(table, one.attrs["timeframe"]),
            "Y": labels["log_return"].to_numpy(dtype=np.float64),
            "end": label_ends(labels, layout.positions(number)),
            "earned": earned_returns(one, horizons).to_numpy(),
        }

    return TrainingSet(
        **_in_common_order((arrays(*one) for one in enumerate(markets)), layout, folder),
        index=pd.DatetimeIndex(layout.times[layout.position], tz="UTC", name=markets[0].index.name),
        **vars(layout),
        warm_up=features.warm_up,
        sources=tuple(Source.of(one) for one in markets),
        features=feature_digest(features),
        garch=fitted,
    )


def label_ends(labels: pd.DataFrame, positions: IntVector) -> IntMatrix:
    """Position, on the common axis, of the bar at whose close each label of a market is known; -1 for none."""
    end = label_end_positions(labels)
    return np.where(end >= 0, positions[end], -1)


def _in_common_order(parts: Iterator[dict[str, Any]], layout: Layout, folder: Path | None) -> dict[str, Any]:
    """Arrays of all markets in the common order; those of one market as they are, without a copy."""
    if len(layout.rows) == 1 and folder is None:
        return next(parts)
    whole: dict[str, Any] = {}
    for rows, part in zip(layout.rows, parts, strict=True):
        for name, values in part.items():
            if name not in whole:
                new = np.empty if folder is None else partial(np.memmap, folder / name, mode="w+")
                whole[name] = new(shape=(len(layout.bar), *values.shape[1:]), dtype=values.dtype)
            whole[name][rows] = values
    return whole
