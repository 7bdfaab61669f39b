"""Grids of open times: from the session's open or midnight; labels of daily bars; and what no grid holds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError
from mlkit.market import calendar_of, get_calendar, open_times, unbroken_runs
from mlkit.market.lake import BarStore


def bars_at(times: np.ndarray | pd.DatetimeIndex, seed: int = 1) -> pd.DataFrame:
    """Simulated prices at these open times."""
    index = pd.DatetimeIndex(times, tz="UTC") if isinstance(times, np.ndarray) else times
    close = 100 * np.exp(np.random.default_rng(seed).normal(0, 0.01, len(index)).cumsum())
    first = np.append(100.0, close[:-1])
    columns = {"open": first, "high": np.maximum(first, close), "low": np.minimum(first, close), "close": close}
    return pd.DataFrame({**columns, "volume": 1.0}, index=index)


def expected(calendar: str, timeframe: str, first: str, last: str) -> np.ndarray:
    span = (pd.Timestamp(time, tz="UTC").value for time in (first, last))
    return get_calendar(calendar).expected_opens(timeframe, *span)


@pytest.mark.parametrize(
    ("calendar", "timeframe"),
    [("XNYS", "1h"), ("XNYS", "2h"), ("XHKG", "1h"), ("XHKG", "30m"), ("XSHG", "1h"), ("CMES", "4h"), ("XBOM", "1h")],
)
def test_bars_that_count_from_the_session_are_valid(calendar: str, timeframe: str) -> None:
    times = expected(calendar, timeframe, "2024-09-01", "2025-04-15")
    bars = mlkit.read_bars(bars_at(times), symbol="A", timeframe=timeframe, calendar=calendar)
    assert bars.attrs["calendar"] == calendar
    assert (open_times(bars) == times).all()
    assert unbroken_runs(bars).max() == 0  # no night, holiday or Golden Week is an outage
    pd.testing.assert_frame_equal(mlkit.validate_bars(bars.iloc[-7:]), bars.iloc[-7:])
    assert unbroken_runs(bars.drop(bars.index[100:120])).max() == 1


def test_hourly_bars_from_half_past_nine_need_no_calendar() -> None:
    times = expected("XNYS", "1h", "2024-09-01", "2025-04-15")
    bars = mlkit.read_bars(bars_at(times), symbol="A", timeframe="1h")
    assert bars.attrs["calendar"] == "Mon-Fri 09:30-16:30 America/New_York"
    assert (open_times(bars) == times).all()


def test_bars_of_one_zone_count_from_its_midnight() -> None:
    local = pd.date_range("2025-03-24", "2025-04-05", freq="4h")  # over a change of the clock
    local = local[(local.hour >= 8) & (local.hour < 17) & (local.day_of_week < 5)].tz_localize("Europe/Paris")
    bars = mlkit.read_bars(bars_at(local), symbol="A", timeframe="4h", calendar="XPAR")
    assert len(bars) == len(local) and open_times(bars)[0] % (4 * 3_600_000_000_000) != 0


def test_two_grids_in_one_series_are_refused() -> None:
    times = expected("XNYS", "1h", "2024-09-03", "2024-10-15")
    times[70:] -= 1_800_000_000_000
    with pytest.raises(BarsError, match="off the 1h grid by 00:30:00; the bars may count from their session's open"):
        mlkit.read_bars(bars_at(times), symbol="A", timeframe="1h", calendar="XNYS")


def test_a_lunch_break_needs_the_exchange() -> None:
    times = expected("XHKG", "1h", "2024-09-01", "2025-04-15")
    with pytest.raises(BarsError, match="calendar='XHKG', which fits"):
        mlkit.read_bars(bars_at(times), symbol="A", timeframe="1h")


@pytest.mark.parametrize(
    ("zone", "chosen"),
    [("Europe/Paris", "Mon-Fri 00:00-24:00 Europe/Paris"), ("Asia/Tokyo", "Mon-Fri 00:00-24:00 Asia/Tokyo")],
)
def test_daily_bars_of_one_midnight_take_their_local_date(zone: str, chosen: str) -> None:
    local = pd.bdate_range("2025-03-03", "2025-04-30", tz=zone)
    bars = mlkit.read_bars(bars_at(local), symbol="A", timeframe="1d")
    assert [f"{time:%Y-%m-%d}" for time in bars.index] == [f"{time:%Y-%m-%d}" for time in local]
    assert bars.attrs["calendar"] == chosen
    weekly = pd.date_range("2025-03-03", "2025-06-30", freq="W-MON", tz=zone)
    weeks = mlkit.read_bars(bars_at(weekly), symbol="A", timeframe="1w")
    assert (weeks.index.day_of_week == 0).all() and len(weeks) == len(weekly)


def test_daily_bars_of_no_midnight_are_refused() -> None:
    days = pd.date_range("2025-03-03 13:30", periods=30, tz="UTC")
    with pytest.raises(BarsError, match="off the 1d grid by 13:30:00"):
        mlkit.read_bars(bars_at(days), symbol="A", timeframe="1d")


def test_a_bar_counts_as_closed_at_its_own_close(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlkit.market import sources

    times = expected("XNYS", "1d", "2025-11-03", "2025-11-28")  # a half day, which closes at 18:00 UTC
    for now, fine in (("2025-11-28 18:00", True), ("2025-11-28 17:59", False)):
        monkeypatch.setattr(sources, "_now", lambda now=now: pd.Timestamp(now, tz="UTC"))
        if fine:
            assert len(mlkit.read_bars(bars_at(times), symbol="A", timeframe="1d", calendar="XNYS")) == len(times)
        else:
            with pytest.raises(BarsError, match="not closed yet"):
                mlkit.read_bars(bars_at(times), symbol="A", timeframe="1d", calendar="XNYS")


# --- the calendar in the contract and the lake -----------------------------------------------------------


def test_an_import_chooses_a_calendar_once_and_keeps_it(tmp_path: Path) -> None:
    settings = Settings(training_data_path=tmp_path)
    frame = bars_at(expected("XNYS", "1h", "2024-09-01", "2025-04-15"))

    def add(part: pd.DataFrame, **options: str) -> mlkit.market.lake.commits.Commit:
        return mlkit.market.import_bars(part, symbol="A", timeframe="1h", settings=settings, **options)[0]

    commit = add(frame.iloc[:700])
    assert commit.calendar == "Mon-Fri 09:30-16:30 America/New_York"
    assert "--calendar XNYS (calendar='XNYS')" in commit.note and "\n" not in commit.note
    assert add(frame.iloc[650:900]).note == ""
    named = add(frame.iloc[890:], calendar="XNYS")
    assert (named.calendar, named.added) == ("XNYS", len(frame) - 900)
    assert mlkit.load_bars("A", "1h", settings=settings).attrs["calendar"] == "XNYS"
    late = mlkit.load_bars("A", "1h", since="2025-04-10", settings=settings)
    assert late.attrs["calendar"] == "XNYS"
    assert BarStore(settings.lake).append(late.iloc[-3:]).calendar == "XNYS"
    again = add(frame.iloc[:5], calendar="ARCX")
    assert (again.added, again.calendar, again.generation) == (0, "ARCX", named.generation + 1)
    with pytest.raises(BarsError, match="XHKG"):  # the bars of the lake have to fit as well
        add(bars_at(expected("XHKG", "1h", "2025-05-01", "2025-05-15")), calendar="XHKG")


def test_extended_hours_are_kept_and_dropped_where_that_is_asked_for(tmp_path: Path) -> None:
    settings = Settings(training_data_path=tmp_path)
    days = expected("XNYS", "1d", "2025-03-03", "2025-03-31")
    local = [f"{pd.Timestamp(int(day)):%Y-%m-%d} {hour:02d}:00" for day in days for hour in range(4, 20)]
    frame = bars_at(pd.DatetimeIndex(local).tz_localize("America/New_York").tz_convert("UTC"))
    kept = mlkit.read_bars(frame, symbol="A", timeframe="1h", calendar="XNYS")
    assert len(kept) == 16 * len(days)
    options = {"timeframe": "1h", "calendar": "XNYS", "settings": settings}
    _, report = mlkit.market.import_bars(frame, symbol="A", regular=True, **options)
    assert report.counts["bars outside the sessions dropped"] == 9 * len(days)
    assert len(mlkit.load_bars("A", "1h", settings=settings)) == 7 * len(days)


def test_bars_that_do_not_fit_are_refused() -> None:
    london = bars_at(expected("XLON", "1h", "2024-09-01", "2025-04-15"))
    with pytest.raises(BarsError, match=r"only 87\.4% .* XNYS .*row \d+ 2024-.* pass calendar='XLON', which fits"):
        mlkit.read_bars(london, symbol="A", timeframe="1h", calendar="XNYS")
    always = bars_at(pd.date_range("2024-09-01", "2024-11-01", freq="1h", tz="UTC"))
    with pytest.raises(BarsError, match="pass calendar='24/7', which fits better"):
        mlkit.validate_bars(always, symbol="A", timeframe="1h", calendar="XNYS")
    with pytest.raises(ConfigError, match="did you mean XNYS"):
        mlkit.validate_bars(always, symbol="A", timeframe="1h", calendar="XNYX")


def test_a_calendar_that_ends_before_the_bars_is_refused() -> None:
    later = bars_at(pd.bdate_range("2040-01-02", periods=30, tz="UTC"))
    with pytest.raises(BarsError, match=r"calendar XNYS knows 1990-01-02 to 20\d\d-.*2040-02-10; update"):
        mlkit.validate_bars(later, symbol="A", timeframe="1d", calendar="XNYS")


def test_parts_of_bars_keep_the_calendar(sp500: pd.DataFrame) -> None:
    for part in (sp500.iloc[-9:], sp500.loc["2018"], mlkit.resample(sp500, "1w"), *mlkit.segments(sp500)):
        assert calendar_of(mlkit.validate_bars(part)).name == "XNYS"
