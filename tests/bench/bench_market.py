"""Bars: loading from the lake, validation, and reading CSV, each beside the library's own bare operation.

    .venv/bin/python tests/bench/bench_market.py

Ratios of best times of two things measured in turn in one run; the goals are those of the project.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

import mlkit
from mlkit.config import Settings
from mlkit.market.bars import make_bars
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market

ROUNDS = 9


def race(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Best times of the two in milliseconds, in turn, so that both meet the same machine."""
    best = [np.inf, np.inf]
    for _ in range(rounds):
        for number, work in enumerate((ours, theirs)):
            start = time.perf_counter()
            work()
            best[number] = min(best[number], 1e3 * (time.perf_counter() - start))
    return best[0], best[1]


def show(what: str, ours: float, theirs: float, beside: str, goal: str) -> None:
    print(f"{what}: {ours:.1f} ms, {beside} {theirs:.1f} ms, ratio {ours / theirs:.2f} ({goal})", flush=True)


def market(n_bars: int) -> pd.DataFrame:
    """Bars as an exchange writes them, the last one long closed."""
    bars = null_market(n_bars, seed=1, symbol="BENCH")
    values = np.ascontiguousarray(np.column_stack([bars.iloc[:, :4].round(2), bars["volume"].round(3)]).T)
    index = pd.date_range(end="2024-12-31 23:59", periods=n_bars, freq="min", tz="UTC")
    return make_bars(index, values, symbol="BENCH", timeframe="1m")


def loading(folder: Path) -> None:
    year = market(525_600)
    store = BarStore(folder / "bars")
    store.append(year)
    plain = folder / "plain.parquet"
    pa.parquet.write_table(pa.Table.from_pandas(year.reset_index(), preserve_index=False), plain)
    settings = Settings(training_data_path=folder / "bars")
    ours, theirs = race(lambda: mlkit.load_bars("BENCH", "1m", settings=settings), lambda: pa.parquet.read_table(plain))
    show("load_bars of 525,600 bars", ours, theirs, "pyarrow.parquet.read_table", "goal at most 3")
    since = year.index[-40_000]
    ours, _ = race(lambda: mlkit.load_bars("BENCH", "1m", since=since, settings=settings), lambda: None)
    print(f"load_bars of its last 40,000: {ours:.1f} ms")
    ours, _ = race(lambda: store.last("BENCH", "1m"), lambda: None)
    print(f"open time of its newest bar: {ours:.2f} ms")
    more = market(525_600).iloc[-60:] * 1.0
    more.index = more.index + pd.Timedelta(minutes=60)
    more.attrs = year.attrs
    start = time.perf_counter()
    store.append(more)
    print(f"append of 60 bars to it, durable: {1e3 * (time.perf_counter() - start):.1f} ms")


def validation() -> None:
    million = market(1_000_000)
    ours, theirs = race(lambda: mlkit.validate_bars(million), lambda: million.copy())
    show("validate_bars of 1,000,000 bars", ours, theirs, "DataFrame.copy", "goal at most 100 ms")


def csv(folder: Path) -> None:
    million = market(1_000_000)
    path = folder / "million.csv"
    for name, times in (("ISO times", None), ("epochs in ms", million.index.as_unit("ms").asi8)):
        frame = million.reset_index()
        if times is not None:
            frame["timestamp"] = times
        else:
            frame["timestamp"] = frame["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        pa.csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), path)
        ours, theirs = race(
            lambda: mlkit.read_bars(path, symbol="BENCH", timeframe="1m"), lambda: pa.csv.read_csv(path), 5
        )
        show(f"read_bars of 1,000,000 lines, {name}", ours, theirs, "pyarrow.csv.read_csv", "goal at most 1.5")
    start = time.perf_counter()
    settings = Settings(training_data_path=folder / "imported")
    mlkit.import_bars(path, symbol="BENCH", timeframe="1m", settings=settings)
    print(f"import_bars of the same, into the lake and durable: {1e3 * (time.perf_counter() - start):.1f} ms")


def streamed(folder: Path, copies: int = 12) -> None:
    """A file larger than the limit for parsing at once, in a process of its own: the most memory it took."""
    path = folder / "long.csv"
    lines = (folder / "million.csv").read_bytes().split(b"\n", 1)[1]
    step = 1_000_000 * 60_000
    with path.open("wb") as file:
        file.write(b"timestamp,open,high,low,close,volume\n")
        for number in range(copies):  # older and older: every block comes out of order
            table = pa.csv.read_csv(
                pa.BufferReader(lines), read_options=pa.csv.ReadOptions(autogenerate_column_names=True)
            )
            times = pa.array(table.column(0).to_numpy() - number * step)
            pa.csv.write_csv(table.set_column(0, "f0", times), file, pa.csv.WriteOptions(include_header=False))
    code = (
        "import re, sys, mlkit; from mlkit.config import Settings; from pathlib import Path\n"
        "lake = Settings(training_data_path=Path(sys.argv[2]))\n"
        "commit, _ = mlkit.import_bars(sys.argv[1], symbol='LONG', timeframe='1m', settings=lake)\n"
        "print(commit.rows, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, path, folder / "long"], capture_output=True, text=True, check=True
    )
    rows, peak = map(int, done.stdout.split())
    print(
        f"import of a CSV of {path.stat().st_size / 1e6:,.0f} MB, {rows:,} bars: {time.perf_counter() - start:.0f} s, "
        f"at most {peak / 1024:,.0f} MB of memory"
    )


def main() -> None:
    """Everything, in a temporary folder."""
    print(f"{os.cpu_count()} cores, pyarrow {pa.__version__}, pandas {pd.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        loading(Path(scratch))
        validation()
        csv(Path(scratch))
        streamed(Path(scratch))


if __name__ == "__main__":
    main()
