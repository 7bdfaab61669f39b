"""The reference of a bundle that drift is measured against, kept so that the training bars are not needed again.

A file ``drift.npz`` of the bundle: the distribution of every feature over the training span, of the forecasts over its
held-out last part, of the walk-forward's errors, and the calibration of its probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BundleError
from mlkit.evaluation import default_block, direction
from mlkit.models.bundle import ModelBundle, pack_vectors, unpack_vectors
from mlkit.models.ensemble import FloatVector, IntVector, PricePredictor, usable_rows
from mlkit.operations.training.binned_reference import BinnedReference
from mlkit.operations.training.training_set import TrainingSet

DRIFT_FILE = "drift.npz"
_DISTRIBUTIONS = ("features", "predictions", "errors")
_VECTORS = {"edges": "<f8", "counts": "|u1", "follows": "|u1"}  # of each distribution; of a pool also the market
MeanError = tuple[float, float]  # a mean and its standard error


@dataclass(frozen=True, eq=False)
class DriftReference:
    """The distributions of a training, and by horizon the Brier score above what its probabilities promised."""

    features: BinnedReference
    predictions: BinnedReference
    errors: BinnedReference
    excess: dict[int, MeanError]
    pooled: bool = False  # of several markets

    def of_market(self, number: int) -> "DriftReference":
        """The reference of one of several markets, ordered by symbol; the calibration stays that of all markets."""
        return replace(self, **{name: getattr(self, name).of_market(number) for name in _DISTRIBUTIONS})

    @classmethod
    def of(cls, data: TrainingSet, model: PricePredictor, forecasts: pd.DataFrame) -> Self:
        """The reference of a bundle that is about to be written.

        ``data`` are of the training span, ``model`` is fitted on all of them, ``forecasts`` are of the walk-forward.
        """
        from mlkit.models.ensemble import ROWS_IN_MEMORY

        symbols = [source.symbol for source in data.sources]

        def by_market(market: npt.NDArray[Any], rows: IntVector | None = None) -> list[IntVector]:
            kept = np.arange(len(market)) if rows is None else rows
            return [kept[market[kept] == number] for number in range(len(symbols))]

        usable = np.flatnonzero(usable_rows(data.X, data.scale) & (data.end >= 0).all(axis=1))
        held_out = usable[-int(model.training["rows"]["calibration"]) :]
        errors, excess = [], []  # of the walk-forward, a column a horizon
        for _, rows in forecasts.groupby("horizon", sort=True):
            errors.append(standardised_errors(rows))
            excess.append(brier_excess(rows["outcome"].to_numpy(), rows["p_up"].to_numpy()))
        wide = np.column_stack(errors)
        first = forecasts[forecasts["horizon"] == model.horizons[0]]
        market = np.zeros(len(first), np.int8)
        if "symbol" in first:
            market = pd.Categorical(first["symbol"], symbols).codes
        parts = []
        for first_row in range(0, len(held_out), ROWS_IN_MEMORY):  # the arrays may be files
            some = held_out[first_row : first_row + ROWS_IN_MEMORY]
            forecast = model.predict(data.X[some], data.scale[some], data.terms[some] if model.spreads else None)
            parts.append(np.column_stack([forecast.p_up, forecast.std]))
        names = _columns([f"f{k}" for k in range(data.X.shape[1])], model.horizons)
        known = by_market(market, np.flatnonzero(np.isfinite(wide).all(axis=1)))
        return cls(
            features=BinnedReference.fit(names["features"], data.X, *by_market(data.market, usable)),
            predictions=BinnedReference.fit(
                names["predictions"], np.concatenate(parts), *by_market(data.market[held_out])
            ),
            errors=BinnedReference.fit(names["errors"], wide, *known),
            excess={h: _pooled_mean(excess[j], by_market(market), h) for j, h in enumerate(model.horizons)},
            pooled=len(symbols) > 1,
        )

    def to_bytes(self) -> bytes:
        """Content of ``drift.npz``; the same reference gives the same bytes."""
        vectors: dict[str, npt.NDArray[Any]] = {}
        for name in _DISTRIBUTIONS:
            one: BinnedReference = getattr(self, name)
            vectors[f"{name}_edges"] = one.edges.ravel()
            vectors[f"{name}_counts"] = one.counts.ravel()
            vectors[f"{name}_follows"] = one.follows.astype(np.uint8)
            if self.pooled:
                vectors[f"{name}_market"] = one.market
        return pack_vectors(vectors | {"excess": np.array(list(self.excess.values()), dtype=np.float64).ravel()})

    @classmethod
    def read(cls, bundle: ModelBundle) -> Self | None:
        """The reference of a bundle; None where it was written without, BundleError where it does not fit."""
        if DRIFT_FILE not in bundle.manifest.files:
            return None
        manifest, data = bundle.manifest, bundle.read(DRIFT_FILE)
        kinds = _VECTORS | ({"market": "<u2"} if manifest.pool else {})
        stored = {f"{name}_{vector}": kind for name in _DISTRIBUTIONS for vector, kind in kinds.items()}
        try:
            vectors = unpack_vectors(data, stored | {"excess": "<f8"}, "a drift reference")
            found = {
                name: BinnedReference.from_vectors(names, *(vectors[f"{name}_{vector}"] for vector in kinds))
                for name, names in _columns(manifest.feature_names, manifest.horizons).items()
            }
            if vectors["excess"].size != 2 * len(manifest.horizons):
                raise BundleError("excess must hold two numbers a horizon")
        except BundleError as error:
            raise BundleError(f"bundle {bundle.path}: {DRIFT_FILE}: {error}; train again") from error
        pairs = vectors["excess"].reshape(-1, 2).tolist()
        excess = {h: (a, b) for h, (a, b) in zip(manifest.horizons, pairs, strict=True)}
        return cls(**found, excess=excess, pooled=bool(manifest.pool))


def _columns(features: Sequence[str], horizons: Sequence[int]) -> dict[str, list[str]]:
    """Columns of each distribution: the features; p_up and std before adaptation; errors in units of the scale."""
    return {
        "features": list(features),
        "predictions": [f"p_up {h}" for h in horizons] + [f"std {h}" for h in horizons],
        "errors": [f"error {h}" for h in horizons],
    }


def standardised_errors(rows: pd.DataFrame) -> FloatVector:
    """Outcome less forecast, in units of the forecast's scale."""
    outcome, forecast, scale = (rows[name].to_numpy() for name in ("outcome", "log_return", "scale"))
    return np.asarray((outcome - forecast) / scale)


def brier_excess(outcome: FloatVector, p_up: FloatVector) -> FloatVector:
    """Brier score of every row less what its probability promises, ``(p - y)² - p (1 - p)`` (Spiegelhalter 1986).

    Its mean is 0 for calibrated probabilities; a tie counts as half a rise and only lowers it.
    """
    y = direction(outcome)
    return np.asarray((p_up - y) ** 2 - p_up * (1.0 - p_up))


def long_run_mean(values: FloatVector, horizon: int) -> MeanError:
    """Mean of finite values and its standard error, outcomes of ``horizon`` bars overlapping (Newey and West 1987)."""
    x = values[np.isfinite(values)]
    if len(x) < 2:
        return float("nan"), float("nan")
    centred, bandwidth = x - x.mean(), int(default_block(horizon))
    power = centred @ centred
    for k in range(1, min(bandwidth, len(x))):
        power += 2.0 * (1.0 - k / bandwidth) * (centred[k:] @ centred[:-k])
    return float(x.mean()), float(np.sqrt(max(power, 0.0)) / len(x))


def _pooled_mean(values: FloatVector, markets: list[IntVector], horizon: int) -> MeanError:
    """Mean over the rows of all markets; its standard error is that of markets which move as one."""
    markets = [rows for rows in markets if len(rows)] or markets[:1]
    found = np.array([long_run_mean(values[rows], horizon) for rows in markets])
    weight = np.array([len(rows) for rows in markets]) / max(sum(map(len, markets)), 1)
    return float(found[:, 0] @ weight), float(found[:, 1] @ weight)
