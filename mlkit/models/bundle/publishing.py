"""Publish a bundle, roll back to an earlier one, delete old ones.

``CURRENT`` holds ids, the current bundle's first and the earlier ones after it, and is replaced in one step. A
process killed at any moment leaves the old state or the new one. Every change holds the lock of the root (`only_one`),
which commands hold for a whole round; a function of this module waits `LOCK_SECONDS` for it.
"""

import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlkit.config import write_atomic
from mlkit.errors import BundleError, ConfigError, NotTrainedError, RetrainingError
from mlkit.models.bundle.bundle import DRAFT, ModelBundle, remove_folder
from mlkit.models.bundle.manifest import CURRENT, ID, MANIFEST, read_current

LEFTOVER = 86_400.0  # seconds without a change after which `sweep` deletes
LOCK_SECONDS = 20.0  # that a change of ``CURRENT`` waits for another process
_LOCK = ".retraining.lock"


@contextmanager
def only_one(root: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Lock ``root`` against other changes of its current bundle; re-entrant within a thread.

    RetrainingError where it is locked for longer than ``wait`` seconds. The lock belongs to the process: when that
    ends, even by ``kill -9``, the lock is free.
    """
    from filelock import FileLock, Timeout

    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root.resolve() / _LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise RetrainingError(
            f"{root.name}: another training, retraining or rollback is running ({root / _LOCK}); wait for it or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def publish(bundle: ModelBundle) -> None:
    """Make a bundle the current one of its root: verify it, then replace ``CURRENT`` atomically.

    A damaged ``CURRENT`` is replaced too, and its history is lost.
    """
    bundle.verify()
    if bundle.path.name != bundle.id:
        raise BundleError(f"bundle {bundle.path}: only {bundle.id} in a root can be published; do not rename it")
    root = bundle.path.parent
    with only_one(root, wait=LOCK_SECONDS):
        try:
            earlier = history(root)
        except BundleError:  # a damaged CURRENT is mended only here
            earlier = ()
        _replace(root, [bundle.id, *(name for name in earlier if name != bundle.id)])


def history(root: Path | str) -> tuple[str, ...]:
    """Ids of the published bundles that are still there, the current one first; empty if none was published."""
    root = Path(root)
    try:
        return tuple(name for name in read_current(root) if (root / name / MANIFEST).is_file())
    except NotTrainedError:
        return ()


def rollback(root: Path | str) -> ModelBundle:
    """Make the bundle published before the current one current again, and return it.

    The bundle that was current stays on disk, out of the history: ``publish`` brings it back. NotTrainedError if
    there is no earlier one; BundleError, and no change, if the earlier one is damaged.
    """
    root = Path(root)
    read_current(root)
    with only_one(root, wait=LOCK_SECONDS):
        current, *earlier = read_current(root)
        earlier = [name for name in earlier if (root / name / MANIFEST).is_file()]
        if not earlier:
            raise NotTrainedError(f"{root / CURRENT}: nothing was published before {current}; train another bundle")
        bundle = ModelBundle.open(root / earlier[0])
        if bundle.id != earlier[0]:
            raise BundleError(f"bundle {bundle.path}: holds bundle {bundle.id}; delete it and train again")
        _replace(root, earlier)
    return bundle


def prune(root: Path | str, keep: int) -> list[str]:
    """Delete all published bundles except the newest ``keep``, and return their ids.

    Bundles that were never published stay. A reader that has opened a bundle but not yet loaded its models loses
    it, so keep at least 2.
    """
    if keep < 1:
        raise ConfigError(f"prune: keep at least the current bundle, got {keep}")
    root = Path(root)
    with only_one(root, wait=LOCK_SECONDS):
        ids = history(root)
        old = list(ids[keep:])
        if old:
            _replace(root, ids[:keep])
        for name in old:
            remove_folder(root / name)
    return old


def withdraw(root: Path | str, name: str) -> None:
    """Take an earlier bundle out of the history, so that no rollback returns to it; its folder stays.

    ConfigError for the current one: publish another bundle first.
    """
    root = Path(root)
    with only_one(root, wait=LOCK_SECONDS):
        ids = read_current(root)
        if name == ids[0]:
            raise ConfigError(f"{root / CURRENT}: {name} is the current bundle; publish another one first")
        if name in ids:
            _replace(root, [other for other in ids if other != name])


def sweep(root: Path | str, *, spare: Collection[str] = (), older: float = LEFTOVER) -> list[str]:
    """Delete unused folders, and return their names.

    These are drafts of a killed writer (hidden folders and files), and bundles that ``CURRENT`` does not name: never
    published, or rolled back. Only what was not changed for ``older`` seconds is deleted, so that a bundle that is
    being written stays; ``spare`` names bundles that stay in any case.
    """
    root, before = Path(root), time.time() - older
    named = {*history(root), *spare}
    old = [entry for entry in sorted(root.iterdir()) if entry.lstat().st_mtime <= before]
    drafts = [entry for entry in old if entry.name.startswith((DRAFT, f".{CURRENT}."))]
    for draft in drafts:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()
    bundles = [entry.name for entry in old if re.fullmatch(ID, entry.name) and entry.name not in named]
    for name in bundles:
        remove_folder(root / name)
    return [*(draft.name for draft in drafts), *bundles]


def _replace(root: Path, ids: list[str] | tuple[str, ...]) -> None:
    write_atomic(root / CURRENT, "".join(f"{name}\n" for name in ids).encode())
