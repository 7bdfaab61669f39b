"""How well the shipped pattern CNN agrees with the rules on real bars, how steady it is, and how fast.

    python tests/bench/bench_patterns.py [--standard classic] [--max-bars 20000] [--weights file.safetensors]

Weights, calibration and thresholds come from simulated bars only; designs of the network were compared on
the first 2,500 bars of these series. Patterns with fewer than 100 hits (in all, or in a file) are left out of
means. "rules" beside an F1 is what the rules themselves reach when they see no more than the network: its 20
bars, made scale-free, as float32. Ties with a mean, which on coarse ticks are many, then fall by rounding, and
what TA-Lib's running totals gathered before the window is gone; no reader of windows can be surer than that.

ECE: 15 bins of equal width; its noise floor is the mean ECE of outcomes drawn from the very probabilities,
which a perfect calibration would show.

Flips: every price moves by up to half a tick. "decisions": changed detections per hundred, all patterns. "top":
bars whose top pattern changes, per hundred that had one. The network's top pattern is the detected one of highest
probability (`strongest` in an insight). The rules have no degrees, so theirs is the rarest of those found, by
their rates in the series; "top, rarest" orders the network's detections in that same way.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import mlkit
from mlkit.evaluation import metric_intervals
from mlkit.evaluation.metrics import logistic
from mlkit.evaluation.pattern_returns import agreement
from mlkit.features.rules import PATTERNS, STANDARDS, Standard, pattern_flags
from mlkit.models.patterns.cnn import PatternModel, load_cnn, pretrained
from mlkit.models.patterns.network import folded, net_logits, net_of
from mlkit.models.patterns.windows import LENGTH, windows
from mlkit.operations.patterns.samples import half_tick

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
DATA = Path(__file__).parents[2] / "../shared/data/ohlcv"
ENOUGH = 100  # positives
JITTERED = ("SP500-1d", "NASDAQ-1d", "BTCUSDT-15m", "DOGEUSDT-15m", "AAPL-1h", "EURUSD-1h", "FILUSDT_PERP_2023Q2-1m")


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


def on_windows(ohlcv: Array, standard: Standard) -> Bools:
    """What the rules say at the last bar of each window when they see what the network sees, (n, 15)."""
    x = windows(ohlcv)
    parts = [x[i : i + 50_000].astype(np.float64) for i in range(0, len(x), 50_000)]
    return np.concatenate([rules(part.reshape(-1, 5), standard)[LENGTH - 1 :: LENGTH] for part in parts])


def top(hit: Bools, strength: Array) -> NDArray[np.int64]:
    """Index of the pattern of most strength among those found, -1 where none is."""
    best = np.where(hit, strength, -np.inf).argmax(axis=1)
    return np.where(hit.any(axis=1), best, -1)


def flips(model: PatternModel, ohlcv: Array, rng: np.random.Generator) -> list[str]:
    """Changes under half-tick jitter, of the network and of the rules, and the difference of the last two."""
    steps = np.diff(np.unique(ohlcv[:, :4]))
    moved = half_tick(ohlcv, float(np.quantile(steps, 0.05)), rng)
    p = [model.probabilities(bars)[LENGTH - 1 :] for bars in (ohlcv, moved)]
    cnn = [q >= model.thresholds for q in p]
    rule = [rules(bars, model.standard)[LENGTH - 1 :] for bars in (ohlcv, moved)]
    rarity = -rule[0].mean(axis=0)
    decisions = [float(100.0 * (a ^ b).sum() / max(a.sum(), 1)) for a, b in (cnn, rule)]
    tops = [[top(h, q) for h, q in zip(cnn, p, strict=True)], *([top(h, rarity) for h in pair] for pair in (cnn, rule))]
    changed = [100.0 * (a != b) / (a >= 0).mean() for a, b in tops]  # its mean is per hundred bars with a top
    # Horizon 25: blocks of 50 bars.
    columns = {"gap": changed[0] - changed[2]}
    gap = metric_intervals(lambda of: {"gap": of["gap"].mean()}, columns, horizon=25).loc["gap"]
    rates = [f"{x:.2f}" for x in (*decisions, *(c.mean() for c in changed))]
    return [*rates, f"{gap['value']:+.2f} [{gap['low']:+.2f}, {gap['high']:+.2f}]"]


def speed(model: PatternModel, ohlcv: Array) -> None:
    """Print windows per second and the time of one, beside torch's network of the same weights."""
    x = windows(ohlcv)
    compiled = partial(model.window_probabilities, x)
    net = folded(net_of(model.tensors))
    whole = partial(model.probabilities, ohlcv)
    one = partial(model.probabilities, ohlcv[:LENGTH])
    rows = {"end to end, from bars": whole, "network": compiled, "the same in torch": partial(net_logits, net, x)}
    p, z = model.window_probabilities(x), net_logits(net, x)
    apart = np.abs(p - logistic(np.array(model.meta.slope) * z + np.array(model.meta.intercept))).max()
    print(f"largest difference of a probability from torch's: {apart:.1e}")
    print(f"{'':28s} {'by the clock':>14s} {'processor time':>16s}")
    for name, call in rows.items():
        wall, busy = best_of(call)
        print(f"{name:28s} {len(x) / wall:12,.0f}/s {len(x) / busy:14,.0f}/s")
    wall, busy = best_of(one, 20)
    print(f"{'one window, from bars':28s} {1e3 * wall:11.3f} ms {1e3 * busy:13.3f} ms")


def best_of(call: Callable[[], object], times: int = 3) -> tuple[float, float]:
    """Least seconds of several calls, by the clock and of all threads' processor time, which others' load spares."""
    wall, busy = [], []
    for _ in range(times):
        start = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start[0])
        busy.append(time.process_time() - start[1])
    return min(wall), min(busy)


def report(model: PatternModel, max_bars: int, seed: int = 7) -> None:
    """Print the tables of one standard."""
    rng, names = np.random.default_rng(seed), pd.Index(PATTERNS)
    files, ps, ys, seen, jitter = [], [], [], [], []
    for name, bars in real_series(max_bars):
        p, y = model.probabilities(bars)[LENGTH - 1 :], rules(bars, model.standard)[LENGTH - 1 :]
        files.append((name, len(bars), *summary(table_of(y, p, model.thresholds, draws=1))))
        ps.append(pd.DataFrame(p, columns=names))
        ys.append(pd.DataFrame(y, columns=names))
        seen.append(on_windows(bars, model.standard))
        if name in JITTERED:
            jitter.append((name, *flips(model, bars[:20_000], rng)))
    table = agreement(pd.concat(ys), pd.concat(ps), model.thresholds)
    table.insert(2, "rules", f1(np.concatenate(seen), pd.concat(ys).to_numpy()))
    table["threshold"] = model.thresholds
    scores = table.loc[table["positives"] >= ENOUGH, ["F1", "rules"]]
    mean, least = scores.mean(), scores.min()
    print(f"\n== {model.standard}: {sum(map(len, ps)):,} real windows of {len(files)} series ==")
    print(table.round(4).to_string())
    print(f"pooled: macro-F1 {mean['F1']:.4f}, lowest {least['F1']:.4f}")
    print(f"the rules on the same windows: macro-F1 {mean['rules']:.4f}, lowest {least['rules']:.4f}")
    columns = ["series", "bars", "patterns", "macro-F1", "worst pattern", "its F1", "mean AP", "worst ECE"]
    by_file = pd.DataFrame(files, columns=columns).sort_values("macro-F1").set_index("series").round(4)
    print(by_file.to_string())
    print(f"series: mean macro-F1 {by_file['macro-F1'].mean():.4f}, worst {by_file['macro-F1'].min():.4f}")
    print(f"lowest F1 of a pattern in a series {by_file['its F1'].min():.4f}")
    columns = ["flips per 100", "decisions", "rules'", "top", "top, rarest", "rules' top", "top - rules' top, 95 %"]
    print(pd.DataFrame(jitter, columns=columns).to_string(index=False))


def table_of(y: Bools, p: Array, thresholds: Array, draws: int) -> pd.DataFrame:
    """``agreement`` of one series."""
    names = pd.Index(PATTERNS)
    return agreement(pd.DataFrame(y, columns=names), pd.DataFrame(p, columns=names), thresholds, draws=draws)


def summary(table: pd.DataFrame) -> tuple[object, ...]:
    """One line of a series: patterns with enough hits, macro-F1, worst pattern, its F1, mean AP, worst ECE."""
    judged = table[table["positives"] >= ENOUGH]
    worst = judged["F1"].idxmin()
    scores = judged["F1"].mean(), worst, judged.loc[worst, "F1"], judged["AP"].mean(), table["ECE"].max()
    return len(judged), *scores


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
    print(f"\nspeed, {options.threads} threads")
    speed(models[0], np.tile(mlkit.load_bars("SP500", "1d").to_numpy(), (8, 1)))


if __name__ == "__main__":
    main()
