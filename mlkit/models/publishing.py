"""Which bundle of a root is the current one: publish, go back, and clear away old ones.

``CURRENT`` holds ids, the current bundle's first and the earlier ones after it, and is replaced in one step. A
process killed at any moment leaves the old state or the new one. One writer at a time: two that publish at once
leave a whole ``CURRENT``, but one of them may be missing from the history.
"""

import shutil
import tempfile
from pathlib import Path

from mlkit.config import fsync_folder, write_atomic
from mlkit.errors import BundleError, ConfigError, NotTrainedError
from mlkit.models.bundle import DRAFT, ModelBundle
from mlkit.models.manifest import CURRENT, MANIFEST, read_current


def publish(bundle: ModelBundle) -> None:
    """Make a bundle the current one of its root: verify it, then replace ``CURRENT`` atomically."""
    bundle.verify()
    if bundle.path.name != bundle.id:
        raise BundleError(f"bundle {bundle.path}: only {bundle.id} in a root can be published; do not rename it")
    root = bundle.path.parent
    _replace(root, [bundle.id, *(name for name in history(root) if name != bundle.id)])


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
        doomed = Path(tempfile.mkdtemp(dir=root, prefix=DRAFT))
        (root / name).rename(doomed / name)  # in one step: half a bundle never stands under its name
        shutil.rmtree(doomed)
    if old:
        fsync_folder(root)
    return old


def _replace(root: Path, ids: list[str] | tuple[str, ...]) -> None:
    write_atomic(root / CURRENT, "".join(f"{name}\n" for name in ids).encode())
