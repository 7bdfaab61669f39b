"""Is a change in one market of a pool flagged as it would be by a bundle of its own?

Pools of three simulated hourly markets whose volatilities are 0.15, 0.4 and 1.2 a year. Each member is checked once,
some bars after the training, with the same market unchanged, with twice the volatility and with ticks: by a bundle of
its own, by the pool's against the member's part of the training, and by the pool's against all of it.

    python tests/bench/drift_pool.py [--pools 12] [--first SEED] [--bars 3500] [--later 600]

Prints how many members each way says "drift" of; exits 1 where the unchanged ones are more than chance
allows at ``Settings.drift_level`` (one-sided binomial test at 5 %).
"""

import argparse
import sys
import tempfile
from datetime import date
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from scipy.stats import binom

import mlkit
from mlkit.market.simulate.markets import Change, regime_change
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.drift.checks import check_drift
from mlkit.operations.training import training_bundle
from mlkit.operations.training.drift_reference import DriftReference
from mlkit.operations.training.training import train

TINY = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
VOLATILITY = {"CALM": 0.15, "USUAL": 0.4, "WILD": 1.2}
CHANGES: tuple[Change, ...] = ("none", "volatility", "tick")


def market(symbol: str, change: Change, seed: int, at: int, later: int) -> pd.DataFrame:
    options = {"symbol": symbol, "timeframe": "1h", "annual_volatility": VOLATILITY[symbol]}
    return regime_change(at + later, at, change, seed=10 * seed + list(VOLATILITY).index(symbol), **options)


def checked(seed: int, at: int, later: int, root: Path) -> list[dict[str, object]]:
    """One pool: what each way says of each member and change."""
    settings = mlkit.Settings(
        prediction_horizons=(1, 5), model_storage_path=root, ledger_path=root / "ledger.jsonl", n_threads=1
    )
    past = {symbol: market(symbol, "none", seed, at, later).iloc[:at] for symbol in VOLATILITY}
    pool = train(past, settings, ensemble=TINY, name="POOL")
    rows: list[dict[str, object]] = []
    for symbol in VOLATILITY:
        alone = train(past[symbol], settings, ensemble=TINY)
        for change in CHANGES:
            bars = market(symbol, change, seed, at, later)
            row = {"change": change, "own bundle": alone, "own part of the pool": pool}
            said = {name: check_drift(one, bars, settings).verdict for name, one in row.items() if name != "change"}
            with patch.object(DriftReference, "of_market", lambda self, number: self):
                said["whole pool"] = check_drift(pool, bars, settings).verdict
            rows.append({"change": change} | {name: verdict == "drift" for name, verdict in said.items()})
    return rows


def main() -> int:
    """All pools; the exit status says whether the rate of false alarms holds."""
    parser = argparse.ArgumentParser()
    for name, value in (("pools", 12), ("first", 0), ("bars", 3_500), ("later", 600)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    print(f"drift of pools, {date.today()}, {options.bars} training bars a market, checked {options.later} bars later")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, patch.object(training_bundle, "pattern_evidence", lambda *a, **k: {}):
        for seed in range(options.first, options.first + options.pools):
            rows += checked(seed, options.bars, options.later, Path(folder) / str(seed))
            print(f"  pool {seed}", flush=True)
    table = pd.DataFrame(rows).groupby("change", sort=False).agg("sum").astype(int)
    table.insert(0, "members", pd.DataFrame(rows).groupby("change").size())
    print(f"\n{table.to_string()}")
    none = table.loc["none"]
    chance = binom.sf(none["own part of the pool"] - 1, none["members"], mlkit.Settings().drift_level)
    return int(chance < 0.05)


if __name__ == "__main__":
    sys.exit(main())
