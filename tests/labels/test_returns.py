"""Forward returns against pandas and hand-written times."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import BarsError, ConfigError
from mlkit.labels import base_rates, earned_returns, forward_returns, pattern_directions, pattern_labels
from mlkit.market import calendar_of, unbroken_runs, validate_bars


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
    assert labels.attrs == {"symbol": "TEST", "timeframe": "1d", "calendar": "Mon-Fri 00:00-24:00 UTC"}


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


def hourly_bars(opens: Sequence[int] | np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Bars that open that many hours after a Monday, 2024-01-01."""
    index = pd.DatetimeIndex(
        pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.asarray(opens), unit="h"), name="timestamp"
    )
    rng = np.random.default_rng(seed)
    close = np.exp(rng.normal(0, 0.01, len(index)).cumsum())
    first = close * np.exp(rng.normal(0, 0.001, len(index)))
    data = {"open": first, "high": np.maximum(first, close), "low": np.minimum(first, close), "close": close}
    bars = pd.DataFrame({**data, "volume": 1.0}, index=index)
    bars.attrs = {"symbol": "TEST", "timeframe": "1h", "calendar": "24/7"}
    return bars


def test_an_outage_of_a_market_that_never_closes_by_hand() -> None:
    hours = [h for h in range(24 * 7) if h not in (50, 100, 101)]  # one hour missing, then two
    bars = hourly_bars(hours)
    labels, earned = forward_returns(bars, (1, 3)), earned_returns(bars, (1, 3))
    before = hours.index(99)
    assert np.flatnonzero(labels["log_return"][1].isna()).tolist() == [before, len(bars) - 1]
    assert np.flatnonzero(labels["log_return"][3].isna()).tolist() == [
        before - 2,
        before - 1,
        before,
        *range(len(bars) - 3, len(bars)),
    ]
    assert labels["end_time"].isna().to_numpy().tolist() == labels["log_return"].isna().to_numpy().tolist()
    assert np.flatnonzero(earned[1].isna()).tolist() == [before - 1, before, len(bars) - 2, len(bars) - 1]
    assert unbroken_runs(validate_bars(bars)).tolist() == [0] * (before + 1) + [1] * (len(bars) - before - 1)
    crossed = forward_returns(bars, (1,), max_gap=None)["log_return"][1]
    assert crossed.iloc[before] == np.log(bars["close"].iloc[before + 1] / bars["close"].iloc[before])
    assert forward_returns(bars, (1,), max_gap="2h")["log_return"][1].notna().iloc[before]
    assert forward_returns(bars, (1,), max_gap=pd.Timedelta(0))["log_return"][1].isna().sum() == 3


def test_nights_weekends_and_holidays_of_sessions_are_no_outage(sp500: pd.DataFrame) -> None:
    """New York was closed from 2001-09-11 to 2001-09-16, which its calendar knows."""
    assert calendar_of(sp500).name == "XNYS"
    assert unbroken_runs(sp500).max() == 0
    assert forward_returns(sp500, (1,))["log_return"][1].notna().loc["2001-09-10"]
    assert unbroken_runs(sp500.drop(pd.Timestamp("2001-08-06", tz="UTC"))).max() == 1  # a session is missing
    without_august = sp500.drop(sp500.loc["2001-08-06":"2001-08-24"].index)
    assert unbroken_runs(without_august).max() == 1
    assert np.isnan(forward_returns(without_august, (1,))["log_return"][1].loc["2001-08-03"])


def test_real_outages(real_bars: Callable[[str], pd.DataFrame]) -> None:
    assert unbroken_runs(real_bars("BTCUSDT-1h")).max() == 8  # of 15 gaps, 7 are one hour
    assert unbroken_runs(real_bars("UNITTEST_BTC-1m")).max() == 0  # minutes without a trade
    assert unbroken_runs(real_bars("EURUSD-1h")).max() == 0
    assert unbroken_runs(real_bars("SPY-1m")).max() == 1  # two spells ten years apart
    assert unbroken_runs(real_bars("AAPL-1h")).max() == 0


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.sampled_from([1, 1, 1, 1, 2, 3, 30]), min_size=12, max_size=120),
    horizons=st.sets(st.integers(1, 8), min_size=1, max_size=3),
    tolerance=st.integers(0, 30),
)
def test_labels_are_exactly_those_that_cross_no_long_gap(steps: list[int], horizons: set[int], tolerance: int) -> None:
    """The oracle walks every bar of every label."""
    bars = hourly_bars(np.cumsum(steps))
    hours = np.cumsum(steps)
    gap = pd.Timedelta(hours=tolerance)

    def unbroken(first: int, last: int) -> bool:
        return last < len(bars) and all(hours[k + 1] - hours[k] - 1 <= tolerance for k in range(first, last))

    longest = max(horizons)
    if not any(unbroken(t, t + longest) for t in range(len(bars))):
        with pytest.raises(BarsError, match=f"horizon {longest} needs {longest + 1} bars"):
            forward_returns(bars, horizons, max_gap=gap)
        return
    labels, earned = forward_returns(bars, horizons, max_gap=gap), earned_returns(bars, horizons, max_gap=gap)
    plain = forward_returns(bars, horizons, max_gap=None)
    for h in horizons:
        known = [unbroken(t, t + h) for t in range(len(bars))]
        assert labels["log_return"][h].notna().tolist() == labels["end_time"][h].notna().tolist() == known
        pd.testing.assert_frame_equal(labels.loc[known], plain.loc[known].where(labels.loc[known].notna()))
        tradable = [unbroken(t, t + 1 + h) for t in range(len(bars))]
        assert earned[h].notna().tolist() == tradable
        ahead = np.log(bars["open"].shift(-h - 1) / bars["open"].shift(-1)).to_numpy()
        np.testing.assert_allclose(earned[h][tradable], ahead[tradable], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("max_gap", ["soon", -pd.Timedelta(hours=1), pd.NaT, "-2h"])
def test_a_tolerance_that_is_refused(max_gap: object) -> None:
    with pytest.raises(ConfigError, match="max_gap must be 'auto', 'memory', None or a length of time"):
        forward_returns(WEEK, (1,), max_gap=max_gap)


@pytest.mark.parametrize("label", [forward_returns, earned_returns, pattern_labels, pattern_directions, base_rates])
def test_bars_are_checked_at_the_door(label: Callable[[pd.DataFrame], pd.DataFrame], sp500: pd.DataFrame) -> None:
    with pytest.raises(BarsError):
        label(sp500.iloc[::-1])
    with pytest.raises(BarsError, match="volume"):
        label(sp500.drop(columns="volume"))
