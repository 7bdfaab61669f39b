"""One bar to its insight, a server under load and under fuzz, and the cold start; each figure beside its goal.

    python tests/bench/bench_inference.py [--seconds 60] [--cases 500] [--profile smoke] [--bars 2000]

The rival computes the same kind of columns with pandas (pandas-ta-classic) over the 700 newest bars, which the
longest average needs, and asks twelve models of as many trees through the libraries' scikit-learn doors.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import asyncio
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rivals import pandas_ta
from serving import ROOT, Server, load, prepare, refusals, server

import mlkit
from mlkit.config import Settings
from mlkit.labels import forward_returns
from mlkit.market.simulate.markets import null_market
from mlkit.models.bundle.bundle import ModelBundle

URL = "/api/ml/insights/TEST?timeframe=1d"
HORIZONS = (1, 5, 15, 60)
HEAVY_BARS = 150_000


def say(what: str, value: str, goal: str = "") -> None:
    """One figure."""
    print(f"{what:<58} {value:<52} {goal}", flush=True)


def quantiles(seconds: list[float]) -> str:
    """Median and 99th percentile in milliseconds."""
    return f"p50 {1e3 * np.quantile(seconds, 0.5):.2f} ms, p99 {1e3 * np.quantile(seconds, 0.99):.2f} ms"


def one_bar(bundle: ModelBundle, count: int, profile: str) -> None:
    """`Predictor.update`, checked against the history, beside the rival on the same bars."""
    bars = mlkit.load_bars("SP500", "1d")
    first = len(bars) - count
    predictor = mlkit.Predictor(bundle)
    predictor.start(bars.iloc[:first])
    walls, times = [], []
    for row in bars.iloc[first:].itertuples():
        wall, begun = time.perf_counter(), time.thread_time()
        insight = predictor.update(row)
        times.append(time.thread_time() - begun)
        walls.append(time.perf_counter() - wall)
    assert insight == predictor.insight(bars)
    say("one new bar to its insight, wall", quantiles(walls), "p99 <= 10 ms")
    say("one new bar to its insight, processor", quantiles(times))
    rival = rival_seconds(bars, profile)
    say("the same through pandas and scikit-learn doors, processor", quantiles(rival))
    say("ratio of medians", f"{np.median(rival) / np.median(times):.0f} x", ">= 20 x")


def bits(home: Path, count: int) -> None:
    """Every live answer of ``count`` bars beside the same row of the history, number by number, on real files."""
    for name in ("BTCUSDT_BYBIT-1m", "AAPL-1h", "EURUSD-1h", "BTCUSDT-15m"):
        path = ROOT / "../shared/data/ohlcv" / f"{name}.parquet"
        if not path.is_file():
            say(f"live and history, {name}", "the file is not beside the checkout")
            continue
        symbol, timeframe = name.rsplit("-", 1)
        bars = mlkit.read_bars(path, symbol=symbol, timeframe=timeframe).iloc[: 3000 + count]
        predictor = mlkit.Predictor(mlkit.train(bars.iloc[:3000], Settings(model_storage_path=home / "bits")))
        predictor.start(bars.iloc[:3000])
        live = [predictor.update(row) for row in bars.iloc[3000:].itertuples()]
        forecasts = predictor.forecasts(bars).set_index(["timestamp", "horizon"])
        patterns = predictor.pattern_probabilities(bars)
        differing = 0
        for time_, insight in zip(bars.index[3000:], live, strict=True):
            numbers = list(insight.patterns.probabilities.values())
            expected = patterns.loc[time_].tolist()
            for horizon, price in insight.price_predictions.items():
                row = forecasts.loc[(time_, int(horizon))]
                numbers += [price.log_return, price.p_up, *(price.interval or ()), *(price.interval_80 or ())]
                ends = (row["lo90"], row["hi90"], row["lo80"], row["hi80"])
                expected += [row["log_return"], row["p_up"], *(insight.current_price * math.exp(end) for end in ends)]
            differing += numbers != expected
        whole = live[-1] == predictor.insight(bars)
        say(f"live and history, {name}", f"{len(live):,} bars, {differing} differ; last insight equal: {whole}", "0")


def rival_seconds(bars: pd.DataFrame, profile: str) -> list[float]:
    """Processor time of the rival for each of 12 bars."""
    from lightgbm import LGBMRegressor
    from sklearn.ensemble import RandomForestRegressor
    from xgboost import XGBRegressor

    def columns(rows: pd.DataFrame) -> pd.DataFrame:
        table = pandas_ta(rows).fillna(0.0)
        return table.set_axis([f"c{k}" for k in range(table.shape[1])], axis=1)

    X = columns(bars)
    Y = forward_returns(bars, HORIZONS)["log_return"]
    trees, forest, depth = (80, 32, 3) if profile == "smoke" else (400, 100, 5)
    models: list[Any] = []
    for horizon in HORIZONS:
        y = Y[horizon].dropna()
        for model in (
            XGBRegressor(n_estimators=trees, max_depth=depth, n_jobs=1, verbosity=0),
            LGBMRegressor(n_estimators=trees, max_depth=depth, n_jobs=1, verbosity=-1),
            RandomForestRegressor(n_estimators=forest, max_depth=depth + 2, n_jobs=1),
        ):
            models.append(model.fit(X.loc[y.index], y))
    times = []
    for end in range(len(bars) - 12, len(bars)):
        begun = time.thread_time()
        row = columns(bars.iloc[end - 700 : end]).iloc[[-1]]
        for model in models:
            model.predict(row)
        times.append(time.thread_time() - begun)
    return times


def cold_requests(home: Path) -> None:
    """A hundred at once on a server that has computed nothing."""
    with server(home) as running:

        async def storm() -> list[int]:
            return await asyncio.gather(*(asyncio.to_thread(lambda: running.get(URL)[0]) for _ in range(100)))

        codes = asyncio.run(storm())
        metrics = running.get("/metrics")[2].decode()
        count = metrics.split("mlkit_compute_seconds_count ")[1].split()[0]
        say("100 cold requests at once", f"{codes.count(200)} x 200, computations: {float(count):.0f}", "1")


def busy(home: Path) -> None:
    """How long a refusal takes while one job is busy and every seat before it is taken, by real computations."""
    markets = heavy_markets(home, 24)
    with server(home, "--jobs", "1", "--deadline", "120") as running:
        running.get(URL)
        full, answered = refusals(running, [f"/api/ml/insights/{name}?timeframe=1m" for name in markets])
        waits = [reply.seconds for reply in full if reply.status == 503]
        assert waits and {reply.retry_after for reply in full if reply.status == 503} == {"1"}
        codes = sorted(Counter(reply.status for reply in full).items())
        most = f"{quantiles(waits)}, most {1e3 * max(waits):.1f} ms"
        say("refused while the pool was full", f"{dict(codes)}; {most}", "<= 50 ms, Retry-After")
        say("those in the pool meanwhile", f"{dict(Counter(answered))}, one each {busy_seconds(running):.2f} s of work")


def busy_seconds(running: Server) -> float:
    """Mean seconds of a computation, as the server counts them."""
    lines = running.get("/metrics")[2].decode().splitlines()
    total, count = (
        float(next(line.split()[1] for line in lines if line.startswith(f"mlkit_compute_seconds_{name} ")))
        for name in ("sum", "count")
    )
    return total / count


def heavy_markets(home: Path, count: int) -> list[str]:
    """Names of minute markets whose first insight takes a while: many bars, each with a bundle."""
    settings = Settings()
    bars = null_market(HEAVY_BARS, seed=1)
    names = [f"HEAVY{k}" for k in range(count)]
    for name in names:
        bars.attrs.update(symbol=name)
        mlkit.save_bars(bars, settings)
    few = bars.iloc[-3000:].copy()
    few.attrs.update(symbol=names[0], timeframe="1m")
    mlkit.train(few, settings)
    for name in names[1:]:
        shutil.copytree(settings.models / f"{names[0]}-1m", settings.models / f"{name}-1m")
    return names


def under_load(home: Path, seconds: float) -> None:
    """200 requests a second, then ten times that."""
    with server(home) as running:
        for _ in range(20):
            running.get(URL)
        calm = load(running.port, URL, 20, 5, connections=1)
        unloaded = float(np.median(calm.latencies))
        say("unloaded", str(calm))
        begun, used = time.perf_counter(), running.processor_seconds()
        steady = load(running.port, URL, 200, seconds)
        share = (running.processor_seconds() - used) / (time.perf_counter() - begun)
        say(f"200 a second for {seconds:.0f} s", str(steady), "200 only")
        say("its p99 beside the unloaded median", f"{np.quantile(steady.latencies, 0.99) / unloaded:.1f} x", "<= 5 x")
        say("processor of the server meanwhile", f"{share:.0%} of a core")
        ten_times(running, seconds)


def ten_times(running: Server, seconds: float) -> None:
    """2,000 a second: only 200 and 503, and memory that does not grow."""
    load(running.port, URL, 2000, 3, connections=128)
    before = running.rss()
    for part in range(2):
        flood = load(running.port, URL, 2000, seconds / 3, connections=128)
        say(f"2,000 a second offered, part {part + 1}", str(flood), "200 and 503 only")
        assert set(flood.statuses) <= {200, 503}
    say("memory", f"{before:.0f} MiB before, {running.rss():.0f} MiB after", "flat")


def fuzz(home: Path, cases: int) -> list[str]:
    """schemathesis over the document of a running server; returns what was broken."""
    program = str(Path(sys.executable).parent / "schemathesis")
    with server(home) as running:
        running.get(URL)
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        command = [program, "run", f"http://127.0.0.1:{running.port}/openapi.json", "--max-examples", str(cases),
                   "--checks", checks, "--seed", "7", "--phases", "examples,coverage,fuzzing"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=home)
        lines = [line.strip() for line in done.stdout.splitlines() if "generated" in line or "Failures" in line]
        say("schemathesis", f"exit {done.returncode}; {'; '.join(lines)[:120]}", "exit 0")
    if done.returncode:
        print(done.stdout[-4000:])
    return [f"schemathesis: exit {done.returncode}"] if done.returncode else []


def cold_start(home: Path) -> None:
    """`mlkit insights --json` in a process of its own, median of five, beside one that imports its libraries."""
    env = {**os.environ, "MLKIT_HOME": str(home), "PYTHONPATH": str(ROOT)}
    ask = ["-m", "mlkit", "insights", "--symbol", "TEST", "--timeframe", "1d", "--json"]
    rows = {
        "mlkit insights --json, cold": (ask, "<= 2 s"),
        "import numpy, pandas, numba": (["-c", "import numpy, pandas, numba"], ""),
        "import torch, which answers do without": (["-c", "import torch"], ""),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(5):
        for name, (arguments, _) in rows.items():
            before, begun = os.times(), time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, check=True)
            after, wall = os.times(), time.perf_counter() - begun
            busy = sum(after[2:4]) - sum(before[2:4])
            taken[name].append((wall, busy))
            if arguments is ask:
                assert json.loads(done.stdout)["model_status"]["models_loaded"]
    for name, (_, goal) in rows.items():
        wall, used = np.median(taken[name], axis=0)
        say(name, f"median {wall:.2f} s, processor {used:.2f} s, best {min(taken[name])[0]:.2f} s", goal)


def main() -> None:
    """Print every figure with its goal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--bars", type=int, default=2000)
    parser.add_argument("--profile", choices=("smoke", "full"), default="smoke")
    parser.add_argument("--only", nargs="*", default=["bar", "bits", "start", "cold", "busy", "load", "fuzz"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _, bundle = prepare(home, profile=arguments.profile)
        say("measured", f"load average {os.getloadavg()[0]:.1f}", "goal")
        runs: dict[str, Callable[[], object]] = {
            "bar": lambda: one_bar(bundle, arguments.bars, arguments.profile),
            "bits": lambda: bits(home, 5000),
            "start": lambda: cold_start(home),
            "cold": lambda: cold_requests(home),
            "busy": lambda: busy(home),
            "load": lambda: under_load(home, arguments.seconds),
            "fuzz": lambda: fuzz(home, arguments.cases),
        }
        for name in arguments.only:
            runs[name]()


if __name__ == "__main__":
    main()
