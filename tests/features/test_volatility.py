"""The terms of a volatility forecast: causal, row by row, free of the price level."""

import numpy as np
import pandas as pd
import pytest

from mlkit.features.engine import WARM_UP, build_features
from mlkit.features.volatility import DAILY, ESTIMATES, WEEKLY, volatility_terms
from mlkit.market.simulate.markets import null_market


@pytest.fixture(scope="module")
def features() -> pd.DataFrame:
    return build_features(null_market(1200, seed=1, timeframe="1h"))


def test_terms_are_logarithms_and_seasons(features: pd.DataFrame) -> None:
    terms = volatility_terms(features, "1h")
    estimates = 2 + len(ESTIMATES)
    assert terms.shape == (1200, estimates + 2 * (DAILY + WEEKLY)) and terms.dtype == np.float64
    assert np.isfinite(terms[WARM_UP:]).all() and np.isnan(terms[:50, 0]).all()
    warm = features.iloc[WARM_UP:]
    np.testing.assert_allclose(np.exp(terms[WARM_UP:, 0]), warm["ewma_volatility"], rtol=1e-5)
    fast = terms[WARM_UP:, 2 + ESTIMATES.index("rolling_std_5")]
    expected = np.log(warm["rolling_std_5"].to_numpy(float) / warm["ewma_volatility"].to_numpy(float))
    assert np.median(np.abs(fast - expected)) < 1e-9  # the floor is reached now and then
    day = terms[:, estimates]
    np.testing.assert_allclose(day, 0.25 * np.cos(2 * np.pi * features.index.hour / 24), atol=1e-12)
    sunday = features.index[features.index.day_of_week == 6][0]
    week = volatility_terms(features.loc[[sunday]], "1h")[0, estimates + 2 * DAILY :]
    assert week[1] < 0 < week[0]  # late in a week that begins on Monday


def test_seasons_fit_the_timeframe(features: pd.DataFrame) -> None:
    counts = {tf: volatility_terms(features, tf).shape[1] - 2 - len(ESTIMATES) for tf in ("1m", "15m", "1h", "1d")}
    assert counts == {"1m": 8, "15m": 14, "1h": 14, "1d": 6}


def test_a_row_alone_has_its_bits(features: pd.DataFrame) -> None:
    whole = volatility_terms(features, "1h")
    for row in (0, 700, 1199):
        assert np.array_equal(volatility_terms(features.iloc[[row]], "1h")[0], whole[row], equal_nan=True)


def test_a_flat_market_is_finite() -> None:
    bars = null_market(900, seed=1)
    flat = bars.assign(open=10.0, high=10.0, low=10.0, close=10.0)
    flat.attrs = bars.attrs
    assert np.isfinite(volatility_terms(build_features(flat), "1m")[WARM_UP:]).all()
