"""Two workers beside one process on the same universe: speed-up, and the same bits.

    python tests/bench/bench_scale.py [--markets 6] [--bars 20000] [--workers 2] [--repeats 2]

One thread a process, workers started and warm before the clock runs, the two ways in turns. A machine with other work
on it says less than it seems: the load is printed.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import mlkit
from mlkit.market.simulate.markets import planted_edge
from mlkit.operations.scale.cluster import connect
from mlkit.operations.scale.universe_jobs import run_universe


def files(folder: Path) -> dict[str, bytes]:
    """Content by name; a bundle's manifest says when it was made, so only its name is compared."""
    return {
        str(path.relative_to(folder)): b"" if path.name == "manifest.json" else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markets", type=int, default=6)
    parser.add_argument("--bars", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, connect(workers=options.workers, n_threads=1) as client:
        home = Path(place)
        base = mlkit.Settings(
            training_data_path=home / "bars", ledger_path=home / "ledger", n_threads=1, tracking=False
        )
        symbols = [f"M{k}" for k in range(options.markets)]
        for k, symbol in enumerate(symbols):
            mlkit.save_bars(planted_edge(options.bars, seed=k, symbol=symbol), base)
        warm = [f"WARM{k}" for k in range(2 * options.workers)]  # libraries loaded, by every worker
        for symbol in warm:
            mlkit.save_bars(planted_edge(3_000, seed=99, symbol=symbol), base)
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        print(f"{options.markets} markets of {options.bars:,} bars, {options.workers} workers of one thread")
        for work in ("features", "evaluate", "train"):
            ratios = []
            for repeat in range(-1, options.repeats):
                seconds = {}
                for way in ("one", "many"):
                    out = home / way
                    shutil.rmtree(out, ignore_errors=True)
                    names = symbols if repeat >= 0 else warm[: 1 if way == "one" else None]
                    settings = base.model_copy(update={"model_storage_path": out / "models"})
                    start = time.perf_counter()
                    report = run_universe(
                        work, names, "1m", settings, client=client if way == "many" else None, out=out
                    )
                    seconds[way] = time.perf_counter() - start
                    report.demand()
                if repeat >= 0:
                    ratios.append(seconds["one"] / seconds["many"])
                    same = files(home / "one") == files(home / "many")
                    print(
                        f"{work:9} one process {seconds['one']:7.2f} s, {options.workers} workers "
                        f"{seconds['many']:7.2f} s, ratio {ratios[-1]:.2f}, "
                        f"results {'equal to the bit' if same else 'DIFFER'}",
                        flush=True,
                    )
            print(f"{work:9} speed-up {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
