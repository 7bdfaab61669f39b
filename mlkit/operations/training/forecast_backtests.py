"""Backtests of out-of-sample forecasts, with Sharpe ratios deflated by the number of trials."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.evaluation import Backtest, Ledger, Source, backtest, deflated_sharpe, probabilistic_sharpe, sharpe_ratio
from mlkit.operations.tracking.trials import count_trials

MIN_RATIOS = 5  # trials with a recorded Sharpe ratio, from which on their variance replaces the theoretical one


def backtests(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: Settings | None = None, *, column: str = "log_return"
) -> dict[int, Backtest]:
    """Each horizon's forecasts traded over the test span: the position is the sign of ``column``, as in the verdict.

    Parameters
    ----------
    bars, forecasts : those of `walk_forward`; the position is flat in bars without a forecast
    column : the forecast that is traded: ``log_return``, or a member such as ``xgboost``

    Returns horizon to `Backtest`, from the first test bar to the open at which its last position ends. ConfigError for
    bars that are not those of the forecasts.
    """
    settings = settings or Settings()
    first, last = int(forecasts["bar"].min()), int(forecasts["bar"].max())
    if last >= len(bars) or bars.index[last] != forecasts["timestamp"].max():
        raise ConfigError("backtests: bars are not those the forecasts were made on; pass what walk_forward was given")
    table = forecasts.pivot(index="bar", columns="horizon", values=column)
    horizons = [int(h) for h in table.columns]
    traded = np.full((min(last + 2 + max(horizons), len(bars)) - first, len(horizons)), np.nan)
    traded[table.index.to_numpy() - first] = np.sign(table.to_numpy(dtype=np.float64))
    opens, found = bars["open"].to_numpy()[first:], {}
    for j, h in enumerate(horizons):
        n = min(last - first + 2 + h, len(traded))  # until the last position has ended
        found[h] = backtest(opens[:n], traded[:n, j], horizon=h, cost_bps=settings.cost_bps)
    return found


def strategy_returns(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: Settings | None = None, *, columns: Sequence[str]
) -> pd.DataFrame:
    """Net return of every strategy that could have been chosen, bar by bar, (n, columns x horizons)."""
    paths = {
        (column, h): pd.Series(result.strategy.net_return)
        for column in columns
        for h, result in backtests(bars, forecasts, settings, column=column).items()
    }
    first = int(forecasts["bar"].min())
    table = pd.DataFrame(paths).fillna(0.0).rename_axis(columns=["source", "horizon"])
    return table.set_axis(bars.index[first : first + len(table)], axis=0)


def evidence(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: Settings | None = None, *, column: str = "log_return"
) -> pd.DataFrame:
    """The backtest of each horizon beside its baselines, and its Sharpe ratio deflated by the trials of the ledger.

    Parameters are those of `backtests`.

    Returns
    -------
    DataFrame indexed by horizon: net_return (of the strategy, compounded), buy_and_hold, random_entry (the median of
    the rotations, not compounded), random_p (see `Backtest.random_entry`), turnover, break_even_bps (cost a side
    at which nothing is left), sharpe (annualised), psr (probability that the true ratio is above 0), dsr (above the
    best of all claims without skill), claims (trials of the ledger times horizons).

    The ratios of forecasts that ``walk_forward`` made are written to the ledger. Where it holds those of at least
    ``MIN_RATIOS`` trials, their variance deflates the ratio; else the variance of ratios without skill does.
    """
    settings = settings or Settings()
    results = backtests(bars, forecasts, settings, column=column)
    claims = count_trials(forecasts, settings) * len(results)
    ledger, sources = Ledger.of(settings), [Source(**source) for source in forecasts.attrs["sources"]]
    tried = forecasts.attrs.get("configuration")
    if tried is not None and column == "log_return":
        ratios = {h: sharpe_ratio(result.strategy.net_return[:-1]) for h, result in results.items()}
        ledger.write_sharpes(sources, tried, ratios)
    years = (bars.index[-1] - bars.index[0]) / pd.Timedelta(days=365.25)
    rows = {}
    for h, result in results.items():
        net, random, known = result.strategy.net_return[:-1], result.random_entry(), ledger.sharpes(sources, h)
        variance = float(np.var(known, ddof=1)) if len(known) >= MIN_RATIOS else None
        rows[h] = {
            "net_return": result.strategy.total_return,
            "buy_and_hold": result.buy_and_hold.total_return,
            "random_entry": float(np.median(random.draws)),
            "random_p": random.p_value,
            "turnover": result.strategy.turnover,
            "break_even_bps": result.break_even_bps,
            "sharpe": result.strategy.sharpe(len(bars) / years),
            "psr": probabilistic_sharpe(net),
            "dsr": deflated_sharpe(net, claims, variance=variance),
            "claims": claims,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("horizon")
