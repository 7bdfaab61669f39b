"""Adaptive conformal intervals: mlkit's beside those of MAPIE, on the same scores bar by bar.

    python tests/bench/bench_mapie.py [--rows 1500]

Both see outcomes whose spread doubles half way, start from the same 2,000 calibration scores, and learn of an
outcome ``horizon`` bars after its forecast. MAPIE's `TimeSeriesRegressor` runs adaptive conformal inference (Gibbs and
Candès 2021) around a forecast of zero, its residuals updated at every bar. Told: coverage, interval score, time a bar.
"""

import argparse
import time
import warnings

import numpy as np
from mapie.regression import TimeSeriesRegressor
from sklearn.dummy import DummyRegressor

from mlkit.evaluation.metrics import coverage, interval_score
from mlkit.models.calibration import conformal_quantiles
from mlkit.models.conformal import adaptation_memory, adaptation_rate, follow_ends

CALIBRATION = 2000
LEVEL = 0.9
GAMMA = 0.02


def scores(rows: int, horizon: int) -> np.ndarray:
    """Overlapping outcomes of a random walk with fat tails; their spread doubles in the middle of the test."""
    rng = np.random.default_rng(horizon)
    n = CALIBRATION + horizon + rows
    moves = rng.standard_t(6, size=n + horizon) * np.where(np.arange(n + horizon) < n - rows // 2, 1.0, 2.0)
    return np.convolve(moves, np.ones(horizon) / np.sqrt(horizon), "valid")[1 : n + 1]


def ours(y: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    (low80, high80), (low90, high90) = (conformal_quantiles(y[:CALIBRATION], level) for level in (0.8, 0.9))
    start, rate = np.array([low90, low80, high80, high90]), adaptation_rate(horizon)
    flat, first = np.zeros(len(y)), CALIBRATION + horizon
    ends = follow_ends(y, flat, start, horizon, adaptation_memory(horizon), rate, 0.0, first)
    return ends[:, 0], ends[:, 3]


def theirs(y: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    X = np.zeros((len(y), 1))
    zero = DummyRegressor(strategy="constant", constant=0.0).fit(X[:2], y[:2])
    model = TimeSeriesRegressor(zero, method="aci", cv="prefit").fit(X[:CALIBRATION], y[:CALIBRATION])
    ends = []
    for t in range(CALIBRATION + horizon, len(y)):
        known = slice(t - horizon, t - horizon + 1)
        model.adapt_conformal_inference(X[known], y[known], gamma=GAMMA, confidence_level=LEVEL)
        model.update(X[known], y[known])
        _, interval = model.predict(X[t : t + 1], confidence_level=LEVEL, allow_infinite_bounds=True)
        ends.append(interval[0, :, 0])
    low, high = np.clip(np.array(ends).T, -50.0, 50.0)  # an infinite end has no score
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1500)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MAPIE's own deprecations
    ours(scores(10, 1), 1)  # compiled before it is timed
    print(f"{'horizon':>7} {'who':>6} {'coverage':>9} {'after the break':>16} {'score':>7} {'us a bar':>9}")
    for horizon in (1, 5, 15):
        y = scores(options.rows, horizon)
        test, late = y[CALIBRATION + horizon :], options.rows // 2
        for name, rival in (("mlkit", ours), ("MAPIE", theirs)):
            start = time.process_time()
            low, high = rival(y, horizon)
            cost = (time.process_time() - start) / options.rows * 1e6
            held, after = coverage(test, low, high), coverage(test[late:], low[late:], high[late:])
            score = interval_score(test, low, high, LEVEL)
            print(f"{horizon:>7} {name:>6} {held:>9.3f} {after:>16.3f} {score:>7.2f} {cost:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
