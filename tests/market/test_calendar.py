"""Calendars against the library they wrap, and against dates that everybody can look up."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import ConfigError
from mlkit.market.calendar import INSIDE, LONG_CLOSE, NIGHT, get_calendar

HOUR, DAY = 3_600_000_000_000, 86_400_000_000_000


def ns(*times: str) -> np.ndarray:
    return np.array([pd.Timestamp(time, tz="UTC").value for time in times])


def text(times: np.ndarray) -> list[str]:
    return [f"{time:%Y-%m-%d %H:%M}" for time in pd.to_datetime(times)]


@pytest.mark.parametrize("name", ["XNYS", "XLON", "XHKG", "XSHG", "CMES"])
@pytest.mark.parametrize("timeframe", ["5m", "1h", "1d"])
def test_expected_bars_are_those_of_the_library(name: str, timeframe: str) -> None:
    import exchange_calendars

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.Pandas4Warning)
        library = exchange_calendars.get_calendar(name)
        start, end = "2024-11-25", "2025-02-14"  # Thanksgiving's half day, Christmas, the Chinese new year
        if timeframe == "1d":
            wanted = library.sessions_in_range(start, end).as_unit("ns").asi8
        else:
            index = library.trading_index(start, end, timeframe.replace("m", "min"), closed="left", force=True)
            wanted = index.left if isinstance(index, pd.IntervalIndex) else index
            wanted = wanted.as_unit("ns").asi8
    found = get_calendar(name).expected_opens(timeframe, wanted[0], wanted[-1])
    assert found.tolist() == wanted.tolist()


def test_a_bar_is_complete_at_its_own_close() -> None:
    new_york = get_calendar("XNYS")
    hourly = ns("2025-11-26 20:30", "2025-11-28 16:30", "2025-11-28 17:30", "2025-11-26 22:00")
    assert text(new_york.bar_closes(hourly, "1h")) == [
        "2025-11-26 21:00",  # the last, shorter hour
        "2025-11-28 17:30",
        "2025-11-28 18:00",  # the day after Thanksgiving closes at 13:00 New York
        "2025-11-26 23:00",  # after hours
    ]
    daily = ns("2025-11-26", "2025-11-27", "2025-11-28", "2025-07-03")
    closes = ["2025-11-26 21:00", "2025-11-28 00:00", "2025-11-28 18:00", "2025-07-03 17:00"]
    assert text(new_york.bar_closes(daily, "1d")) == closes
    assert text(new_york.bar_closes(ns("2025-11-24"), "1w")) == ["2025-11-28 18:00"]
    hong_kong = get_calendar("XHKG")
    assert text(hong_kong.bar_closes(ns("2025-06-03 03:30"), "1h")) == ["2025-06-03 04:00"]  # lunch
    assert text(get_calendar("24/7").bar_closes(ns("2025-06-03", "2025-06-07"), "1d")) == [
        "2025-06-04 00:00",
        "2025-06-08 00:00",
    ]
    assert text(get_calendar("24/5").bar_closes(ns("2025-06-06", "2025-01-10"), "1d")) == [
        "2025-06-06 21:00",  # 17:00 New York, in summer
        "2025-01-10 22:00",
    ]


def test_closes_between_two_instants_are_nights_or_longer() -> None:
    new_york = get_calendar("XNYS")
    start = ns("2025-11-24 15:30", "2025-11-24 20:30", "2025-11-26 20:30", "2025-11-28 17:30", "2025-11-24 20:30")
    end = ns("2025-11-24 16:30", "2025-11-25 15:30", "2025-11-28 15:30", "2025-12-01 15:30", "2025-12-02 15:30")
    assert new_york.classes(start, end).tolist() == [INSIDE, NIGHT, LONG_CLOSE, LONG_CLOSE, LONG_CLOSE]
    nights, long_closes = new_york.closes_between(start, end)
    assert (nights.tolist(), long_closes.tolist()) == ([0, 1, 0, 0, 3], [0, 0, 1, 1, 2])
    assert (new_york.closed_time(start, end)[:2] / HOUR).tolist() == [0.0, 17.5]
    always = get_calendar("24/7")
    assert always.never_closes and not new_york.never_closes
    assert (always.classes(start, end) == INSIDE).all()
    assert (always.closed_time(start, end) == 0).all()
    lunch = get_calendar("XHKG").closed_time(ns("2025-06-03 03:30"), ns("2025-06-03 05:30"))
    assert lunch.tolist() == [HOUR]
    assert get_calendar("XHKG").classes(ns("2025-06-03 03:30"), ns("2025-06-03 05:30")).tolist() == [INSIDE]


def test_trading_time_adds_up() -> None:
    rng = np.random.default_rng(7)
    for name in ("XNYS", "XHKG", "24/5", "24/7", "Mon-Fri 08:00-16:30 Europe/London"):
        calendar = get_calendar(name)
        a, b, c = np.sort(rng.integers(*ns("2020-01-01", "2024-01-01"), size=(3, 200)), axis=0)
        assert (calendar.trading_time(a, b) + calendar.trading_time(b, c) == calendar.trading_time(a, c)).all()
        assert (calendar.trading_time(a, b) <= b - a).all()
        assert (calendar.trading_time(b, a) == -calendar.trading_time(a, b)).all()


def test_local_time_knows_daylight_saving() -> None:
    opened = ns("2025-03-07 14:30", "2025-03-10 13:30")  # 09:30 New York before and after the clock change
    local = get_calendar("XNYS").local(opened)
    assert (local % DAY / HOUR).tolist() == [9.5, 9.5]


def test_sessions_of_instants_outside_them() -> None:
    new_york = get_calendar("XNYS")
    times = ns("2025-11-26 12:00", "2025-11-26 15:00", "2025-11-26 23:00", "2025-11-29 12:00")
    assert text(new_york.session_dates(times)) == [
        "2025-11-26 00:00",
        "2025-11-26 00:00",
        "2025-11-26 00:00",
        "2025-12-01 00:00",
    ]


def test_the_fx_week_is_sunday_to_friday_new_york() -> None:
    week = get_calendar("24/5")
    times = ns("2025-06-08 20:59", "2025-06-08 21:00", "2025-06-13 20:59", "2025-06-13 21:00")
    assert week.is_open(times).tolist() == [False, True, True, False]
    assert week.bars_a_year("1h") == pytest.approx(6261.6, abs=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NYSE2", "did you mean"),
        ("XNYX", "XNYS"),
        ("", "is unknown"),
        ("Mon-Fri 08:00-16:30 Nowhere", "no time zone 'Nowhere'"),
        ("Mon-Fri 08:00-16:30 UTC, Mon 09:00-10:00 UTC", "is unknown"),
        ("Mon-Fri 08:00-16:30, Mon 09:00-10:00 UTC", "overlap"),
    ],
)
def test_an_unknown_calendar_is_refused_with_the_closest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_calendar(name)


def test_calendars_travel() -> None:
    for name in ("XNYS", "24/7", "Mon-Fri 08:00-16:30 Europe/London"):
        calendar = get_calendar(name)
        assert pickle.loads(pickle.dumps(calendar)) is calendar
        assert copy.deepcopy(calendar) is calendar
        with pytest.raises(ValueError, match="read-only"):
            calendar.opens[0] = 0
