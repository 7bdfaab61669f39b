"""How well the shipped pattern CNN agrees with the rules on real bars, and how fast it is.

    python tests/bench/bench_patterns.py [--standard classic] [--max-bars 20000] [--weights file.safetensors]

Weights, calibration and thresholds come from simulated bars only; designs of the network were compared on
the first 2,500 bars of these series. Patterns with fewer than 100 hits (in all, or in a file) are left out of
means. ECE: 15 bins of equal width; its noise floor is the mean ECE of outcomes drawn from the very
probabilities, which a perfect calibration would show. Flip rate: decisions that change when every price
moves by up to half a tick, per hundred detections.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

import mlkit
from mlkit.features.rules import PATTERNS, STANDARDS, Standard, pattern_flags
from mlkit.models.pattern_cnn import LENGTH, PatternModel, load_cnn, pretrained

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
DATA = Path(__file__).parents[2] / "../shared/data/ohlcv"
ENOUGH = 100  # positives


def real_series(max_bars: int) -> Iterator[tuple[str, Array]]:
    """Name and (n_bars, 5) array: the built-in series, and every file beside the checkout."""
    for symbol in ("SP500", "NASDAQ"):
        yield f"{symbol}-1d", mlkit.load_bars(symbol, "1d").to_numpy()[:max_bars]
    for path in sorted(DATA.glob("*.parquet")):
        frame = pd.read_parquet(path, columns=["open", "high", "low", "close", "volume"])
        yield path.stem, frame.to_numpy(dtype=np.float64)[:max_bars]


def rules(ohlcv: Array, standard: Standard) -> Bools:
    """What the rules say, (n_bars, 15)."""
    o, h, low, c = np.ascontiguousarray(ohlcv[:, :4].T)
    return np.asarray(pattern_flags(o, h, low, c, standard) != 0)


def f1(hit: Bools, truth: Bools) -> Array:
    """F1 per column."""
    both = (hit & truth).sum(axis=0)
    return np.asarray(2.0 * both / np.maximum(hit.sum(axis=0) + truth.sum(axis=0), 1))


def ece(p: Array, y: Bools, bins: int = 15) -> float:
    """Expected calibration error (Naeini et al. 2015)."""
    which = np.minimum((p * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(which, p - y, bins)).sum() / len(p))


def noise_floor(p: Array, rng: np.random.Generator, draws: int = 5) -> float:
    """Mean ECE of outcomes drawn from ``p``."""
    return float(np.mean([ece(p, rng.random(len(p)) < p) for _ in range(draws)]))


def half_tick(ohlcv: Array, rng: np.random.Generator) -> Array:
    """The same bars with every price moved by up to half its tick, still valid."""
    steps = np.diff(np.unique(ohlcv[:, :4]))
    out = ohlcv.copy()
    out[:, :4] += rng.uniform(-0.5, 0.5, (len(out), 4)) * float(np.quantile(steps, 0.05))
    out[:, 1], out[:, 2] = out[:, :4].max(axis=1), out[:, :4].min(axis=1)
    return out


def flips(model: PatternModel, ohlcv: Array, rng: np.random.Generator) -> tuple[float, float]:
    """Changed decisions per hundred detections under half-tick jitter: of the CNN, of the rules."""
    moved = half_tick(ohlcv, rng)
    cnn = [model.probabilities(bars)[LENGTH - 1 :] >= model.thresholds for bars in (ohlcv, moved)]
    rule = [rules(bars, model.standard)[LENGTH - 1 :] for bars in (ohlcv, moved)]
    shares = [float(100.0 * (a ^ b).sum() / max(a.sum(), 1)) for a, b in (cnn, rule)]
    return shares[0], shares[1]


def speed(model: PatternModel, ohlcv: Array) -> float:
    """Windows per second end to end, best of three."""
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        model.probabilities(ohlcv)
        best = min(best, time.perf_counter() - start)
    return (len(ohlcv) - LENGTH + 1) / best


def report(model: PatternModel, max_bars: int, seed: int = 7) -> None:
    """Print the tables of one standard."""
    rng = np.random.default_rng(seed)
    files, ps, ys, jitter = [], [], [], []
    for name, bars in real_series(max_bars):
        p, y = model.probabilities(bars)[LENGTH - 1 :], rules(bars, model.standard)[LENGTH - 1 :]
        score, enough = f1(p >= model.thresholds, y), y.sum(axis=0) >= ENOUGH
        worst = int(np.argmin(np.where(enough, score, 2.0)))
        files.append((name, len(bars), enough.sum(), score[enough].mean(), PATTERNS[worst], score[worst]))
        ps.append(p)
        ys.append(y)
        if name in ("SP500-1d", "BTCUSDT-15m", "FILUSDT_PERP_2023Q2-1m", "EURUSD-1h"):
            jitter.append((name, *flips(model, bars[:20_000], rng)))
    p, y = np.concatenate(ps), np.concatenate(ys)
    hit = p >= model.thresholds
    table = pd.DataFrame(
        {
            "positives": y.sum(axis=0),
            "F1": f1(hit, y),
            "precision": (hit & y).sum(axis=0) / np.maximum(hit.sum(axis=0), 1),
            "recall": (hit & y).sum(axis=0) / np.maximum(y.sum(axis=0), 1),
            "AP": [average_precision_score(y[:, k], p[:, k]) if y[:, k].any() else np.nan for k in range(15)],
            "ECE": [ece(p[:, k], y[:, k]) for k in range(15)],
            "ECE noise": [noise_floor(p[:, k], rng) for k in range(15)],
            "threshold": model.thresholds,
        },
        index=list(PATTERNS),
    )
    enough = table["positives"] >= ENOUGH
    print(f"\n== {model.standard}: {len(p):,} real windows of {len(files)} series ==")
    print(table.round(4).to_string())
    print(f"macro-F1 {table['F1'][enough].mean():.4f}, lowest {table['F1'][enough].min():.4f} (pooled)")
    names = ["series", "bars", "patterns", "macro-F1", "worst pattern", "its F1"]
    by_file = pd.DataFrame(files, columns=names).sort_values("macro-F1").set_index("series").round(4)
    print(by_file.head(10).to_string())
    print(f"series: mean macro-F1 {by_file['macro-F1'].mean():.4f}, worst {by_file['macro-F1'].min():.4f}")
    print(f"lowest F1 of a pattern in a series {by_file['its F1'].min():.4f}")
    print(pd.DataFrame(jitter, columns=["flips per 100", "CNN", "rules"]).round(2).to_string(index=False))


def main() -> None:
    """Print quality per standard, then the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--standard", choices=STANDARDS)
    parser.add_argument("--max-bars", type=int, default=200_000, help="per series")
    parser.add_argument("--weights", type=Path, help="another file than the shipped one")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = [load_cnn(options.weights)] if options.weights else []
    wanted = [options.standard] if options.standard else list(STANDARDS)
    models = models or [pretrained(standard) for standard in wanted]
    for model in models:
        report(model, options.max_bars)
    bars = mlkit.load_bars("SP500", "1d").to_numpy()
    print(f"\n{speed(models[0], np.tile(bars, (8, 1))):,.0f} windows/s end to end, {options.threads} threads")


if __name__ == "__main__":
    main()
