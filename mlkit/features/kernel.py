"""How the feature kernels are compiled: numba without fastmath, so that every machine computes the same bits."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

#: Kernels release the GIL and divide as IEEE 754 does. They allocate nothing, so reference counting is off.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **OPTIONS}


def sources_stamp(files: Iterable[Path]) -> str:
    """Digest of source files. Numba's cache checks only the file of the entry; a closure over the stamp checks all."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


#: Of every source of this folder.
STAMP = sources_stamp(sorted(Path(__file__).parent.rglob("*.py")))


def kernel(function: Kernel) -> Kernel:
    """A function that only other kernels call; it is inlined into them."""
    inlined: Kernel = njit(forceinline=True, **_INNER)(function)
    return inlined


def formula(function: Kernel) -> Kernel:
    """A function of one bar, `state_rows.Bars`; copied into the loop over the bars, which compiles faster."""
    copied: Kernel = njit(inline="always", **_INNER)(function)
    return copied


def announce_compilation(compiled: Any, what: str = "feature kernels", seconds: int = 20) -> None:
    """Tell the user on standard error when the next call is going to compile for a while."""
    if compiled.signatures or compiled.stats.cache_path is None:
        return
    source = Path(compiled.py_func.__code__.co_filename)
    folder, name = Path(compiled.stats.cache_path), compiled.py_func.__qualname__.rsplit(".", 1)[-1]
    newest = max(file.stat().st_mtime for file in source.parent.rglob("*.py"))
    if not any(index.stat().st_mtime >= newest for index in folder.glob(f"{source.stem}.*{name}-*.nbi")):
        print(f"mlkit: compiling the {what} once, about {seconds} seconds", file=sys.stderr, flush=True)
