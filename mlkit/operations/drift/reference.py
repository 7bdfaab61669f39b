"""What a bundle remembers of its training, so that drift can be told later without the training bars.

A file ``drift.npz`` of the bundle, covered by its digests: the distribution of every feature over the training span, of
the forecasts over its held-out last part, of the walk-forward's errors, and what its probabilities were worth.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from mlkit.errors import BundleError
from mlkit.evaluation import default_block, direction
from mlkit.models.bundle import pack_vectors, unpack_vectors
from mlkit.models.ensemble import FloatMatrix, FloatVector, usable_rows
from mlkit.operations.drift.distribution import Panel, panel_from_vectors
from mlkit.operations.training.training_set import TrainingSet

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import Forecast, PricePredictor

DRIFT_FILE = "drift.npz"
_PANELS = ("features", "predictions", "errors")
_PARTS = {"edges": "<f8", "counts": "|u1", "follows": "|u1"}
_MARKETS = {"market": "<u2"}  # of a pool
Mean = tuple[float, float]  # and its standard error


@dataclass(frozen=True, eq=False)
class DriftReference:
    """The distributions of a training, and by horizon the Brier score above what its probabilities promised."""

    features: Panel
    predictions: Panel
    errors: Panel
    excess: dict[int, Mean]
    pooled: bool = False  # of several markets

    def of_market(self, number: int) -> "DriftReference":
        """What is known of one of several markets, ordered by symbol; its probabilities are judged by those of all."""
        return replace(self, **{name: getattr(self, name).of_market(number) for name in _PANELS})

    @classmethod
    def of(cls, data: TrainingSet, model: "PricePredictor", forecasts: "pd.DataFrame") -> Self:
        """The reference of a bundle that is about to be written.

        Parameters
        ----------
        data : of the training span
        model : of the bundle, fitted on all of ``data``
        forecasts : of the walk-forward on the same bars
        """
        import pandas as pd

        horizons = model.horizons
        usable = np.flatnonzero(usable_rows(data.X, data.scale) & (data.end >= 0).all(axis=1))
        held_out = usable[-int(model.training["rows"]["calibration"]) :]
        said = _said(data, model, held_out)
        numbers = np.arange(len(data.sources))
        past = [_past_errors(rows) for _, rows in forecasts.groupby("horizon", sort=True)]
        errors, excess = (np.column_stack(columns) for columns in zip(*past, strict=True))
        first = forecasts[forecasts["horizon"] == horizons[0]]
        symbols = [source.symbol for source in data.sources]
        told = pd.Categorical(first["symbol"], symbols).codes if "symbol" in first else np.zeros(len(first), np.int8)
        known = _runs(told, numbers, np.isfinite(errors).all(axis=1))
        return cls(
            features=Panel.fit([f"f{k}" for k in range(data.X.shape[1])], data.X, *_runs(data.market, numbers, usable)),
            predictions=Panel.fit(prediction_names(horizons), said, *_runs(data.market[held_out], numbers)),
            errors=Panel.fit(error_names(horizons), errors, *known),
            pooled=len(data.sources) > 1,
            excess={h: _mean_of_runs(excess[:, j], _runs(told, numbers), h) for j, h in enumerate(horizons)},
        )

    def to_bytes(self) -> bytes:
        """Content of ``drift.npz``; the same reference gives the same bytes."""
        vectors: dict[str, npt.NDArray[Any]] = {}
        for name in _PANELS:
            panel: Panel = getattr(self, name)
            vectors[f"{name}_edges"] = panel.edges.ravel()
            vectors[f"{name}_counts"] = panel.counts.ravel()
            vectors[f"{name}_follows"] = panel.follows.astype(np.uint8)
            if self.pooled:
                vectors[f"{name}_market"] = panel.market
        return pack_vectors(vectors | {"excess": np.array(list(self.excess.values()), dtype=np.float64).ravel()})

    @classmethod
    def read(cls, bundle: "ModelBundle") -> Self | None:
        """The reference of a bundle; None where it was written without, BundleError where it does not fit."""
        if DRIFT_FILE not in bundle.manifest.files:
            return None
        manifest, data = bundle.manifest, bundle.read(DRIFT_FILE)
        names = (manifest.feature_names, prediction_names(manifest.horizons), error_names(manifest.horizons))
        try:
            vectors, parts = _unpacked(data, bool(manifest.pool))
            panels = {
                panel: panel_from_vectors(columns, *(vectors[f"{panel}_{part}"] for part in parts))
                for panel, columns in zip(_PANELS, names, strict=True)
            }
            if vectors["excess"].size != 2 * len(manifest.horizons):
                raise BundleError("excess must hold two numbers a horizon")
        except BundleError as error:
            raise BundleError(f"bundle {bundle.path}: {DRIFT_FILE}: {error}; train again") from error
        pairs = vectors["excess"].reshape(-1, 2).tolist()
        excess = {h: (a, b) for h, (a, b) in zip(manifest.horizons, pairs, strict=True)}
        return cls(**panels, excess=excess, pooled=bool(manifest.pool))


def _unpacked(data: bytes, pooled: bool) -> tuple[dict[str, Any], list[str]]:
    """The vectors of a file, and the parts of a panel that it holds.

    A pool's of before its markets were told apart is read too: then each is judged by all of them.
    """
    for more in (_MARKETS, {}) if pooled else ({},):
        parts = _PARTS | more
        kinds = {f"{panel}_{part}": kind for panel in _PANELS for part, kind in parts.items()} | {"excess": "<f8"}
        try:
            return unpack_vectors(data, kinds, "a drift reference"), list(parts)
        except BundleError:
            if not more:
                raise
    raise AssertionError("the last kind either fits or raises")


def _said(data: TrainingSet, model: "PricePredictor", rows: npt.NDArray[np.int64]) -> FloatMatrix:
    """The watched columns of some rows, a batch in memory at a time: the set may lie in files."""
    from mlkit.models.ensemble import ROWS_IN_MEMORY

    parts = []
    for first in range(0, len(rows), ROWS_IN_MEMORY):
        some = rows[first : first + ROWS_IN_MEMORY]
        terms = data.terms[some] if model.spreads else None
        parts.append(prediction_values(model.predict(data.X[some], data.scale[some], terms)))
    return np.concatenate(parts)


def prediction_names(horizons: tuple[int, ...]) -> list[str]:
    """Columns of the forecasts that are watched: probability of a rise and spread."""
    return [f"p_up {h}" for h in horizons] + [f"std {h}" for h in horizons]


def prediction_values(forecast: "Forecast") -> FloatMatrix:
    """The watched columns (n, 2 H); ``std`` before it follows the outcomes."""
    return np.column_stack([forecast.p_up, forecast.std])


def error_names(horizons: tuple[int, ...]) -> list[str]:
    """Columns of the errors: outcome less forecast, in units of the forecast's scale."""
    return [f"error {h}" for h in horizons]


def brier_excess(outcome: FloatVector, p_up: FloatVector) -> FloatVector:
    """Brier score of every row less what its probability promises, ``(p - y)² - p (1 - p)`` (Spiegelhalter 1986).

    Its mean is 0 for calibrated probabilities; a tie counts as half a rise and only lowers it.
    """
    y = direction(outcome)
    return np.asarray((p_up - y) ** 2 - p_up * (1.0 - p_up))


def long_run_mean(values: FloatVector, horizon: int) -> Mean:
    """Mean of finite values and its standard error, outcomes of ``horizon`` bars overlapping (Newey and West 1987)."""
    x = values[np.isfinite(values)]
    if len(x) < 2:
        return float("nan"), float("nan")
    centred, bandwidth = x - x.mean(), int(default_block(horizon))
    power = centred @ centred
    for k in range(1, min(bandwidth, len(x))):
        power += 2.0 * (1.0 - k / bandwidth) * (centred[k:] @ centred[:-k])
    return float(x.mean()), float(np.sqrt(max(power, 0.0)) / len(x))


def _runs(
    market: npt.NDArray[Any], numbers: npt.NDArray[np.int64], rows: npt.NDArray[Any] | None = None
) -> list[npt.NDArray[np.int64]]:
    """Row numbers of each of the markets in time order, of some rows (numbers or a mask) or of all."""
    kept = np.arange(len(market)) if rows is None else np.arange(len(market))[rows]
    return [kept[market[kept] == one] for one in numbers]


def _mean_of_runs(values: FloatVector, runs: list[npt.NDArray[np.int64]], horizon: int) -> Mean:
    """Mean over all rows; its error as if the markets moved as one."""
    runs = [run for run in runs if len(run)] or runs[:1]
    found = np.array([long_run_mean(values[run], horizon) for run in runs])
    weight = np.array([len(run) for run in runs]) / max(sum(map(len, runs)), 1)
    return float(found[:, 0] @ weight), float(found[:, 1] @ weight)


def _past_errors(rows: "pd.DataFrame") -> tuple[FloatVector, FloatVector]:
    """Standardised errors and Brier excess of one horizon of a walk-forward."""
    outcome, said, scale, p_up = (rows[name].to_numpy() for name in ("outcome", "log_return", "scale", "p_up"))
    return (outcome - said) / scale, brier_excess(outcome, p_up)
