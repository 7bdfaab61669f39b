"""Run one notebook with papermill: in its own folder, with fixed environment variables, errors in one line."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlkit.config import Settings, project_root, write_atomic
from mlkit.errors import DependencyError, ReportError
from mlkit.report.receipt import THREADS, read_notebook

_INLINE = "module://matplotlib_inline.backend_inline"  # MPLBACKEND=Agg of the caller would drop every figure
_WIDGET = "application/vnd.jupyter.widget-view+json"
_MARKER = "papermill-error-cell-tag"


def execute(notebook: Path, target: Path, values: dict[str, Any], progress: bool) -> Any:
    """Run one notebook in its own folder; ReportError names the failed cell and its error."""
    import papermill

    bar: dict[str, Any] | bool = {"desc": notebook.stem, "leave": False} if progress else False
    try:
        executed = papermill.execute_notebook(
            _braced(notebook),
            _braced(target),
            values,
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            progress_bar=bar,
            # Without messages of the kernel about its sockets and its shutdown.
            extra_arguments=["--log-level=50"],
        )
    # A cell's error, a dead kernel, a full disk: papermill has no common base class.
    except Exception as error:
        reason = _reason(notebook.name, error, target)
        _tidy(target, notebook)
        raise ReportError(reason) from error
    _tidy(target, notebook)
    _remove_widgets(executed)
    return executed


def _remove_widgets(notebook: Any) -> None:
    """Remove widgets, which need a kernel; the same output has a static representation."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(_WIDGET, None)


def _reason(notebook: str, error: Exception, target: Path) -> str:
    """One line: notebook, cell, error, message."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        where = f"{notebook}, cell {error.cell_index + 1} (In [{error.exec_count}])"
        return f"{where}: {error.ename}: {one_line(error.evalue)}"
    cells = read_notebook(target).cells if target.exists() else []
    begun = [i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    # A kernel that died names no cell: the last one that began.
    where = f"{notebook}, cell {begun[-1] + 1}" if begun else notebook
    return f"{where}: {type(error).__name__}: {one_line(str(error))}"


def _tidy(target: Path, source: Path) -> None:
    """Remove papermill's error markers, which shift the cells, and the paths of this machine."""
    import nbformat

    if not target.exists():
        return
    notebook = read_notebook(target)
    notebook.cells = [cell for cell in notebook.cells if _MARKER not in cell.metadata.get("tags", [])]
    _remove_widgets(notebook)
    notebook.metadata.setdefault("papermill", {}).update(input_path=source.name, output_path=target.name)
    write_atomic(target, nbformat.writes(notebook).encode())


@contextmanager
def kernel_environment(added: Mapping[str, str] | None = None) -> Iterator[None]:
    """Environment of the kernels: fixed thread counts and hash seed, project root, figure backend, and ``added``."""
    threads = str(Settings().n_threads)
    wanted = {name: os.environ.get(name, threads) for name in THREADS}
    wanted["PYTHONHASHSEED"] = os.environ.get("PYTHONHASHSEED", "0")
    wanted["MLKIT_HOME"] = str(project_root())
    wanted["MPLBACKEND"] = _INLINE
    wanted |= added or {}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    log = logging.getLogger("papermill")
    level = log.level
    # Its warnings concern what is checked before or raised here.
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def require_papermill() -> None:
    """DependencyError naming the first package that is missing."""
    for name in ("papermill", "nbconvert", "matplotlib", "tqdm"):
        if find_spec(name) is None:
            raise DependencyError(f"a report needs {name}, which is not installed: pip install 'mlkit[lab]'")


def _braced(path: Path) -> str:
    """Double the braces of a path, which papermill passes to str.format."""
    return str(path).replace("{", "{{").replace("}", "}}")


def one_line(text: str, most: int = 300) -> str:
    """Text without line breaks, cut after ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
