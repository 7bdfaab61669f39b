"""Figures of the notebooks: axes in, axes out, units on every axis.

Call ``plots.style()`` once in a notebook; every other function draws into the axes it is given and returns
them: ``fig, ax = plt.subplots(); plots.candles(ax, bars)``."""

# Share of the last window outcomes inside their intervals, beside what was promised and its noise.
from .drift_figures import coverage_over_time as coverage_over_time

# PSI of the columns that moved most against the training, beside what is usual for a window of the training.
from .drift_figures import drift_features as drift_features

# Share of outcomes inside the intervals at every horizon, beside what the intervals promise.
from .evaluation_figures import coverage as coverage

# Growth of 1 over time, one line a strategy, on a log scale; the final value beside each name.
from .evaluation_figures import equity as equity

# Walk-forward folds on the time axis: train, purged, test; no test bar in its own training.
from .evaluation_figures import folds as folds

# Mean realised return in bins of equally many forecasts, with 95 % intervals (1.96 standard errors).
from .evaluation_figures import forecast_vs_outcome as forecast_vs_outcome

# A score and its interval at every horizon, beside the naive forecast's score.
from .evaluation_figures import horizon_scores as horizon_scores

# Net return of the same positions entered at other times, and where the strategy's own lies among them.
from .evaluation_figures import random_entry as random_entry

# Stated probability against the share that came true, with 95 % intervals and the counts.
from .evaluation_figures import reliability as reliability

# Skill when acting on the most confident share of the bars only, with its intervals; one line a horizon.
from .evaluation_figures import risk_coverage as risk_coverage
from .look import PALETTE as PALETTE
from .look import RC as RC

# Set the look for the session, and in a notebook crisp PNG figures (2x), the same bytes on every run.
from .look import style as style

# How often each pattern occurs; a column for each standard, a row for each pattern.
from .market_figures import base_rates as base_rates

# How far apart neighbouring bars open: one timeframe, or nights, weekends, holidays and holes.
from .market_figures import calendar_gaps as calendar_gaps

# Candlesticks side by side (nights and weekends take no room), with marked patterns.
from .market_figures import candles as candles

# The last closes before a forecast, its 80 and 90 % intervals, the no-change line, and what came.
from .market_figures import cones as cones

# One feature over time; its warm-up, where it does not exist yet, is shaded.
from .market_figures import feature_panel as feature_panel

# Density of log returns beside the normal law of the same spread, on a log scale: the tails.
from .market_figures import returns_histogram as returns_histogram

# Horizontal bars, one group a row in the table's order and one colour a column, values at their ends.
from .model_figures import grouped_bars as grouped_bars

# The top features: bar for the mean, one dot for each model where the table has several columns.
from .model_figures import importance as importance

# Loss by epoch, a line for each column; the best epoch of a valid... column is marked.
from .model_figures import learning_curve as learning_curve

# Score of every trial in order, and the best so far; pruned trials are crosses at the score they had.
from .tuning_figures import tuning_history as tuning_history

# Score against one parameter, later trials darker; the default is a ring, the best a star.
from .tuning_figures import tuning_slice as tuning_slice
