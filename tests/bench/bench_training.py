"""Training the ensemble beside the bare library fits on the same arrays: what mlkit's own part costs.

    python tests/bench/bench_training.py [--rows 20000] [--repeats 5]

Bare: the same libraries, parameters, rows and callbacks, called one by one, and nothing else; ours: the whole of
`PricePredictor.fit`, with checks, split, scale, trees converted to arrays, calibration. In pairs, side by side, each
pair in the other order than the last; processor time of one thread; the median of the pairs' ratios, and their range.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable

import numpy as np
import pytest

from mlkit.models.ensemble.learners import LEARNERS, lightgbm, random_forest, xgboost
from mlkit.models.ensemble.learners.learner import TrainingParts
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import NormalisedRows, TrainingArrays, split_rows

HORIZONS = (1, 5, 15, 60)
F, TERMS = 197, 26


def market(n: int) -> tuple[np.ndarray, ...]:
    """Features, labels, label ends, scale and terms of a random walk whose volatility one term shows."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(n, F)).astype(np.float32)
    spread = 0.001 * np.exp(0.3 * np.sin(np.arange(n) / 300))
    price = np.cumsum(spread * rng.normal(size=n) + 0.0001 * np.roll(X[:, 0], 1))
    Y, end = np.full((n, 4), np.nan), np.full((n, 4), -1)
    for j, h in enumerate(HORIZONS):
        Y[:-h, j], end[:-h, j] = price[h:] - price[:-h], np.arange(h, n)
    terms = np.column_stack([np.log(spread), 0.3 * rng.normal(size=(n, TERMS - 1))])
    return X, Y, end, spread[:, None] * np.sqrt(HORIZONS), terms


def bare(parts: TrainingParts, settings: EnsembleSettings, patch: pytest.MonkeyPatch) -> None:
    """The libraries' own calls, as the learners make them, without converting the trees."""
    for module, name in ((xgboost, "xgboost_model"), (lightgbm, "lightgbm_model"), (random_forest, "forest_model")):
        patch.setattr(module, name, lambda *_: None)
    for learner in LEARNERS.values():
        list(learner.train(parts, settings, 7))
    patch.undo()


def seconds(run: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    settings = EnsembleSettings.full(n_threads=1)
    X, Y, end, scale, terms = market(options.rows)
    arrays = TrainingArrays(X, Y, end, scale, HORIZONS, terms)
    split = split_rows(arrays, settings)
    model = PricePredictor.fit(arrays, settings)  # warm
    # The arrays that the fit itself ends up with: the scale is combined first.
    rows = NormalisedRows.make(arrays, split, model.spreads, settings.target_clip, None)
    parts, _ = rows.parts(split, None)
    patch = pytest.MonkeyPatch()
    runs = {
        "ours": lambda: PricePredictor.fit(arrays, settings),
        "bare": lambda: bare(parts, settings, patch),
    }
    ratios = []
    for pair in range(options.repeats):
        took = {name: seconds(runs[name]) for name in sorted(runs, reverse=bool(pair % 2))}
        ratios.append(took["ours"] / took["bare"])
        print(f"ours {took['ours']:6.2f} s   bare {took['bare']:6.2f} s   ratio {ratios[-1]:.3f}", flush=True)
    trees = {name: sum(rounds) for name, rounds in model.training["trees"].items()}
    print(f"{options.rows} rows, {F} features, {len(HORIZONS)} horizons, trees {trees}")
    print(
        f"training over the bare library fits: {np.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f} in "
        f"{len(ratios)} pairs, load {os.getloadavg()[0]:.1f} (goal: at most 1.15)"
    )


if __name__ == "__main__":
    main()
