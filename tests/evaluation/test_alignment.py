"""Things of different bars are refused: arrays would pair the outcome of one bar with the forecast of another."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit import plots
from mlkit.errors import ConfigError
from mlkit.evaluation.backtesting import backtest
from mlkit.evaluation.metrics import brier, coverage, hit_rate, interval_score, rank_ic
from mlkit.evaluation.overfitting import reality_check
from mlkit.evaluation.pattern_returns import agreement, incremental_ic, returns_after, traded_patterns
from mlkit.evaluation.selective import risk_coverage
from mlkit.evaluation.significance import net_rows, verdict, verdict_table
from mlkit.evaluation.splits import WalkForward
from mlkit.labels.returns import forward_returns

N = 200
FOLDS = [(np.arange(100), np.arange(110, N))]


def _axes() -> Any:
    from matplotlib.figure import Figure

    return Figure().add_subplot()


# Each takes two Series of the same bars.
CALLS: dict[str, Callable[[pd.Series, pd.Series], Any]] = {
    "backtest": lambda a, b: backtest(np.exp(a), np.sign(b)).strategy.total_return,
    "rank_ic": rank_ic,
    "hit_rate": hit_rate,
    "brier": lambda a, b: brier(a > 0, b.abs()),
    "coverage": lambda a, b: coverage(a, b - 1, b + 1),
    "interval_score": lambda a, b: interval_score(a, b - 1, b + 1, 0.9),
    "verdict": lambda a, b: verdict(a, b, horizon=1),
    "verdict_table": lambda a, b: verdict_table(a.to_frame(1), b.to_frame(1), [1]).to_dict(),
    "net_rows": lambda a, b: net_rows(a, b, a, 1, 1.0).tolist(),
    "risk_coverage": lambda a, b: risk_coverage(a, b.abs(), horizon=1, reps=20).to_dict(),
    "returns_after": lambda a, b: returns_after(np.sign(b).to_frame("x"), a.to_frame(1), reps=20).to_dict(),
    "traded_patterns": lambda a, b: traded_patterns(np.sign(b).to_frame("x"), a.to_frame(1), cost_bps=1.0),
    "incremental_ic": lambda a, b: incremental_ic(a, b.to_frame(), b.to_frame() ** 2, FOLDS, block=10, reps=20),
    "reality_check": lambda a, b: reality_check(a.to_frame(1), benchmark=b, block=5, reps=50).to_dict(),
    "forecast_vs_outcome": lambda a, b: (plots.forecast_vs_outcome(_axes(), b, a), None)[1],
}


@pytest.fixture
def pair() -> tuple[pd.Series, pd.Series]:
    index = pd.date_range("2024-01-01", periods=N, freq="h", tz="UTC")
    rng = np.random.default_rng(5)
    return pd.Series(rng.normal(size=N) / 9, index=index), pd.Series(rng.normal(size=N) / 9, index=index)


@pytest.mark.parametrize("name", CALLS)
def test_another_index_is_refused_and_the_same_is_as_arrays(name: str, pair: tuple[pd.Series, pd.Series]) -> None:
    a, b = pair
    CALLS[name](a, b)
    for other in (b.shift(freq="h"), b.iloc[::-1], b.reset_index(drop=True)):
        with pytest.raises(ConfigError, match=r"different rows \(row 0 is .*reindex"):
            CALLS[name](a, other)
    with pytest.raises(ConfigError, match=r"row 199 is .*missing"):
        CALLS[name](a, b.iloc[:-1])


def test_aligned_series_earn_what_their_arrays_earn(pair: tuple[pd.Series, pd.Series]) -> None:
    price, signal = np.exp(pair[0]), np.sign(pair[1])
    assert backtest(price, signal).strategy.total_return == backtest(price.array, signal.array).strategy.total_return
    assert backtest(price, signal.array).strategy.total_return == backtest(price, signal).strategy.total_return


def test_agreement_pairs_columns_by_name(pair: tuple[pd.Series, pd.Series]) -> None:
    truth = pd.DataFrame({"a": pair[0] > 0, "b": pair[1] > 0})
    p = pd.DataFrame({"b": truth["b"] * 0.8, "a": truth["a"] * 0.8})
    assert agreement(truth, p, [0.5, 0.5])["F1"].tolist() == [1.0, 1.0]
    with pytest.raises(ConfigError, match="columns"):
        agreement(truth, p.rename(columns={"a": "c"}), [0.5, 0.5])


def test_splits_refuse_features_of_other_bars_than_the_labels(sp500: pd.DataFrame) -> None:
    labels = forward_returns(sp500, horizons=(1,))
    list(WalkForward(n_splits=2).split(sp500, labels))
    with pytest.raises(ConfigError, match="different rows"):
        list(WalkForward(n_splits=2).split(sp500.iloc[600:], labels))


def test_a_cone_of_a_bar_that_is_not_there_is_refused(sp500: pd.DataFrame) -> None:
    forecast = pd.DataFrame({"timestamp": [pd.Timestamp("2030-01-01", tz="UTC")], "horizon": [1]})
    with pytest.raises(ConfigError, match="no bar of these"):
        plots.cones(_axes(), sp500, forecast)


def test_an_embargo_may_be_a_length_of_time(sp500: pd.DataFrame) -> None:
    labels = forward_returns(sp500, horizons=(1,))
    times = labels.index
    for (train, test), (plain, _) in zip(
        WalkForward(n_splits=3, embargo=pd.Timedelta("10D")).split(labels),
        WalkForward(n_splits=3.0).split(labels),  # type: ignore[arg-type]
        strict=True,
    ):
        ends = pd.DatetimeIndex(labels["end_time"][1].iloc[plain])
        np.testing.assert_array_equal(train, plain[ends < times[test[0]] - pd.Timedelta("10D")])
        assert len(train) < len(plain)
    with pytest.raises(ConfigError, match="embargo in time needs"):
        list(WalkForward(embargo=pd.Timedelta("1D")).split(np.zeros(100), groups=np.arange(100)))


@pytest.mark.parametrize("wrong", [{"n_splits": 2.5}, {"embargo": "1D"}, {"embargo": pd.Timedelta("-1D")}])
def test_other_parameters_of_a_splitter_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="WalkForward: "):
        WalkForward(**wrong)
