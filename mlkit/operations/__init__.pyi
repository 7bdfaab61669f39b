"""Level 6: the life of the models."""

# Drift bar by bar: detectors of the interval's misses and of the size of the errors.
from .drift import DriftStream as DriftStream

# Compare the bars after a bundle's training with that training: five tests, one verdict.
from .drift import check_drift as check_drift

# Train the pattern CNN on simulated bars, labelled by the rules; returns the model and the history of its epochs.
from .patterns import train_patterns as train_patterns

# The bundle that answers for a market, its own or a pool's; or None and the fault of a damaged one.
from .retraining import champion_of as champion_of

# The published bundles that are still there, the current one first.
from .retraining import published as published

# One round: decide, train a challenger, compare, publish it or keep the champion, tidy up.
from .retraining import retrain as retrain

# Make the bundle published before the current one current again, record that, and return it.
from .retraining import roll_back as roll_back

# Copy the bundle that an alias of a registered model points at, and check it.
from .tracking import fetch_bundle as fetch_bundle

# Run a block as a run in MLflow; yields the TrackedRun.
from .tracking import tracked as tracked

# Each horizon's forecasts traded over the test span: horizon to Backtest.
from .training import backtests as backtests

# The ensemble's settings for a profile, with the weights and threads of the settings.
from .training import ensemble_settings as ensemble_settings

# The backtest of each horizon beside its baselines, and its Sharpe ratio deflated by the trials of the ledger.
from .training import evidence as evidence

# The price ensemble fitted on those rows of a training set that have every feature.
from .training import fit_price as fit_price

# (train rows, test rows) of every walk-forward fold, rows of prepare, purged by label end time.
from .training import folds as folds

# The forecast of rows of a training set, each as a live predictor makes it at that bar's close.
from .training import forecast_rows as forecast_rows

# Block-bootstrap intervals of every headline metric of score, per horizon.
from .training import intervals as intervals

# Baseline intervals: quantiles of the training labels, plain or over an EWMA or GARCH scale.
from .training import naive_intervals as naive_intervals

# Features and labels of a market, or of several, as arrays.
from .training import prepare as prepare

# An execution that keeps finished stages, so that the same training goes on after a kill.
from .training import resumable as resumable

# Scores and verdict of out-of-sample forecasts, per horizon, beside the naive forecast.
from .training import score as score

# Net return of every strategy that could have been chosen, bar by bar, (n, columns x horizons).
from .training import strategy_returns as strategy_returns

# Train on all bars, judge by walk-forward, write and publish a bundle.
from .training import train as train

# Out-of-sample forecasts of every test bar, from models that were fitted on earlier bars only.
from .training import walk_forward as walk_forward

# Number of inner folds that score a trial, by profile.
from .tuning import FOLDS as FOLDS

# Share of the bars, the newest ones, that tuning does not use.
from .tuning import HELD_BACK as HELD_BACK

# Parameters of the ensemble that are searched: lowest, highest, whether on a logarithmic scale.
from .tuning import SPACE as SPACE

# Run a study of the price ensemble, and compare its best parameters with the default ones.
from .tuning import tune as tune
