"""Which bundle of a market is current, how it came to be that, and the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BundleError, NotTrainedError, RetrainingError
from mlkit.evaluation import Ledger
from mlkit.inference import answering_root
from mlkit.models.bundle import ModelBundle, history, market_root, rollback
from mlkit.operations.retraining.comparison import seen_until
from mlkit.operations.tracking.tracking import tracked

RECORD = "retraining.jsonl"
LOCK = ".retraining.lock"


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Be the only one who changes which bundle of ``root`` is current; RetrainingError at once where another one is.

    The lock belongs to the process: when that ends, even by ``kill -9``, the lock is free.
    """
    from filelock import FileLock, Timeout

    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RetrainingError(
            f"{root.name}: another training, retraining or rollback is running ({root / LOCK}); wait for it or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def champion_of(symbol: str, timeframe: str, settings: Settings) -> tuple[ModelBundle | None, str]:
    """The bundle that answers for a market, its own or a pool's; else None, and what is wrong if one is damaged."""
    try:
        root = answering_root(symbol, timeframe, settings)
        return (None, "") if root is None else (ModelBundle.open(root), "")
    except BundleError as error:
        return None, str(error)


def roll_back(symbol: str, timeframe: str, settings: Settings | None = None) -> ModelBundle:
    """Make the bundle published before the current one current again, write it down, and return it.

    The one that is left stays on disk, and no later round publishes that very bundle again. Raises as
    `mlkit.models.bundle.publishing.rollback`, and RetrainingError while a round runs.
    """
    settings = settings or Settings()
    root = market_root(symbol, timeframe, settings)
    if not root.is_dir():
        raise NotTrainedError(f"{symbol} {timeframe}: no published model in {root}; run mlkit train")
    with only_one(root):
        left = history(root)[:1]
        bundle = rollback(root)
        Ledger(root / RECORD).write("rolled back", bundle=bundle.id, left="".join(left), why="asked for")
    with tracked("retrain", settings, name=root.name, parameters={"left": "".join(left)}) as run:
        run.tags({"outcome": "rolled back"})
        run.bundle(bundle, alias="champion")
    return bundle


def record(root: Path) -> list[dict[str, Any]]:
    """What `retrain` and `roll_back` did to a market's folder, in order: event, time, bundle, why, and more."""
    return Ledger(root / RECORD).entries()


def published(root: Path) -> pd.DataFrame:
    """The published bundles that are still there, the current one first.

    Returns a DataFrame indexed by bundle id: ``created``, ``trained_until`` (UTC), ``bars``, ``event`` and ``why`` of
    the last entry of the record about it, empty for a bundle of `train`, and ``problem`` of a damaged one.
    """
    told = {str(entry["bundle"]): entry for entry in record(root)}
    rows = {}
    for name in history(root):
        entry = told.get(name, {})
        row = {"created": "", "trained_until": pd.NaT, "bars": 0, "problem": ""}
        try:
            bundle = ModelBundle.open(root / name)
        except BundleError as error:
            row["problem"] = str(error)
        else:
            row |= {"created": bundle.manifest.created, "trained_until": seen_until(bundle)}
            row["bars"] = bundle.manifest.training_span.bars
        rows[name] = row | {"event": entry.get("event", ""), "why": entry.get("why", "")}
    columns = ["created", "trained_until", "bars", "event", "why", "problem"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("bundle")
