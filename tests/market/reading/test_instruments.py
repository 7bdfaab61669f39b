"""Rows of several markets never become the bars of one."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError
from mlkit.market.reading.instruments import file_market

N = 60


def prices(level: float, n: int = N, start: str = "2024-01-01") -> pd.DataFrame:
    close = level * (1.0 + np.arange(n) / 1000.0)
    index = pd.date_range(start, periods=n, freq="h", tz="UTC", name="timestamp")
    return pd.DataFrame(
        {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": 1.0}, index=index
    )


def long_format(column: str = "symbol") -> pd.DataFrame:
    both = [prices(level).reset_index().assign(**{column: name}) for name, level in (("AAPL", 100.0), ("MSFT", 200.0))]
    return pd.concat(both, ignore_index=True).sort_values("timestamp", kind="stable", ignore_index=True)


def as_given(frame: pd.DataFrame, kind: str, folder: Path) -> Any:
    if kind == "pandas":
        return frame
    path = folder / f"all.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    return pq.read_table(path) if kind == "arrow" else path


def read(source: Any, how: str, symbol: str, settings: Settings | None = None) -> pd.DataFrame:
    if how == "read":
        return mlkit.read_bars(source, symbol=symbol, timeframe="1h")
    if how == "repair":
        return mlkit.repair_bars(source, symbol=symbol, timeframe="1h")[0]
    mlkit.import_bars(source, symbol=symbol, timeframe="1h", repair=how == "import --repair", settings=settings)
    return mlkit.load_bars(symbol, "1h", settings=settings)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(training_data_path=tmp_path / "lake")


@pytest.mark.parametrize("column", ["symbol", "Ticker", "<TICKER>", "instrument", "Name"])
@pytest.mark.parametrize("kind", ["pandas", "arrow", "csv", "parquet"])
@pytest.mark.parametrize("how", ["read", "import", "import --repair"])
def test_a_column_of_two_markets_is_refused(
    how: str, kind: str, column: str, tmp_path: Path, settings: Settings
) -> None:
    given = as_given(long_format(column), kind, tmp_path)
    with pytest.raises(BarsError, match=rf"column '{column}' holds 2 markets \(AAPL, MSFT\).*--split"):
        read(given, how, "AAPL", settings)


def test_repair_of_two_markets_is_refused() -> None:
    with pytest.raises(BarsError, match="holds 2 markets"):
        read(long_format(), "repair", "AAPL")
    with pytest.raises(BarsError, match=r"60 times have rows that disagree.*no repair may choose"):
        read(long_format().drop(columns="symbol"), "repair", "AAPL")
    with pytest.raises(BarsError, match=r"60 times have rows that disagree.*no repair may choose") as caught:
        read(long_format().drop(columns="symbol"), "read", "AAPL")
    assert "--repair" not in str(caught.value)


@pytest.mark.parametrize("how", ["read", "repair", "import", "import --repair"])
def test_a_column_that_says_another_market_is_refused(how: str, settings: Settings) -> None:
    frame = long_format()
    with pytest.raises(BarsError, match="column 'symbol' says MSFT, not AAPL"):
        read(frame[frame["symbol"] == "MSFT"], how, "AAPL", settings)


@pytest.mark.parametrize(
    ("said", "symbol"),
    [("AAPL", "AAPL"), (" aapl ", "AAPL"), ("BTC/USDT", "BTCUSDT"), ("btc-usdt", "BTC/USDT"), (None, "AAPL")],
)
def test_a_column_that_says_the_same_market_reads(said: str | None, symbol: str) -> None:
    expected = prices(100.0)
    got = mlkit.read_bars(expected.assign(symbol=said).reset_index(), symbol=symbol, timeframe="1h")
    np.testing.assert_array_equal(got.to_numpy(), expected.to_numpy())


def test_a_longer_name_is_no_other_market() -> None:
    frame = prices(100.0).reset_index().assign(Name="Apple Inc.")
    assert len(mlkit.read_bars(frame, symbol="AAPL", timeframe="1h")) == N


def test_few_conflicts_are_repaired_as_before() -> None:
    frame = pd.concat([prices(100.0, 300), prices(200.0, 4)])
    bars, report = mlkit.repair_bars(frame, symbol="X", timeframe="1h")
    assert report.counts["conflicting rows dropped"] == 4 and bars["close"].iloc[0] == 200.0


@pytest.mark.parametrize("kind", ["pandas", "arrow", "csv", "parquet"])
@pytest.mark.parametrize("repair", [False, True])
def test_split_imports_each_under_its_own_name(repair: bool, kind: str, tmp_path: Path, settings: Settings) -> None:
    given = as_given(long_format(), kind, tmp_path)
    done = mlkit.import_markets(given, timeframe="1h", repair=repair, settings=settings)
    assert list(done) == ["AAPL", "MSFT"]
    for name, level in (("AAPL", 100.0), ("MSFT", 200.0)):
        bars = mlkit.load_bars(name, "1h", settings=settings)
        np.testing.assert_array_equal(bars.to_numpy(), prices(level).to_numpy())
        assert done[name][1].rows_in == N


def test_split_names_the_row_of_the_file(tmp_path: Path, settings: Settings) -> None:
    frame = long_format().astype({"close": object})
    frame.loc[7, "close"] = "x"
    frame.to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(BarsError, match="line 9: 'x' is not a number"):
        mlkit.import_markets(tmp_path / "all.csv", timeframe="1h", settings=settings)
    assert mlkit.data_status(settings).empty


def test_files_of_two_markets_are_refused_or_split(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    prices(100.0).to_csv(folder / "BTCUSDT-1h-2024-01.csv")
    prices(9.0, start="2024-02-01").to_csv(folder / "ETHUSDT-1h-2024-02.csv")
    with pytest.raises(ConfigError, match=r"2 markets, such as BTCUSDT-1h-2024-01.csv and ETHUSDT-1h-2024-02.csv"):
        mlkit.import_bars(folder, symbol="BTCUSDT", timeframe="1h", settings=settings)
    mlkit.import_markets(folder, timeframe="1h", settings=settings)
    assert mlkit.load_bars("ETHUSDT", "1h", settings=settings)["close"].iloc[0] == 9.0
    assert len(mlkit.load_bars("BTCUSDT", "1h", settings=settings)) == N


@pytest.mark.parametrize(
    ("name", "market"),
    [
        ("BTCUSDT-1h-2024-01.csv", "BTCUSDT"),
        ("BTCUSDT-1m-2024-01-31.csv.gz", "BTCUSDT"),
        ("EURUSD_M5.csv", "EURUSD"),
        ("EURUSD_H1_202401.csv", "EURUSD"),
        ("AAPL_2023.parquet", "AAPL"),
        ("BTC-USD_1d.csv", "BTC-USD"),
        ("DAT_ASCII_EURUSD_M1_2023.csv", "DAT_ASCII_EURUSD"),
        ("2023.csv", None),
        ("january.csv", None),
        ("part-1.csv", None),
        ("AAPL.csv", None),
    ],
)
def test_the_market_in_a_file_name(name: str, market: str | None) -> None:
    assert file_market(name) == market


def test_files_whose_names_name_no_market_are_one_import(tmp_path: Path, settings: Settings) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, start in (("january.csv", "2024-01-01"), ("february.csv", "2024-02-01"), ("x-1h-2024.csv", "2024-03-01")):
        prices(100.0, start=start).to_csv(folder / name)
    assert len(mlkit.import_bars(folder, symbol="X", timeframe="1h", settings=settings)[1].counts) > 0
    assert len(mlkit.load_bars("X", "1h", settings=settings)) == 3 * N


def test_split_without_a_name_is_refused(settings: Settings) -> None:
    with pytest.raises(BarsError, match="no column symbol, ticker or instrument"):
        mlkit.import_markets(prices(1.0), timeframe="1h", settings=settings)
    with pytest.raises(BarsError, match="is empty in some rows"):
        mlkit.import_markets(long_format().assign(symbol=["AAPL", None] * N), timeframe="1h", settings=settings)
