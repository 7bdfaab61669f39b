"""Bars to a published bundle: features, labels, walk-forward evaluation, final fit."""

# How a training is executed: progress, arrays in files, finished stages of an earlier run.
from .execution import Execution as Execution

# An execution that keeps finished stages, so that the same training goes on after a kill.
from .execution import resumable as resumable

# Each horizon's forecasts traded over the test span: horizon to Backtest.
from .forecast_backtests import backtests as backtests

# The backtest of each horizon beside its baselines, and its Sharpe ratio deflated by the trials of the ledger.
from .forecast_backtests import evidence as evidence

# Net return of every strategy that could have been chosen, bar by bar, (n, columns x horizons).
from .forecast_backtests import strategy_returns as strategy_returns

# The forecast of rows of a training set, each as a live predictor makes it at that bar's close.
from .forecasting import forecast_rows as forecast_rows

# Baseline intervals: quantiles of the training labels, plain or over an EWMA or GARCH scale.
from .forecasting import naive_intervals as naive_intervals

# Block-bootstrap intervals of every headline metric of score, per horizon.
from .scoring import intervals as intervals

# Scores and verdict of out-of-sample forecasts, per horizon, beside the naive forecast.
from .scoring import score as score

# The price ensemble fitted on those rows of a training set that have every feature.
from .training import fit_price as fit_price

# (train rows, test rows) of every walk-forward fold, rows of prepare, purged by label end time.
from .training import folds as folds

# Train on all bars, judge by walk-forward, write and publish a bundle.
from .training import train as train

# Out-of-sample forecasts of every test bar, from models that were fitted on earlier bars only.
from .training import walk_forward as walk_forward

# The table of score that a bundle carries: index the horizon in bars.
from .training_bundle import bundle_scores as bundle_scores

# Folder of the bundles of a training: that of its market, or of the pool of that name.
from .training_bundle import root_of as root_of

# The ensemble's settings for a profile, with the weights and threads of the settings.
from .training_set import ensemble_settings as ensemble_settings

# Features and labels of a market, or of several, as arrays.
from .training_set import prepare as prepare
