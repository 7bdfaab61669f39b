"""Timestamps: every epoch unit and every ISO form, and no silent factor of 1000."""

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import BarsError, ConfigError
from mlkit.market.times import TIMEFRAMES, RowError, floor_times, parse_times, timeframe_delta

TIMES = pd.date_range("2024-02-29 23:58", periods=4, freq="1min", tz="UTC", unit="ns")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def epochs(unit: str) -> list[int]:
    return [int(stamp.timestamp()) * PER_SECOND[unit] for stamp in TIMES]


def check(values: pd.Series, tz: str | None = None) -> None:
    pd.testing.assert_index_equal(parse_times(values, tz=tz), TIMES, exact=True, check_freq=False)


@pytest.mark.parametrize("unit", PER_SECOND)
@pytest.mark.parametrize("kind", ["int64", "uint64", "Int64", "str", "object"])
def test_epoch_units_follow_from_their_magnitude(unit: str, kind: str) -> None:
    values = pd.Series(epochs(unit))
    check(values.astype("str").astype(object) if kind == "object" else values.astype(kind))


@pytest.mark.parametrize("unit", ["s", "ms", "us"])  # float64 cannot hold nanoseconds
def test_epochs_may_be_whole_floats(unit: str) -> None:
    check(pd.Series(epochs(unit), dtype="float64"))


@pytest.mark.parametrize("unit", PER_SECOND)
@pytest.mark.parametrize("year", [1980, 2001, 2024, 2261])
def test_epoch_units_are_right_across_the_years(unit: str, year: int) -> None:
    stamp = pd.Timestamp(year=year, month=6, day=1, tz="UTC")
    got = parse_times(pd.Series([int(stamp.timestamp()) * PER_SECOND[unit]]))
    assert got[0] == stamp


def test_a_file_that_changes_its_unit_is_refused_at_the_row() -> None:
    values = pd.Series([*epochs("ms")[:2], *epochs("us")[2:]])
    with pytest.raises(RowError, match="row 2: 1709251200000000 is not an epoch in ms as the first row"):
        parse_times(values)


@pytest.mark.parametrize("value", [0, -1, 20240131, 2**63 - 1 + 2**62, 1.7e9 + 0.5, np.inf])
def test_numbers_that_are_no_epoch_are_refused(value: float) -> None:
    with pytest.raises(BarsError, match=r"row 1: .* is no whole epoch number"):
        parse_times(pd.Series([1_700_000_000, value]))


def test_an_epoch_after_2262_is_refused() -> None:
    with pytest.raises(BarsError, match="after the year 2262"):
        parse_times(pd.Series([50_000_000_000]))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_datetimes_of_every_unit_and_zone(unit: str) -> None:
    check(pd.Series(TIMES.as_unit(unit)))
    check(pd.Series(TIMES.as_unit(unit).tz_convert("Asia/Tokyo")))
    check(pd.Series(TIMES.as_unit(unit).tz_localize(None)), tz="UTC")


@pytest.mark.parametrize(
    "form", ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+00:00", "%Y-%m-%d %H:%MZ", "%Y%m%dT%H%M%S+0000"]
)
def test_text_with_a_zone(form: str) -> None:
    check(pd.Series(TIMES.strftime(form)))


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S.000000"])
def test_text_without_a_zone_is_read_in_tz(form: str) -> None:
    check(pd.Series(TIMES.strftime(form)), tz="UTC")
    check(pd.Series(TIMES.tz_convert("America/New_York").strftime(form)), tz="America/New_York")
    with pytest.raises(BarsError, match=r'row 0: .* has no time zone; pass tz="UTC"'):
        parse_times(pd.Series(TIMES.strftime(form)), tz=None)


@pytest.mark.parametrize("text", ["2024-01-31", "20240131"])
def test_dates_are_midnight(text: str) -> None:
    assert parse_times(pd.Series([text]))[0] == pd.Timestamp("2024-01-31", tz="UTC")


@pytest.mark.parametrize("bad", ["31/01/2024", "yesterday", "2024-13-01", "", "1.5"])
def test_text_that_is_no_time_is_refused_at_its_row(bad: str) -> None:
    with pytest.raises(BarsError, match=r"row 1: .* is not an ISO 8601 time; write it as 2024-01-31T00:00Z"):
        parse_times(pd.Series(["2024-01-31", bad]))


def test_zones_must_be_written_alike() -> None:
    with pytest.raises(BarsError, match="row 1: '2024-01-31 00:01' has no time zone, unlike the first row"):
        parse_times(pd.Series(["2024-01-31 00:00Z", "2024-01-31 00:01"]))
    with pytest.raises(BarsError, match="row 1: '2024-01-31 00:01Z' has a time zone, unlike"):
        parse_times(pd.Series(["2024-01-31 00:00", "2024-01-31 00:01Z"]))


@pytest.mark.parametrize(("tz", "why"), [("Mars/Base", "Mars/Base"), ("America/New_York", "02:30")])
def test_times_that_a_zone_does_not_have_are_refused(tz: str, why: str) -> None:
    with pytest.raises(BarsError, match=why):
        parse_times(pd.Series(["2024-03-10 02:30"]), tz=tz)


@pytest.mark.parametrize(
    "values", [pd.Series([1.7e9, np.nan]), pd.Series(["2024-01-31", None]), pd.Series([TIMES[0], pd.NaT])]
)
def test_a_missing_time_is_refused(values: pd.Series) -> None:
    with pytest.raises(BarsError, match=r"row 1: .* is no time; drop the row"):
        parse_times(values)


@pytest.mark.parametrize("values", [pd.Series([True, False]), pd.Series([["2024"], 3], dtype=object)])
def test_other_things_are_refused(values: pd.Series) -> None:
    with pytest.raises(BarsError, match=r"row 0: .* is neither text, number nor datetime"):
        parse_times(values)


@pytest.mark.parametrize("timeframe", [tf for tf in TIMEFRAMES if tf != "1w"])
def test_floor_agrees_with_pandas(timeframe: str) -> None:
    rng = np.random.default_rng(0)
    times = rng.integers(-(10**17), 2 * 10**18, 500)
    expected = pd.DatetimeIndex(times).floor(timeframe_delta(timeframe)).asi8
    np.testing.assert_array_equal(floor_times(times, timeframe), expected)


def test_weeks_start_on_monday() -> None:
    times = pd.date_range("2023-12-31 23:00", periods=400, freq="1h", tz="UTC", unit="ns")
    floored = pd.DatetimeIndex(floor_times(times.asi8, "1w"))
    expected = times.tz_localize(None).to_period("W-SUN").start_time
    np.testing.assert_array_equal(floored.asi8, expected.as_unit("ns").asi8)


def test_an_unknown_timeframe_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"timeframe '2d' is unknown; use one of 1m, 3m, .* 1w"):
        timeframe_delta("2d")
