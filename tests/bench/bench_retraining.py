"""How often a challenger that is no better is called better, and how often one that is better is found.

    .venv/bin/python tests/bench/bench_retraining.py [--markets 60]

The bundles are those of ``mlkit.train`` without its walk-forward: smoke profile, horizons 1 and 5, hourly bars. On
null markets neither can forecast a direction and both know the volatility: ``better`` and ``worse`` should each come up
in 2.5 % of the markets. On turned markets a momentum becomes a reversal of the same strength, and the champion saw only
the momentum.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd

import mlkit
from mlkit.market.bars import validate_bars
from mlkit.market.simulate.markets import null_market, planted_edge
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.retraining.comparison import compare
from mlkit.operations.training import training, training_bundle

TRAIN, NEW, ROWS = 3000, 1000, 200  # bars that the champion learned from, that only the challenger saw, and scored


def null(seed: int) -> pd.DataFrame:
    return null_market(TRAIN + NEW + ROWS, seed=seed, timeframe="1h")


def turned(seed: int) -> pd.DataFrame:
    """A momentum for the champion's bars, a reversal from there on."""
    before = planted_edge(TRAIN, seed=seed, strength=0.4, timeframe="1h")
    after = planted_edge(NEW + ROWS, seed=seed + 1, strength=-0.4, timeframe="1h")
    after[["open", "high", "low", "close"]] *= before["close"].iloc[-1] / after["open"].iloc[0]
    after.index = after.index + (before.index[-1] + pd.Timedelta("1h") - after.index[0])
    return validate_bars(pd.concat([before, after]), symbol="TURN", timeframe="1h")


def answers(market: Callable[[int], pd.DataFrame], count: int, settings: mlkit.Settings) -> Counter[str]:
    """What the comparison said on each of ``count`` markets."""
    found: Counter[str] = Counter()
    for seed in range(100, 100 + 2 * count, 2):
        bars = market(seed)
        bundles = [training.train(bars.iloc[:n], settings, publish=False) for n in (TRAIN, TRAIN + NEW)]
        found[compare(*bundles, bars, settings).answer] += 1
    return found


def main() -> None:
    """Both kinds of markets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--markets", type=int, default=60)
    count = parser.parse_args().markets
    with tempfile.TemporaryDirectory() as folder:
        settings = mlkit.Settings(
            model_storage_path=Path(folder) / "models",
            ledger_path=Path(folder) / "ledger.jsonl",
            prediction_horizons=(1, 5),
            n_threads=1,
        )
        few = EnsembleSettings.smoke(n_threads=1)
        judged = training.walk_forward(null(1), settings, n_splits=1, ensemble=few)
        training.walk_forward = lambda *arguments, **options: judged
        training_bundle.pattern_evidence = lambda *arguments, **options: {}
        for name, market in (("null", null), ("turned", turned)):
            print(f"{name}: {count} markets, {dict(answers(market, count, settings))}", flush=True)


if __name__ == "__main__":
    main()
