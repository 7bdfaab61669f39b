"""What XGBoost and LightGBM themselves make of the hostile model files of tests/models/bundle/hostile_models.py.

    python tests/bench/bench_hostile.py

Each file is loaded by its library, which then predicts eight rows, in a forked process with 20 seconds and 2 GB.
mlkit refuses every one of these files (tests/models/bundle/test_bundle_hostile.py); this shows why it does not leave
that to the libraries.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import collections
import resource
import runpy
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost

from mlkit.models.bundle.bundle import write_bundle
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays

CASES = runpy.run_path(str(Path(__file__).parents[1] / "models" / "bundle" / "hostile_models.py"))
N, F, HORIZONS = 700, 5, (1, 3)
SECONDS = 20


def good_bundle(root: Path) -> Path:
    """A small bundle to damage."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, F)).astype(np.float32)
    end = np.arange(N)[:, None] + np.array(HORIZONS)
    Y = 0.001 * (X[:, :1] + X[:, 1:2] * X[:, 2:3] + rng.normal(size=(N, 2)))
    settings = EnsembleSettings.smoke(n_threads=1, n_estimators=10, forest_trees=4, min_leaf=20)
    arrays = TrainingArrays(X, Y, np.where(end < N, end, -1), np.full((N, 2), 0.001), HORIZONS)
    price = PricePredictor.fit(arrays, settings)
    fields: dict[str, Any] = {"created": "2026-01-01", "symbol": "NULL", "timeframe": "1m", "horizons": HORIZONS}
    fields |= {"feature_names": [f"x{k}" for k in range(F)], "data_sha256": "0" * 64, "seed": 7, "settings": {}}
    fields |= {"training_span": {"start": "2026-01-01", "end": "2026-01-02", "bars": N}, "metrics": {}}
    return write_bundle(root, fields, price=price).path


def read(library: str, folder: Path) -> None:
    """Load and predict as the library would be used."""
    X = np.random.default_rng(0).normal(size=(8, F)).astype(np.float32)
    if library == "xgboost":
        model = xgboost.Booster({"nthread": 1}, model_file=bytearray((folder / "xgb_1.ubj").read_bytes()))
        model.inplace_predict(X)
    else:
        text = (folder / "lgb_1.txt").read_bytes().decode()
        lightgbm.Booster(model_str=text).predict(X, num_threads=1)


def outcome(library: str, folder: Path) -> str:
    """Accepted, refused, or how the process ended."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2**31
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(3 * SECONDS)
        try:
            read(library, folder)
        except Exception:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "never ends" if name in ("SIGXCPU", "SIGALRM", "SIGKILL") else f"crashes ({name})"
    return "refuses" if os.WEXITSTATUS(status) else "ACCEPTS"


def main() -> None:
    told: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as work:
        template = good_bundle(Path(work) / "root")
        for library in ("xgboost", "lightgbm"):
            counts = told[library] = collections.Counter()
            for k, (name, damage, _) in enumerate(CASES[library]()):
                folder = Path(shutil.copytree(template, Path(work) / f"{library}{k}"))
                damage(folder)
                what = outcome(library, folder)
                counts[what] += 1
                print(f"{name:<50} {what}", flush=True)
    for library, counts in told.items():
        print(f"{library}: {counts.total()} files: {', '.join(f'{count} {what}' for what, count in counts.items())}")


if __name__ == "__main__":
    main()
