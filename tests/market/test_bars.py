"""The Bars contract: what it accepts, and one clear error for each way to break it."""

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import BarsError, ConfigError
from mlkit.market.bars import (
    COLUMNS,
    fingerprint,
    ohlcv_arrays,
    price_decimals,
    timeframe_delta,
    validate_bars,
)
from mlkit.market.times import TIMEFRAMES

Fault = Callable[[pd.DataFrame], object]


def raw(n_bars: int = 8, timeframe: str = "1m") -> pd.DataFrame:
    """A frame that only just needs the door: integers, another column order, seconds."""
    index = pd.date_range("2024-01-01", periods=n_bars, freq=TIMEFRAMES[timeframe], tz="UTC", unit="s")
    base = np.arange(100, 100 + n_bars)
    return pd.DataFrame(
        {"volume": 5, "close": base + 1, "open": base, "high": base + 2.5, "low": base - 1.5}, index=index
    )


def put(column: str, row: int, value: float) -> Fault:
    def fault(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype("float64")
        frame.iloc[row, frame.columns.get_loc(column)] = value
        return frame

    return fault


def reindexed(change: Callable[[list[pd.Timestamp]], list[pd.Timestamp]]) -> Fault:
    return lambda frame: frame.set_axis(pd.DatetimeIndex(change(list(frame.index))), axis=0)


def moved(times: list[pd.Timestamp]) -> list[pd.Timestamp]:
    return [*times[:5], times[5] + pd.Timedelta(seconds=1), *times[6:]]


def test_bars_come_out_in_canonical_form_and_the_input_stays() -> None:
    frame = raw()
    before = frame.copy(deep=True)
    bars = validate_bars(frame, symbol="BTCUSDT", timeframe="1m")
    assert list(bars.columns) == list(COLUMNS)
    assert (bars.dtypes == np.float64).all()
    assert bars.index.name == "timestamp"
    assert str(bars.index.dtype) == "datetime64[ns, UTC]"
    assert bars.attrs == {"symbol": "BTCUSDT", "timeframe": "1m", "calendar": "24/7"}
    pd.testing.assert_frame_equal(frame, before)
    bars.iloc[0, 0] = 1.0
    pd.testing.assert_frame_equal(frame, before)
    np.testing.assert_array_equal(bars.iloc[1:], frame[list(COLUMNS)].iloc[1:])


def test_validation_changes_nothing_the_second_time() -> None:
    bars = validate_bars(raw(), symbol="BTCUSDT", timeframe="1m")
    again = validate_bars(bars)
    pd.testing.assert_frame_equal(again, bars)
    assert again.attrs == bars.attrs


def test_labels_given_win_over_those_of_the_frame() -> None:
    bars = validate_bars(raw(timeframe="5m"), symbol="A", timeframe="5m")
    assert validate_bars(bars, symbol="B").attrs == {"symbol": "B", "timeframe": "5m", "calendar": "24/7"}
    assert validate_bars(bars, timeframe="1m").attrs == {"symbol": "A", "timeframe": "1m", "calendar": "24/7"}


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_every_timeframe_accepts_its_own_grid_with_gaps(timeframe: str) -> None:
    frame = raw(9, timeframe).drop(index=raw(9, timeframe).index[[2, 3, 6]])
    assert len(validate_bars(frame, symbol="A", timeframe=timeframe)) == 6


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_every_timeframe_refuses_half_a_step(timeframe: str) -> None:
    frame = raw(9, timeframe)
    frame.index = frame.index.as_unit("ns") + timeframe_delta(timeframe) / 2
    with pytest.raises(BarsError, match=f"row 0 .* off the {timeframe} grid"):
        validate_bars(frame, symbol="A", timeframe=timeframe)


def test_zero_volume_and_equal_prices_are_bars() -> None:
    frame = raw().assign(open=100, high=100, low=100, close=100, volume=0)
    assert len(validate_bars(frame, symbol="EURUSD", timeframe="1m")) == 8


def test_nullable_and_arrow_columns_are_numbers() -> None:
    frame = raw()
    frame["open"] = frame["open"].astype("Int64")
    frame["close"] = frame["close"].astype("int64[pyarrow]")
    pd.testing.assert_frame_equal(
        validate_bars(frame, symbol="A", timeframe="1m"), validate_bars(raw(), symbol="A", timeframe="1m")
    )


FAULTS: dict[str, tuple[Fault, list[str]]] = {
    # kind: (the fault, what the message must say: where, the value, the mend)
    "not a frame": (lambda f: f.to_numpy(), ["DataFrame", "ndarray", "read_bars"]),
    "empty": (lambda f: f.iloc[:0], ["0 rows"]),
    "missing column": (lambda f: f.drop(columns="volume"), ["'volume' is missing", "close, open, high, low"]),
    "wrong case": (lambda f: f.rename(columns=str.title), ["'open' is missing", "rename", "'Open': 'open'"]),
    "extra column": (lambda f: f.assign(vwap=1.0), ["'vwap' is not part", "frame[["]),
    "time as a column": (lambda f: f.reset_index(names="Date"), ["'Date'", "set_index('Date')"]),
    "column twice": (lambda f: pd.concat([f, f[["open"]]], axis=1), ["'open' appears 2 times"]),
    "text": (lambda f: f.astype({"close": "str"}), ["'close' is str", "row 0", "'101'", "pd.to_numeric"]),
    "booleans": (lambda f: f.assign(volume=True), ["'volume' is bool", "row 0"]),
    "no time index": (lambda f: f.reset_index(drop=True), ["index is int64", "row 0 is 0", "pd.to_datetime"]),
    "naive": (lambda f: f.tz_localize(None), ["no time zone", "2024-01-01 00:00:00", 'tz_localize("UTC")']),
    "other zone": (lambda f: f.tz_convert("Asia/Tokyo"), ["Asia/Tokyo", "tz_convert('UTC')"]),
    "no time": (reindexed(lambda t: [*t[:3], pd.NaT, *t[4:]]), ["row 3 is NaT", "drop the row"]),
    "year 3000": (lambda f: f.set_axis(f.index + pd.Timedelta(days=365_000), axis=0), ["1677 to 2262"]),
    "repeated": (reindexed(lambda t: [*t[:4], t[3], *t[5:]]), ["row 4 ", "repeats row 3", "duplicated"]),
    "unsorted": (
        lambda f: f.iloc[::-1],
        ["row 1 ", "earlier than row 0", "sort_index", "7 such rows: 1, 2, 3, 4, 5, ..."],
    ),
    "off grid": (reindexed(moved), ["row 5 (2024-01-01 00:05:01+00:00)", "off the 1m grid", "repair_bars"]),
    "nan": (put("high", 2, np.nan), ["'high', row 2 (2024-01-01 00:02:00+00:00)", "is missing", "drop"]),
    "infinite price": (put("open", 2, np.inf), ["'open', row 2 (2024", "inf is infinite", "drop the row"]),
    "infinite volume": (put("volume", 2, np.inf), ["'volume', row 2 (2024", "inf is infinite"]),
    "zero price": (put("low", 7, 0.0), ["'low', row 7 (2024", "0.0 is not a positive price", "drop the row"]),
    "negative": (put("close", 1, -3.5), ["'close', row 1 (2024", "-3.5 is not a positive price"]),
    "high below low": (put("high", 6, 50.0), ["'high', row 6 (2024", "50.0 is below the low 104.5", "swap"]),
    "open above high": (put("open", 0, 999.0), ["'open', row 0 (2024", "999.0 is above the high 102.5"]),
    "open below low": (put("open", 0, 9.0), ["'open', row 0 (2024", "9.0 is below the low 98.5", "lower"]),
    "close above high": (put("close", 3, 999.0), ["'close', row 3 (2024", "above the high 105.5", "raise"]),
    "close below low": (put("close", 3, 9.0), ["'close', row 3 (2024", "9.0 is below the low 101.5"]),
    "negative volume": (put("volume", 4, -1.0), ["'volume', row 4 (2024", "-1.0 is negative", "set it to 0"]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_named_with_its_row_and_mend(kind: str) -> None:
    fault, says = FAULTS[kind]
    with pytest.raises(BarsError) as caught:
        validate_bars(fault(raw()), symbol="BTCUSDT", timeframe="1m")  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for part in says:
        assert part in message


@pytest.mark.parametrize("row", [0, 40_000, 99_999])
def test_a_single_bad_value_is_found_anywhere(row: int) -> None:
    with pytest.raises(BarsError, match=f"'low', row {row} "):
        validate_bars(put("low", row, -1.0)(raw(100_000)), symbol="A", timeframe="1m")  # type: ignore[arg-type]


@pytest.mark.parametrize("row", [1, 50, 99])
def test_a_single_time_off_the_grid_is_found_between_gaps(row: int) -> None:
    frame = raw(200).iloc[::2]
    times = list(frame.index)
    times[row] += pd.Timedelta(seconds=30)
    with pytest.raises(BarsError, match=f"row {row} .* off the 1m grid"):
        validate_bars(frame.set_axis(pd.DatetimeIndex(times), axis=0), symbol="A", timeframe="1m")


def test_labels_must_be_known() -> None:
    with pytest.raises(BarsError, match="pass symbol="):
        validate_bars(raw(), timeframe="1m")
    with pytest.raises(BarsError, match="pass timeframe="):
        validate_bars(raw(), symbol="A")
    with pytest.raises(ConfigError, match="'7m' is unknown; use one of 1m, 3m"):
        validate_bars(raw(), symbol="A", timeframe="7m")
    with pytest.raises(ConfigError, match=r"symbol '\.\./USDT'"):
        validate_bars(raw(), symbol="../USDT", timeframe="1m")


def test_arrays_are_private_contiguous_and_writable() -> None:
    bars = validate_bars(raw(), symbol="A", timeframe="1m")
    before = bars.copy(deep=True)
    arrays = ohlcv_arrays(bars)
    for name, array in zip(COLUMNS, arrays, strict=True):
        assert array.flags.c_contiguous and array.flags.writeable and array.dtype == np.float64
        np.testing.assert_array_equal(array, bars[name])
        array[:] = 0.0
    pd.testing.assert_frame_equal(bars, before)


def test_fingerprint_is_sha256_of_the_documented_bytes() -> None:
    bars = validate_bars(raw(), symbol="A", timeframe="1m")
    times = np.array([stamp.value for stamp in bars.index], dtype="<i8")
    columns = b"".join(bars[name].to_numpy().astype("<f8").tobytes() for name in COLUMNS)
    assert fingerprint(bars) == hashlib.sha256(b"1m\n" + times.tobytes() + columns).hexdigest()


def test_fingerprint_sees_values_times_and_timeframe_but_not_the_symbol() -> None:
    bars = validate_bars(raw(timeframe="5m"), symbol="A", timeframe="5m")
    assert fingerprint(validate_bars(bars, symbol="B")) == fingerprint(bars)
    changed = put("close", 5, np.nextafter(106.0, 107.0))(raw(timeframe="5m"))
    others = [
        validate_bars(bars, timeframe="1m"),
        bars.iloc[1:],
        validate_bars(bars.set_axis(bars.index + pd.Timedelta(minutes=5), axis=0)),
        validate_bars(changed, symbol="A", timeframe="5m"),  # type: ignore[arg-type]
    ]
    assert len({fingerprint(each) for each in (bars, *others)}) == 5


def test_negative_zero_volume_has_the_fingerprint_of_zero() -> None:
    zero, minus = (validate_bars(raw().assign(volume=volume), symbol="A", timeframe="1m") for volume in (0.0, -0.0))
    assert fingerprint(zero) == fingerprint(minus)


@pytest.mark.parametrize(
    ("price", "decimals"), [(2500.0, 2), (9.5e4, 2), (1.08, 4), (0.5, 5), (1.234567e-8, 12), (7.2e-6, 10)]
)
def test_tables_show_cheap_prices_with_significant_digits(price: float, decimals: int) -> None:
    bars = pd.DataFrame({name: [price, price * 1.01] for name in ("open", "high", "low", "close")})
    assert price_decimals(bars) == decimals
    shown = bars.round(price_decimals(bars))
    with pd.option_context("display.precision", max(6, decimals)):
        printed = [float(text) for text in shown.to_string(index=False, header=False).split()]
    np.testing.assert_allclose(printed, bars.to_numpy().ravel(), rtol=1e-4)
