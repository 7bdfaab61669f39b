"""Commit of the code and versions of the packages that the numbers depend on."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlkit.models.ensemble import DISTRIBUTIONS

_PACKAGES = (
    *("mlkit", "numpy", "pandas", "numba", "pyarrow", "pydantic", "scipy", "arch", *DISTRIBUTIONS),
    *("torch", "matplotlib", "papermill", "nbconvert", "ipykernel"),
)


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether tracked or new files differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a notebook's output depends on, by name."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
