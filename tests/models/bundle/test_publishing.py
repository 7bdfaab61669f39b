"""Publish, go back, clear away: and a process killed at any step of it leaves a valid current bundle."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlkit.errors import BundleError, ConfigError, NotTrainedError, RetrainingError
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.bundle.publishing import history, only_one, prune, publish, rollback, sweep, withdraw

FIELDS: dict[str, Any] = {
    "created": "2026-01-02T03:04:05+00:00",
    "symbol": "BTCUSDT",
    "timeframe": "1m",
    "feature_names": ["x"],
    "horizons": (1,),
    "training_span": {"start": "2026-01-01", "end": "2026-01-02", "bars": 9},
    "data_sha256": "0" * 64,
    "seed": 7,
    "settings": {},
    "metrics": {},
}


def made(root: Path, seed: int) -> ModelBundle:
    return write_bundle(root, FIELDS | {"seed": seed}, extra={"note.txt": b"n" * 5000, "drift.json": b"{}"})


def published(root: Path, count: int) -> list[str]:
    """Ids of bundles published one after the other, the newest first."""
    bundles = [made(root, seed) for seed in range(count)]
    for bundle in bundles:
        publish(bundle)
    return [bundle.id for bundle in reversed(bundles)]


def test_history_has_the_newest_first_and_each_once(tmp_path: Path) -> None:
    assert history(tmp_path) == ()
    ids = published(tmp_path, 3)
    assert history(tmp_path) == tuple(ids)
    publish(ModelBundle.open(tmp_path / ids[2]))
    assert history(tmp_path) == (ids[2], ids[0], ids[1])
    assert ModelBundle.open(tmp_path).id == ids[2]


def test_rollback_goes_back_one_by_one_and_publish_forward(tmp_path: Path) -> None:
    with pytest.raises(NotTrainedError, match="no published model"):
        rollback(tmp_path)
    ids = published(tmp_path, 3)
    assert rollback(tmp_path).id == ids[1]
    assert rollback(tmp_path).id == ModelBundle.open(tmp_path).id == ids[2]
    with pytest.raises(NotTrainedError, match=f"nothing was published before {ids[2]}"):
        rollback(tmp_path)
    publish(ModelBundle.open(tmp_path / ids[0]))
    assert history(tmp_path) == (ids[0], ids[2])


def test_rollback_to_a_damaged_bundle_changes_nothing(tmp_path: Path) -> None:
    ids = published(tmp_path, 2)
    (tmp_path / ids[1] / "note.txt").write_bytes(b"x" * 5000)
    with pytest.raises(BundleError, match="is not what was written"):
        rollback(tmp_path)
    assert ModelBundle.open(tmp_path).id == ids[0]


def test_prune_keeps_the_newest_and_what_was_never_published(tmp_path: Path) -> None:
    ids = published(tmp_path, 5)
    challenger = made(tmp_path, 99)
    with pytest.raises(ConfigError, match="keep at least the current bundle"):
        prune(tmp_path, keep=0)
    assert prune(tmp_path, keep=2) == ids[2:]
    assert history(tmp_path) == tuple(ids[:2])
    assert {p.name for p in tmp_path.iterdir()} == {".retraining.lock", "CURRENT", *ids[:2], challenger.id}
    assert prune(tmp_path, keep=2) == []
    assert rollback(tmp_path).id == ids[1]


def test_an_unreadable_current_is_replaced_by_the_next_publication(tmp_path: Path) -> None:
    published(tmp_path, 2)
    (tmp_path / "CURRENT").write_text("../../etc\n")
    with pytest.raises(BundleError, match="is not a bundle id"):
        ModelBundle.open(tmp_path)
    new = made(tmp_path, 5)
    publish(new)
    assert history(tmp_path) == (new.id,)


def test_what_is_withdrawn_is_no_longer_gone_back_to(tmp_path: Path) -> None:
    ids = published(tmp_path, 3)
    with pytest.raises(ConfigError, match="publish another one first"):
        withdraw(tmp_path, ids[0])
    withdraw(tmp_path, ids[1])
    withdraw(tmp_path, "0" * 16)  # never published
    assert history(tmp_path) == (ids[0], ids[2]) and (tmp_path / ids[1]).is_dir()
    assert rollback(tmp_path).id == ids[2]


def test_sweep_takes_old_leftovers_and_nothing_that_is_named(tmp_path: Path) -> None:
    ids = published(tmp_path, 3)
    rollback(tmp_path)
    spared, never, young = (made(tmp_path, seed).id for seed in (7, 8, 9))
    (tmp_path / ".bundle-killed").mkdir()
    (tmp_path / ".bundle-killed" / "half").write_text("h")
    (tmp_path / ".CURRENT.k1.tmp").write_text("torn")
    (tmp_path / "notes.txt").write_text("of a person")
    for entry in tmp_path.iterdir():
        if entry.name != young:
            os.utime(entry, (1e9, 1e9))
    assert set(sweep(tmp_path, spare=[spared])) == {".bundle-killed", ".CURRENT.k1.tmp", never, ids[0]}
    assert {entry.name for entry in tmp_path.iterdir()} == {
        ".retraining.lock",
        "CURRENT",
        "notes.txt",
        *ids[1:],
        spared,
        young,
    }
    assert sweep(tmp_path, spare=[spared]) == []


def _publish_many(root: str, first: int) -> None:
    for seed in range(first, first + 20):
        publish(made(Path(root), seed))


def test_two_processes_that_publish_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_publish_many, args=(str(tmp_path), first)) for first in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(history(tmp_path)) == 40


def _hold(root: str, held: Any, done: Any) -> None:
    with only_one(Path(root)):
        held.set()
        done.wait(60)


def test_a_change_waits_for_a_round_of_a_command_and_then_names_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlkit.models.bundle.publishing.LOCK_SECONDS", 0.2)
    ids = published(tmp_path, 3)
    spawn = multiprocessing.get_context("spawn")
    held, done = spawn.Event(), spawn.Event()
    worker = spawn.Process(target=_hold, args=(str(tmp_path), held, done))
    worker.start()
    assert held.wait(60)
    bundle = ModelBundle.open(tmp_path)
    for change in (
        lambda: publish(bundle),
        lambda: rollback(tmp_path),
        lambda: prune(tmp_path, keep=1),
        lambda: withdraw(tmp_path, ids[1]),
    ):
        with pytest.raises(RetrainingError, match=r"\.retraining\.lock"):
            change()
    done.set()
    worker.join()
    assert history(tmp_path) == tuple(ids)
    with only_one(tmp_path):  # a command that publishes in its own round
        assert prune(tmp_path, keep=2) == ids[2:]


def test_a_bundle_that_is_pruned_while_it_is_opened_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = published(tmp_path, 1)
    verify, newer = ModelBundle.verify, made(tmp_path, 9)

    def overtaken(bundle: ModelBundle) -> None:
        if bundle.id == ids[0] and bundle.path.is_dir():
            publish(newer)
            prune(tmp_path, keep=1)
        verify(bundle)

    monkeypatch.setattr(ModelBundle, "verify", overtaken)
    assert ModelBundle.open(tmp_path).id == newer.id
    opened = ModelBundle.open(tmp_path)
    publish(made(tmp_path, 10))
    prune(tmp_path, keep=1)
    for read in (lambda: opened.read("note.txt"), opened.verify):
        with pytest.raises(BundleError, match="was deleted meanwhile") as caught:
            read()
        assert "delete it" not in str(caught.value)


# Runs `publish a third bundle, keep two` in forks, the k-th of which is killed just before its k-th step, until
# one comes through. A step is a call that changes the disk; a write is first cut in half, then done.
KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.bundle.publishing import history, prune, publish

root, template, fields = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def work(folder):
    publish(write_bundle(folder, fields, extra={"note.txt": b"n" * 5000, "drift.json": b"{}"}))
    prune(folder, keep=2)

def arm(limit):
    steps = [0]
    def step(name):
        steps[0] += 1
        if steps[0] == limit:
            with open(log, "w") as file:
                file.write(name)
            os.kill(os.getpid(), signal.SIGKILL)
    def wrap(name):
        real = getattr(os, name)
        def wrapped(*args, **options):
            step(name)
            return real(*args, **options)
        setattr(os, name, wrapped)
    write = os.write
    def halves(handle, data):
        written = write(handle, data[: len(data) // 2])
        step("write")
        return written + write(handle, data[written:])
    os.write = halves
    for name in ("fsync", "replace", "rename", "mkdir", "chmod", "fchmod", "unlink", "rmdir"):
        wrap(name)

os.fsync = lambda handle: None  # a kill loses nothing that was written; fsync is for power cuts, and slow
limit, told = 0, []
while True:
    limit += 1
    folder, log = root / str(limit), root / f"{limit}.log"
    shutil.copytree(template, folder)
    child = os.fork()
    if child == 0:
        arm(limit)
        work(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    current = ModelBundle.open(folder).id
    kept = [ModelBundle.open(folder / name).id for name in history(folder)]
    work(folder)  # once more, after the crash: it mends what was left
    again = [ModelBundle.open(folder / name).id for name in history(folder)]
    killed = os.WIFSIGNALED(status)
    told.append([log.read_text() if killed else "", current, kept, again])
    if not killed:
        assert os.WEXITSTATUS(status) == 0
        break
print(json.dumps(told))
"""


def test_killed_at_every_step_leaves_a_valid_current(tmp_path: Path) -> None:
    template = tmp_path / "template"
    ids = published(template, 2)
    new = made(tmp_path / "elsewhere", 3).id
    fields = json.dumps(FIELDS | {"seed": 3})
    command = [sys.executable, "-c", KILLER, str(tmp_path), str(template), fields]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    steps = [step for step, *_ in told[:-1]]
    print(f"\nkilled at {len(steps)} steps: {', '.join(f'{steps.count(s)} {s}' for s in sorted(set(steps)))}")
    assert len(steps) >= 30 and {"write", "fsync", "replace", "rename", "unlink", "rmdir"} <= set(steps)
    for _, current, kept, again in told:
        assert current in (ids[0], new) and kept[0] == current and ids[0] in kept
        assert again == [new, ids[0]]
    currents = [current for _, current, *_ in told]
    assert currents == sorted(currents, key=[ids[0], new].index)  # old until one step, new from there on
    assert currents[0] == ids[0] and currents[-1] == new
