"""Adaptive conformal intervals: mlkit's beside those of MAPIE, on the same forecasts bar by bar.

    python tests/bench/bench_mapie.py [--rows 1500] [--files 'BTCUSDT-*'] [--cap 40000]

Without ``--files`` both see outcomes whose spread doubles half way. With it, they see cells of the study: the ensemble
is trained as for its first test fold, and the first ``--rows`` bars of that fold are forecast with its centre and
combined scale. Both start from 2,000 calibration scores and learn of an outcome ``horizon`` bars after its forecast.
MAPIE's `TimeSeriesRegressor` runs adaptive conformal inference (Gibbs and Candès 2021) on the scores, its residuals
updated at every bar. Told: coverage, interval score, time a bar.
"""

import argparse
import fnmatch
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from mapie.regression import TimeSeriesRegressor
from sklearn.dummy import DummyRegressor

import mlkit
from mlkit.evaluation.metrics import coverage, interval_score
from mlkit.models.ensemble.calibration import conformal_quantiles
from mlkit.models.ensemble.conformal import (
    COMBINED,
    LOOKBACK,
    adaptation_rate,
    adaptive_bounds,
    block_numbers,
    learning_rate,
    make_experts,
)
from mlkit.models.ensemble.experts import RATE_FACTORS

CALIBRATION = 2000
LEVEL = 0.9
GAMMA = 0.02
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ohlcv"
Ends = tuple[np.ndarray, np.ndarray]


def scores(rows: int, horizon: int) -> np.ndarray:
    """Overlapping outcomes of a random walk with fat tails; their spread doubles in the middle of the test."""
    rng = np.random.default_rng(horizon)
    n = CALIBRATION + horizon + rows
    moves = rng.standard_t(6, size=n + horizon) * np.where(np.arange(n + horizon) < n - rows // 2, 1.0, 2.0)
    return np.convolve(moves, np.ones(horizon) / np.sqrt(horizon), "valid")[1 : n + 1]


def ours(y: np.ndarray, horizon: int) -> Ends:
    (low80, high80), (low90, high90) = (conformal_quantiles(y[:CALIBRATION], level) for level in (0.8, 0.9))
    experts = make_experts(
        bounds=np.tile([low90, low80, high80, high90], (COMBINED, 1)),
        losses=np.zeros((COMBINED, 4)),
        rate=adaptation_rate(horizon) * np.array(RATE_FACTORS[:COMBINED]),
        slopes=np.zeros(COMBINED),
        learning=learning_rate(horizon),
        horizon=horizon,
        lookback=LOOKBACK,
    )
    blocks = block_numbers(np.arange(len(y)), 1)
    scales = np.ones((len(y), COMBINED))
    ends = adaptive_bounds(y, scales, np.zeros(len(y)), experts, blocks, CALIBRATION + horizon)
    return ends[:, 0], ends[:, 3]


def theirs(y: np.ndarray, horizon: int) -> Ends:
    """The first CALIBRATION scores calibrate, the next ``horizon`` are not forecast; NaN is not learned from."""
    X = np.zeros((len(y), 1))
    zero = DummyRegressor(strategy="constant", constant=0.0).fit(X[:2], np.zeros(2))
    model = TimeSeriesRegressor(zero, method="aci", cv="prefit").fit(X[:CALIBRATION], y[:CALIBRATION])
    ends = []
    for t in range(CALIBRATION + horizon, len(y)):
        known = slice(t - horizon, t - horizon + 1)
        if np.isfinite(y[known]).all():
            model.adapt_conformal_inference(X[known], y[known], gamma=GAMMA, confidence_level=LEVEL)
            model.update(X[known], y[known])
        _, interval = model.predict(X[t : t + 1], confidence_level=LEVEL, allow_infinite_bounds=True)
        ends.append(interval[0, :, 0])
    low, high = np.clip(np.array(ends).T, -50.0, 50.0)  # an infinite end has no score
    return low, high


def broken(rows: int) -> None:
    """A spread that doubles."""
    ours(scores(10, 1), 1)  # compiled before it is timed
    print(f"{'horizon':>7} {'who':>6} {'coverage':>9} {'after the break':>16} {'score':>7} {'us a bar':>9}")
    for horizon in (1, 5, 15):
        y = scores(rows, horizon)
        test, late = y[CALIBRATION + horizon :], rows // 2
        for name, rival in (("mlkit", ours), ("MAPIE", theirs)):
            start = time.process_time()
            low, high = rival(y, horizon)
            cost = (time.process_time() - start) / rows * 1e6
            held, after = coverage(test, low, high), coverage(test[late:], low[late:], high[late:])
            score = interval_score(test, low, high, LEVEL)
            print(f"{horizon:>7} {name:>6} {held:>9.3f} {after:>16.3f} {score:>7.2f} {cost:>9.0f}", flush=True)


def cells(path: Path, rows: int, cap: int) -> None:
    """The first rows of a file's first test fold: MAPIE's intervals around the same centre, in the same units."""
    from mlkit.features.garch import fit_garch
    from mlkit.market.sources import read_bars
    from mlkit.market.times import timeframe_ns
    from mlkit.models.ensemble.conformal import block_numbers
    from mlkit.operations.training.training import fit_price, folds
    from mlkit.operations.training.training_set import prepare

    symbol, timeframe = path.stem.rsplit("-", 1)
    bars = read_bars(path, symbol=symbol, timeframe=timeframe)
    kept = bars.iloc[-cap:]
    kept.attrs.update(bars.attrs)
    with tempfile.TemporaryDirectory() as folder:
        settings = mlkit.Settings(n_threads=1, ledger_path=Path(folder) / "ledger.jsonl")
        train, test = folds(kept, settings)[0]
        data = prepare(kept, settings.prediction_horizons, fit_garch(kept.iloc[: train[-1] + 1]))
        model = fit_price(data, train, settings)
    test = test[:rows]
    span = slice(max(int(test[0]) - model.lookback, 0), int(test[-1]) + 1)
    forecast = model.predict(data.X[span], data.scale[span], data.terms[span])
    blocks = block_numbers(data.index[span].as_unit("ns").asi8, timeframe_ns(timeframe))
    adapted = model.adapted(forecast, data.Y[span], blocks, len(test))
    if int(test[0]) - span.start < CALIBRATION + max(model.horizons):
        print(f"{path.stem:>26} too short: MAPIE is calibrated on {CALIBRATION} scores here")
        return
    for j, horizon in enumerate(model.horizons):
        first, y = int(test[0]) - span.start, data.Y[test, j]
        centre, unit = forecast.log_return[:, j], forecast.scale[:, j]
        z = ((data.Y[span, j] - centre) / unit)[first - CALIBRATION - horizon :]
        low, high = theirs(z, horizon)
        pairs = {"mlkit": (adapted.lo90[:, j], adapted.hi90[:, j])}
        pairs["MAPIE"] = (centre[first:] + low * unit[first:], centre[first:] + high * unit[first:])
        held = {name: coverage(y, *ends) for name, ends in pairs.items()}
        score = {name: interval_score(y, *ends, LEVEL) for name, ends in pairs.items()}
        print(
            f"{path.stem:>26} {horizon:>3} {len(y):>6} {held['mlkit']:>8.3f} {held['MAPIE']:>8.3f} "
            f"{score['mlkit'] / score['MAPIE']:>8.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--files", help="pattern of file names, several with commas: cells of the study")
    parser.add_argument("--cap", type=int, default=40_000, help="newest bars of a file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MAPIE's own deprecations
    if not options.files:
        broken(options.rows)
        return
    print(f"{'file':>26} {'h':>3} {'rows':>6} {'mlkit':>8} {'MAPIE':>8} {'score ratio':>8}")
    for path in sorted(DATA.glob("*.parquet")):
        if any(fnmatch.fnmatch(path.stem, pattern) for pattern in options.files.split(",")):
            cells(path, options.rows, options.cap)


if __name__ == "__main__":
    main()
