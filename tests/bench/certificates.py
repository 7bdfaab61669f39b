"""Is skill denied where there is none, and found where there is some? (make certificates)

The real pipeline, ``walk_forward`` and ``score`` with the smoke profile, default horizons and costs, on simulated
markets whose truth is known (``mlkit.market.simulate.markets``):

- **null**: 20 markets, 5 kinds x 4 seeds, in which no direction can be predicted. A market passes if the verdict is
  ``no edge`` at **all** horizons. Certificate: at least 19 pass.
- **planted**: 20 markets, 4 kinds x 5 seeds, with a momentum or reversal that past bars show. A market passes if the
  verdict is ``edge`` at **one** horizon at least. Certificate: at least 19 pass.

Prints a line a market and a table a certificate; exits 1 when one of them fails.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

import mlkit
from mlkit.market.simulate.markets import edge_r2, null_market, planted_edge
from mlkit.operations.training.scoring import score
from mlkit.operations.training.training import walk_forward

NULL_BARS, PLANTED_BARS, LEAST = 4_000, 6_000, 19
Maker = Callable[[int], pd.DataFrame]


def drifting(seed: int, per_bar: float = 0.05) -> pd.DataFrame:
    """A null market that rises by a twentieth of a bar's move with each bar: holding pays, forecasting does not."""
    bars = null_market(NULL_BARS, seed=seed, tick=0.0)
    move = float(np.log(bars["close"]).diff().std())
    growth = np.exp(per_bar * move * np.arange(len(bars) + 1))
    bars["open"] *= growth[:-1]
    bars["close"] *= growth[1:]
    bars["high"] = np.maximum(bars["high"] * growth[:-1], bars[["open", "close"]].max(axis=1))
    bars["low"] = np.minimum(bars["low"] * growth[:-1], bars[["open", "close"]].min(axis=1))
    return bars


NULL: dict[str, Maker] = {
    "GARCH, fat tails": lambda seed: null_market(NULL_BARS, seed=seed),
    "Gaussian, constant volatility": lambda seed: null_market(NULL_BARS, seed=100 + seed, garch=False),
    "drift of 0.05 bar moves a bar": lambda seed: drifting(200 + seed),
    "ticks of 0.6 bar moves": lambda seed: null_market(NULL_BARS, seed=300 + seed, tick=0.5),
    "hourly, wild": lambda seed: null_market(NULL_BARS, seed=400 + seed, timeframe="1h", annual_volatility=1.5),
}
PLANTED: dict[str, Maker] = {
    "momentum 0.30": lambda seed: planted_edge(PLANTED_BARS, seed=seed, strength=0.3),
    "reversal 0.30": lambda seed: planted_edge(PLANTED_BARS, seed=100 + seed, strength=-0.3, persistence=0.6),
    "momentum 0.25, slow": lambda seed: planted_edge(PLANTED_BARS, seed=200 + seed, strength=0.25, persistence=0.9),
    "momentum 0.20, hourly": lambda seed: planted_edge(
        PLANTED_BARS, seed=300 + seed, strength=0.2, timeframe="1h", annual_volatility=0.8
    ),
}


def verdicts(bars: pd.DataFrame, name: str, settings: mlkit.Settings) -> pd.Series:
    """Verdict of each horizon; the market gets a name of its own, so that the ledger tells markets apart."""
    bars.attrs["symbol"] = name
    scores = score(walk_forward(bars, settings), settings)
    assert (scores["trials"] == 1).all()
    return scores["verdict"]


def certify(title: str, kinds: dict[str, Maker], seeds: int, wanted: str, settings: mlkit.Settings) -> int:
    """Run every market, print the table, return how many passed."""
    rows, passed = [], 0
    for kind, make in kinds.items():
        row: dict[str, object] = {"kind": kind, "markets": seeds, "passed": 0}
        for seed in range(seeds):
            start = time.perf_counter()
            found = verdicts(make(seed), f"{title}-{len(rows)}-{seed}", settings) == "edge"
            good = not found.any() if wanted == "no edge" else bool(found.any())
            row["passed"] = int(row["passed"]) + good
            for h, edge in found.items():
                row[f"edge at {h}"] = int(row.get(f"edge at {h}", 0)) + int(edge)
            seconds = time.perf_counter() - start
            print(f"  {kind}, seed {seed}: {'passed' if good else 'FAILED'}, {seconds:.1f} s", flush=True)
        passed += int(row["passed"])
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False))
    count, answer = seeds * len(kinds), "passed" if passed >= LEAST else "FAILED"
    print(f"{title}: {wanted!r} on {passed} of {count} markets, wanted {LEAST}: {answer}\n")
    return passed


def main() -> int:
    """Both certificates; the exit status says whether they hold."""
    print(f"certificates of {date.today()}, mlkit {mlkit.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        settings = mlkit.Settings(ledger_path=Path(folder) / "ledger.jsonl")
        print(
            f"profile {settings.profile}, horizons {settings.prediction_horizons}, {settings.cost_bps:g} bps a side\n"
        )
        denied = certify("null", NULL, 4, "no edge", settings)
        print(f"planted: R² of the best forecast at 1 bar {edge_r2(0.3):.3f} (0.30), {edge_r2(0.2):.3f} (0.20)")
        found = certify("planted", PLANTED, 5, "edge", settings)
    return int(min(denied, found) < LEAST)


if __name__ == "__main__":
    sys.exit(main())
