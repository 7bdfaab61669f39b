"""Resampling: pandas' own aggregation, an exchange's own bars, and never a bar before it is closed."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.market.bars import bars_of, open_times, validate_bars
from mlkit.market.calendar import get_calendar
from mlkit.market.simulate.markets import null_market
from mlkit.market.times import TIMEFRAMES

MINUTES = null_market(3 * 1440 + 17, seed=6, symbol="A")  # from midnight
HOW = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}


@pytest.mark.parametrize("timeframe", ["3m", "5m", "15m", "1h", "4h", "12h", "1d"])
def test_it_is_what_pandas_makes_without_the_open_last_bar(timeframe: str) -> None:
    holes = MINUTES.drop(index=MINUTES.index[[30, 31, 32, 33, 34, 35, 700, 2000]])
    theirs = holes.resample(TIMEFRAMES[timeframe], origin="epoch").agg(HOW).dropna()
    closed = theirs[theirs.index + TIMEFRAMES[timeframe] <= MINUTES.index[-1] + pd.Timedelta(minutes=1)]
    ours = mlkit.resample(holes, timeframe)
    pd.testing.assert_frame_equal(ours, closed, check_freq=False, rtol=1e-12)
    assert ours.attrs == {"symbol": "A", "timeframe": timeframe, "calendar": "24/7"}
    pd.testing.assert_frame_equal(validate_bars(ours), ours)


def test_weeks_begin_on_monday(sp500: pd.DataFrame) -> None:
    weeks = mlkit.resample(sp500, "1w")
    theirs = sp500.resample("W-MON", label="left", closed="left").agg(HOW).dropna()
    assert (weeks.index.day_of_week == 0).all()
    pd.testing.assert_frame_equal(weeks, theirs.loc[: weeks.index[-1]], check_freq=False, rtol=1e-12)
    assert weeks.index[-1] == pd.Timestamp("2018-12-24", tz="UTC")  # of the week of 31 December one day is there


def test_the_result_of_a_prefix_is_a_prefix_to_the_bit() -> None:
    whole = mlkit.resample(MINUTES, "15m")
    for stop in (15, 16, 29, 30, 31, 1439, 1440, 1441, 4000):
        part = mlkit.resample(MINUTES.iloc[:stop], "15m")
        assert len(part) == stop // 15
        pd.testing.assert_frame_equal(part, whole.iloc[: len(part)], check_exact=True)


def test_changing_the_future_changes_no_closed_bar() -> None:
    later = MINUTES.copy()
    later.iloc[2000:] *= 3.0
    before = MINUTES.index[2000] - pd.Timedelta(hours=1)
    pd.testing.assert_frame_equal(
        mlkit.resample(later, "1h").loc[:before], mlkit.resample(MINUTES, "1h").loc[:before], check_exact=True
    )


def test_the_moment_of_knowledge_closes_the_last_bar() -> None:
    part = MINUTES.iloc[:59]  # the minute 00:59 had no trade
    with pytest.raises(BarsError, match="59 bars are too few for one whole 1h bar"):
        mlkit.resample(part, "1h")
    hour = mlkit.resample(part, "1h", known_at=pd.Timestamp("2024-01-01 01:00"))
    assert hour["close"].iloc[0] == part["close"].iloc[-1]
    with pytest.raises(BarsError, match="too few"):
        mlkit.resample(part, "1h", known_at=pd.Timestamp("2024-01-01 00:59:59", tz="UTC"))


def test_a_start_in_the_middle_of_a_bar_is_left_out() -> None:
    assert mlkit.resample(MINUTES.iloc[7:], "15m").index[0] == MINUTES.index[15]


@pytest.mark.parametrize("timeframe", ["1m", "3m", "2h"])
def test_what_is_no_multiple_is_refused(timeframe: str) -> None:
    with pytest.raises(ConfigError, match="not a multiple"):
        mlkit.resample(mlkit.resample(MINUTES, "5m"), timeframe) if timeframe != "2h" else mlkit.resample(
            null_market(99, seed=1, timeframe="12h", symbol="A"), "2h"
        )


def test_the_same_timeframe_changes_nothing() -> None:
    pd.testing.assert_frame_equal(mlkit.resample(MINUTES, "1m"), MINUTES, check_freq=False)


@pytest.mark.parametrize(("small", "large"), [
    ("BTCUSDT_BYBIT-1m", "BTCUSDT_BYBIT-5m"), ("ETHUSDT_BYBIT-1m", "ETHUSDT_BYBIT-5m"),
    ("BTCUSDT-15m", "BTCUSDT-1h"), ("ETHUSDT-15m", "ETHUSDT-1h"), ("BTCUSDT-1h", "BTCUSDT-1d"),
])  # fmt: skip
def test_it_equals_the_exchanges_own_bars(small: str, large: str, real_bars: Callable[[str], pd.DataFrame]) -> None:
    theirs = real_bars(large)
    ours = mlkit.resample(real_bars(small), theirs.attrs["timeframe"])
    both = ours.index.intersection(theirs.index)
    assert len(both) > 2000 and len(both) >= len(ours) - 40
    prices = ["open", "high", "low", "close"]
    same = (ours.loc[both, prices] == theirs.loc[both, prices]).all(axis=1)
    print(f"{small} to {large}: {same.sum()} of {len(both)} bars equal")
    assert same.all()
    np.testing.assert_allclose(ours.loc[both, "volume"], theirs.loc[both, "volume"], rtol=1e-6)


@pytest.mark.parametrize(("calendar", "timeframe"), [("XNYS", "1h"), ("XHKG", "1h"), ("CMES", "1h"), ("24/5", "1h")])
def test_days_are_sessions_and_carry_their_dates(calendar: str, timeframe: str) -> None:
    """Each day is known at its session's close; the prefix that ends with a session holds its day."""
    market = get_calendar(calendar)
    span = (pd.Timestamp(time, tz="UTC").value for time in ("2024-11-01", "2025-02-14"))
    times = market.expected_opens(timeframe, *span)
    values = np.tile(np.arange(1.0, len(times) + 1), (5, 1))
    bars = validate_bars(bars_of((times, values), symbol="A", timeframe=timeframe, calendar=calendar))
    days = mlkit.resample(bars, "1d")
    last = int(market.bar_closes(times[-1:], timeframe)[0])
    whole = (market.opens >= times[0]) & (market.closes <= last)
    assert open_times(days).tolist() == market.dates[whole].tolist()
    own = np.searchsorted(times, market.closes[whole]) - 1  # row of each session's last bar
    assert days["close"].tolist() == (own + 1.0).tolist()
    part = mlkit.resample(bars.iloc[: own[20] + 1], "1d")
    pd.testing.assert_frame_equal(part, days.iloc[:21], check_exact=True)
    assert len(mlkit.resample(bars.iloc[: own[20]], "1d")) == 20
    weeks = mlkit.resample(days, "1w")
    assert (weeks.index.day_of_week == 0).all()
    pd.testing.assert_frame_equal(weeks, mlkit.resample(bars, "1w").loc[weeks.index])


def test_a_day_holds_nothing_from_after_its_close() -> None:
    """Extended hours of New York, 04:00 to 20:00: the day is known at 16:00."""
    days = get_calendar("XNYS").expected_opens("1d", *(pd.Timestamp(t).value for t in ("2025-03-03", "2025-03-14")))
    local = [f"{pd.Timestamp(int(day)):%Y-%m-%d} {hour:02d}:00" for day in days for hour in range(4, 20)]
    times = pd.DatetimeIndex(local).tz_localize("America/New_York").tz_convert("UTC").as_unit("ns").asi8
    values = np.tile(np.arange(1.0, len(times) + 1), (5, 1))
    bars = bars_of((times, values), symbol="A", timeframe="1h", calendar="XNYS")
    assert mlkit.resample(bars, "1d")["close"].tolist() == [16.0 * day + 12.0 for day in range(len(days))]
