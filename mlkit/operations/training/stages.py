"""Finished stages of a training, kept on disk so that a run that was killed goes on where it stood.

A stage is one file of plain bytes under ``<models>/.work/<key>/``: a line of JSON with names, sizes and a SHA-256, then
the content. It is written in one step, so a kill leaves it whole or absent, and its digest is checked before it is
used again; a damaged one is made anew. The key is the hash of everything that decides a bit of the result: bars,
configuration, seed, threads, versions of the libraries and mlkit's own code. Another training never finds these files.
"""

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.config import Settings, write_atomic
from mlkit.errors import ConfigError
from mlkit.evaluation import Source, configuration_hash
from mlkit.features import FeatureSet
from mlkit.models.ensemble import EnsembleSettings
from mlkit.operations.tracking.provenance import package_versions
from mlkit.operations.tracking.trials import configuration, feature_digest
from mlkit.operations.training.panel_layout import markets_of
from mlkit.operations.training.training_set import SET, ensemble_settings

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.operations.training.panel_layout import Bars

WORK = ".work"  # folder of all trainings that have not ended
_log = logging.getLogger(__name__)


class Stages:
    """The stages of one training, in a folder of its own; made by `kept_stages`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def frame(self, name: str) -> "pd.DataFrame | None":
        """The table of a finished stage, bit for bit; None where it is not finished."""
        import pandas as pd

        files = self.files(name)
        return None if files is None else pd.read_parquet(io.BytesIO(files["table.parquet"]))

    def keep_frame(self, name: str, table: "pd.DataFrame") -> None:
        """Keep the table of a stage."""
        data = io.BytesIO()
        table.to_parquet(data)
        self.keep(name, {"table.parquet": data.getvalue()})

    def files(self, name: str) -> dict[str, bytes] | None:
        """The files of a finished stage; None where it is not finished, or damaged, which is logged."""
        try:
            head, _, content = self._path(name).read_bytes().partition(b"\n")
            about = json.loads(head)
            if _digest(about["files"], content) != about["sha256"]:
                raise ValueError("its digest differs")
            ends, files = 0, {}
            for file, size in about["files"].items():
                files[file] = content[ends : ends + size]
                ends += size
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is damaged (%s): that stage is done again", self._path(name), error)
            return None
        return files

    def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """Keep the files of a stage, in one step."""
        content = b"".join(files.values())
        sizes = {file: len(data) for file, data in files.items()}
        about = {"sha256": _digest(sizes, content), "files": sizes}
        write_atomic(self._path(name), json.dumps(about).encode() + b"\n" + content)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.stage"


@contextmanager
def kept_stages(
    bars: "Bars",
    settings: Settings,
    *,
    ensemble: EnsembleSettings | None = None,
    features: FeatureSet | None = None,
    in_files: bool = False,
    fresh: bool = False,
) -> Iterator[Stages]:
    """The kept stages of one training, for `walk_forward` and `train`; removed when the block ends without an error.

    Parameters
    ----------
    bars, settings, ensemble, features : of the training
    in_files : whether it is given a folder, such as the one of these stages; what a killed one left there goes first
    fresh : forget what an earlier run left

    ConfigError while another process does the same training.
    """
    from filelock import FileLock, Timeout

    tried = configuration(settings, ensemble or ensemble_settings(settings), feature_digest(features or FeatureSet()))
    sources = [source.sha256 + source.symbol for source in map(Source.of, markets_of(bars))]
    key = configuration_hash(
        {
            "sources": sources,
            "configuration": tried,
            "threads": (ensemble or settings).n_threads,
            "profile": settings.profile,
            "in files": in_files,
            "versions": package_versions(),
            "code": _code(),
        }
    )
    folder = settings.models / WORK / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"the same training runs already ({lock.lock_file} is taken); wait for it or stop it"
        ) from None
    try:
        for left in [folder] if fresh else folder.glob(f"{SET}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield Stages(folder)
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _digest(sizes: Mapping[str, int], content: bytes) -> str:
    return hashlib.sha256(json.dumps(sizes).encode() + b"\n" + content).hexdigest()


@cache
def _code() -> str:
    """Hash of mlkit's own source: a stage of other code is no stage of this."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
