"""A server under load while a bundle is promoted every minute; prints memory, answers and swaps.

    python tests/bench/soak_inference.py [--minutes 30] [--every 60]

A failure is a status other than 200, an answer of a bundle that was never promoted, or resident memory that
grows by 5 % or more after the first two swaps, which load both bundles.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from serving import load, prepare, server

import mlkit
from mlkit.models.publishing import publish

URL = "/api/ml/price-prediction/TEST?timeframe=1d"


def main() -> int:
    """1 where a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two promotions")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings, first = prepare(home)
        other = mlkit.train(mlkit.load_bars("TEST", "1d", settings=settings), settings.model_copy(update={"seed": 8}))
        bundles, statuses, answered = [other, first], Counter[int](), Counter[str]()
        failures, base, peak = 0, 0.0, 0.0
        with server(home) as running:
            end, swaps = time.monotonic() + 60 * arguments.minutes, 0
            while time.monotonic() < end:
                publish(bundles[swaps % 2])
                got = load(running.port, URL, arguments.rate, arguments.every, connections=8, watch=True)
                swaps, rss = swaps + 1, running.rss()
                base, peak = (rss, rss) if swaps <= 3 else (base, max(peak, rss))
                statuses, answered = statuses + got.statuses, answered + got.bundles
                failures += got.failures
                print(f"swap {swaps}: {rss:.1f} MiB; {got}", flush=True)
                current = bundles[(swaps - 1) % 2].id
                late = sum(count for name, count in got.bundles.items() if name != current)
                print(f"  by the earlier bundle, after the promotion: {late}", flush=True)
        grown = peak / base - 1 if base else 0.0
        strangers = set(answered) - {b.id for b in bundles}
        print(f"{swaps} swaps, {sum(statuses.values()):,} answers {dict(statuses)}, no answer {failures}")
        print(f"memory {base:.1f} to at most {peak:.1f} MiB ({grown:+.1%}); strangers: {strangers or 'none'}")
        return int(bool(failures or strangers or set(statuses) != {200} or grown >= 0.05))


if __name__ == "__main__":
    sys.exit(main())
