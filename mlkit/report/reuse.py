"""Finished notebooks, stored under a hash of their inputs, so that a second run computes only what changed."""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mlkit.config import project_root, sha256_file, write_atomic
from mlkit.operations.tracking import package_versions
from mlkit.report.receipt import THREADS, read_notebook

KEPT = ".kept"  # folder under reports/
_MOST = 60  # finished notebooks that stay, the newest
_ENTRY = "entry.json"
_NO_OUTPUT = {"bars", "mlartifacts"}  # folders of data/: the lake, and files of MLflow


class FinishedNotebooks:
    """The finished notebooks of one reports folder.

    A notebook is reused only when all of these are the same: its cells, the values of its parameters, the bars, the
    code of ``mlkit``, the package versions, the threads and ``MLKIT_`` settings, and the notebook that ran before
    it; and when the files that it wrote under ``data/`` have not changed since.
    """

    def __init__(self, reports: Path, inputs: Mapping[str, Any]) -> None:
        self._folder = reports / KEPT
        self._common = {
            "data": inputs["data"]["sha256"],
            "code": _code_digest(),
            "versions": package_versions(),
            "machine": [platform.machine(), platform.system()],
            "threads": [os.environ.get(name) for name in (*THREADS, "PYTHONHASHSEED")],
            "settings": {name: value for name, value in os.environ.items() if name.startswith("MLKIT_")},
        }

    def key(self, notebook: Path, values: Mapping[str, Any], before: str) -> str:
        """Hex SHA-256 of everything that determines the outputs; ``before`` is the key of the notebook before it."""
        cells = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in read_notebook(notebook).cells]
        made_of = {**self._common, "name": notebook.name, "cells": cells, "values": dict(values), "before": before}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def restore(self, key: str, target: Path) -> bool:
        """Copy the finished notebook to ``target``; False if there is none, or a file that it wrote has changed."""
        folder = self._folder / key
        try:
            entry = json.loads((folder / _ENTRY).read_bytes())
            executed = (folder / entry["notebook"]).read_bytes()
            sound = hashlib.sha256(executed).hexdigest() == entry["sha256"] and all(
                sha256_file(project_root() / name) == digest for name, digest in entry["artifacts"].items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if sound:
            write_atomic(target, executed)
            # _prune removes the oldest.
            os.utime(folder)
        return sound

    def store(self, key: str, executed: Path, before: Mapping[str, tuple[int, int]]) -> None:
        """Store an executed notebook with the digests of the files it wrote; ``before``: `artifacts` at its start."""
        work = self._folder / f"{key}.{os.getpid()}.tmp"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        shutil.copyfile(executed, work / executed.name)
        written = [name for name, state in artifacts().items() if before.get(name) != state]
        entry = {
            "notebook": executed.name,
            "sha256": sha256_file(executed),
            "artifacts": {name: sha256_file(project_root() / name) for name in written},
        }
        write_atomic(work / _ENTRY, json.dumps(entry, indent=1).encode())
        shutil.rmtree(self._folder / key, ignore_errors=True)
        work.rename(self._folder / key)
        self._prune()

    def _prune(self) -> None:
        with suppress(FileNotFoundError):  # another report removed one at the same time
            entries = sorted(filter(Path.is_dir, self._folder.iterdir()), key=lambda path: path.stat().st_mtime)
            for folder in entries[:-_MOST]:
                shutil.rmtree(folder, ignore_errors=True)


def artifacts() -> dict[str, tuple[int, int]]:
    """Modification time and size of every file under ``data/`` that a notebook may have written; not the lake."""
    root = project_root()
    found = {}
    for folder, folders, files in os.walk(root / "data"):
        top = Path(folder) == root / "data"
        folders[:] = [name for name in folders if not (name.startswith(".") or (top and name in _NO_OUTPUT))]
        for file in files:
            path = Path(folder, file)
            if file.startswith(".") or file.endswith((".lock", ".jsonl", ".db", ".tmp")) or not path.is_file():
                continue  # logs and databases grow with every run
            state = path.stat()
            found[str(path.relative_to(root))] = (state.st_mtime_ns, state.st_size)
    return found


@cache
def _code_digest() -> str:
    """SHA-256 over every file of the package."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(package)}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
