"""What a universe of markets takes, computed from rates measured here and now.

    python tests/bench/sizing.py [--symbols 500] [--years 5] [--bars 20000] [--profile full] [--cores 16]

Rates are processor time of one thread on simulated 1m bars, so other work on the machine hardly matters; training is
measured on two lengths, and what a bar more costs is carried on to the whole history: measured where a history is
short, assumed where it is long. Memory is the growth of the peak from the shorter to the longer one.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

BARS_A_YEAR = 365.2425 * 24 * 60


def measure(n: int, profile: str) -> dict[str, float]:
    """Seconds of processor time and bytes that one market of n bars takes."""
    import mlkit
    from mlkit.features.saved import save_features
    from mlkit.market.lake.store import BarStore
    from mlkit.market.simulate.markets import null_market
    from mlkit.operations.training.scoring import score
    from mlkit.operations.training.training import train, walk_forward

    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        settings = mlkit.Settings(
            training_data_path=home / "bars",
            model_storage_path=home / "models",
            ledger_path=home / "ledger",
            profile=profile,
            n_threads=1,
            tracking=False,
        )
        small = null_market(3_000, seed=1)
        mlkit.build_features(small)  # compiled and loaded before the clock runs
        bars = null_market(n, seed=2, symbol="SIZE")
        found: dict[str, float] = {"bars": n}

        def timed(name: str, work: object) -> object:
            start = time.process_time()
            result = work()  # type: ignore[operator]
            found[name] = time.process_time() - start
            return result

        mlkit.save_bars(bars, settings)
        manifest = BarStore(settings.lake).manifest("SIZE", "1m")
        assert manifest is not None
        found["lake_bytes"] = sum(part.size for part in manifest.files)
        X = timed("build", lambda: mlkit.build_features(bars))
        found["matrix_bytes"] = X.to_numpy().nbytes  # type: ignore[attr-defined]
        del X
        saved = timed("features", lambda: save_features(bars, home / "features"))
        found["feature_bytes"] = saved["bytes"]  # type: ignore[index]
        quick = settings.model_copy(update={"profile": "smoke", "prediction_horizons": (1,)})
        walk_forward(small, quick)  # libraries loaded
        forecasts = timed("evaluate", lambda: walk_forward(bars, settings))
        found["forecast_bytes"] = len(forecasts.to_parquet())  # type: ignore[attr-defined]
        timed("score", lambda: score(forecasts, settings))  # type: ignore[arg-type]
        bundle = timed("train", lambda: train(bars, settings, forecasts=forecasts, publish=False))  # type: ignore[arg-type]
        found["bundle_bytes"] = sum(file.size for file in bundle.manifest.files.values())  # type: ignore[attr-defined]
        found["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def in_a_process(n: int, profile: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(n), "--profile", profile]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def size(value: float) -> str:
    """Bytes in their largest unit."""
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= bytes_:
            return f"{value / bytes_:,.1f} {unit}"
    return f"{value:,.0f} B"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--years", type=float, default=5.0)
    parser.add_argument("--bars", type=int, default=20_000, help="of the longer measurement")
    parser.add_argument("--profile", choices=("smoke", "full"), default="full")
    parser.add_argument("--cores", type=int, default=16, help="of a machine")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.profile)))
        return
    short, long = (in_a_process(n, options.profile) for n in (options.bars // 2, options.bars))
    more = long["bars"] - short["bars"]
    rate = {name: max(long[name] - short[name], 0.0) / more for name in long}  # of one bar more
    each = options.years * BARS_A_YEAR
    every = each * options.symbols

    def hours(*names: str) -> str:
        return f"{sum(rate[name] for name in names) * every / 3600:,.0f} h"

    def bar(name: str) -> str:
        return f"{rate[name] * 1e6:,.1f} µs a bar ({1 / max(rate[name], 1e-12):,.0f} bars/s)"

    def held(name: str) -> float:
        return long[name] / long["bars"]

    memory = rate["rss"] * each + short["rss"] - rate["rss"] * short["bars"]
    matrix = f"{size(held('matrix_bytes') * each)} a market, {size(held('matrix_bytes') * every)} in all"
    rows = [
        ("bars", "1 a minute", f"{every:,.0f}"),
        ("lake, Parquet", f"{held('lake_bytes'):.1f} B a bar", size(held("lake_bytes") * every)),
        ("features, processor", bar("features"), hours("features")),
        ("features, Parquet", f"{held('feature_bytes'):.0f} B a bar", size(held("feature_bytes") * every)),
        ("features, float32 in memory", f"{held('matrix_bytes'):.0f} B a bar", matrix),
        (f"walk-forward and score, {options.profile}", bar("evaluate"), hours("evaluate", "score")),
        ("forecasts, Parquet", f"{rate['forecast_bytes']:.0f} B a bar", size(rate["forecast_bytes"] * every)),
        (f"final training, {options.profile}", bar("train"), hours("train")),
        ("bundles", f"{size(long['bundle_bytes'])} a market", size(long["bundle_bytes"] * options.symbols)),
        ("memory of a worker", f"{rate['rss']:,.0f} B a bar", f"{size(memory)} a market"),
    ]
    lengths = f"{int(short['bars']):,} and {int(long['bars']):,} simulated bars"
    print(f"Measured {datetime.now(UTC):%Y-%m-%d} with {lengths}, one thread.\n")
    print(f"| what | measured | {options.symbols} symbols x {options.years:g} years of 1m |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    work = sum(rate[name] for name in ("features", "evaluate", "score", "train")) * every / 3600
    for machines in (1, 4, 16):
        print(
            f"| machines of {options.cores} cores: {machines} | {options.cores} workers, "
            f"{size(options.cores * memory)} of memory each | {work / options.cores / machines:,.1f} h for all of it |"
        )


if __name__ == "__main__":
    main()
