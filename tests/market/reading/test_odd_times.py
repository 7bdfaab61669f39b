"""Indexes, objects and texts that real frames and files hold their times in."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.errors import BarsError

C = 100.0 * (1.0 + np.arange(60) / 1000.0)
INDEX = pd.date_range("2024-01-21", periods=60, freq="h", tz="UTC", name="timestamp", unit="ns")
BARS = pd.DataFrame({"open": C, "high": C * 1.01, "low": C * 0.99, "close": C, "volume": 1.0}, index=INDEX)
FLAT = BARS.reset_index()
MARKET: dict[str, Any] = {"symbol": "X", "timeframe": "1h"}


def timed(values: Any) -> pd.DataFrame:
    return FLAT.assign(timestamp=pd.Series(list(values), dtype=object))


def text_times(form: str) -> pd.DataFrame:
    return FLAT.assign(timestamp=INDEX.strftime(form))


FRAMES: dict[str, Callable[[], pd.DataFrame]] = {
    "filtered, index kept": lambda: FLAT.set_axis(range(5, 65)),
    "set_index(drop=False)": lambda: FLAT.set_index("timestamp", drop=False),
    "MultiIndex (symbol, timestamp)": lambda: pd.concat({"X": BARS}, names=["symbol", "timestamp"]),
    "MultiIndex (timestamp, symbol)": lambda: pd.concat({"X": BARS}, names=["symbol", "timestamp"]).swaplevel(),
    "MultiIndex without names": lambda: pd.concat({"X": BARS.rename_axis(None)}),
    "index called Datum": lambda: BARS.rename_axis("Datum"),
    "index without a name": lambda: BARS.rename_axis(None),
    "column called Datum": lambda: FLAT.rename(columns={"timestamp": "Datum"}),
    "column called Gmt time": lambda: FLAT.rename(columns={"timestamp": "Gmt time"}),
    "PeriodIndex": lambda: BARS.tz_localize(None).to_period("h"),
    "Period column": lambda: FLAT.assign(timestamp=INDEX.tz_localize(None).to_period("h")),
    "Period objects": lambda: timed(INDEX.tz_localize(None).to_period("h")),
    "datetime objects": lambda: timed(time.to_pydatetime() for time in INDEX),
    "Timestamp objects": lambda: timed(INDEX.tz_convert("Asia/Tokyo")),
    "datetime64 objects": lambda: timed(INDEX.tz_localize(None).to_numpy()),
    "int objects": lambda: timed(int(time.timestamp()) for time in INDEX),
    "Decimal epochs": lambda: timed(Decimal(int(time.timestamp() * 1000)) for time in INDEX),
    "Decimal prices": lambda: FLAT.assign(close=[Decimal(repr(float(x))) for x in C]),
    "epochs 1704067200.0 as text": lambda: timed(f"{time.timestamp():.1f}" for time in INDEX),
    "dd.mm.yyyy": lambda: text_times("%d.%m.%Y %H:%M"),
    "d.m.yyyy": lambda: text_times("%-d.%-m.%Y %H:%M:%S"),
    "mm/dd/yyyy": lambda: text_times("%m/%d/%Y %H:%M"),
    "yyyy.mm.dd": lambda: text_times("%Y.%m.%d %H:%M"),
    "yyyy/mm/dd": lambda: text_times("%Y/%m/%d %H:%M"),
    "Dukascopy": lambda: FLAT.assign(
        timestamp=INDEX.tz_convert("Etc/GMT-1").strftime("%d.%m.%Y %H:%M:%S.000 GMT+0100")
    ),
}


NAMELESS = ("index without a name", "MultiIndex without names", "filtered, index kept")


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("how", ["read", "repair", "file"])
def test_the_times_are_read(name: str, how: str, tmp_path: Path) -> None:
    frame = FRAMES[name]()
    before = frame.copy(deep=True)
    if how == "file":
        frame.to_csv(tmp_path / "x.csv", index=not isinstance(frame.index, pd.RangeIndex))
        if name in (*NAMELESS, "set_index(drop=False)"):
            pytest.skip("the CSV has a column without a name, or its times twice")
        bars = mlkit.read_bars(tmp_path / "x.csv", **MARKET)
    else:
        bars = mlkit.read_bars(frame, **MARKET) if how == "read" else mlkit.repair_bars(frame, **MARKET)[0]
    pd.testing.assert_frame_equal(bars, BARS, check_exact=True, check_freq=False)
    pd.testing.assert_frame_equal(frame, before)


def test_dates_are_midnight() -> None:
    days = BARS.iloc[::24]
    frame = days.reset_index().assign(timestamp=pd.Series([time.date() for time in days.index], dtype=object))
    assert list(mlkit.read_bars(frame, symbol="X", timeframe="1d").index) == list(days.index)


@pytest.mark.parametrize(
    ("form", "words"),
    [("%d.%m.%Y", "'01.02.2024' may be day or month first"), ("%m/%d/%Y", "may be day or month first")],
)
def test_dates_of_two_readings_are_refused(form: str, words: str) -> None:
    days = pd.date_range("2024-02-01", periods=3, tz="UTC")
    frame = BARS.iloc[:3].reset_index().assign(timestamp=days.strftime(form))
    with pytest.raises(BarsError, match=words):
        mlkit.read_bars(frame, symbol="X", timeframe="1d")


def test_dates_that_contradict_each_other_are_refused() -> None:
    frame = BARS.iloc[:2].reset_index().assign(timestamp=["13.01.2024", "01.14.2024"])
    with pytest.raises(BarsError, match="put day and month differently"):
        mlkit.read_bars(frame, symbol="X", timeframe="1d")


def csv(folder: Path, rows: list[str]) -> Path:
    path = folder / "x.csv"
    path.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows]) + "\n")
    return path


def lines(stamp: Callable[[pd.Timestamp], str]) -> list[str]:
    return [",".join([stamp(row[0]), *(repr(float(x)) for x in row[1:])]) for row in BARS.itertuples(name=None)]


@pytest.mark.parametrize("stamp", [lambda t: str(int(t.timestamp() * 1000)), lambda t: f"{t:%Y-%m-%dT%H:%MZ}"])
@pytest.mark.parametrize("odd", ["timestamp,open,high,low,close,volume", "Total,1,1,1,1,60"])
def test_one_odd_line_is_named(odd: str, stamp: Callable[[pd.Timestamp], str], tmp_path: Path) -> None:
    rows = lines(stamp)
    with pytest.raises(BarsError, match=f"line 32: '{odd.split(',')[0]}' is n") as caught:
        mlkit.read_bars(csv(tmp_path, [*rows[:30], odd, *rows[30:]]), **MARKET)
    assert "such rows" not in str(caught.value)


def test_lines_of_another_length_are_counted_where_none_is_left(tmp_path: Path) -> None:
    rows = [line + "," for line in lines(str)]
    with pytest.raises(BarsError, match="none of its 60 lines has the 6 fields of the header"):
        mlkit.import_bars(csv(tmp_path, rows), **MARKET, repair=True)


def test_headers_of_yfinance_are_named(tmp_path: Path) -> None:
    frame = BARS.rename(columns=str.title)
    frame.columns = pd.MultiIndex.from_product([frame.columns, ["X"]], names=["Price", "Ticker"])
    frame.to_csv(tmp_path / "x.csv")
    for source in (frame, tmp_path / "x.csv"):
        with pytest.raises(BarsError, match=r"yfinance.*level='Ticker'"):
            mlkit.read_bars(source, **MARKET)
    one = frame.xs("X", axis=1, level="Ticker")
    pd.testing.assert_frame_equal(mlkit.read_bars(one, **MARKET), BARS, check_freq=False)


def test_rows_of_a_day_that_conflict_as_dates_are_no_repair() -> None:
    frame = FLAT.assign(timestamp=pd.Series([time.date() for time in INDEX], dtype=object))
    with pytest.raises(BarsError, match="no repair may choose"):
        mlkit.repair_bars(frame, **MARKET)


@pytest.mark.parametrize("zone", ["", " ", "Mars/Base", 5])
def test_a_zone_that_does_not_exist_is_refused(zone: Any) -> None:
    with pytest.raises(BarsError, match=f"times cannot be read in zone {zone!r}"):
        mlkit.read_bars(BARS.tz_localize(None), **MARKET, tz=zone)


@pytest.mark.parametrize("head", ["<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>"])
def test_exports_of_finam_and_stooq_read_as_they_are(head: str, tmp_path: Path) -> None:
    rows = [
        f"X,60,{t:%Y%m%d},{t:%H%M%S},{o!r},{h!r},{lo!r},{c!r},{v!r}" for t, o, h, lo, c, v in BARS.itertuples(name=None)
    ]
    (tmp_path / "x.txt").write_text("\n".join([head, *rows]) + "\n")
    pd.testing.assert_frame_equal(
        mlkit.read_bars(tmp_path / "x.txt", **MARKET), BARS, check_exact=True, check_freq=False
    )


def test_repair_of_a_file_without_a_price_is_one_line(tmp_path: Path) -> None:
    rows = [f"{time:%Y-%m-%dT%H:%MZ},x,x,x,x,1" for time in INDEX]
    lake = Settings(training_data_path=tmp_path / "bars")
    with pytest.raises(BarsError, match="no valid row is left of 60"):
        mlkit.import_bars(csv(tmp_path, rows), **MARKET, repair=True, settings=lake)
