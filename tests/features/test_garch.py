"""The GARCH column is arch's own filter; the fit sees training bars only."""

import numpy as np
import pandas as pd
import pytest
from arch import arch_model

import mlkit
from mlkit.errors import BarsError
from mlkit.features.engine import DEFAULT_GARCH, FeatureStream
from mlkit.features.garch import fit_garch
from mlkit.features.state import GARCH
from mlkit.features.state_rows import BLOCK_BARS, place


def test_the_filter_is_that_of_arch(sp500: pd.DataFrame) -> None:
    garch = fit_garch(sp500.iloc[:3000])
    returns = np.diff(np.log(sp500["close"].to_numpy())) * 100
    model = arch_model(returns, mean="Zero", vol="GARCH", p=1, q=1, rescale=False)
    fixed = model.fix([garch[0] * 1e4, garch[1], garch[2]]).conditional_volatility / 100
    stream = FeatureStream(garch=garch)
    ours = []
    for bar in sp500.to_numpy():
        stream.push(*bar)
        newest = place(GARCH) + (stream.bars_seen - 1) % BLOCK_BARS
        ours.append(np.sqrt(stream._vector[newest]))  # float64, before the column is rounded to float32
    # arch starts from a backcast over later bars, which fades as beta ** t; row t here speaks of bar t + 1.
    np.testing.assert_allclose(ours[1500:-1], fixed[1500:], rtol=1e-8)


def test_later_bars_do_not_change_the_column(sp500: pd.DataFrame) -> None:
    garch = fit_garch(sp500.iloc[:2000])
    whole = mlkit.build_features(sp500, garch=garch)["garch_volatility"]
    part = mlkit.build_features(sp500.iloc[:2500], garch=garch)["garch_volatility"]
    pd.testing.assert_series_equal(part, whole.iloc[:2500])


def test_few_or_flat_bars(sp500: pd.DataFrame) -> None:
    with pytest.raises(BarsError, match="need 500 bars, have 100"):
        fit_garch(sp500.iloc[:100])
    flat = sp500.iloc[:600].copy()
    flat[["open", "high", "low", "close"]] = 5.0
    assert fit_garch(flat) == DEFAULT_GARCH
