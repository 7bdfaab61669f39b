"""Forecasts of rows as a live predictor makes them, and the naive intervals beside them."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlkit.models.base import FloatMatrix
from mlkit.operations.training_set import TrainingSet

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.base import Forecast
    from mlkit.models.price_predictor import PricePredictor

FORECAST_COLUMNS = ("log_return", "p_up", "std", "lo80", "hi80", "lo90", "hi90")
NAIVE = ("unconditional", "ewma", "garch")
_QUANTILES = {"low80": 0.1, "high80": 0.9, "low90": 0.05, "high90": 0.95}


def forecast_rows(data: TrainingSet, model: "PricePredictor", rows: npt.NDArray[np.int64]) -> "Forecast":
    """The forecast of rows in time order, each as a live predictor makes it at that bar's close.

    Intervals follow the outcomes known by then, so the forecast starts ``model.memory`` bars before the first row.
    """
    first, last = int(rows[0]), int(rows[-1])
    span = slice(max(first - model.memory, 0), last + 1)
    forecast = model.predict(data.X[span], data.scale[span], data.terms[span])
    return model.adapted(forecast, data.Y[span], last + 1 - first).rows(rows - first)


def scored_rows(
    data: TrainingSet,
    model: "PricePredictor",
    train_rows: npt.NDArray[np.int64],
    test_rows: npt.NDArray[np.int64],
    fold: int,
) -> "pd.DataFrame":
    """Forecasts, outcomes and naive intervals of one fold, long."""
    import pandas as pd

    forecast = forecast_rows(data, model, test_rows)
    naive = naive_intervals(data, train_rows, test_rows)
    frames = []
    for j, horizon in enumerate(forecast.horizons):
        columns: dict[str, Any] = {
            "timestamp": data.index[test_rows],
            "bar": test_rows,
            "horizon": horizon,
            "fold": fold,
            **{name: getattr(forecast, name)[:, j] for name in FORECAST_COLUMNS},
            **{name: member[:, j] for name, member in forecast.members.items()},
            "outcome": data.Y[test_rows, j],
            "earned": data.earned[test_rows, j],
            "raw": forecast.raw[:, j],
            "scale": forecast.scale[:, j],
            **{name: values[:, j] for name, values in naive.items()},
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def naive_intervals(
    data: TrainingSet, train_rows: npt.NDArray[np.int64], test_rows: npt.NDArray[np.int64]
) -> dict[str, FloatMatrix]:
    """What an interval must beat: quantiles of the training labels over a scale, times the scale of the test row.

    The scale is 1 (columns ``low80`` ... ``high90``), the RiskMetrics average (``low80_ewma`` ...) or GARCH(1,1) with
    its term structure, fitted on the training bars (``low80_garch`` ...). Each value is (n_test, H).
    """
    warm = train_rows[train_rows >= data.warm_up]
    ewma = np.exp(data.terms[:, :1]) * np.ones_like(data.scale)
    scales = {"unconditional": np.ones_like(data.scale), "ewma": ewma, "garch": data.scale}
    return {
        name if rival == "unconditional" else f"{name}_{rival}": np.nanquantile(
            data.Y[warm] / unit[warm], level, axis=0
        )
        * unit[test_rows]
        for rival, unit in scales.items()
        for name, level in _QUANTILES.items()
    }
