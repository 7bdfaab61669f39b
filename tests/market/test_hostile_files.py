"""Small files that expand: refused in one line before memory is taken."""

import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import mlkit
from mlkit.errors import BarsError, LakeError
from mlkit.market.bars import COLUMNS
from mlkit.market.lake import BarStore
from mlkit.market.lake.partitions import encode_month
from mlkit.market.simulate import null_market

ROWS = 3_000_000
HEADER, LINE = b"timestamp,open,high,low,close,volume\n", b"2024-01-01T00:00:00Z,1,1,1,1,1\n"


@pytest.mark.parametrize("timeframe", ["1m", "1d"])
def test_a_small_parquet_of_millions_of_equal_rows(timeframe: str, tmp_path: Path) -> None:
    columns = {name: pa.array(np.ones(ROWS)) for name in COLUMNS}
    times = pa.array(np.full(ROWS, np.datetime64("2024-01-01", "ns")), pa.timestamp("ns", tz="UTC"))
    pa.parquet.write_table(pa.table({"timestamp": times, **columns}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(BarsError, match=rf"A {timeframe}: 2024-01 has more than [\d,]+ rows"):
        mlkit.read_bars(tmp_path / "a.parquet", symbol="A", timeframe=timeframe)


def test_a_small_gzip_of_millions_of_equal_lines(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb", compresslevel=9) as file:
        file.write(HEADER)
        for _ in range(30):
            file.write(LINE * (ROWS // 30))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(BarsError, match="A 1m: 2024-01 has more than"):
        mlkit.read_bars(tmp_path / "a.csv.gz", symbol="A", timeframe="1m")
    assert tracemalloc.get_traced_memory()[1] < 400_000_000
    tracemalloc.stop()
    assert pa.total_allocated_bytes() <= before + 1_000_000


@pytest.fixture
def lake(tmp_path: Path) -> BarStore:
    store = BarStore(tmp_path / "bars")
    store.append(null_market(50, seed=1, timeframe="1h", symbol="A"))
    return store


def month(lake: BarStore) -> Path:
    (path,) = Path(lake.location).glob("*/*/*.parquet")
    return path


def test_a_month_of_the_lake_with_more_rows_than_fit(lake: BarStore) -> None:
    path = month(lake)
    path.write_bytes(encode_month((np.zeros(ROWS, np.int64), np.ones((len(COLUMNS), ROWS)))))
    (path.parent / "_manifest.json").unlink()
    with pytest.raises(LakeError, match="more than 745 rows, which no month of this timeframe has"):
        lake.read("A", "1h")


@pytest.mark.parametrize("name", ["a month", "_manifest.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link"])
def test_what_is_no_plain_file_of_the_lake_is_refused_without_waiting(kind: str, name: str, lake: BarStore) -> None:
    path = month(lake)
    path = path if name == "a month" else path.parent / name
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else "/etc/hostname")
    with pytest.raises(LakeError, match="cannot read"):
        lake.read("A", "1h")


def test_the_address_of_a_lake_is_shown_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    store = BarStore("memory://user:secret@bars")
    store.append(null_market(50, seed=1, timeframe="1h", symbol="A"))
    assert "secret" not in store.location
    with pytest.raises(BarsError) as caught:
        store.read("B", "1h")
    assert "secret" not in str(caught.value)
