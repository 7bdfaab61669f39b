"""Bars to a published bundle: features, labels, walk-forward evaluation, final fit."""

# The table of score that a bundle carries: index the horizon in bars.
from .bundling import bundle_scores as bundle_scores

# Where the bundles of a training go: the folder of its market, or of the pool of that name.
from .bundling import root_of as root_of

# Each horizon's forecasts traded over the test span: the sign of column, as the verdict counts it.
from .evidence import backtests as backtests

# The backtest of each horizon beside its baselines, and its Sharpe ratio deflated by the trials of the ledger.
from .evidence import evidence as evidence

# Net return of every strategy one could have picked, bar by bar, (n, columns x horizons).
from .evidence import strategy_returns as strategy_returns

# Block-bootstrap intervals of every headline metric of score, per horizon.
from .scoring import intervals as intervals

# The kept stages of one training, for walk_forward and train; removed when the block ends without an error.
from .stages import kept_stages as kept_stages
from .training import ensemble_settings as ensemble_settings

# The price ensemble fitted on the warm ones of rows, in time order, and on no other row.
from .training import fit_price as fit_price

# (train rows, test rows) of every walk-forward fold, rows of prepare, purged by label end time.
from .training import folds as folds
from .training import forecast_rows as forecast_rows
from .training import naive_intervals as naive_intervals
from .training import prepare as prepare
from .training import score as score

# Train on all bars, judge by walk-forward, write and publish a bundle.
from .training import train as train

# Out-of-sample forecasts of every test bar, from models that saw nothing of it.
from .training import walk_forward as walk_forward
