"""The feature engine beside copying its output, and beside the libraries of the field, measured in turn in one run.

Only ratios mean something. Each is the best of several repeats, in processor seconds of one core, so that waiting
for a core does not count; a busy neighbour on the same core still does, and it slows arithmetic more than copying.
"""

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import runpy
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numba import njit

import mlkit
from mlkit.features import engine
from mlkit.features.engine import advance, keep
from mlkit.features.kernel import OPTIONS
from mlkit.features.state import new_state
from mlkit.features.state_rows import BLOCK_BARS, SEEN, Vector
from mlkit.market.bars import make_bars, ohlcv_arrays
from mlkit.market.simulate.markets import null_market

RIVALS = runpy.run_path(str(Path(__file__).with_name("rivals.py")))
MILLION = 1_000_000
Task = Callable[[], object]
uncached = njit(**OPTIONS)  # as the kernels, but compiled at each run


def tiled(n_bars: int) -> pd.DataFrame:
    """One-minute bars of a market without edge, 100,000 of them repeated to the length that is wanted."""
    base = null_market(min(n_bars, 100_000), seed=1)
    values = np.tile(base.to_numpy().T, -(-n_bars // len(base)))[:, :n_bars]
    index = pd.date_range(base.index[0], periods=n_bars, freq="1min")
    return make_bars(index, np.ascontiguousarray(values), symbol="NULL", timeframe="1m")


def best(tasks: dict[str, Task], repeats: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Fastest seconds of each task, taken in turn."""
    seconds = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for name, task in tasks.items():
            start = clock()
            task()
            seconds[name] = min(seconds[name], clock() - start)
    return seconds


def child(code: str, **environment: str) -> dict[str, float]:
    """What a fresh interpreter prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def say(what: str, value: str, goal: str = "") -> None:
    print(f"{what:<66} {value:>16}   {goal}", flush=True)


def fresh_state() -> Vector:
    """The state before the first bar."""
    return new_state(engine.DEFAULT_GARCH, engine.STATE_SIZE)


def steps(arrays: tuple[Vector, ...], out: np.ndarray) -> None:
    """The kernel alone, all columns."""
    engine.steps(*arrays, fresh_state(), engine.ALL_COLUMNS, out)


def against_copying(n_bars: int, repeats: int) -> None:
    """`build_features`, all columns and the DataFrame, over np.copyto of its matrix."""
    bars = tiled(n_bars)
    matrix = mlkit.build_features(bars).to_numpy()
    target = np.zeros_like(matrix)
    arrays, out = ohlcv_arrays(bars), np.zeros_like(matrix)
    took = best(
        {
            "copy": lambda: np.copyto(target, matrix),
            "kernel": lambda: steps(arrays, out),
            "all": lambda: mlkit.build_features(bars),
        },
        repeats,
    )
    label = f"{n_bars:,} bars x {matrix.shape[1]} columns"
    say(f"{label}: build_features / np.copyto", f"{took['all'] / took['copy']:.1f} x", "<= 12 x")
    say(f"{label}: kernel alone / np.copyto", f"{took['kernel'] / took['copy']:.1f} x")


@uncached
def _state_only(o: Vector, h: Vector, low: Vector, c: Vector, v: Vector, x: Vector) -> None:
    """The whole state: what is left is the formulas of the features and writing the rows."""
    for i in range(0, o.shape[0] - BLOCK_BARS + 1, BLOCK_BARS):
        advance(o, h, low, c, v, x, i, 0, BLOCK_BARS)
        keep(x)
        x[SEEN] += BLOCK_BARS


def profile() -> None:
    """Where the time of one bar goes, in nanoseconds."""
    bars = tiled(100_000)
    arrays = ohlcv_arrays(bars)
    matrix = np.zeros((len(bars), engine.N_FEATURES), dtype=np.float32)

    def fresh() -> np.ndarray:
        matrix = np.empty((len(bars), engine.N_FEATURES), dtype=np.float32)
        matrix[:, 0] = 0.0
        return matrix

    took = best(
        {
            "state": lambda: _state_only(*arrays, fresh_state()),
            "kernel": lambda: steps(arrays, matrix),
            "validate": lambda: ohlcv_arrays(mlkit.validate_bars(bars)),
            "fresh": fresh,
            "all": lambda: mlkit.build_features(bars),
        },
        25,
    )
    each = {name: seconds / len(bars) * 1e9 for name, seconds in took.items()}
    print("\nwhere the time of one bar goes, ns")
    parts = {
        "the state: rows, sums, extremes, averages": each["state"],
        "formulas of the features, writing them": each["kernel"] - each["state"],
        "checking and copying the bars": each["validate"],
        "new memory for the matrix": each["fresh"],
        "build_features": each["all"],
    }
    for name, value in parts.items():
        print(f"  {name:<42} {value:6.0f}")
    print(flush=True)


def against_libraries() -> None:
    """Seconds a cell (one value of one column) of each library over ours."""
    bars = tiled(100_000)
    tasks: dict[str, Task] = {"mlkit": lambda: mlkit.build_features(bars)}
    cells = {"mlkit": len(bars) * engine.N_FEATURES}
    for name, rival in RIVALS["RIVALS"].items():
        try:
            cells[name] = rival(bars).size
        except ImportError:
            say(name, "not installed")
        else:
            tasks[name] = lambda rival=rival: rival(bars)
    took = best(tasks, 9)
    each = {name: took[name] / cells[name] for name in tasks}
    for name in list(tasks)[1:]:
        columns = cells[name] // len(bars)
        say(f"{name}, its {columns} columns, a cell / ours", f"{each[name] / each['mlkit']:.1f} x", ">= 2 x")


def against_pandas_ta() -> None:
    """pandas-ta-classic on 50,000 bars: time is linear in bars, so the ratio holds for a million."""
    bars = tiled(50_000)
    same = RIVALS["IN_PANDAS_TA"]
    for talib in (False, True):
        columns = RIVALS["pandas_ta"](bars, talib).shape[1]
        tasks: dict[str, Task] = {
            "all": lambda: mlkit.build_features(bars),
            "same": lambda: mlkit.build_features(bars, columns=same),
            "ta": lambda talib=talib: RIVALS["pandas_ta"](bars, talib),
        }
        took = best(tasks, 3)
        how = f"pandas-ta-classic ({'with TA-Lib' if talib else 'its own code'}, 50k bars)"
        whole, cell = took["ta"] / took["all"], engine.N_FEATURES / columns
        say(f"{how}, its {columns} / our same {len(same)}", f"{took['ta'] / took['same']:.0f} x", ">= 100 x")
        say(f"{how}, its {columns} / our {engine.N_FEATURES}", f"{whole:.0f} x")
        say(f"{how}, a cell / ours", f"{whole * cell:.0f} x")


def _together(tasks: list[Task]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def two_symbols() -> None:
    """Two symbols on two threads over one after the other, beside two bare kernels, which never hold the GIL."""
    pair = [tiled(30_000), tiled(30_000)]  # short, to fit between the neighbours of a shared machine
    out = np.zeros((2, 30_000, engine.N_FEATURES), dtype=np.float32)

    def kernel(k: int) -> None:
        steps(arrays[k], out[k])

    arrays = [ohlcv_arrays(bars) for bars in pair]
    builds: list[Task] = [lambda: mlkit.build_features(pair[0]), lambda: mlkit.build_features(pair[1])]
    kernels: list[Task] = [lambda: kernel(0), lambda: kernel(1)]
    took = best(
        {
            "build one": lambda: [build() for build in builds],
            "build two": lambda: _together(builds),
            "kernel one": lambda: [bare() for bare in kernels],
            "kernel two": lambda: _together(kernels),
        },
        100,
        time.perf_counter,
    )
    say("two symbols: one thread / two threads", f"{took['build one'] / took['build two']:.2f} x", ">= 1.7 x")
    say("the same of bare kernels: what this machine can give", f"{took['kernel one'] / took['kernel two']:.2f} x")


def peak_memory() -> None:
    """Most memory that Python and numpy hold at once while a million bars are computed, the bars included."""
    bars = tiled(MILLION)
    mlkit.build_features(bars.iloc[:700])
    tracemalloc.start()
    output = mlkit.build_features(bars).to_numpy().nbytes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    given = bars.to_numpy().nbytes
    say("1M bars: peak / (input + 1.2 output)", f"{(given + peak) / (given + 1.2 * output):.2f}", "<= 1")
    say("1M bars: peak beyond input / output", f"{peak / output:.2f}")


def cost_exponent() -> None:
    """Slope of log seconds over log bars, 10,000 to 3,000,000."""
    sizes = [10_000, 30_000, 100_000, 300_000, MILLION, 3 * MILLION]
    long = tiled(sizes[-1])
    tasks: dict[str, Task] = {str(n): lambda n=n: mlkit.build_features(long.iloc[:n]) for n in sizes}
    took = best(tasks, 4)
    slope = np.polyfit(np.log(sizes), np.log([took[str(n)] for n in sizes]), 1)[0]
    say("cost exponent, 10k to 3M bars", f"{slope:.3f}", "about 1")


def one_push() -> None:
    """One bar pushed, and against recomputing the last 500 bars."""
    bars = tiled(30_000)
    rows, stream, seconds = bars.to_numpy().tolist(), mlkit.FeatureStream(), []
    for row in rows:
        start = time.perf_counter()
        stream.push(*row)
        seconds.append(time.perf_counter() - start)
    tail = bars.iloc[-500:]
    took = best({"tail": lambda: RIVALS["pandas_ta"](tail)}, 7)
    median = float(np.median(seconds))
    say("one push: median", f"{median * 1e6:.1f} us", "<= 3.6 us")
    say("pandas-ta-classic on a 500-bar tail / one push", f"{took['tail'] / median:.0f} x", ">= 500 x")


START = """
import json, time
start = time.perf_counter()
import pandas, numba, mlkit
from mlkit.features import engine
bars = mlkit.load_bars("SP500", "1d")
loaded = time.perf_counter()
engine.FeatureStream().push(*bars.iloc[0])
print(json.dumps(dict(imports=loaded - start, first=time.perf_counter() - loaded)))
"""


def start_up() -> None:
    """First use ever, and first use of a process that finds the compiled kernels."""
    with tempfile.TemporaryDirectory() as folder:
        cold = child(START, NUMBA_CACHE_DIR=folder)["first"]
        warm = min(child(START, NUMBA_CACHE_DIR=folder)["first"] for _ in range(5))
    say("first use ever: compilation", f"{cold:.1f} s")
    say("first push of a process, compiled before, beyond imports", f"{warm:.2f} s", "< 0.5 s")


def main() -> None:
    """Print every ratio with its goal."""
    engine.FeatureStream().push(1.0, 1.0, 1.0, 1.0, 0.0)
    say("measured", "value", "goal")
    against_copying(100_000, 25)
    against_copying(MILLION, 7)
    profile()
    against_libraries()
    against_pandas_ta()
    two_symbols()
    peak_memory()
    cost_exponent()
    one_push()
    start_up()


if __name__ == "__main__":
    main()
