"""Level 3: purged splits, metrics, significance, backtest and the trial ledger."""

# A strategy beside buy-and-hold over the same bars, with the same fees.
from .backtesting import Backtest as Backtest

# Trade a signal at the next open and hold each position for horizon bars.
from .backtesting import backtest as backtest

# Holds out the newest bars; every read of them is written to the trial ledger.
from .final_span import FinalSpan as FinalSpan

# Identifier of this process in the ledger.
from .ledger import RUN as RUN

# The trial ledger: an append-only log of every fit, shared by processes.
from .ledger import Ledger as Ledger

# Data of a fit: market, span and content.
from .ledger import Source as Source

# Hex SHA-256 of a configuration of plain JSON values, whatever the order of its keys.
from .ledger import configuration_hash as configuration_hash

# Write and count under the run of another process, such as the one that started this worker.
from .ledger import join_run as join_run

# Values as float64 arrays whose rows stand for the same bars; other rows are refused.
from .metrics import aligned as aligned

# Brier skill score 1 - brier(p) / brier(reference); above 0 is better than the reference.
from .metrics import brier_skill as brier_skill

# Expected calibration error of perfect probabilities that miss by 1.96 standard errors in every bin.
from .metrics import calibration_noise as calibration_noise

# Share of outcomes inside [low, high]; compare with the nominal level of the interval.
from .metrics import coverage as coverage

# Standard error of the coverage of the true quantiles, over outcomes that overlap.
from .metrics import coverage_noise as coverage_noise

# Direction of each outcome: 1 for a rise, 0 for a fall, 0.5 for no change; NaN stays NaN.
from .metrics import direction as direction

# Mean |observed - forecast| over equal-width probability bins, weighted by the rows in each.
from .metrics import expected_calibration_error as expected_calibration_error

# Share of forecasts with the right sign; a tie on either side is half a hit.
from .metrics import hit_rate as hit_rate

# Hit rate of the better constant direction: (1 + |mean(sign(y))|) / 2, ties as in hit_rate.
from .metrics import hit_rate_baseline as hit_rate_baseline

# Interval score of a central level interval, in units of y; lower is better.
from .metrics import interval_score as interval_score

# The interval score of every row, (n,); its mean is :func:interval_score.
from .metrics import interval_scores as interval_scores

# Probability of log-odds, without overflow.
from .metrics import logistic as logistic

# Mean absolute error, in units of y.
from .metrics import mae as mae

# Out-of-sample R² against the forecast of no change: 1 - sum((y - pred)²) / sum(y²).
from .metrics import r2_no_change as r2_no_change

# Rank information coefficient: Spearman's correlation of forecast and outcome, ties at mean rank.
from .metrics import rank_ic as rank_ic

# Forecast against observed frequency in equal-width bins of the forecast probability.
from .metrics import reliability_table as reliability_table

# Lower and upper bound of the 95 % interval of a share of independent cases.
from .metrics import wilson_interval as wilson_interval

# Probability of backtest overfitting by combinatorially symmetric cross-validation.
from .overfitting import backtest_overfitting as backtest_overfitting

# Hansen's SPA test: p-values of "no strategy earns more than the benchmark".
from .overfitting import reality_check as reality_check

# How well probabilities reproduce flags, column by column.
from .pattern_returns import agreement as agreement

# What extra adds to base in forecasting returns, fitted and scored on different rows.
from .pattern_returns import incremental_ic as incremental_ic

# Mean forward return after each pattern in the direction it claims, beyond that of all bars.
from .pattern_returns import returns_after as returns_after

# Return of trading each pattern in its direction, at the horizon with the highest lower bound.
from .pattern_returns import traded_patterns as traded_patterns

# The table with q (p-values adjusted for the false discovery rate over all rows) and found (q at most level).
from .pattern_returns import with_discoveries as with_discoveries

# Risk-coverage curve: mean gain of the most confident share of the rows, with intervals.
from .selective import risk_coverage as risk_coverage

# Probability that the true Sharpe ratio is above the expected best of several strategies without skill.
from .sharpe import deflated_sharpe as deflated_sharpe

# Probability that the true Sharpe ratio is above benchmark (per bar), given skewness and kurtosis.
from .sharpe import probabilistic_sharpe as probabilistic_sharpe

# Mean over standard deviation (n - 1) of net returns, NaN left out; NaN without variation.
from .sharpe import sharpe_ratio as sharpe_ratio

# Mean bootstrap block for labels over horizon bars: max(10, 2 horizon) rows.
from .significance import default_block as default_block

# Intervals of several metrics, from one stationary bootstrap of the rows.
from .significance import metric_intervals as metric_intervals

# Net log return of the tranche that each row opens, (n,), as in the verdict; NaN where a row is not scored.
from .significance import net_rows as net_rows

# Judge the forecasts of several markets together, each with its own positions.
from .significance import pool_verdict as pool_verdict

# t-statistic of a mean of serially dependent values, its variance taken under the null of mean zero.
from .significance import t_under_null as t_under_null

# Judge the out-of-sample forecasts of one horizon (see the head of this module).
from .significance import verdict as verdict

# Verdicts of all horizons, one row each; trials configurations make trials * H claims.
from .significance import verdict_table as verdict_table

# Combinatorial purged cross-validation: every choice of test groups, joined into paths over the whole history.
from .splits import CombinatorialPurged as CombinatorialPurged

# Walk-forward cross-validation without look-ahead: train on the past, test on the block that follows.
from .splits import WalkForward as WalkForward

# Distinct values of a sorted array.
from .splits import distinct as distinct

# Cut training rows into chronological fit, validation and calibration parts, purged between parts.
from .splits import inner_split as inner_split

# Row position of the bar at whose close each label is known.
from .splits import label_end_positions as label_end_positions
