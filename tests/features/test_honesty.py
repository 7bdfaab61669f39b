"""Numbers stay right where rolling arithmetic usually goes wrong: real bars, bent, against windows from scratch.

Every column is compared with its oracle, which recomputes each window in two passes and so carries nothing over.
"""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.market.simulate.markets import null_market

ORACLES = runpy.run_path(str(Path(__file__).with_name("oracles.py")))
PRICES = ["open", "high", "low", "close"]
START, LENGTH, SETTLED = 1500, 210, 2100  # where a disturbance begins, how long it lasts, when it is forgotten


def on_a_grid(bars: pd.DataFrame, level: float, tick: float) -> pd.DataFrame:
    """The same candles, their moves shrunk to a few ticks about a price level."""
    moves = bars[PRICES] / bars["close"].iloc[0] - 1
    scale = 20 * tick / bars["close"].pct_change().std()
    bent = bars.copy()
    bent[PRICES] = np.round((level + moves * scale) / tick) * tick
    return bent


def halved(bars: pd.DataFrame) -> pd.DataFrame:
    """The price is cut in half overnight."""
    bent = bars.copy()
    bent.iloc[START:, :4] *= 0.5
    return bent


def frozen(bars: pd.DataFrame) -> pd.DataFrame:
    """Nothing moves and nothing trades for a while; then the market goes on from there."""
    bent = bars.copy()
    last = bent["close"].iloc[START - 1]
    bent.iloc[START + LENGTH :, :4] *= last / bent["open"].iloc[START + LENGTH]
    bent.iloc[START : START + LENGTH, :4] = last
    bent.iloc[START : START + LENGTH, 4] = 0.0
    return bent


def silent(bars: pd.DataFrame) -> pd.DataFrame:
    """Prices are quoted without a trade for a while."""
    bent = bars.copy()
    bent.iloc[START : START + LENGTH, 4] = 0.0
    return bent


def burst(bars: pd.DataFrame) -> pd.DataFrame:
    """One bar trades a billion times the usual volume."""
    bent = bars.copy()
    bent.iloc[START, 4] *= 1e9
    return bent


BENDS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "price 1e-8, tick 1e-12": lambda bars: on_a_grid(bars, 1e-8, 1e-12),
    "price 1e6, tick 1e-2": lambda bars: on_a_grid(bars, 1e6, 1e-2),
    "half": halved,
    "frozen": frozen,
    "silent": silent,
    "burst": burst,
}


def bent_bars(name: str, bars: pd.DataFrame) -> pd.DataFrame:
    return mlkit.validate_bars(BENDS[name](bars), symbol="BENT", timeframe=bars.attrs["timeframe"])


@pytest.mark.parametrize("name", BENDS)
def test_numbers_are_finite_and_nan_is_warm_up(name: str, sp500: pd.DataFrame) -> None:
    features = mlkit.build_features(bent_bars(name, sp500)).to_numpy()
    warming = np.arange(len(features))[:, None] < mlkit.feature_catalogue()["warm_up"].to_numpy()
    assert np.array_equal(np.isnan(features), warming)
    assert not np.isinf(features).any()


@pytest.mark.parametrize("name", BENDS)
@pytest.mark.parametrize("market", ["SP500-1d", "BTCUSDT_BYBIT-1m", "FXY-1m"])
def test_every_column_is_right_after_the_disturbance(
    name: str, market: str, sp500: pd.DataFrame, real_bars: Callable[[str], pd.DataFrame]
) -> None:
    bars = sp500 if market == "SP500-1d" else real_bars(market).iloc[-5000:]
    table = ORACLES["compare"](bent_bars(name, bars), since=SETTLED)
    # At a tick of 1e-8 of the price, the rounding of one quotient is 1e-8 of a move; some columns amplify it.
    wrong = table[table["error"] > ORACLES["TOLERANCE"] * (5 if "1e6" in name else 1)]
    assert wrong.empty, wrong


def test_frozen_bars_give_the_stated_neutral_values(sp500: pd.DataFrame) -> None:
    flat = mlkit.build_features(bent_bars("frozen", sp500)).iloc[START + LENGTH - 1]
    zero = "^log_return|^return_|^rolling_|^bollinger|^zscore|^cci|^sma_ratio|^volume_ratio|^obv|^vwap|^market_pressure"
    assert (flat.filter(regex=zero).abs() <= 1e-14).all()
    assert flat["stochastic_k_14"] == 50 and flat["money_flow_index_14"] == 50
    assert flat["donchian_position_20"] == 0.5 and flat["zero_return_share_20"] == 1


def test_many_bars_leave_no_drift() -> None:
    calm = null_market(300_000, seed=3)
    features = mlkit.build_features(calm).iloc[-1]
    fresh = mlkit.build_features(calm.iloc[-3000:]).iloc[-1]
    np.testing.assert_allclose(features, fresh, rtol=1e-6, atol=1e-9)
