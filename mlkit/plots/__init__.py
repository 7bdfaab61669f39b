"""Figures of the notebooks: axes in, axes out, units on every axis, nothing that is not read.

Call ``plots.style()`` once in a notebook; every other function draws into the axes it is given and returns
them: ``fig, ax = plt.subplots(); plots.candles(ax, bars)``.
"""

from mlkit.plots.drift import coverage_over_time, drift_features
from mlkit.plots.evaluation import (
    coverage,
    equity,
    folds,
    forecast_vs_outcome,
    horizon_scores,
    random_entry,
    reliability,
    risk_coverage,
)
from mlkit.plots.look import PALETTE, RC, style
from mlkit.plots.market import base_rates, calendar_gaps, candles, cones, feature_panel, returns_histogram
from mlkit.plots.models import grouped_bars, importance, learning_curve
from mlkit.plots.tuning import tuning_history, tuning_slice

__all__ = [
    "PALETTE",
    "RC",
    "base_rates",
    "calendar_gaps",
    "candles",
    "cones",
    "coverage",
    "coverage_over_time",
    "drift_features",
    "equity",
    "feature_panel",
    "folds",
    "forecast_vs_outcome",
    "grouped_bars",
    "horizon_scores",
    "importance",
    "learning_curve",
    "random_entry",
    "reliability",
    "returns_histogram",
    "risk_coverage",
    "style",
    "tuning_history",
    "tuning_slice",
]
