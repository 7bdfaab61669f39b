"""Prediction beside the libraries' scikit-learn doors, with the same trees on both sides, and the cold start.

    python tests/bench/bench_models.py [--rows 100000]

Twelve models, three libraries by four horizons, are fitted through the scikit-learn API and read back by
mlkit; each answer is compared bit for bit before anything is timed. Everything runs on one thread, and the two
sides take turns. Times are processor time of that thread, so that waiting for a core does not count, and for one
row wall time too.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost
from sklearn.ensemble import RandomForestRegressor

from mlkit.models.bundle.bundle import write_bundle
from mlkit.models.bundle.publishing import publish
from mlkit.models.ensemble.learners.lightgbm import lightgbm_model
from mlkit.models.ensemble.learners.random_forest import forest_model
from mlkit.models.ensemble.learners.xgboost import xgboost_model
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays
from mlkit.models.ensemble.trees import Trees

HORIZONS = (1, 5, 15, 60)
F = 197  # features, as many as the catalogue gives a model
ROUNDS = 100
Predict = Callable[[np.ndarray], np.ndarray]


def say(what: str, value: str, goal: str = "") -> None:
    print(f"{what:<58} {value:>42}   {goal}", flush=True)


def market(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels with something to find at every horizon."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, F)).astype(np.float32)
    X[:, 5] = np.round(X[:, 5])
    edge = 0.3 * X[:, 0] + 0.2 * X[:, 5] * (X[:, 6] > 0)
    return X, np.column_stack([edge + rng.normal(scale=h**0.5, size=n) for h in HORIZONS])


def rivals(X: np.ndarray, Z: np.ndarray, settings: EnsembleSettings) -> dict[str, list[Any]]:
    """Each library fitted for each horizon through its scikit-learn class."""
    boosted = {"n_estimators": ROUNDS, "learning_rate": settings.learning_rate, "n_jobs": 1, "random_state": 7}
    boosted |= {"max_depth": settings.max_depth, "reg_lambda": settings.reg_lambda}
    light = {"boost_from_average": False, "verbosity": -1, "num_leaves": 2**settings.max_depth}
    forest = {"n_estimators": settings.forest_trees, "max_depth": settings.forest_depth, "n_jobs": 1}
    forest |= {"max_features": settings.forest_features, "min_samples_leaf": settings.min_leaf, "random_state": 7}
    return {
        "xgboost": [xgboost.XGBRegressor(**boosted, base_score=0.0, min_child_weight=50).fit(X, z) for z in Z.T],
        "lightgbm": [lightgbm.LGBMRegressor(**boosted, **light, min_child_samples=50).fit(X, z) for z in Z.T],
        "random_forest": [RandomForestRegressor(**forest).fit(X, z) for z in Z.T],
    }


def ours(models: dict[str, list[Any]]) -> dict[str, Trees]:
    """The same trees, laid out by mlkit."""
    boosted = [xgboost_model(m.get_booster()).trees for m in models["xgboost"]]
    return {
        "xgboost": Trees.join(boosted, float32_sums=True),
        "lightgbm": Trees.join([lightgbm_model(m.booster_).trees for m in models["lightgbm"]]),
        "random_forest": Trees.join([forest_model(m).trees for m in models["random_forest"]], mean=True),
    }


def door(models: list[Any]) -> Predict:
    """Predict of every horizon through the scikit-learn API."""
    return lambda X: np.column_stack([m.predict(X) for m in models])


def native(name: str, models: list[Any]) -> Predict:
    """The shortest public way through the library itself."""
    if name == "xgboost":
        boosters = [m.get_booster() for m in models]
        return lambda X: np.column_stack([b.inplace_predict(X) for b in boosters])
    boosters = [m.booster_ for m in models]
    return lambda X: np.column_stack([b.predict(X, num_threads=1) for b in boosters])


def one_row(tasks: dict[str, Predict], X: np.ndarray, seconds: float = 8.0) -> dict[str, np.ndarray]:
    """Microseconds of each way to predict one row, (rows, 2): processor and wall time; they take turns."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    until, k = time.perf_counter() + seconds, 0
    while time.perf_counter() < until or k < 100:
        row = X[k % len(X) : k % len(X) + 1]
        for name, predict in tasks.items():
            start, used = time.perf_counter(), time.thread_time()
            predict(row)
            took[name].append((1e6 * (time.thread_time() - used), 1e6 * (time.perf_counter() - start)))
        k += 1
    return {name: np.array(times) for name, times in took.items()}


def tell_rows(what: str, mine: np.ndarray, theirs: np.ndarray, goal: str = "") -> None:
    """Median and 99th percentile of one row, by processor and by wall time."""
    for column, clock in enumerate(("processor", "wall")):
        for label, q in (("p50", 50), ("p99", 99)):
            a, b = np.percentile(mine[:, column], q), np.percentile(theirs[:, column], q)
            say(f"{what}, {clock} {label}", f"{a:9.1f} us  {b:9.1f} us  {b / a:6.0f} x", goal)


def fastest(task: Callable[[], object], repeats: int) -> float:
    """Least processor seconds of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.thread_time()
        task()
        seconds.append(time.thread_time() - start)
    return min(seconds)


def rows_at_once(name: str, trees: Trees, models: list[Any], X: np.ndarray) -> None:
    """Throughput of batches."""
    theirs = door(models)
    for rows, repeats in ((1000, 15), (len(X), 2)):
        part = np.ascontiguousarray(X[:rows])
        ours, other = (fastest(partial(predict, part), repeats) for predict in (trees.predict, theirs))
        say(f"{name}: {rows:,} rows", f"{1e3 * ours:9.1f} ms  {1e3 * other:9.1f} ms  {other / ours:6.1f} x")


COLD = """
import json, sys, time
clock = time.process_time
t = [clock()]
import numpy, numba, pandas
t.append(clock())
from mlkit.models.bundle.bundle import ModelBundle
t.append(clock())
bundle = ModelBundle.open(sys.argv[1])
t.append(clock())
model = bundle.price
t.append(clock())
X = numpy.zeros((1, model.n_features), numpy.float32)
for learner in model.learners.values():
    learner.predict(X)
t.append(clock())
heavy = sorted({'xgboost', 'lightgbm', 'sklearn', 'torch'} & sys.modules.keys())
import xgboost, lightgbm, sklearn.ensemble
t.append(clock())
steps = ['numpy, numba, pandas', 'mlkit.models', 'digests', 'reading the trees', 'first row']
steps += ['not needed: the libraries']
print(json.dumps([dict(zip(steps, (b - a for a, b in zip(t, t[1:])))), heavy]))
"""


def cold_start(root: Path) -> None:
    """A fresh interpreter opens a bundle and predicts one row; processor seconds of each step."""
    best: dict[str, float] = {}
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", COLD, str(root)], capture_output=True, text=True, check=True)
        steps, heavy = json.loads(done.stdout)
        best = {step: min(value, best.get(step, value)) for step, value in steps.items()}
    for step, value in best.items():
        say(f"cold start: {step}", f"{1e3 * value:.0f} ms")
    say("cold start: libraries loaded", ", ".join(heavy) or "none", "none")


def bundle_of(root: Path, settings: EnsembleSettings) -> PricePredictor:
    """A bundle of an ensemble as mlkit trains it, published in a root."""
    X, Z = market(6000, 3)
    end = np.arange(len(X))[:, None] + np.array(HORIZONS)
    end = np.where(end < len(X), end, -1)
    scale = np.full(Z.shape, 0.001)
    price = PricePredictor.fit(TrainingArrays(X, 0.001 * Z, end, scale, HORIZONS), settings)
    fields = {
        "created": "2026-01-01T00:00:00+00:00",
        "symbol": "NULL",
        "timeframe": "1m",
        "feature_names": [f"x{k}" for k in range(F)],
        "horizons": HORIZONS,
        "training_span": {"start": "2026-01-01", "end": "2026-01-02", "bars": len(X)},
        "data_sha256": "0" * 64,
        "seed": 7,
        "settings": {},
        "metrics": {},
    }
    publish(write_bundle(root, fields, price=price))
    return price


def beside_the_libraries(n_rows: int, settings: EnsembleSettings) -> None:
    """The same trees on both sides: bits, one row, batches."""
    models = rivals(*market(8_000, 1), settings)
    trees = ours(models)
    X, _ = market(n_rows, 2)
    for name, made in trees.items():
        same = np.array_equal(made.predict(X[:30_000]), door(models[name])(X[:30_000]).astype(np.float64))
        say(f"{name}: bits of 30,000 rows, 4 horizons", "equal" if same else "DIFFERENT", "equal")
    say("4 horizons each", "mlkit      library      ratio")
    tasks: dict[str, Predict] = {}
    for name, made in trees.items():
        tasks |= {f"{name} mlkit": made.predict, f"{name} sklearn": door(models[name])}
        if name != "random_forest":
            tasks[f"{name} native"] = native(name, models[name])
    tasks["all mlkit"] = lambda x: [made.predict(x) for made in trees.values()]  # type: ignore[assignment,return-value]
    took = one_row(tasks, X)
    for name in trees:
        tell_rows(f"{name}: one row", took[f"{name} mlkit"], took[f"{name} sklearn"])
        if name != "random_forest":
            tell_rows(f"{name}: one row, its native door", took[f"{name} mlkit"], took[f"{name} native"])
    theirs = sum(took[f"{name} sklearn"] for name in trees)
    tell_rows("12 models: one row", took["all mlkit"], np.asarray(theirs), "20 x; p99 2,000 us")
    for name, made in trees.items():
        rows_at_once(name, made, models[name], X)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=("rows", "cold"), help="half of it")
    arguments = parser.parse_args()
    settings = EnsembleSettings.full(n_threads=1)
    if arguments.only != "cold":
        beside_the_libraries(arguments.rows, settings)
    if arguments.only == "rows":
        return
    with tempfile.TemporaryDirectory() as folder:
        price = bundle_of(Path(folder), settings)
        say("a bundle: trees of each library and horizon", str(price.training["trees"]["xgboost"]) + " of XGBoost")
        cold_start(Path(folder))


if __name__ == "__main__":
    main()
