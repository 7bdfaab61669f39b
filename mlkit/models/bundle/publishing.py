"""Which bundle of a root is the current one: publish, go back, and clear away old ones.

``CURRENT`` holds ids, the current bundle's first and the earlier ones after it, and is replaced in one step. A
process killed at any moment leaves the old state or the new one. One writer at a time: two that publish at once
leave a whole ``CURRENT``, but one of them may be missing from the history.
"""

import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from mlkit.config import write_atomic
from mlkit.errors import BundleError, ConfigError, NotTrainedError
from mlkit.models.bundle.bundle import DRAFT, ModelBundle, remove_folder
from mlkit.models.bundle.manifest import CURRENT, ID, MANIFEST, read_current

LEFTOVER = 86_400.0  # seconds for which nobody has touched what is swept


def publish(bundle: ModelBundle) -> None:
    """Make a bundle the current one of its root: verify it, then replace ``CURRENT`` atomically.

    A ``CURRENT`` that cannot be read is replaced too, and the history that it held is lost.
    """
    bundle.verify()
    if bundle.path.name != bundle.id:
        raise BundleError(f"bundle {bundle.path}: only {bundle.id} in a root can be published; do not rename it")
    root = bundle.path.parent
    try:
        earlier = history(root)
    except BundleError:  # what it said cannot be known any more, and only this mends it
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

    The bundle that is left stays on disk, out of the history: ``publish`` brings it back. NotTrainedError if
    there is nothing before it; BundleError, and no change, if what was before is damaged.
    """
    root = Path(root)
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
    """Delete published bundles but the newest ``keep``, and return their ids.

    Bundles that were never published stay. Readers that have opened a bundle but not yet loaded its models lose
    it, so keep at least 2.
    """
    if keep < 1:
        raise ConfigError(f"prune: keep at least the current bundle, got {keep}")
    root = Path(root)
    ids = history(root)
    old = list(ids[keep:])
    if old:
        _replace(root, ids[:keep])
    for name in old:
        remove_folder(root / name)
    return old


def withdraw(root: Path | str, name: str) -> None:
    """Take an earlier bundle out of the history, so that no rollback meets it; its folder stays.

    ConfigError for the current one, which something must replace first.
    """
    root = Path(root)
    ids = read_current(root)
    if name == ids[0]:
        raise ConfigError(f"{root / CURRENT}: {name} is the current bundle; publish another one first")
    if name in ids:
        _replace(root, [other for other in ids if other != name])


def sweep(root: Path | str, *, spare: Collection[str] = (), older: float = LEFTOVER) -> list[str]:
    """Delete what nobody will come back to, and return the names.

    That is what a killed writer left (hidden folders and files), and bundles that ``CURRENT`` does not name: never
    published, or left by a rollback. Only what was not touched for ``older`` seconds goes, so that a bundle that is
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
