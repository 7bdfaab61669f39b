"""Backtests of forecasts: the verdict's numbers again, an edge that is one, and one that is none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import ConfigError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.evaluation.overfitting import backtest_overfitting, reality_check
from mlkit.evaluation.sharpe import deflated_sharpe, sharpe_ratio
from mlkit.market.simulate.markets import planted_edge
from mlkit.operations.training.forecast_backtests import backtests, evidence, strategy_returns

HORIZONS = (1, 5)


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return planted_edge(3000, seed=2, strength=0.3)


@pytest.fixture(scope="module")
def forecasts(bars: pd.DataFrame) -> pd.DataFrame:
    """What a model with foresight of the driver would say at 1 bar, and noise at 5, on the last 1,500 bars."""
    rng = np.random.default_rng(0)
    opens = np.log(bars["open"].to_numpy())
    rows = np.arange(1500, 2990)
    ahead = opens[rows + 2] - opens[rows + 1]
    parts = []
    for h, said in ((1, ahead + rng.normal(0, 3e-3, len(rows))), (5, rng.normal(0, 1e-3, len(rows)))):
        part = {"timestamp": bars.index[rows], "bar": rows, "horizon": h, "log_return": said, "xgboost": -said}
        parts.append(pd.DataFrame(part))
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs = {"sources": [vars(Source.of(bars))]}
    return frame


@pytest.fixture(scope="module")
def settings() -> mlkit.Settings:
    return mlkit.Settings(prediction_horizons=HORIZONS, cost_bps=0.5)


def test_backtests_trade_the_sign_at_the_next_open(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings
) -> None:
    result = backtests(bars, forecasts, settings)[1].strategy
    said = np.sign(forecasts[forecasts["horizon"] == 1]["log_return"].to_numpy())
    assert result.position[1 : len(said) + 1].tolist() == said.tolist()
    opens = bars["open"].to_numpy()[1500:]
    assert result.gross_return[1] == pytest.approx(said[0] * (opens[2] / opens[1] - 1), rel=1e-12)
    assert result.position[len(said) + 1 :].tolist() == [0.0] * (len(result.position) - len(said) - 1)


def test_evidence_tells_timing_from_noise(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings
) -> None:
    table = evidence(bars, forecasts, settings)
    assert table["claims"].tolist() == [2, 2]  # nothing was fitted: one trial, two horizons
    good, noise = table.loc[1], table.loc[5]
    assert good["net_return"] > 0 and good["random_p"] < 0.01 and good["dsr"] > 0.99
    assert good["break_even_bps"] > settings.cost_bps
    assert noise["random_p"] > 0.05 and noise["dsr"] < 0.9
    assert (table["dsr"] < table["psr"]).all()


def test_a_family_of_strategies(bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings) -> None:
    family = strategy_returns(bars, forecasts, settings, columns=("log_return", "xgboost"))
    assert list(family.columns) == [("log_return", 1), ("log_return", 5), ("xgboost", 1), ("xgboost", 5)]
    assert family.index[0] == bars.index[1500]
    assert reality_check(family, block=10, reps=200)["consistent"] < 0.01
    assert backtest_overfitting(family, blocks=8).probability < 0.05
    bad = family[[("log_return", 5), ("xgboost", 1), ("xgboost", 5)]]
    assert reality_check(bad, block=10, reps=200)["consistent"] > 0.1


def test_bars_of_another_history_are_refused(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings
) -> None:
    for other in (bars.iloc[:2000], bars.iloc[5:]):
        with pytest.raises(ConfigError, match="bars are not those the forecasts were made on"):
            backtests(other, forecasts, settings)


def test_the_variance_of_the_trials_deflates_where_enough_are_known(
    bars: pd.DataFrame, forecasts: pd.DataFrame, tmp_path: Path
) -> None:
    settings = mlkit.Settings(prediction_horizons=HORIZONS, cost_bps=0.5, ledger_path=tmp_path / "ledger.jsonl")
    named, ledger, source = forecasts.copy(), Ledger.of(settings), Source.of(bars)
    named.attrs = forecasts.attrs | {"configuration": "mine"}
    plain = evidence(bars, forecasts, settings)
    assert ledger.sharpes([source], 1) == []  # forecasts of nobody's trial are not told
    told = evidence(bars, named, settings)
    own = sharpe_ratio(backtests(bars, named, settings)[1].strategy.net_return[:-1])
    assert ledger.sharpes([source], 1) == [own] and plain["dsr"].equals(told["dsr"])
    evidence(bars, named, settings, column="xgboost")
    assert ledger.sharpes([source], 1) == [own]
    others = [0.5, -0.5, 0.4, -0.4]
    for number, ratio in enumerate(others):
        ledger.write_sharpes([source], f"trial {number}", {1: ratio})
    wide = evidence(bars, named, settings)
    net = backtests(bars, named, settings)[1].strategy.net_return[:-1]
    assert wide.loc[1, "dsr"] == deflated_sharpe(net, 2, variance=float(np.var([own, *others], ddof=1)))
    assert wide.loc[1, "dsr"] < plain.loc[1, "dsr"] and wide.loc[5, "dsr"] == plain.loc[5, "dsr"]
