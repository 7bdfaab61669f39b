"""How much memory does the training of a pool take, in memory and in files?

Four simulated markets are trained on by `mlkit.train`, walk-forward and all, in a process each way; its private memory
(``RssAnon``) is watched from the moment at which the bars are there. Cached pages of files are not private: the kernel
drops them when others need room. (Linux)

    python tests/bench/bench_memory_pool.py [--bars 150000]

Prints the highest private memory above that of the bars and the libraries, by stage, and the seconds.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import mlkit
from mlkit.features.catalogue import feature_catalogue
from mlkit.market.simulate.markets import planted_edge
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training.execution import Execution
from mlkit.operations.training.training import train

FEW = EnsembleSettings.smoke(n_estimators=20, forest_trees=8, n_threads=1)
MIB = 1024


def private() -> int:
    """MiB of this process's memory that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // MIB for line in lines if line.startswith("RssAnon"))


def markets(n: int) -> dict[str, object]:
    return {symbol: planted_edge(n, seed=seed, symbol=symbol, timeframe="1m") for seed, symbol in enumerate("ABCD")}


def measured(way: str, n: int, home: Path) -> None:
    """Train one way and print what it took."""
    settings = mlkit.Settings(
        prediction_horizons=(1,), model_storage_path=home / "models", ledger_path=home / "ledger", n_threads=1
    )
    train(markets(1_500), settings, ensemble=FEW, publish=False)  # libraries loaded, kernels compiled
    bars = markets(n)
    before, stage, peaks, done = private(), ["features"], dict[str, int](), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peaks[stage[0]] = max(peaks.get(stage[0], 0), private() - before)

    def tell(said: str, *_: int) -> None:
        stage[0] = said.split(":")[0]

    watcher, start = threading.Thread(target=watch, daemon=True), time.perf_counter()
    watcher.start()
    execution = Execution(progress=tell, arrays=home / "files" if way == "files" else None)
    train(bars, settings, ensemble=FEW, publish=False, execution=execution)
    done.set()
    watcher.join()
    said = ", ".join(f"{name} {peak:,}" for name, peak in peaks.items())
    print(f"in {way}: at most {max(peaks.values()):,} MiB ({said}), {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Both ways, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bars", type=int, default=150_000, help="of each market")
    parser.add_argument("--way", choices=("files", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        with tempfile.TemporaryDirectory() as home:
            measured(options.way, options.bars, Path(home))
        return
    size = 4 * options.bars * len(feature_catalogue()) * 4 // MIB**2
    print(f"{date.today()}: 4 markets of {options.bars:,} bars, a matrix of {size:,} MiB", flush=True)
    for way in ("files", "memory"):
        subprocess.run([sys.executable, __file__, "--bars", str(options.bars), "--way", way], check=True)


if __name__ == "__main__":
    main()
