"""What a model is trained on and judged by: features and labels of one history, or of several, as arrays."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.config import Settings
from mlkit.evaluation import Source, label_end_positions
from mlkit.features import FeatureSet, volatility_scale, volatility_terms
from mlkit.labels import earned_returns, forward_returns
from mlkit.models.ensemble import EnsembleSettings, Float32Matrix, FloatMatrix, IntMatrix, IntVector
from mlkit.operations.tracking.trials import feature_digest
from mlkit.operations.training.panel_layout import Garch, Layout, lay_out, markets_of

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.operations.training.panel_layout import Bars


SET = ".training-set-"  # of folders that hold one; a killed process leaves its own


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Arrays of one history, row t its bar t, or of several in one time order; features known at the row's close."""

    index: "pd.DatetimeIndex"  # (n,) bar open times
    X: Float32Matrix  # (n, F)
    scale: FloatMatrix  # (n, H) deviation of the log return over each horizon that GARCH expects
    terms: FloatMatrix  # (n, K) what the forecast of the scale looks at
    Y: FloatMatrix  # (n, H) forward log returns, NaN where the future does not exist
    end: IntMatrix  # (n, H) place of the bar at whose close a label is known, -1 where there is none
    earned: FloatMatrix  # (n, H) log return from the open of t + 1 to the open of t + 1 + h: what a trader gets
    position: IntVector  # (n,) place of the row's bar on the time axis that all histories share
    market: IntVector  # (n,) which of the sources it belongs to
    bar: IntVector  # (n,) its number there
    age: IntVector  # (n,) bars before it that its features remember: fewer than its number after a long outage
    warm_up: int  # of them that every feature takes
    sources: tuple[Source, ...]  # which data these are, for the trial ledger; ordered by symbol
    features: str  # digest of the feature definitions

    def warm(self, rows: IntVector) -> IntVector:
        """Those of the rows that have every feature."""
        return rows[self.age[rows] >= self.warm_up]


def ensemble_settings(settings: Settings) -> EnsembleSettings:
    """The ensemble's settings for a profile, with the weights and threads of ``settings``."""
    make = EnsembleSettings.smoke if settings.profile == "smoke" else EnsembleSettings.full
    return make(weights=settings.weights, n_threads=settings.n_threads)


def prepare(
    bars: "Bars",
    horizons: tuple[int, ...],
    garch: Garch | Mapping[str, Garch],
    features: FeatureSet | None = None,
    *,
    folder: Path | None = None,
) -> TrainingSet:
    """Features and labels of a history, or of several, as arrays.

    Rows of several histories are ordered by open time and, at one time, by symbol; ``end`` counts on the axis of all
    their open times, so that a label of one market purges the rows of another by the clock.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), or several of one timeframe: {symbol: bars}, or a sequence of them
    horizons : bars ahead, each in the bars of its own history
    garch : GARCH parameters, fitted on bars before any that will be scored; of several histories, by symbol
    features : the catalogue, and own features if any; the catalogue by default
    folder : where the arrays are files instead of memory, one history at a time in memory; a set that is larger than
        memory is fitted batch by batch (`mlkit.models.ensemble.DiskBatches`)
    """
    import pandas as pd

    markets = markets_of(bars)
    features, layout = features or FeatureSet(), lay_out(markets)
    own = garch if isinstance(garch, Mapping) else {one.attrs["symbol"]: garch for one in markets}
    arrays = _stacked(
        (_arrays(one, horizons, own[one.attrs["symbol"]], features, layout.places(m)) for m, one in enumerate(markets)),
        layout,
        folder,
    )
    return TrainingSet(
        **arrays,
        index=pd.DatetimeIndex(layout.times[layout.position], tz="UTC", name=markets[0].index.name),
        position=layout.position,
        market=layout.market,
        bar=layout.bar,
        age=layout.age,
        warm_up=features.warm_up,
        sources=tuple(Source.of(one) for one in markets),
        features=feature_digest(features),
    )


@contextmanager
def in_files(folder: Path | None) -> Iterator[Path | None]:
    """A new folder in ``folder`` for the arrays of one training set, gone when the block ends; None for memory."""
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SET) as place:
        yield Path(place)


def label_ends(labels: "pd.DataFrame", places: IntVector) -> IntMatrix:
    """Place, on the common time axis, of the bar at whose close each label of a history is known; -1 for none."""
    end = label_end_positions(labels)
    return np.where(end >= 0, places[end], -1)


def _arrays(
    bars: "pd.DataFrame", horizons: tuple[int, ...], garch: Garch, features: FeatureSet, places: IntVector
) -> dict[str, Any]:
    """What a row of one history holds."""
    table = features.build(bars, garch=garch)
    labels = forward_returns(bars, horizons)
    return {
        "X": table.to_numpy(),
        "scale": volatility_scale(table, horizons, garch),
        "terms": volatility_terms(table, bars.attrs["timeframe"]),
        "Y": labels["log_return"].to_numpy(dtype=np.float64),
        "end": label_ends(labels, places),
        "earned": earned_returns(bars, horizons).to_numpy(),
    }


def _stacked(parts: Iterator[dict[str, Any]], layout: Layout, folder: Path | None) -> dict[str, Any]:
    """Arrays of all histories in the common order; those of one as they are, without a copy."""
    if len(layout.rows) == 1 and folder is None:
        return next(parts)
    whole: dict[str, Any] = {}
    for rows, part in zip(layout.rows, parts, strict=True):
        for name, values in part.items():
            if name not in whole:
                shape = (len(layout.bar), *values.shape[1:])
                whole[name] = (
                    np.empty(shape, dtype=values.dtype)
                    if folder is None
                    else np.memmap(folder / name, dtype=values.dtype, mode="w+", shape=shape)
                )
            whole[name][rows] = values
    return whole
