"""The current bundle of a market, the record of how it became current, and the rollback to the one before."""

from pathlib import Path
from typing import Any

import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BundleError, NotTrainedError
from mlkit.evaluation import Ledger
from mlkit.inference import check_market, current_bundle
from mlkit.models.bundle import ModelBundle, history, market_root, only_one, read_manifest, rollback
from mlkit.operations.retraining.comparison import trained_until
from mlkit.operations.tracking.tracking import tracked
from mlkit.untrusted import printable

RECORD = "retraining.jsonl"


def champion_of(symbol: str, timeframe: str, settings: Settings) -> tuple[ModelBundle | None, str]:
    """The bundle that answers for a market, its own or a pool's; or None and the fault of a damaged one."""
    try:
        return current_bundle(symbol, timeframe, settings), ""
    except BundleError as error:
        return None, str(error)


def roll_back(symbol: str, timeframe: str, settings: Settings | None = None) -> ModelBundle:
    """Make the bundle published before the current one current again, record that, and return it.

    The bundle that was current stays on disk, and no later round publishes that very bundle again. Raises as
    `mlkit.models.bundle.rollback`, and RetrainingError while a round runs.
    """
    settings = settings or Settings()
    root = market_root(symbol, timeframe, settings)
    if not root.is_dir():
        raise NotTrainedError(f"{symbol} {timeframe}: no published model in {root}; run mlkit train")
    with only_one(root):
        left = "".join(history(root)[:1])
        for name in history(root)[1:2]:
            check_market(read_manifest(root / name), symbol, timeframe, root)
        bundle = rollback(root)
        Ledger(root / RECORD).write("rolled back", bundle=bundle.id, left=left, why="asked for")
    with tracked("retrain", settings, name=root.name, parameters={"left": left}) as run:
        run.tags({"outcome": "rolled back"})
        run.bundle(bundle, alias="champion")
    return bundle


def record(root: Path) -> list[dict[str, Any]]:
    """Changes of a market's current bundle by `retrain` and `roll_back`, in order: event, time, bundle, why, ..."""
    texts = ("bundle", "left", "why")
    entries = Ledger(root / RECORD).entries()
    return [entry for entry in entries if all(isinstance(entry.get(name, ""), str) for name in texts)]


def published(root: Path) -> pd.DataFrame:
    """The published bundles that are still there, the current one first.

    Returns a DataFrame indexed by bundle id: ``created``, ``trained_until`` (UTC), ``bars``, ``event`` and ``why`` of
    the last entry of the record about it, empty for a bundle of `train`, and ``problem`` of a damaged one.
    """
    entries = {entry.get("bundle"): entry for entry in record(root)}
    rows = {}
    for name in history(root):
        entry = entries.get(name, {})
        row = {"created": "", "trained_until": pd.NaT, "bars": 0, "problem": ""}
        try:
            bundle = ModelBundle.open(root / name)
        except BundleError as error:
            row["problem"] = str(error)
        else:
            row |= {"created": bundle.manifest.created, "trained_until": trained_until(bundle)}
            row["bars"] = bundle.manifest.training_span.bars
        rows[name] = row | {"event": entry.get("event", ""), "why": printable(entry.get("why", ""))}
    columns = ["created", "trained_until", "bars", "event", "why", "problem"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("bundle")
