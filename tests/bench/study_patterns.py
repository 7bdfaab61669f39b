"""Do candlestick patterns say anything about what follows, on every real series there is?

    python tests/bench/study_patterns.py [--max-bars 200000] [--reps 500] [--only BTCUSDT]

Part 1: mean return after every pattern in the direction it claims, beyond that of all bars, for every series
and horizon, with false-discovery control over all cells together. A cell needs 50 hits. Part 2: the
out-of-sample rank IC of the rules' signed flags, of flags and the CNN's signed probabilities together, and
what the latter add. Five purged walk-forward folds per series. No costs are taken off: this asks whether there
is anything at all. The table of part 1 goes to --out as CSV.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import mlkit
from mlkit.evaluation.pattern_returns import incremental_ic, returns_after, with_discoveries
from mlkit.labels import HORIZONS, claimed_directions, market_standard, pattern_directions
from mlkit.models.patterns.cnn import pretrained
from mlkit.models.patterns.windows import LENGTH

DATA = Path(__file__).parents[2] / "../shared/data/ohlcv"


def series(max_bars: int, only: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and last bars of the built-in series, and of every file beside the checkout."""
    for symbol in ("SP500", "NASDAQ"):
        if only in f"{symbol}-1d":
            yield f"{symbol}-1d", mlkit.load_bars(symbol, "1d").iloc[-max_bars:]
    for path in sorted(path for path in DATA.glob("*.parquet") if only in path.name):
        symbol, timeframe = path.stem.rsplit("-", 1)
        yield path.stem, mlkit.read_bars(path, symbol=symbol, timeframe=timeframe).iloc[-max_bars:]


def judge(bars: pd.DataFrame, reps: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns after the patterns of one series, and what the probabilities add at each horizon."""
    labels, standard = mlkit.forward_returns(bars), market_standard(bars)
    flags, returns = pattern_directions(bars, standard), labels["log_return"]
    after = returns_after(flags, returns, reps=reps)
    probabilities = pretrained(standard).probabilities(bars.to_numpy()) * claimed_directions(bars).to_numpy()
    rows = []
    for h in HORIZONS:
        folds = mlkit.WalkForward(5).split(labels.xs(h, axis=1, level="horizon", drop_level=False))
        late = [(train[train >= LENGTH], test) for train, test in folds]
        found = incremental_ic(returns[h], flags, probabilities, late, block=max(10.0, 2.0 * h), reps=reps)
        rows.append((h, found.rows, *(getattr(found, part) for part in ("base", "full", "gain"))))
    return after, pd.DataFrame(rows, columns=["horizon", "rows", "flags", "both", "gain"])


def main() -> None:
    """Print both tables and their summaries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--max-bars", type=int, default=200_000, help="the last ones of each series")
    parser.add_argument("--reps", type=int, default=500, help="resamples of each interval")
    parser.add_argument("--only", default="", help="series whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("data/study_patterns.csv"))
    options = parser.parse_args()
    cells, gains = [], []
    for name, bars in series(options.max_bars, options.only):
        start = time.perf_counter()
        after, added = judge(bars, options.reps)
        cells.append(after.assign(series=name))
        gains.append(added.assign(series=name))
        print(f"{name}: {len(bars):,} bars, {len(after)} cells, {time.perf_counter() - start:.0f} s", flush=True)
    table = pd.concat(cells, ignore_index=True)
    by, bh = with_discoveries(table), with_discoveries(table, method="bh")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    by.assign(q_bh=bh["q"]).to_csv(options.out, index=False)
    print(f"\n{len(table)} cells of pattern x horizon x series; p < 0.05 in {(table['p'] < 0.05).sum()},")
    print(f"found at 5 % false discoveries: {bh['found'].sum()} (BH), {by['found'].sum()} (BY)")
    right = by.loc[by["found"], "mean_bps"] > 0
    print(f"of those by BY, {right.sum()} in the direction claimed, {(~right).sum()} against it")
    shown = by[by["found"]].sort_values("q").drop(columns="found")
    print(shown.head(40).round({"mean_bps": 2, "low_bps": 2, "high_bps": 2, "p": 6, "q": 4}).to_string(index=False))
    mean = by.groupby(["pattern", "horizon"])["mean_bps"].median().unstack()
    print("\nmedian over the series of the mean return after a pattern, basis points, in the direction claimed")
    print(mean.round(2).to_string())
    print("\nout-of-sample rank IC with 95 % intervals, and what the probabilities add to the flags")
    all_gains = pd.concat(gains, ignore_index=True)
    for h, group in all_gains.groupby("horizon"):
        gain = [i.estimate for i in group["gain"]]
        above, below = sum(i.low > 0 for i in group["gain"]), sum(i.high < 0 for i in group["gain"])
        base = np.mean([i.estimate for i in group["flags"]])
        print(
            f"h={h}: flags {base:+.4f}, gain {np.mean(gain):+.4f} (mean of {len(group)} series);"
            f" gain above 0 in {above}, below 0 in {below}"
        )
    for row in all_gains.itertuples():
        parts = "  ".join(
            f"{part} {i.estimate:+.4f} [{i.low:+.4f}, {i.high:+.4f}]"
            for part, i in (("flags", row.flags), ("gain", row.gain))
        )
        print(f"{row.series:26s} h={row.horizon:<3d} {parts}")


if __name__ == "__main__":
    main()
