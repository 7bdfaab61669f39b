"""A server under load while a bundle is promoted every minute, then ten times the load, then fuzz; with what was met.

    python tests/bench/soak_inference.py [--minutes 30] [--every 60] [--overload 60] [--cases 500]

A failure is a status other than 200 in the long phase, and than 200 or 503 under ten times the load; an answer of a
bundle that was never promoted; resident memory that ends 5 % or more above where it was after the first three swaps,
which load both bundles; or a case of schemathesis whose answer is a 5xx other than a declared 503, or does not fit
the document.
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

from bench_inference import fuzz
from serving import Load, Server, load, prepare, server

import mlkit
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import publish

URL = "/api/ml/price-prediction/TEST?timeframe=1d"
WARM = 3  # swaps until both bundles have been loaded
GROWTH = 0.05


def swaps(running: Server, bundles: list[ModelBundle], minutes: float, every: float, rate: float) -> list[str]:
    """The long phase; returns what was broken."""
    total, memory, count = Load(), [running.rss()], 0
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        current = bundles[count % 2]
        publish(current)
        got = load(running.port, URL, rate, every, connections=8, watch=True)
        count, late = count + 1, sum(n for name, n in got.bundles.items() if name != current.id)
        memory.append(running.rss())
        total.statuses += got.statuses
        total.bundles += got.bundles
        total.failures += got.failures
        print(f"swap {count}: {memory[-1]:.1f} MiB; {got}; by the earlier bundle: {late}", flush=True)
    base = memory[min(WARM, count)]
    growth = memory[-1] / base - 1
    strangers = set(total.bundles) - {bundle.id for bundle in bundles}
    print(f"{count} swaps in {minutes:g} minutes, {sum(total.statuses.values()):,} answers {dict(total.statuses)}")
    print(f"MiB: {memory[0]:.1f} at the start, {base:.1f} after {min(WARM, count)} swaps, {memory[-1]:.1f} at the end")
    print(f"growth {growth:+.2%}, most {max(memory) / base - 1:+.2%}; goal: less than {GROWTH:.0%}", flush=True)
    found = {
        f"{total.failures} requests without an answer": total.failures,
        f"statuses {dict(total.statuses)}": set(total.statuses) != {200},
        f"answers of bundles never promoted: {strangers}": strangers,
        f"memory grew by {growth:.1%}": growth >= GROWTH,
    }
    return [what for what, broken in found.items() if broken]


def overload(running: Server, seconds: float) -> list[str]:
    """2,000 requests a second, ten times what the server must bear; returns what was broken."""
    load(running.port, URL, 2000, 3, connections=128)
    memory, statuses, failures = [running.rss()], Counter[int](), 0
    for _ in range(3):
        got = load(running.port, URL, 2000, seconds / 3, connections=128)
        memory.append(running.rss())
        statuses, failures = statuses + got.statuses, failures + got.failures
        print(f"2,000 a second offered: {memory[-1]:.1f} MiB; {got}", flush=True)
    growth = memory[-1] / memory[0] - 1
    print(f"overload: {dict(statuses)}, no answer {failures}; {memory[0]:.1f} to {memory[-1]:.1f} MiB ({growth:+.2%})")
    found = {
        f"statuses under overload {dict(statuses)}": not set(statuses) <= {200, 503},
        f"{failures} requests without an answer under overload": failures,
        f"memory grew by {growth:.1%} under overload": growth >= GROWTH,
    }
    return [what for what, broken in found.items() if broken]


def main() -> int:
    """1 where a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two promotions")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--overload", type=float, default=60, help="seconds at 2,000 requests a second")
    parser.add_argument("--cases", type=int, default=500, help="examples of each endpoint for schemathesis")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings, first = prepare(home)
        other = mlkit.train(mlkit.load_bars("TEST", "1d", settings=settings), settings.model_copy(update={"seed": 8}))
        with server(home) as running:
            broken = swaps(running, [other, first], arguments.minutes, arguments.every, arguments.rate)
            if arguments.overload:
                broken += overload(running, arguments.overload)
        if arguments.cases:
            broken += fuzz(home, arguments.cases)
    print(f"broken: {'; '.join(broken) or 'nothing'}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
