"""Pattern labels and their directions against the rules, and the standard of real markets."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import ConfigError
from mlkit.features import PATTERNS, WARM_UP, pattern_flags
from mlkit.features.rules import RELAXATIONS
from mlkit.labels import base_rates, claimed_directions, market_standard, pattern_directions, pattern_labels
from mlkit.market import COLUMNS, validate_bars


@pytest.mark.parametrize("standard", ["classic", "continuous"])
def test_pattern_labels_are_the_flags_with_their_warm_up(standard: str, sp500: pd.DataFrame) -> None:
    before = sp500.copy()
    labels, directions = pattern_labels(sp500, standard), pattern_directions(sp500, standard)
    flags = pattern_flags(*(sp500[name].to_numpy() for name in ("open", "high", "low", "close")), standard)
    np.testing.assert_array_equal(directions, flags)
    np.testing.assert_array_equal(labels, flags != 0)
    assert set(directions.dtypes) == {np.dtype(np.int8)} and set(labels.dtypes) == {np.dtype(bool)}
    for frame in (labels, directions):
        assert tuple(frame.columns) == PATTERNS and frame.index.equals(sp500.index)
        assert frame.attrs == {**sp500.attrs, "standard": standard, "warm_up": WARM_UP}
    for name, rows in labels.attrs["warm_up"].items():
        assert not labels[name].iloc[:rows].any()
    pd.testing.assert_frame_equal(sp500, before)


@pytest.mark.parametrize("standard", ["classic", "continuous"])
def test_claims_are_the_signs_of_the_rules_where_they_fire(standard: str, sp500: pd.DataFrame) -> None:
    claims, found = claimed_directions(sp500), pattern_directions(sp500, standard)  # type: ignore[arg-type]
    assert list(claims.columns) == list(PATTERNS) and claims.index.equals(sp500.index)
    assert (claims["doji"] == 0).all() and (found["doji"] >= 0).all()
    there = found.to_numpy() != 0
    there[:, 0] = False
    assert there.any(axis=0).sum() >= 13
    assert (claims.to_numpy()[there] == found.to_numpy()[there]).all()
    assert (claims.drop(columns="doji") != 0).all(axis=None)


def test_unknown_standard(sp500: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="'crypto' is not accepted"):
        pattern_labels(sp500, "crypto")


def test_base_rates_leave_the_warm_up_out(sp500: pd.DataFrame) -> None:
    bars = sp500.iloc[:510]
    rates = base_rates(bars)
    assert tuple(rates.index) == PATTERNS and list(rates.columns) == ["classic", "continuous"]
    assert rates.loc["doji", "classic"] == pattern_labels(bars)["doji"].sum() * 20  # 500 known bars
    relaxed = rates.index[rates["continuous"] > rates["classic"]]
    assert set(relaxed) <= set(RELAXATIONS) and (rates["continuous"] >= rates["classic"]).all()


def test_base_rates_of_patterns_that_are_not_known_are_nan(sp500: pd.DataFrame) -> None:
    rates = base_rates(sp500.iloc[:11])
    assert rates["classic"].notna().to_dict() == {name: rows < 11 for name, rows in WARM_UP.items()}


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("BTCUSDT_BYBIT-1m", "continuous"),
        ("BTCUSDT-1h", "continuous"),
        ("BTCUSDT-1d", "continuous"),
        ("AAPL-1h", "classic"),
        ("AAPL-1d", "classic"),
        ("EURUSD-1h", "classic"),
    ],
)
def test_standard_of_real_markets(real_bars: Callable[[str], pd.DataFrame], name: str, standard: str) -> None:
    assert market_standard(real_bars(name)) == standard


def test_standard_without_a_saturday(sp500: pd.DataFrame) -> None:
    assert market_standard(sp500) == "classic"
    index = pd.date_range("2024-01-03", periods=700, freq="1min", tz="UTC")  # a Wednesday, unbroken
    bars = validate_bars(pd.DataFrame(1.0, index, COLUMNS), symbol="A", timeframe="1m")
    assert market_standard(bars) == "continuous"
    gap = bars.drop(bars.index[300:400])
    assert market_standard(gap) == "continuous"  # of the same calendar
