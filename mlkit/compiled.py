"""Compiled functions that numba keeps on disk, also where neither the package nor the home folder can be written."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_log = logging.getLogger("mlkit")


def cached(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with a cache beside the source or in the home folder, else in a temporary folder, else without."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba found no folder that it can write
            if numba.config.CACHE_DIR:
                return numba.njit(**options)(function)
            folder = _own_folder()
            why = "neither the package nor the home folder can be written"
            if folder is None:
                _log.warning("%s: functions are compiled anew in every process; set NUMBA_CACHE_DIR", why)
            else:
                _log.warning("%s: compiled functions are kept in %s; set NUMBA_CACHE_DIR to choose", why, folder)
            # Worker processes read it too. A folder that does not exist means no cache, and no second line in the log.
            os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(folder or os.devnull)
            return compiled(function)

    return compiled


def _own_folder() -> Path | None:
    """A temporary folder that only this user can write, for numba runs the code in it; None where there is none."""
    try:
        folder = Path(tempfile.gettempdir()) / f"mlkit-numba-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == os.getuid() and not folder.is_symlink() and found.st_mode & 0o077 == 0:
            return folder
        return Path(tempfile.mkdtemp(prefix="mlkit-numba-"))
    except OSError:
        return None
