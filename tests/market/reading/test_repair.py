"""Repair: every fault mended, every mend counted, and nothing left to mend afterwards."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.errors import BarsError, ConfigError
from mlkit.market.bars import validate_bars
from mlkit.market.reading.rows import repair_bars
from mlkit.market.simulate.markets import null_market

CLEAN = null_market(30, seed=1, symbol="A")


def repaired(frame: pd.DataFrame, timeframe: str = "1m") -> tuple[pd.DataFrame, dict[str, int]]:
    """The bars, and the repairs that happened."""
    bars, report = repair_bars(frame, symbol="A", timeframe=timeframe)
    assert (report.rows_in, report.rows_out) == (len(frame), len(bars))
    assert report.total == sum(report.counts.values())
    return bars, {kind: count for kind, count in report.counts.items() if count}


def broken(column: str, row: int, value: float) -> pd.DataFrame:
    frame = CLEAN.copy()
    frame.iloc[row, frame.columns.get_loc(column)] = value
    return frame


def test_valid_bars_come_back_as_they_are() -> None:
    bars, counts = repaired(CLEAN)
    pd.testing.assert_frame_equal(bars, CLEAN)
    assert bars.attrs == CLEAN.attrs
    assert counts == {}


def test_the_input_is_left_as_it_is() -> None:
    frame = broken("high", 3, 1.0)
    before = frame.copy(deep=True)
    repaired(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_rows_are_sorted_and_duplicates_dropped() -> None:
    shuffled = CLEAN.sample(frac=1.0, random_state=3)
    bars, counts = repaired(pd.concat([shuffled, CLEAN.iloc[[4, 9]]]))
    pd.testing.assert_frame_equal(bars, CLEAN)
    assert counts["exact duplicates dropped"] == 2
    assert counts["rows out of order"] > 0


def test_of_conflicting_rows_the_last_one_stays() -> None:
    later = CLEAN.iloc[[4]].assign(volume=77.0)
    bars, counts = repaired(pd.concat([CLEAN, later]))
    assert bars["volume"].iloc[4] == 77.0
    assert counts == {"rows out of order": 1, "conflicting rows dropped": 1}


def test_a_row_without_a_price_never_wins_a_conflict() -> None:
    bars, counts = repaired(pd.concat([CLEAN, CLEAN.iloc[[4]].assign(close=np.nan)]))
    pd.testing.assert_frame_equal(bars, CLEAN)
    assert counts == {"rows out of order": 1, "rows without a valid price dropped": 1}


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_rows_without_a_valid_price_are_dropped(value: float) -> None:
    bars, counts = repaired(broken("close", 5, value))
    pd.testing.assert_frame_equal(bars, CLEAN.drop(index=CLEAN.index[5]))
    assert counts == {"rows without a valid price dropped": 1}


@pytest.mark.parametrize("value", [np.nan, np.inf, -2.0])
def test_volume_that_cannot_be_is_zero(value: float) -> None:
    bars, counts = repaired(broken("volume", 5, value))
    assert bars["volume"].iloc[5] == 0.0
    assert counts == {"volumes set to 0": 1}


def test_ranges_are_widened_and_swapped() -> None:
    low, high = CLEAN["low"].iloc[5], CLEAN["high"].iloc[5]
    swapped = broken("low", 5, high)
    swapped.iloc[5, swapped.columns.get_loc("high")] = low
    bars, counts = repaired(swapped)
    pd.testing.assert_frame_equal(bars, CLEAN)
    assert counts == {"ranges widened": 1}
    bars, counts = repaired(broken("high", 5, CLEAN["low"].iloc[5]))
    assert bars["high"].iloc[5] == CLEAN[["open", "close"]].iloc[5].max()
    assert counts == {"ranges widened": 1}


def test_times_within_two_seconds_are_snapped_to_the_grid() -> None:
    for jitter in (7, 2000, -2000):
        bars, counts = repaired(CLEAN.set_axis(CLEAN.index + pd.Timedelta(milliseconds=jitter), axis=0))
        pd.testing.assert_frame_equal(bars, CLEAN)
        assert counts == {"times snapped to the grid": 30}


@pytest.mark.parametrize(
    ("timeframe", "offset", "cause"),
    [
        ("1m", "30s", "off the 1m grid by 30 s; pass the right timeframe"),
        ("1h", "2001ms", "off the 1h grid by 2.001 s; pass the right timeframe"),
        ("1h", "7min", "off the 1h grid by 00:02:00; pass the right timeframe"),
        ("1h", "30min", "off the 1h grid by 00:30:00; the bars may count from their session's open"),
    ],
)
def test_no_repair_moves_a_bar_to_an_earlier_time(timeframe: str, offset: str, cause: str) -> None:
    frame = null_market(60, seed=1, timeframe=timeframe)
    frame.index = frame.index + pd.Timedelta(offset)
    with pytest.raises(BarsError, match=cause):
        repair_bars(frame, symbol="A", timeframe=timeframe)


def test_names_zones_text_and_other_columns_are_tidied() -> None:
    frame = CLEAN.tz_localize(None).rename(columns=str.title).astype("str").reset_index(names="Date")
    frame = frame.assign(**{"Adj Close": "1", "Date": frame["Date"].astype("str")})
    frame.loc[3, "Open"] = "n/a"
    frame.loc[4, "Date"] = None
    bars, counts = repaired(frame)
    pd.testing.assert_frame_equal(bars, CLEAN.drop(index=CLEAN.index[[3, 4]]))
    assert counts == {
        "columns renamed": 5,
        "columns left out": 1,
        "rows without a time dropped": 1,
        "rows with text for a number": 1,
        "rows without a valid price dropped": 1,
    }


def test_bars_that_are_finer_than_the_timeframe_are_refused() -> None:
    with pytest.raises(BarsError, match=r"fall into 6 bars; they are finer than 5m: .* resample"):
        repair_bars(CLEAN, symbol="A", timeframe="5m")


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (CLEAN.drop(columns="volume"), "no column 'volume'"),
        (CLEAN.iloc[:0], "0 rows"),
        (CLEAN.assign(open=np.nan), "no valid row is left of 30"),
        (CLEAN.set_axis(pd.DatetimeIndex([pd.NaT] * 30, tz="UTC"), axis=0), "no row has a time"),
        (CLEAN.reset_index(drop=True), "A 1m: no column 'timestamp'"),
        (CLEAN.assign(Date="2024-01-01", Timestamp="00:00"), "'Date' and 'Timestamp' both name the timestamp"),
        (CLEAN.to_numpy(), "not ndarray"),
    ],
)
def test_what_cannot_be_repaired_honestly_is_refused(frame: pd.DataFrame, says: str) -> None:
    with pytest.raises(BarsError, match=says):
        repair_bars(frame, symbol="A", timeframe="1m")


def test_labels_are_checked() -> None:
    with pytest.raises(ConfigError, match="symbol"):
        repair_bars(CLEAN, symbol="../x", timeframe="1m")
    with pytest.raises(ConfigError, match="timeframe"):
        repair_bars(CLEAN, symbol="A", timeframe="1y")


def test_the_report_prints_itself() -> None:
    _, report = repair_bars(broken("close", 5, np.nan), symbol="A", timeframe="1m")
    assert str(report) == "A 1m: 30 rows in, 29 out; rows without a valid price dropped 1"
    page = report._repr_html_()
    assert page.startswith("<table>") and "<td>rows without a valid price dropped</td><td>1</td>" in page
    _, report = repair_bars(CLEAN, symbol="A", timeframe="1m")
    assert str(report).endswith("30 out; nothing to repair")


values = st.one_of(st.floats(1.0, 1e6), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e-300, 1e300]))
rows = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from([-2, -1, 0, 1, 2]), values, values, values, values, values),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(rows)
def test_repair_of_anything_is_valid_and_repairs_no_further(rows: list[tuple[float, ...]]) -> None:
    table = np.array(rows, dtype=float)
    start = pd.Timestamp("2024-01-01", tz="UTC")
    index = pd.DatetimeIndex([start + pd.Timedelta(minutes=row[0], seconds=row[1]) for row in rows])
    frame = pd.DataFrame(table[:, 2:], index=index, columns=["open", "high", "low", "close", "volume"])
    try:
        bars, _ = repair_bars(frame, symbol="A", timeframe="1m")
    except BarsError as error:
        assert "no valid row" in str(error) or "finer" in str(error)
        return
    pd.testing.assert_frame_equal(validate_bars(bars), bars)
    again, report = repair_bars(bars, symbol="A", timeframe="1m")
    pd.testing.assert_frame_equal(again, bars)
    assert report.total == 0
