"""Champion against challenger: the loss is what it says, later bars only, and the better one is called better."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_pinball_loss

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation.metrics import brier, direction
from mlkit.market.simulate.markets import null_market, planted_edge
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.retraining.comparison import compare, trained_until

Fitted = Callable[..., ModelBundle]


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return null_market(2000, seed=4, timeframe="1h", symbol="CALM")


def test_the_loss_is_that_of_the_served_forecasts(bars: pd.DataFrame, home: mlkit.Settings, fitted: Fitted) -> None:
    """The oracle: a weighted interval score is a mean of pinball losses (Bracher et al. 2021, eq. 3)."""
    champion, challenger = fitted(bars.iloc[:1300]), fitted(bars.iloc[:1500])
    found = compare(champion, challenger, bars, home)
    said = mlkit.Predictor(champion, home).forecasts(bars).set_index("timestamp").loc[found.first : found.last]
    y = mlkit.forward_returns(bars, (1,))["log_return"][1].loc[found.first : found.last].to_numpy()
    unit = mlkit.build_features(bars, columns=["ewma_volatility"]).loc[found.first : found.last].to_numpy()[:, 0]
    ends = {0.05: "lo90", 0.1: "lo80", 0.5: "log_return", 0.9: "hi80", 0.95: "hi90"}
    spread = 2.0 * np.mean(
        [mean_pinball_loss(y / unit, said[name] / unit, alpha=level) for level, name in ends.items()]
    )
    up = brier(direction(y), said["p_up"])
    assert found.table["champion"].to_list() == pytest.approx([spread, up])
    assert found.champion_loss == pytest.approx(spread + up)
    assert found.difference == pytest.approx(found.challenger_loss - found.champion_loss)
    assert found.low <= found.difference <= found.high and found.to_dict()["answer"] == found.answer


def test_only_bars_later_than_both_are_scored(bars: pd.DataFrame, home: mlkit.Settings, fitted: Fitted) -> None:
    champion, challenger = fitted(bars.iloc[:1500]), fitted(bars.iloc[:1300])
    found = compare(champion, challenger, bars, home)
    assert found.first == bars.index[1500] > trained_until(champion) > trained_until(challenger)
    assert found.last == bars.index[-2] and found.rows == 499  # the last bar has no outcome yet
    other = bars.copy()
    other.iloc[1600:] = bars.iloc[1600:].to_numpy()[::-1]  # the future of the bars before it
    assert compare(champion, challenger, other.iloc[:1600], home).to_dict() == (
        compare(champion, challenger, bars.iloc[:1600], home).to_dict()
    )
    with pytest.raises(BarsError, match=r"CALM 1h: 10 bars later than .* too few to compare"):
        compare(champion, challenger, bars.iloc[:1510], home)


def test_the_one_that_has_learned_something_is_better(home: mlkit.Settings, fitted: Fitted) -> None:
    market = planted_edge(4000, seed=5, strength=0.4, timeframe="1h", symbol="EDGE")
    little, much = fitted(market.iloc[:1300]), fitted(market.iloc[:3500], ensemble=EnsembleSettings.smoke())
    found = compare(little, much, market, home)
    assert found.answer == "better" and found.high < 0
    swapped = compare(much, little, market, home)
    assert swapped.answer == "worse" and swapped.low == pytest.approx(-found.high)
    same = compare(much, much, market, home)
    assert same.answer == "no difference" and same.difference == 0.0


def test_horizons_without_enough_later_bars_are_left_out(
    bars: pd.DataFrame, home: mlkit.Settings, fitted: Fitted
) -> None:
    champion = fitted(bars.iloc[:1700], prediction_horizons=(1, 5, 60))
    challenger = fitted(bars.iloc[:1800], prediction_horizons=(1, 60))
    assert compare(champion, challenger, bars, home).horizons == (1,)  # 60 bars ahead take 540
    with pytest.raises(BarsError, match="no horizon in common"):
        compare(fitted(bars.iloc[:1700], prediction_horizons=(5,)), challenger, bars, home)


def test_a_hole_in_the_bars_is_scored_around(bars: pd.DataFrame, home: mlkit.Settings, fitted: Fitted) -> None:
    champion, challenger = fitted(bars.iloc[:1300]), fitted(bars.iloc[:1500])
    holed = bars.drop(bars.index[1800:1900])
    found = compare(champion, challenger, holed, home)
    assert found.rows == 2000 - 1500 - 100 - 2 and np.isfinite([found.low, found.high]).all()


def test_a_bundle_without_prices_cannot_be_compared(bars: pd.DataFrame, home: mlkit.Settings, fitted: Fitted) -> None:
    champion = fitted(bars.iloc[:1500])
    told = champion.manifest.model_dump(include={"symbol", "timeframe", "feature_names", "horizons", "seed"})
    told |= {"training_span": champion.manifest.training_span.model_dump(), "data_sha256": "0" * 64}
    bare = write_bundle(
        home.models, {**told, "created": "2026-01-01", "settings": {}, "metrics": {}}, extra={"a.txt": b"a"}
    )
    with pytest.raises(ConfigError, match="holds no price models"):
        compare(champion, bare, bars, home)
