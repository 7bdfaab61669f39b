"""SIGKILL for a retraining: at the calls that change the disk, and at random moments of a whole round.

Run as a script it prints one JSON line of counts; any broken promise is an AssertionError:

    python tests/operations/retrain_kills.py {calls,moments} [COUNT]

Children are forked from one process that has retrained once, so that a kill costs a round and not an import.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # a fork keeps no threads

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlkit
from mlkit.market.simulate.markets import null_market
from mlkit.models.bundle import only_one
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.bundle_folders import market_root
from mlkit.models.bundle.publishing import history, publish, sweep
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.retraining.champions import record
from mlkit.operations.retraining.retraining import Retraining, retrain
from mlkit.operations.training import training, training_bundle
from tests.forks import forked

BARS = null_market(1600, seed=4, timeframe="1h", symbol="CALM")
FEW = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
CALLS = ("fsync", "replace", "rename", "mkdir", "chmod", "fchmod", "unlink", "rmdir")  # of module os, and write


def settings_of(folder: Path) -> mlkit.Settings:
    return mlkit.Settings(
        model_storage_path=folder / "models",
        ledger_path=folder / "ledger.jsonl",
        prediction_horizons=(1,),
        n_threads=1,
        retrain_keep=2,
        retrain_age=0.15,
    )


def work(folder: Path) -> Retraining:
    return retrain(BARS, settings=settings_of(folder), ensemble=FEW)


def unmeasured() -> None:
    """Leave out the parts of a training that touch no file."""
    judged = training.walk_forward(BARS.iloc[:1100], settings_of(Path(tempfile.mkdtemp())), n_splits=1, ensemble=FEW)
    training.walk_forward = lambda *arguments, **options: judged
    training_bundle.pattern_evidence = lambda *arguments, **options: {}


def prepare(folder: Path) -> str:
    """Two earlier bundles, a stale champion, and leftovers of long ago; the champion's id."""
    settings = settings_of(folder)
    for count in (1100, 1110, 1120):
        publish(training.train(BARS.iloc[:count], settings, ensemble=FEW, publish=False))
    root = market_root("CALM", "1h", settings)
    never = training.train(BARS.iloc[:1130], settings, ensemble=FEW, publish=False).path
    (root / ".bundle-old").mkdir()
    (root / ".bundle-old" / "half.txt").write_text("half")
    for entry in (never, root / ".bundle-old"):
        os.utime(entry, (1e9, 1e9))
    return history(root)[0]


def killed_at(limit: int, log: Path) -> None:
    """From now on the ``limit``-th call that changes the disk kills this process; a write does half of its work."""
    steps = [0]

    def step(name: str) -> None:
        steps[0] += 1
        if steps[0] == limit:
            log.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            step(name)
            return real(*arguments, **options)

        setattr(os, name, wrapped)

    write = os.write

    def halves(handle: int, data: Any) -> int:
        done = write(handle, data[: len(data) // 2])
        step("write")
        return done + write(handle, data[done:])

    os.write = halves
    for name in CALLS:
        wrap(name)


def check(folder: Path, champion: str, counts: Counter[str]) -> None:
    """After a kill: a whole champion, old or new, a free lock; and the next round ends what was begun."""
    settings = settings_of(folder)
    root = market_root("CALM", "1h", settings)
    current = ModelBundle.open(root)  # every byte against its digest
    assert current.price is not None and current.id == history(root)[0]
    counts["old champion" if current.id == champion else "new champion"] += 1
    hidden = {entry.name for entry in root.iterdir() if entry.name.startswith((".bundle-", ".CURRENT."))}
    counts["leftovers"] += bool(hidden - {".bundle-old"})
    for entry in root.iterdir():
        if not entry.name.startswith(".") and entry.is_dir():
            ModelBundle.open(entry)  # half a bundle never stands under its name
    with only_one(root):
        pass
    told = work(folder)
    assert told.outcome == "promoted" if current.id == champion else told.challenger is None, told
    new = ModelBundle.open(root)
    assert new.manifest.training_span.bars == 1400 and history(root)[:2] == (new.id, champion)
    assert current.id == new.id or record(root)[-1]["bundle"] == new.id  # a kill may come before the record
    sweep(root, older=0.0)
    told = work(folder)  # what was left lies in nobody's way
    assert told.challenger is None and ModelBundle.open(root).id == new.id
    assert not [entry.name for entry in root.iterdir() if entry.name.startswith((".bundle-", ".CURRENT."))]


def calls(step: int = 1) -> dict[str, int]:
    """SIGKILL at every ``step``-th call that changes the disk, from the first to the last of a round."""
    unmeasured()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        template, log = Path(scratch) / "template", Path(scratch) / "log"
        champion = prepare(template)
        limit = 1
        while True:
            folder = Path(scratch) / "work"
            shutil.copytree(template, folder)

            def run(folder: Path = folder, limit: int = limit) -> None:
                killed_at(limit, log)
                work(folder)

            if not forked(run):
                return {"kills": counts["old champion"] + counts["new champion"], **counts}
            counts[f"at {log.read_text()}"] += 1
            check(folder, champion, counts)
            shutil.rmtree(folder)
            limit += step


def moments(count: int = 100, seed: int = 7) -> dict[str, int]:
    """SIGKILL at random moments of whole rounds: training, comparing, publishing, tidying up."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        template, folder = Path(scratch) / "template", Path(scratch) / "work"
        champion = prepare(template)
        shutil.copytree(template, folder)
        begun = time.perf_counter()
        work(folder)  # warm, and how long a round takes
        length = time.perf_counter() - begun
        for _ in range(count):
            shutil.rmtree(folder)
            shutil.copytree(template, folder)
            if forked(lambda: work(folder), seconds=rng.uniform(0.0, 1.1 * length)):
                check(folder, champion, counts)
            else:
                counts["came through"] += 1
    return {"kills": counts["old champion"] + counts["new champion"], **counts}


MODES: dict[str, Callable[..., dict[str, int]]] = {"calls": calls, "moments": moments}

if __name__ == "__main__":
    print(json.dumps(MODES[sys.argv[1]](*map(int, sys.argv[2:]))))
