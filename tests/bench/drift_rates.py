"""How soon is a change of the market flagged, and how often is there a false alarm? (make drift)

Simulated markets whose truth is known (``mlkit.market.simulate``). Each is trained on, by the library's own functions
with a tiny ensemble, and then watched as `mlkit drift` would watch it, all five tests at the default level:

- **stationary**: 4 kinds, none of which changes; volatility clusters are no change. Checked every 250 bars until 1,500
  bars after the training. A false alarm is a check that says "drift".
- **changed**: 5 kinds, whose character changes with the first bar after the training. Checked every 50 bars, until the
  first check that says "drift"; its bars after the change are the delay.

    python tests/bench/drift_rates.py [--markets 20] [--first SEED] [--bars 5000] [--only KIND]

Prints a line a market and a table; exits 1 where false alarms exceed ``Settings.drift_level`` a check, or a change is
flagged on fewer than nine markets of ten.
"""

import argparse
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import mlkit
from mlkit.features.garch import fit_garch
from mlkit.market.bars import fingerprint
from mlkit.market.simulate.markets import Change, regime_change
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.drift.checks import check_drift
from mlkit.operations.training.drift_reference import DRIFT_FILE, DriftReference
from mlkit.operations.training.scoring import score
from mlkit.operations.training.training import fit_price, walk_forward
from mlkit.operations.training.training_set import prepare

AFTER = 1_500  # bars watched
STEP = 250  # bars between two checks of a market that does not change
TINY = EnsembleSettings.smoke(n_estimators=20, forest_trees=8, n_threads=1)
STATIONARY: dict[str, dict[str, Any]] = {
    "GARCH, fat tails": {},
    "constant volatility, Gaussian": {"garch": False},
    "GARCH with momentum 0.2": {"strength": 0.2},
    "hourly, wild": {"timeframe": "1h", "annual_volatility": 1.5},
}
CHANGED: dict[str, tuple[Change, dict[str, Any]]] = {
    "volatility doubles": ("volatility", {}),
    "momentum 0.2 turns into reversal": ("skill", {"strength": 0.2}),
    "tails of 2.5 instead of 6 degrees": ("tails", {}),
    "ticks of a bar's mean move": ("tick", {}),
    "five times the volume, noisier": ("volume", {}),
}


def trained(bars: pd.DataFrame, settings: mlkit.Settings, root: Path) -> ModelBundle:
    """A bundle as `mlkit.train` writes it, without the pattern models."""
    forecasts = walk_forward(bars, settings, ensemble=TINY, n_splits=2)
    garch = fit_garch(bars)
    data = prepare(bars, settings.prediction_horizons, garch)
    model = fit_price(data, np.flatnonzero((data.end >= 0).all(axis=1)), settings, ensemble=TINY)
    fields = {
        "created": "2024-01-01T00:00:00Z",
        "symbol": bars.attrs["symbol"],
        "timeframe": bars.attrs["timeframe"],
        "feature_names": list(mlkit.build_features(bars.iloc[:1]).columns),
        "horizons": settings.prediction_horizons,
        "training_span": {"start": str(bars.index[0]), "end": str(bars.index[-1]), "bars": len(bars)},
        "garch": list(garch),
        "data_sha256": fingerprint(bars),
        "seed": settings.seed,
        "settings": {},
        "metrics": {str(h): row for h, row in score(forecasts, settings, trials=1).to_dict("index").items()},
    }
    reference = DriftReference.of(data, model, forecasts).to_bytes()
    return write_bundle(root, fields, price=model, extra={DRIFT_FILE: reference})


def watch(kind: str, change: Change, options: dict[str, Any], seed: int, at: int, root: Path) -> dict[str, Any]:
    """One market from its training to the end, or to the first alarm of one that changes."""
    start = time.perf_counter()
    settings = mlkit.Settings(ledger_path=root / "ledger.jsonl", n_threads=1)
    bars = regime_change(at + AFTER, at, change, seed=seed, **options)
    bundle = trained(bars.iloc[:at], settings, root)
    step, alarms, first, families = (STEP if change == "none" else 50), [], None, ""
    for after in range(step if change == "none" else 100, AFTER + 1, step):
        found = check_drift(bundle, bars.iloc[: at + after], settings)
        alarms.append(found.verdict == "drift")
        if alarms[-1] and first is None:
            first = after
            families = ", ".join(found.table.index[found.table["verdict"] == "drift"])
            if change != "none":
                break
    said = f"{sum(alarms)} of {len(alarms)} checks"
    said += "" if first is None else f", first after {first} bars by {families}"
    print(f"  {kind}, seed {seed}: {said}, {time.perf_counter() - start:.0f} s", flush=True)
    return {"kind": kind, "checks": len(alarms), "alarms": sum(alarms), "first": first, "by": families}


def summary(rows: pd.DataFrame, changed: bool) -> pd.DataFrame:
    """One row a kind."""
    table = rows.groupby("kind", sort=False).agg(markets=("kind", "size"), checks=("checks", "sum"))
    if not changed:
        table["false alarms"] = rows.groupby("kind")["alarms"].sum()
        table["a check"] = table["false alarms"] / table["checks"]
        table["markets with one"] = rows.groupby("kind")["first"].count()
        return table
    delays = rows.assign(first=rows["first"].astype(float).fillna(np.inf)).groupby("kind")["first"]
    table["flagged"] = rows.groupby("kind")["first"].count()
    table["median delay"] = delays.median()
    table["90% delay"] = delays.quantile(0.9, interpolation="higher")
    return table


def main() -> int:
    """All markets; the exit status says whether the rates hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--markets", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--bars", type=int, default=5_000)
    parser.add_argument("--only", default="", help="part of a kind's name, or: stationary, changed")
    options = parser.parse_args()
    level = mlkit.Settings().drift_level
    print(f"drift of {date.today()}, mlkit {mlkit.__version__}, {options.bars} training bars, level {level:g} a check")
    calm, moved = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.markets):
            root = Path(folder) / str(seed)
            for kind, market in STATIONARY.items():
                if options.only in f"stationary {kind}":
                    calm.append(watch(kind, "none", market, seed, options.bars, root))
            for kind, (change, market) in CHANGED.items():
                if options.only in f"changed {kind}":
                    moved.append(watch(kind, change, market, 1000 + seed, options.bars, root))
    held = True
    if calm:
        table = summary(pd.DataFrame(calm), changed=False)
        total = table["false alarms"].sum() / table["checks"].sum()
        held &= bool(total <= level)
        print(f"\n{table.to_string(float_format='{:.4f}'.format)}\nfalse alarms a check: {total:.4f}, stated {level:g}")
    if moved:
        table = summary(pd.DataFrame(moved), changed=True)
        held &= bool((table["flagged"] >= 0.9 * table["markets"]).all())
        print(f"\n{table.to_string(float_format='{:.0f}'.format)}")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
