"""Forecasts of rows as a live predictor makes them, and the naive intervals beside them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mlkit.market import timeframe_ns
from mlkit.models.ensemble import (
    FORECAST_COLUMNS,
    MIN_ROWS,
    FloatMatrix,
    Forecast,
    IntVector,
    PricePredictor,
    block_numbers,
)
from mlkit.operations.training.training_set import TrainingSet

NAIVE = ("unconditional", "ewma", "garch")  # scales of the naive intervals
_QUANTILES = {"low80": 0.1, "high80": 0.9, "low90": 0.05, "high90": 0.95}


def forecast_rows(data: TrainingSet, model: PricePredictor, rows: IntVector) -> Forecast:
    """The forecast of rows in time order, each as a live predictor of its market makes it at that bar's close.

    Interval bounds adapt to the outcomes of the same market that are known by then, so the forecast of a market starts
    ``model.lookback`` bars before its first row.
    """
    parts = []
    span: Any
    for market in np.unique(data.market[rows]):
        picked = np.flatnonzero(data.market[rows] == market)
        own, bars = data.rows[market], data.bar[rows[picked]]
        first, last = int(bars[0]), int(bars[-1])
        span = own[max(first - model.lookback, 0) : last + 1]
        if span[-1] - span[0] + 1 == len(span):  # a slice of consecutive rows copies nothing
            span = slice(int(span[0]), int(span[-1]) + 1)
        terms = data.terms[span] if model.spreads else None
        forecast = model.predict(data.X[span], data.scale[span], terms)
        blocks = block_numbers(data.index[span].as_unit("ns").asi8, timeframe_ns(data.sources[0].timeframe))
        parts.append((picked, model.adapted(forecast, data.Y[span], blocks, last + 1 - first).rows(bars - first)))
    if len(parts) == 1:
        return parts[0][1]
    order, found = np.argsort(np.concatenate([picked for picked, _ in parts])), [forecast for _, forecast in parts]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in found])[order] for name in found[0].columns()
    }
    members = {name: np.concatenate([one.members[name] for one in found])[order] for name in found[0].members}
    return replace(found[0], members=members, **columns)


def scored_rows(
    data: TrainingSet, model: PricePredictor, train_rows: IntVector, test_rows: IntVector, fold: int
) -> pd.DataFrame:
    """Forecasts, outcomes and naive intervals of one fold, long; with a column ``symbol`` for several markets."""
    forecast = forecast_rows(data, model, test_rows)
    naive = naive_intervals(data, train_rows, test_rows)
    symbols = np.array([source.symbol for source in data.sources], dtype=object)
    named = {"symbol": symbols[data.market[test_rows]]} if len(symbols) > 1 else {}
    frames = []
    for j, horizon in enumerate(forecast.horizons):
        columns: dict[str, Any] = {
            "timestamp": data.index[test_rows],
            **named,
            "bar": data.bar[test_rows],
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


def naive_intervals(data: TrainingSet, train_rows: IntVector, test_rows: IntVector) -> dict[str, FloatMatrix]:
    """Baseline intervals (n_test, H): quantiles of a market's training labels over a scale, times that of the test row.

    The scale is 1 (columns ``low80`` ... ``high90``), the RiskMetrics average (``low80_ewma`` ...) or GARCH(1,1) with
    its term structure (``low80_garch`` ...). A market with fewer than ``MIN_ROWS`` training rows takes those of all.
    """
    warm = data.warm(train_rows)
    one = np.ones_like(data.scale)
    scales = dict(zip(NAIVE, (one, np.exp(data.terms[:, :1]) * one, data.scale), strict=True))
    found: dict[str, FloatMatrix] = {}
    for market in np.unique(data.market[test_rows]):
        at, past = data.market[test_rows] == market, warm[data.market[warm] == market]
        past = past if len(past) >= MIN_ROWS else warm
        for rival, unit in scales.items():
            for name, level in _QUANTILES.items():
                column = name if rival == "unconditional" else f"{name}_{rival}"
                quantile = np.nanquantile(data.Y[past] / unit[past], level, axis=0)
                bounds = found.setdefault(column, np.empty((len(test_rows), data.Y.shape[1])))
                bounds[at] = quantile * unit[test_rows[at]]
    return found
