"""Exports of the usual programs, frames of other libraries, folders, and files too large for memory."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlkit
from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, MlkitError
from mlkit.market.bars import validate_bars
from mlkit.market.reading import rows as intake
from mlkit.market.reading import tables
from mlkit.market.simulate.markets import null_market

BARS = null_market(50, seed=2, timeframe="1h", symbol="A")
MARKET = {"symbol": "A", "timeframe": "1h"}
EXAMPLES = int(os.environ.get("MLKIT_FUZZ", "150"))  # MLKIT_FUZZ=3000 runs thousands


def rows(pattern: str, bars: pd.DataFrame = BARS) -> str:
    """A line for each bar: {t} its time, {s} {ms} {us} epochs, {o} {h} {l} {c} {v} its values."""
    lines = []
    for t, o, h, low, c, v in bars.itertuples():
        s = int(t.timestamp())
        lines.append(pattern.format(t=t, s=s, ms=s * 10**3, us=s * 10**6, o=o, h=h, l=low, c=c, v=v))
    return "\n".join(lines) + "\n"


def arrow(frame: pd.DataFrame) -> pa.Table:
    times = pa.array(pd.DatetimeIndex(frame["timestamp"]).asi8).cast(pa.timestamp("ns", tz="UTC"))
    return pa.table({"timestamp": times} | {name: frame[name].to_numpy() for name in BARS})


TABLE = arrow(BARS.reset_index())
BINANCE = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,ignore\n"
EXPORTS = {
    "Binance with a header": BINANCE + rows("{ms},{o},{h},{l},{c},{v},{ms},1,2,3,0"),
    "Binance since 2025, without": rows("{us},{o},{h},{l},{c},{v},{us},1,2,3,4,0"),
    "Kraken without a header": rows("{s},{o},{h},{l},{c},{v},17"),
    "Kraken with one": "time,open,high,low,close,vwap,volume,count\n" + rows("{s},{o},{h},{l},{c},1.5,{v},17"),
    "Yahoo": "Date,Open,High,Low,Close,Adj Close,Volume\n" + rows("{t:%Y-%m-%d %H:%M:%S%z},{o},{h},{l},{c},{c},{v}"),
    "MetaTrader 5": "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
    + rows("{t:%Y.%m.%d}\t{t:%H:%M:%S}\t{o}\t{h}\t{l}\t{c}\t{v}\t0\t3"),
    "MetaTrader 4": rows("{t:%Y.%m.%d},{t:%H:%M},{o},{h},{l},{c},{v}"),
    "TradingView": "time,open,high,low,close,Volume,Volume MA\n" + rows("{s},{o},{h},{l},{c},{v},"),
    "TradingView, exchange time": "time,open,high,low,close,Volume,RSI\n"
    + rows("{t:%Y-%m-%dT%H:%M:%S}+00:00,{o},{h},{l},{c},{v},50"),
    "a spreadsheet of Europe": "Timestamp;Open;High;Low;Close;Volume\n"
    + rows("{t:%Y-%m-%d %H:%M};{o};{h};{l};{c};{v}"),
    "newest first": "date,open,high,low,close,volume\n" + rows("{t:%Y-%m-%d %H:%M},{o},{h},{l},{c},{v}", BARS[::-1]),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_the_usual_programs_read_as_they_are(name: str, tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text(EXPORTS[name])
    pd.testing.assert_frame_equal(mlkit.read_bars(path, **MARKET), BARS, check_freq=False)
    got, report = mlkit.import_bars(path, **MARKET, repair=True, settings=Settings(training_data_path=tmp_path / "l"))
    assert got.added == 50 and report.rows_in == 50


def test_a_headless_file_with_too_few_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1704067200,1,2,3\n")
    with pytest.raises(BarsError, match="no header and 4 columns; bars without one need timestamp, open"):
        mlkit.read_bars(tmp_path / "a.csv", **MARKET)


FRAMES = {
    "pandas": lambda: BARS,
    "pandas with a column": lambda: BARS.reset_index().rename(columns=str.title),
    "pandas by text": lambda: BARS.reset_index().astype("str"),
    "pandas, nullable": lambda: BARS.convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda: pl.DataFrame(TABLE),
    "polars in microseconds": lambda: pl.DataFrame(TABLE).cast({"timestamp": pl.Datetime("us", "UTC")}),
    "pyarrow": lambda: TABLE,
    "pyarrow, float32 volume of whole numbers": lambda: pa.table(
        {**{n: BARS[n].to_numpy() for n in BARS}, "time": BARS.index.as_unit("ms").asi8}
    ),
    "a stream": lambda: pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(max_chunksize=7)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_every_library_read(name: str) -> None:
    pd.testing.assert_frame_equal(mlkit.read_bars(FRAMES[name](), **MARKET), BARS, check_freq=False)


@pytest.mark.parametrize("bad", [None, 7, [1, 2], {"open": 1}, BARS["open"], object()])
def test_what_is_no_frame_is_refused(bad: object) -> None:
    with pytest.raises(MlkitError):
        mlkit.read_bars(bad, **MARKET)


@pytest.mark.parametrize("suffix", ["feather", "arrow"])
@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather(suffix: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    pa.feather.write_feather(TABLE, path, compression=compression, chunksize=9)
    pd.testing.assert_frame_equal(mlkit.read_bars(path, **MARKET), BARS)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(BarsError, match="not a readable Feather file"):
        mlkit.read_bars(path, **MARKET)


def test_the_files_of_a_folder_are_one_import(tmp_path: Path) -> None:
    lake = Settings(training_data_path=tmp_path / "bars")
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(ConfigError, match="no file in it"):
        mlkit.import_bars(folder, **MARKET, settings=lake)
    (folder / "b.csv").write_text("date,open,high,low,close,volume\n" + rows("{t},{o},{h},{l},{c},{v}", BARS[:30]))
    BARS[20:].reset_index().to_parquet(folder / "a.parquet")
    (folder / "readme.md").write_text("not bars")
    commit, report = mlkit.import_bars(folder, **MARKET, settings=lake)
    assert (commit.added, commit.generation) == (50, 1)
    assert report.counts["exact duplicates dropped"] == 10
    pd.testing.assert_frame_equal(mlkit.load_bars(**MARKET, settings=lake), BARS)
    BARS.assign(volume=1.0).reset_index().to_parquet(folder / "c.parquet")
    with pytest.raises(BarsError, match="50 times have rows that disagree"):
        mlkit.import_bars(folder, **MARKET, settings=lake)
    assert mlkit.import_bars(folder, **MARKET, settings=lake, repair=True, on_conflict="replace")[0].revised == 50


def test_a_second_import_adds_and_never_takes_away(tmp_path: Path) -> None:
    lake = Settings(training_data_path=tmp_path / "bars")
    mlkit.import_bars(BARS[:30], **MARKET, settings=lake)
    commit, _ = mlkit.import_bars(BARS[20:], **MARKET, settings=lake)
    assert (commit.added, commit.known, commit.rows) == (20, 10, 50)
    with pytest.raises(BarsError, match=r"other values .*--replace"):
        mlkit.import_bars(BARS[40:] * 2, **MARKET, settings=lake)
    with pytest.raises(ConfigError, match="SP500 1d is built in"):
        mlkit.import_bars(BARS, symbol="SP500", timeframe="1d", settings=lake)


@pytest.mark.parametrize("mode", ["sorted", "shuffled", "repair"])
def test_a_file_larger_than_memory_goes_through_the_disk(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = null_market(9_000, seed=5, timeframe="1h", symbol="A")
    bars = bars.set_axis(bars.index - pd.Timedelta(days=400), axis=0)
    frame = bars.reset_index() if mode == "sorted" else bars.reset_index().sample(frac=1.0, random_state=1)
    pa.csv.write_csv(arrow(frame), tmp_path / "a.csv")
    monkeypatch.setattr(tables, "_WHOLE", 1 << 18)
    monkeypatch.setattr(tables, "_BATCH", 1 << 16)
    monkeypatch.setattr(intake, "_SPILL", 1 << 16)
    largest: list[int] = []
    spill = intake._Spool._spill

    def watched(self: intake._Spool) -> None:
        largest.append(self._bytes)
        spill(self)

    monkeypatch.setattr(intake._Spool, "_spill", watched)
    lake = Settings(training_data_path=tmp_path / "bars")
    commit, report = mlkit.import_bars(tmp_path / "a.csv", **MARKET, settings=lake, repair=mode == "repair")
    assert (commit.added, commit.generation, report.rows_out) == (9_000, 1, 9_000)
    assert len(largest) > 5 and max(largest) < 1 << 19
    pd.testing.assert_frame_equal(mlkit.load_bars(**MARKET, settings=lake), bars, check_freq=False)
    pd.testing.assert_frame_equal(mlkit.read_bars(tmp_path / "a.csv", **MARKET), bars, check_freq=False)


def test_a_fault_late_in_a_streamed_file_names_its_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("timestamp,open,high,low,close,volume\n" + rows("{s},{o},{h},{l},{c},{v}", null_market(
        9000, seed=5, timeframe="1h", symbol="A"))).splitlines()  # fmt: skip
    lines[8765] = lines[8765].replace(",", ",x", 1)
    (tmp_path / "a.csv").write_text("\n".join(lines))
    monkeypatch.setattr(tables, "_WHOLE", 1 << 16)
    monkeypatch.setattr(tables, "_BATCH", 1 << 16)
    lake = Settings(training_data_path=tmp_path / "bars")
    with pytest.raises(BarsError, match=r"column 'open', line 8766: 'x"):
        mlkit.import_bars(tmp_path / "a.csv", **MARKET, settings=lake)
    assert not (tmp_path / "bars" / "symbol=A").exists() or not list((tmp_path / "bars").glob("*/*/*"))


# --- fuzzing -----------------------------------------------------------------------------------------

value = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(1.0, 1e6),
    st.integers(-5, 10**6),
    st.sampled_from(["", " 7 ", "n/a", "1,5", "1'000.5", "nan", "-inf", None, True, b"7", [1], "\uff12", "1e3"]),
)
moment = st.one_of(
    st.integers(0, 40).map(lambda n: f"2024-01-01T{n % 24:02}:00Z"),
    st.integers(0, 40).map(lambda n: 1_704_067_200 + 3600 * n),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["", "noon", "2024-02-30", None, float("nan"), True, 1.5, "2024-01-01", "99999-01-01", "20240101"]),
    st.datetimes(),
)
names = st.permutations(["timestamp", "open", "high", "low", "close", "volume"])
odd_names = st.lists(st.sampled_from(["Open", "open", "date", "time", "x", "", "<VOL>", "volume", "\0"]), max_size=3)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Frames near enough to bars that faults lie deep, and far enough that many do."""
    n_rows = draw(st.integers(0, 12))
    uniform = draw(st.booleans())
    times = moment if not uniform else st.integers(0, 40).map(lambda n: 1_704_067_200_000 + 3_600_000 * n)
    columns = {}
    for name in draw(names)[: draw(st.sampled_from([6, 6, 6, 6, 5]))]:
        each = times if name == "timestamp" else draw(st.sampled_from([value, st.floats(1.0, 9.0), st.just(5.0)]))
        columns[name] = draw(st.lists(each, min_size=n_rows, max_size=n_rows))
    frame = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})
    for name in draw(odd_names):
        frame.insert(0, name, 1.0, allow_duplicates=True)
    return frame if draw(st.booleans()) else frame.infer_objects()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames(), st.sampled_from(["1m", "1h", "1d", "1w"]), st.sampled_from(["UTC", None, "Europe/Berlin"]))
def test_any_frame_gives_bars_or_a_declared_error(frame: pd.DataFrame, timeframe: str, tz: str | None) -> None:
    before = frame.copy(deep=True)
    for repair in (False, True):
        try:
            if repair:
                bars, _ = mlkit.repair_bars(frame, symbol="A", timeframe=timeframe)
            else:
                bars = mlkit.read_bars(frame, symbol="A", timeframe=timeframe, tz=tz)
        except MlkitError as error:
            assert str(error) and "\n" not in str(error)
            continue
        pd.testing.assert_frame_equal(validate_bars(bars), bars, check_freq=False)
        again, report = mlkit.repair_bars(bars, symbol="A", timeframe=timeframe)
        pd.testing.assert_frame_equal(again, bars, check_freq=False)
        assert report.total == 0
    pd.testing.assert_frame_equal(frame, before)


field = st.sampled_from(["1704067200", "1704070800", "5", "5.5", "x", "", "nan", '"', "2024-01-01"])
lines = st.lists(st.lists(field, max_size=8).map(",".join), max_size=6).map("\n".join)
text = lines.map(lambda some: f"timestamp,open,high,low,close,volume\n{some}".encode())
content = st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode), text)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(content, st.sampled_from([".csv", ".csv", ".csv.gz", ".parquet", ".feather", ".tsv"]))
def test_any_file_gives_bars_or_a_declared_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"a{suffix}"
    path.write_bytes(data)
    for repair in (False, True):
        taken = intake.Intake("A", "1h", repair=repair)
        try:
            taken.add(path)
            bars = taken.bars()
        except MlkitError as error:
            assert str(error) and "\n" not in str(error)
            continue
        assert np.isfinite(bars.to_numpy()).all()
