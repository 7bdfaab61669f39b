"""Forward returns against pandas and hand-written times; pattern labels against the rules."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import BarsError, ConfigError
from mlkit.features.rules import RELAXATIONS, WARM_UP, pattern_flags
from mlkit.labels import PATTERNS, base_rates, forward_returns, pattern_directions, pattern_labels


def daily_bars(days: list[str], closes: list[float]) -> pd.DataFrame:
    index = pd.DatetimeIndex(days, tz="UTC", name="timestamp")
    close = np.array(closes)
    bars = pd.DataFrame({"open": close, "high": close, "low": close, "close": close, "volume": 1.0}, index=index)
    bars.attrs = {"symbol": "TEST", "timeframe": "1d"}
    return bars


WEEK = daily_bars(
    ["2024-03-07", "2024-03-08", "2024-03-11", "2024-03-12", "2024-03-13"],  # a weekend after the second
    [100.0, 110.0, 99.0, 99.0, 101.0],
)


def test_returns_and_end_times_by_hand() -> None:
    labels = forward_returns(WEEK, horizons=(1, 3))
    nan, nat = np.nan, pd.NaT
    ratios = {1: [1.1, 0.9, 1.0, 101 / 99, nan], 3: [0.99, 101 / 110, nan, nan, nan]}
    ends = {
        1: ["2024-03-08", "2024-03-11", "2024-03-12", "2024-03-13", nat],
        3: ["2024-03-12", "2024-03-13", nat, nat, nat],
    }
    for h in (1, 3):
        np.testing.assert_allclose(labels["log_return"][h], np.log(ratios[h]), rtol=1e-14, atol=0)
        expected = pd.Series(pd.DatetimeIndex(ends[h], tz="UTC").as_unit("ns"), index=WEEK.index, name=h)
        pd.testing.assert_series_equal(labels["end_time"][h], expected, check_freq=False, check_index=False)
    assert list(labels.columns) == [("log_return", 1), ("log_return", 3), ("end_time", 1), ("end_time", 3)]
    assert list(labels.columns.names) == ["label", "horizon"]
    assert labels.attrs == {"symbol": "TEST", "timeframe": "1d"}


def test_returns_are_those_of_pandas(sp500: pd.DataFrame) -> None:
    labels = forward_returns(sp500)
    for h in (1, 5, 15, 60):
        ahead = sp500["close"].shift(-h)
        pd.testing.assert_series_equal(
            labels["log_return"][h], np.log(ahead / sp500["close"]), check_names=False, check_exact=True
        )
        end = sp500.index.to_series().shift(-h)
        pd.testing.assert_series_equal(labels["end_time"][h], end, check_names=False)
        assert labels.isna()["log_return"][h].sum() == labels.isna()["end_time"][h].sum() == h
        assert (labels["end_time"][h].dropna() > labels.index[:-h]).all()
    assert labels.index.equals(sp500.index)


def test_labels_of_the_past_stay_as_bars_arrive(sp500: pd.DataFrame) -> None:
    cut = 900
    early, late = forward_returns(sp500.iloc[:cut]), forward_returns(sp500)
    known = early.notna()
    pd.testing.assert_frame_equal(early, late.iloc[:cut].where(known))
    assert known.iloc[: cut - 60].all(axis=None)
    assert (early["end_time"].max() <= sp500.index[cut - 1]).all()


@pytest.mark.parametrize(
    ("horizons", "message"),
    [
        ((), "at least one"),
        ((1, 5, 1), "all different"),
        ((0,), "positive integers, bars ahead, not 0"),
        ((5, -1), "not -1"),
        ((1.0,), "not 1.0"),
        ((True,), "not True"),
        ("15", "not '1'"),
        (5, r"such as \(1, 5\), not 5"),
    ],
)
def test_horizons_that_are_refused(horizons: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        forward_returns(WEEK, horizons)


def test_horizons_may_come_from_numpy() -> None:
    pd.testing.assert_frame_equal(forward_returns(WEEK, np.array([3, 1])), forward_returns(WEEK, (3, 1)))


def test_too_few_bars() -> None:
    assert forward_returns(WEEK, (4,))["log_return"][4].notna().sum() == 1
    with pytest.raises(BarsError, match="horizon 60 needs 61 bars, have 5"):
        forward_returns(WEEK)


@pytest.mark.parametrize("label", [forward_returns, pattern_labels, pattern_directions, base_rates])
def test_bars_are_checked_at_the_door(label: Callable[[pd.DataFrame], pd.DataFrame], sp500: pd.DataFrame) -> None:
    with pytest.raises(BarsError):
        label(sp500.iloc[::-1])
    with pytest.raises(BarsError, match="volume"):
        label(sp500.drop(columns="volume"))


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
        assert frame.attrs == {"symbol": "SP500", "timeframe": "1d", "standard": standard, "warm_up": WARM_UP}
    for name, rows in labels.attrs["warm_up"].items():
        assert not labels[name].iloc[:rows].any()
    pd.testing.assert_frame_equal(sp500, before)


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
