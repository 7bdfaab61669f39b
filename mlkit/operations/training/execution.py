"""How a training is executed: its progress, where large arrays lie, and which finished stages are kept.

A stage is the forecasts of one fold, or the final model: one zip file under ``<models>/.work/<key>/``, written in one
step, so that a kill leaves it whole or absent. The key is the hash of everything that decides a bit of the result:
bars, configuration, seed, threads, versions of the libraries and mlkit's own code.
"""

import hashlib
import io
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from mlkit.config import Settings, write_atomic
from mlkit.errors import ConfigError
from mlkit.evaluation import Source, configuration_hash
from mlkit.features import FeatureSet
from mlkit.models.ensemble import EnsembleSettings, Progress
from mlkit.operations.tracking.provenance import package_versions
from mlkit.operations.tracking.trials import configuration, feature_digest
from mlkit.operations.training.panel_layout import Bars, markets_of
from mlkit.operations.training.training_set import ensemble_settings

WORK_FOLDER = ".work"  # of all trainings that have not ended
ARRAY_PREFIX = ".training-set-"  # of folders that hold the arrays of one fit; a killed process leaves its own
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How a training is executed; by default in memory, silently, and without anything kept for a later run.

    Parameters
    ----------
    progress : callable(stage, done, total), called after every step
    arrays : folder for features and labels in files instead of memory, for histories that are together larger than
        memory: about twice the size of the matrix, 197 float32 a bar. Up to `mlkit.models.ensemble.ROWS_IN_MEMORY`
        rows both give the same bundle.
    stages : folder of the finished stages, made by `resumable`
    """

    progress: Progress | None = None
    arrays: Path | None = None
    stages: Path | None = None

    def named(self, name: str) -> Progress:
        """The progress callable, with ``name`` before each step."""

        def report(stage: str, done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(f"{name}: {stage}", done, total)

        return report

    @contextmanager
    def array_folder(self) -> Iterator[Path | None]:
        """A new folder in ``arrays`` that is deleted when the block ends; None where arrays lie in memory."""
        if self.arrays is None:
            yield None
            return
        self.arrays.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.arrays, prefix=ARRAY_PREFIX) as folder:
            yield Path(folder)

    def load(self, stage: str) -> dict[str, bytes] | None:
        """The files of a finished stage; None where it is not finished, or damaged, which is logged."""
        if self.stages is None:
            return None
        path = self.stages / f"{stage}.zip"
        try:
            with zipfile.ZipFile(path) as kept:
                return {name: kept.read(name) for name in kept.namelist()}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            _log.warning("%s is damaged (%s): that stage is computed again", path, error)
            return None

    def save(self, stage: str, files: Mapping[str, bytes]) -> None:
        """Keep the files of a stage, in one step."""
        if self.stages is None:
            return
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as kept:
            for name, data in files.items():
                kept.writestr(name, data)
        write_atomic(self.stages / f"{stage}.zip", content.getvalue())


@contextmanager
def resumable(
    bars: Bars,
    settings: Settings,
    *,
    ensemble: EnsembleSettings | None = None,
    features: FeatureSet | None = None,
    progress: Progress | None = None,
    in_files: bool = False,
    fresh: bool = False,
) -> Iterator[Execution]:
    """An execution that keeps finished stages until the block ends without an error, to go on after a kill.

    Parameters
    ----------
    bars, settings, ensemble, features, progress : as in `train` and `Execution`
    in_files : features and labels lie in files beside the stages; what a killed run left there is deleted first
    fresh : delete the stages of an earlier run first

    ConfigError while another process does the same training.
    """
    tried = configuration(settings, ensemble or ensemble_settings(settings), feature_digest(features or FeatureSet()))
    key = configuration_hash(
        {
            "sources": [source.sha256 + source.symbol for source in map(Source.of, markets_of(bars))],
            "configuration": tried,
            "threads": (ensemble or settings).n_threads,
            "profile": settings.profile,
            "in files": in_files,
            "versions": package_versions(),
            "code": _code_hash(),
        }
    )
    folder = settings.models / WORK_FOLDER / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        message = f"the same training runs already ({lock.lock_file} is taken); wait for it or stop it"
        raise ConfigError(message) from None
    try:
        for left in folder.glob("*" if fresh else f"{ARRAY_PREFIX}*"):
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
        yield Execution(progress, folder if in_files else None, folder)
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


@cache
def _code_hash() -> str:
    """Hash of mlkit's own source: other code may compute other bits."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
