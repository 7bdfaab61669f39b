"""The status of the lake: what is there, how fresh, how complete, and what is damaged."""

import json
from pathlib import Path

import pandas as pd
import pytest

import mlkit
from mlkit.cli import main
from mlkit.config import Settings
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market

MINUTES = null_market(1000, seed=2, symbol="BTC/USDT")
NOW = MINUTES.index[-1] + pd.Timedelta(minutes=31)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(tmp_path / "bars"))
    BarStore(tmp_path / "bars").append(MINUTES.drop(index=MINUTES.index[100:200]), source="binance")
    BarStore(tmp_path / "bars").append(null_market(40, seed=3, timeframe="1h", symbol="OLD"))
    (tmp_path / "bars" / "symbol=OLD" / "timeframe=1h" / "_manifest.json").unlink()
    return Settings()


def test_the_status_is_that_of_the_bars(lake: Settings) -> None:
    table = mlkit.data_status(lake, now=NOW)
    assert list(table.index) == [("BTC/USDT", "1m"), ("OLD", "1h")]
    row = table.loc[("BTC/USDT", "1m")]
    assert (row["bars"], row["first"], row["last"]) == (900, MINUTES.index[0], MINUTES.index[-1])
    assert row["age"] == pd.Timedelta(minutes=30)
    assert row["of_the_grid"] == pytest.approx(0.9)
    assert (row["revised"], row["source"], row["problem"]) == (0, "binance", "")
    assert table.loc[("OLD", "1h"), "bars"] == 40
    assert "no manifest yet" in table.loc[("OLD", "1h"), "problem"]


def test_an_empty_lake_has_an_empty_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = mlkit.data_status(Settings(training_data_path=tmp_path / "none"))
    assert table.empty and table.index.names == ["symbol", "timeframe"]


def test_damage_shows_when_it_is_looked_for(lake: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "status"]) == 0
    out = capsys.readouterr().out
    assert "  BTC/USDT 1m: 900 bars, 2024-01-01 00:00 to 2024-01-01 16:39 UTC, 90.0% of the grid, " in out
    assert "from binance, data " in out
    assert main(["data", "status", "--check", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["markets"]
    assert [row["bars"] for row in rows] == [900, 40] and rows[0]["age"] > 0
    path = next(Path(lake.lake).glob("symbol=BTC*/*/2024-01.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["data", "status"]) == 0  # a look at the manifest does not open it
    capsys.readouterr()
    assert main(["data", "status", "--check"]) == 2
    out, err = capsys.readouterr()
    assert "2024-01.parquet is damaged" in out and "OLD 1h: 40 bars" in out
    assert err.startswith("mlkit: error: ") and "2024-01.parquet is damaged" in err and err.count("\n") == 1
