"""Bars from files, from the lake and from arch: exact, strict, atomic."""

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, DependencyError, MlkitError
from mlkit.market.bars import fingerprint
from mlkit.market.simulate.markets import null_market
from mlkit.market.sources import available, load_bars, read_bars, save_bars

BARS = null_market(50, seed=2, symbol="BTCUSDT")
HEADER = "timestamp,open,high,low,close,volume\n"
ROWS = [
    "2024-01-01T00:00Z,10,12,9,11,5",
    "2024-01-01T00:01Z,11,12,10,11.5,0",
    "2024-01-01T00:02Z,11,12,10,11,7",
]


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    return Settings(training_data_path=tmp_path / "bars")


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> pd.DataFrame:
    return read_bars(path, symbol="BTCUSDT", timeframe="1m")


# --- built-in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["SP500", "NASDAQ"])
def test_built_in_bars_are_those_of_arch(symbol: str) -> None:
    from arch.data import nasdaq, sp500

    theirs = {"SP500": sp500, "NASDAQ": nasdaq}[symbol].load()
    bars = load_bars(symbol, "1d")
    np.testing.assert_array_equal(bars, theirs[["Open", "High", "Low", "Close", "Volume"]].astype("float64"))
    np.testing.assert_array_equal(bars.index.tz_localize(None).as_unit("s"), theirs.index.as_unit("s"))
    assert bars.attrs == {"symbol": symbol, "timeframe": "1d", "calendar": "XNYS"}
    assert len(bars) == 5031


def test_built_in_bars_name_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("mlkit.market.sources.find_spec", lambda name: None if name == "arch" else real(name))
    with pytest.raises(DependencyError, match=r'pip install "mlkit\[train\]"'):
        load_bars("SP500", "1d")


def test_a_span_is_half_open_in_utc() -> None:
    whole = load_bars("SP500", "1d")
    part = load_bars("SP500", "1d", since="2008-01-02", until=pd.Timestamp("2008-01-31"))
    pd.testing.assert_frame_equal(part, whole.loc["2008-01-02":"2008-01-30"])
    assert part.attrs == whole.attrs
    tokyo = load_bars("SP500", "1d", since="2008-01-02T09:00+09:00", until="2008-01-31T09:00+09:00")
    pd.testing.assert_frame_equal(tokyo, part)


@pytest.mark.parametrize(
    ("since", "until", "says"),
    [
        ("last week", None, "since='last week' is not a time"),
        (None, "01/02/2008", "until='01/02/2008' is not a time"),
        ("2008-01-02", "2008-01-02", "must be before until"),
        ("2030-01-01", None, "no bars in .* there are bars from 1999-01-04 .* to 2018-12-31"),
    ],
)
def test_a_span_that_makes_no_sense_is_refused(since: str | None, until: str | None, says: str) -> None:
    with pytest.raises(MlkitError, match=says):
        load_bars("SP500", "1d", since=since, until=until)


# --- the lake ----------------------------------------------------------------------------------------


def test_saved_bars_are_loaded_bit_for_bit(lake: Settings) -> None:
    commit = save_bars(BARS, lake)
    assert commit.folder == str(lake.lake / "symbol=BTCUSDT" / "timeframe=1m")
    loaded = load_bars("BTCUSDT", "1m", settings=lake)
    pd.testing.assert_frame_equal(loaded, BARS)
    assert loaded.attrs == BARS.attrs
    assert fingerprint(loaded) == fingerprint(BARS)
    assert available(lake) == [("SP500", "1d"), ("NASDAQ", "1d"), ("BTCUSDT", "1m")]


def test_a_save_replaces_what_was_there(lake: Settings) -> None:
    save_bars(BARS, lake)
    save_bars(BARS.iloc[10:20], lake)
    pd.testing.assert_frame_equal(load_bars("BTCUSDT", "1m", settings=lake), BARS.iloc[10:20])


def test_only_valid_bars_of_a_free_name_are_saved(lake: Settings) -> None:
    with pytest.raises(BarsError, match="'high', row 3"):
        save_bars(BARS.assign(high=BARS["high"].where(BARS.index != BARS.index[3], 1.0)), lake)
    with pytest.raises(ConfigError, match="SP500 1d is built in"):
        save_bars(load_bars("SP500", "1d"), lake)
    assert not lake.lake.exists()


def test_an_unknown_name_lists_what_exists_and_how_to_import(lake: Settings) -> None:
    save_bars(BARS, lake)
    with pytest.raises(ConfigError) as caught:
        load_bars("ETHUSDT", "1m", settings=lake)
    for part in ("no bars ETHUSDT 1m", "SP500 1d, NASDAQ 1d, BTCUSDT 1m", "mlkit.save_bars(mlkit.read_bars("):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="no bars SP500 1h"):
        load_bars("SP500", "1h", settings=lake)
    with pytest.raises(ConfigError, match="symbol"):
        load_bars("../../etc", "1m", settings=lake)


# --- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bars.csv", "bars.csv.gz", "bars.parquet"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "ISO", "date", "index"])
def test_files_of_every_kind_give_the_same_bars(tmp_path: Path, name: str, unit: str) -> None:
    frame = BARS.reset_index(names="Open Time").rename(columns=str.title).assign(**{"Adj Close": 1.0, "N": 7})
    if unit in ("s", "ms", "us", "ns"):
        frame["Open Time"] = BARS.index.as_unit(unit).asi8  # type: ignore[arg-type]
    if unit == "ISO":
        frame["Open Time"] = BARS.index.strftime("%Y-%m-%dT%H:%M:%SZ")
    if unit == "index" and name.endswith("parquet"):
        frame = frame.set_index("Open Time").rename_axis(None)
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    bars = read(path)
    pd.testing.assert_frame_equal(bars, BARS)
    assert bars.attrs == BARS.attrs


@pytest.mark.parametrize("comma", [";", "\t", "|"])
def test_other_separators_marks_and_quotes(tmp_path: Path, comma: str) -> None:
    lines = "\r\n".join((HEADER + "\n".join(ROWS)).replace("timestamp", '"Date"').replace(",", comma).split("\n"))
    bars = read(write(tmp_path / "a.csv", "\ufeff" + lines + "\r\n\r\n"))
    assert bars["close"].tolist() == [11.0, 11.5, 11.0]


def test_blanks_around_names_and_values_do_not_matter(tmp_path: Path) -> None:
    text = "Date , Open, High, Low, Close, Volume\n 2024-01-02 00:00 , 10, 12, 9, 11, 5\n"
    assert read(write(tmp_path / "a.csv", text)).iloc[0].tolist() == [10.0, 12.0, 9.0, 11.0, 5.0]


def test_naive_times_are_read_in_tz(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER + "2024-01-02 09:30,10,12,9,11,5\n")
    new_york = read_bars(path, symbol="A", timeframe="1m", tz="America/New_York")
    assert new_york.index[0] == pd.Timestamp("2024-01-02 14:30", tz="UTC")
    assert read(path).index[0] == pd.Timestamp("2024-01-02 09:30", tz="UTC")
    with pytest.raises(BarsError, match=r"a.csv: column 'timestamp', line 2: .* has no time zone"):
        read_bars(path, symbol="A", timeframe="1m", tz=None)


def test_dates_of_a_parquet_file_are_midnight(tmp_path: Path) -> None:
    frame = BARS.iloc[:3].reset_index(drop=True)
    frame.insert(0, "date", [day.date() for day in pd.date_range("2024-01-01", periods=3)])
    frame.to_parquet(tmp_path / "a.parquet")
    bars = read_bars(tmp_path / "a.parquet", symbol="A", timeframe="1d")
    assert bars.index[2] == pd.Timestamp("2024-01-03", tz="UTC")


def test_labels_in_the_path_are_not_columns(tmp_path: Path) -> None:
    path = tmp_path / "symbol=X" / "open=3" / "a.parquet"
    path.parent.mkdir(parents=True)
    BARS.reset_index().to_parquet(path)
    pd.testing.assert_frame_equal(read(path), BARS)


def row(line: int, text: str) -> str:
    """A file whose line ``line`` is ``text``."""
    lines = [HEADER.strip(), *ROWS]
    lines[line - 1] = text
    return "\n".join(lines)


BAD_FILES: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["the file is empty"]),
    "blank": ("\n\n", ["Empty CSV file"]),
    "header only": (HEADER, ["a header but no rows"]),
    "no header": ("\n".join(ROWS), ["no column 'timestamp' among 2024-01-01T00:00Z, 10"]),
    "no time": (HEADER.replace("timestamp", "when") + ROWS[0], ["no column 'timestamp'", "among when, open"]),
    "no volume": (HEADER.replace("volume", "amount") + ROWS[0], ["no column 'volume'", "name the columns"]),
    "two times": (HEADER.replace("open", "date") + ROWS[0], ["'timestamp' and 'date' both name"]),
    "two closes": (HEADER.replace("volume", "Close") + ROWS[0], ["'close' and 'Close' both name the close"]),
    "words": (row(3, "2024-01-01T00:01Z,11,12,10,n/a,0"), ["column 'close', line 3: 'n/a' is not a number"]),
    "decimal comma": (row(2, '2024-01-01T00:00Z,"10,5",12,9,11,5'), ["'open', line 2: '10,5'", "mend"]),
    "hole": (row(4, "2024-01-01T00:02Z,11,12,10,11,"), ["column 'volume', line 4: '' is not a number"]),
    "short line": (row(3, "2024-01-01T00:01Z,11,12"), ["Expected 6 columns, got 3"]),
    "long line": (row(3, ROWS[1] + ",1"), ["Expected 6 columns, got 7"]),
    "bad time": (row(3, "noon,11,12,10,11,0"), ["'timestamp', line 3: 'noon' is not an ISO 8601 time"]),
    "no such day": (row(3, "2024-02-30T00:01Z,11,12,10,11,0"), ["line 3: '2024-02-30T00:01Z' is not an ISO"]),
    "nan": (row(3, "2024-01-01T00:01Z,11,12,10,nan,0"), ["'close', row 1 (2024-01-01 00:01:00+00:00): nan"]),
    "bad bar": (row(3, "2024-01-01T00:01Z,11,12,10,13,0"), ["'close', row 1 (2024", "13.0 is above"]),
    "twice": (HEADER + "\n".join([*ROWS, ROWS[1].replace("11.5", "11.6")]), ["1 times have rows that dis"]),
    "off grid": (row(3, "2024-01-01T00:01:30Z,11,12,10,11,0"), ["row 1 (2024-01-01 00:01:30", "1m grid"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, kind: str, name: str) -> None:
    text, says = BAD_FILES[kind]
    with pytest.raises(BarsError) as caught:
        read(write(tmp_path / name, text))
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name))
    assert "\n" not in message
    if kind != "empty" or name == "a.csv":  # an empty gzip member is a file with no header
        for part in says:
            assert part.replace("a.csv", name) in message


def test_lines_are_counted_past_blank_ones(tmp_path: Path) -> None:
    text = HEADER + "\n\n" + ROWS[0] + "\n\n" + "2024-01-01T00:01Z,11,12,10,?,0\n"
    with pytest.raises(BarsError, match=r"line 6: '\?' is not a number"):
        read(write(tmp_path / "a.csv", text))


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.csv: no such file"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(ConfigError, match="no such file"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"\.xlsx file type; mlkit reads"):
        read(write(tmp_path / "a.xlsx", "x"))
    for name, data in (("a.parquet", b"PAR1 no"), ("a.csv.gz", b"plain"), ("a.csv", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BarsError, match=f"{name}: not a readable"):
            read(tmp_path / name)
    half = gzip.compress((HEADER + "\n".join(ROWS)).encode())[:-12]
    (tmp_path / "half.csv.gz").write_bytes(half)
    with pytest.raises(BarsError, match=r"half.csv.gz: not a readable"):
        read(tmp_path / "half.csv.gz")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="low"), "no column 'low'"),
        (lambda f: f.iloc[:0], "a header but no rows"),
        (lambda f: f.astype({"low": "str"}).replace({"low": {str(f["low"][3]): "x"}}), "'low', row 3: 'x'"),
        (lambda f: f.assign(timestamp=True), "'timestamp', row 0: True is neither"),
        (lambda f: f.assign(volume=[[1.0]] * len(f)), "'volume', row 0: .* is not a number"),
    ],
)
def test_a_bad_parquet_file_is_one_clear_line(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], says: str
) -> None:
    path = tmp_path / "a.parquet"
    change(BARS.reset_index()).to_parquet(path)
    with pytest.raises(BarsError, match=f"{path}: .*{says}"):
        read(path)


def test_numbers_as_text_in_parquet_are_numbers(tmp_path: Path) -> None:
    BARS.reset_index().astype({"low": "str"}).to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read(tmp_path / "a.parquet"), BARS)


def test_every_real_file_beside_the_checkout_reads() -> None:
    folder = Path(__file__).parents[2] / "../shared/data/ohlcv"
    files = sorted(folder.glob("*.parquet"))
    if not files:
        pytest.skip("real bars are not beside the checkout")
    for file in files:
        symbol, timeframe = file.stem.rsplit("-", 1)
        bars = read_bars(file, symbol=symbol, timeframe=timeframe)
        theirs = pd.read_parquet(file)
        np.testing.assert_array_equal(bars, theirs.drop(columns="timestamp"))
        assert pd.DatetimeIndex(theirs["timestamp"]).as_unit("ns").equals(bars.index)
