"""Training on a feature matrix of four times the memory that the process is allowed.

    python tests/bench/bench_memory.py [--cap 1024] [--small 60000]

The matrix lies in a file. A child process asks the kernel to refuse it more than the cap of private memory
(``RLIMIT_DATA``: heap and private mappings; pages of files are cache, which the kernel can drop), then trains the
whole ensemble with `DiskBatches`. A second child tries the same in memory and must be refused. On a small
matrix the models of both ways are compared.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its buffers count

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

HORIZONS = (1, 15)
F, TERMS = 197, 26
SHAPES = {
    "X": (F, np.float32),
    "Y": (2, np.float64),
    "end": (2, np.int64),
    "scale": (2, np.float64),
    "terms": (TERMS, np.float64),
}
CHUNK = 1 << 16


def write(folder: Path, n: int) -> None:
    """A market of n bars whose volatility one term shows and whose next move one feature shows a little, in files."""
    rng = np.random.default_rng(7)
    made = {
        name: np.memmap(folder / name, dtype=kind, mode="w+", shape=(n, width))
        for name, (width, kind) in SHAPES.items()
    }
    spread = 0.001 * np.exp(0.3 * np.sin(np.arange(n) / 300))
    moves = np.empty(n)
    for at in range(0, n, CHUNK):
        rows = slice(at, min(at + CHUNK, n))
        X = rng.standard_normal((rows.stop - at, F), dtype=np.float32)
        made["X"][rows] = X
        signal = 0.1 * X[:, 0] + 0.1 * np.sign(X[:, 1] * X[:, 2])
        moves[rows] = spread[rows] * (rng.standard_normal(len(X)) + signal)
        made["terms"][rows] = np.column_stack([np.log(spread[rows]), 0.3 * rng.standard_normal((len(X), TERMS - 1))])
    price = np.concatenate([[0.0], np.cumsum(moves)])  # the move after row t is known at t + 1
    for j, h in enumerate(HORIZONS):
        made["Y"][:, j], made["end"][:, j] = np.nan, -1
        made["Y"][:-h, j] = price[h:-1] - price[: -h - 1]
        made["end"][:-h, j] = np.arange(h, n)
        made["scale"][:, j] = spread * np.sqrt(h)


def load(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for name, (width, kind) in SHAPES.items():
        rows = (folder / name).stat().st_size // (width * np.dtype(kind).itemsize)
        found[name] = np.memmap(folder / name, dtype=kind, mode="r", shape=(rows, width))
    return found


def train(folder: Path, way: str) -> tuple[object, float]:
    """The ensemble fitted one way or the other, and the seconds it took."""
    from mlkit.models.ensemble.learners.learner import DiskBatches
    from mlkit.models.ensemble.price_predictor import PricePredictor
    from mlkit.models.ensemble.settings import EnsembleSettings
    from mlkit.models.ensemble.split import TrainingArrays

    settings = EnsembleSettings.smoke(n_threads=1, n_estimators=40)
    start = time.perf_counter()
    arrays = TrainingArrays(**load(folder), horizons=HORIZONS)
    model = PricePredictor.fit(arrays, settings, disk=None if way == "memory" else DiskBatches(folder, int(way)))
    return model, time.perf_counter() - start


def child(folder: Path, way: str, cap: int) -> None:
    """Train under the cap and print what it took."""
    import lightgbm  # noqa: F401
    import sklearn.ensemble  # noqa: F401
    import xgboost  # noqa: F401

    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    peak = {"RssAnon": 0, "VmData": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peak:
                    peak[name] = max(peak[name], int(value.split()[0]) * 1024)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    model, seconds = train(folder, way)
    done.set()
    watcher.join()
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "rss": rss, **peak, "training": model.training}))


def run(folder: Path, way: str, cap: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, "--child", str(folder), "--way", way, "--bytes", str(cap)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MALLOC_ARENA_MAX": "2"})


def compare(folder: Path, n: int) -> None:
    """Both ways on a matrix that fits: which files are equal, and what the forecasts are worth on later rows."""
    write(folder, n + 20_000)
    arrays = load(folder)
    ways = {}
    for way in ("memory", str(max(1000, n // 40))):
        for name in ("Y", "end"):
            values = np.memmap(folder / name, dtype=SHAPES[name][1], mode="r+", shape=arrays[name].shape)
            if name == "end":
                values[n:] = -1  # the last rows are for scoring
        ways[way] = train(folder, way)[0]
    inside, outside = ways.values()
    ours, theirs = outside.to_bytes(), inside.to_bytes()
    for name in inside.learners:
        files = inside.learners[name].to_bytes()
        same = sum(ours[file] == theirs[file] for file in files)
        print(f"  {name}: {same} of {len(files)} files equal to in-memory training to the bit")
    X, y = np.array(arrays["X"][n:-20]), arrays["Y"][n:-20] / arrays["scale"][n:-20]
    for j, h in enumerate(HORIZONS):
        scores = {way: m.learners["lightgbm"].predict(X)[:, j] for way, m in ways.items()}
        skill = ", ".join(
            f"{'in memory' if way == 'memory' else 'in blocks'} {np.corrcoef(z, y[:, j])[0, 1]:.4f}"
            for way, z in scores.items()
        )
        print(f"  lightgbm h={h}: correlation with the outcome of {len(X):,} later rows: {skill}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cap", type=int, default=1024, help="MiB of private memory")
    parser.add_argument("--small", type=int, default=60_000, help="rows of the comparison")
    for name in ("--child", "--way", "--bytes"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child), options.way, int(options.bytes))
        return
    cap = options.cap << 20
    n = -(-4 * cap // (4 * F))
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        folder = Path(place)
        write(folder, n)
        size = (folder / "X").stat().st_size
        print(f"cap {cap >> 20} MiB; matrix {n:,} rows x {F} float32 = {size >> 20} MiB, {size / cap:.2f} x the cap")
        done = run(folder, "32768", cap)
        if done.returncode:
            sys.exit(f"training failed: {done.stderr[-2000:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        print(
            f"trained in {told['seconds']:.0f} s; peak of private memory {told['VmData'] >> 20} MiB asked for, "
            f"{told['RssAnon'] >> 20} MiB resident; {told['rss'] >> 20} MiB with the cached pages of files"
        )
        print(f"  {told['training']}")
        refused = run(folder, "memory", cap)
        reason = (
            refused.stderr.strip().splitlines()[-1][:120] if refused.stderr.strip() else f"exit {refused.returncode}"
        )
        print(f"in memory under the same cap: {'trained' if refused.returncode == 0 else 'refused'} ({reason})")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
        print(f"both ways on {options.small:,} rows:")
        compare(Path(place), options.small)


if __name__ == "__main__":
    main()
