"""Faults that a notebook can hide, planted one by one: each is caught by nbval's strict run or by the check.

``make test`` runs nbval over the committed notebooks and `.ci/notebooks.py --check` over what they carry. Here the
same two look at a small sound notebook, in which they find nothing, and at one copy of it for every fault.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
DRAW = "rng = np.random.default_rng(seed)\nreturns = rng.normal(size=4)"
PLOT = "plotted = returns.cumsum().round(3).tolist()\nprint(plotted)"
CAUTIOUS = "try:\n    hit = float(returns[1] > 0)\nexcept IndexError:\n    hit = -1.0\nprint(hit)"
RETURNS = np.random.default_rng(7).normal(size=4)


def sound() -> NotebookNode:
    """A notebook as it should be: run once, seeded, and its figure backed by the numbers it shows."""
    printed = [
        ("seed: int = 7  # of the draw", None),
        ("import numpy as np", None),
        (DRAW, None),
        ("print(f'{returns.mean():.4f}')", f"{RETURNS.mean():.4f}\n"),
        (PLOT, f"{RETURNS.cumsum().round(3).tolist()}\n"),
        (
            "try:\n    hit = float(returns[1] > 0)\nexcept IndexError:\n    hit = -1.0\nprint(hit)",
            f"{float(RETURNS[1] > 0)}\n",
        ),
    ]
    cells = [new_markdown_cell("# A question")]
    for number, (source, text) in enumerate(printed, 1):
        outputs = [new_output("stream", name="stdout", text=text)] if text else []
        cells.append(new_code_cell(source, execution_count=number, outputs=outputs))
    cells[1].metadata["tags"] = ["parameters"]
    notebook: NotebookNode = new_notebook(cells=cells)
    return notebook


def replace(cell: int, old: str, new: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        source = notebook.cells[cell].source
        assert old in source
        notebook.cells[cell].source = source.replace(old, new)

    return plant


def swap(notebook: NotebookNode) -> None:
    notebook.cells[3], notebook.cells[4] = notebook.cells[4], notebook.cells[3]


def drop(notebook: NotebookNode) -> None:
    del notebook.cells[2]


def stale(notebook: NotebookNode) -> None:
    notebook.cells[4].outputs[0].text = "0.1234\n"


def lost(notebook: NotebookNode) -> None:
    notebook.cells[5].outputs = []


def more(source: str, **kind: Any) -> Callable[[NotebookNode], None]:
    """One more cell at the end, committed with the output that ``kind`` describes."""

    def plant(notebook: NotebookNode) -> None:
        outputs = [new_output(**kind)] if kind else []
        notebook.cells.append(new_code_cell(source, execution_count=7, outputs=outputs))

    return plant


def timed(notebook: NotebookNode) -> None:
    notebook.cells[2].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}


STDOUT = {"output_type": "stream", "name": "stdout"}
LOGIC = "def indicator(x):\n" + "    x = x + 1\n" * 15 + "    return x"
# fault -> how it is planted
FAULTS: dict[str, Callable[[NotebookNode], None]] = {
    "a changed metric": replace(4, "mean()", "std()"),
    "a broken plot's data": replace(5, "cumsum()", "cumprod()"),
    "a swallowed exception": replace(6, "returns[1]", "returns[9]"),
    "a reordered cell": swap,
    "hidden state that a fresh kernel lacks": drop,
    "an unseeded draw": replace(3, "default_rng(seed)", "default_rng()"),
    "another seed": replace(1, "7", "8"),
    "a stale output": stale,
    "an output that was cleared": lost,
    "a clock in the output": more("import time\nprint(time.time_ns())", **STDOUT, text="1767225600000000000\n"),
    "a committed error": more(
        "1 / 0", output_type="error", ename="ZeroDivisionError", evalue="division by zero", traceback=[]
    ),
    "a warning on stderr": more("print()", output_type="stream", name="stderr", text="DeprecationWarning\n"),
    "a memory address": more(
        "object()",
        output_type="execute_result",
        execution_count=7,
        data={"text/plain": "<object object at 0x7f0227addd50>"},
    ),
    "a cell that does not end": more("import time\ntime.sleep(3600)"),
    "a way to the network": more("import urllib.request"),
    "a shell command": more("!curl example.org"),
    "logic that belongs into the package": more(LOGIC),
    "run times in the metadata": timed,
}


@pytest.fixture(scope="module")
def check() -> Callable[[Path], list[str]]:
    """``problems`` of the script behind ``make notebooks``."""
    spec = importlib.util.spec_from_file_location("notebooks_script", ROOT / ".ci" / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    problems: Callable[[Path], list[str]] = module.problems

    def found(path: Path) -> list[str]:
        notebook = nbformat.read(path, as_version=4)
        before = notebook.cells[2].metadata.copy()
        notebook.metadata = nbformat.from_dict(module.METADATA)
        notebook.cells[2].metadata = before
        nbformat.write(notebook, path)
        return problems(path)

    return found


def caught_by_nbval(folder: Path) -> set[str]:
    """Stems of the notebooks in which a strict run fails; cells have ten seconds."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout", "10"]
    command += ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    return {Path(name).stem for name in re.findall(r"^FAILED (\S+\.ipynb)::", done.stdout, flags=re.MULTILINE)}


def test_every_planted_fault_is_caught(tmp_path: Path, check: Callable[[Path], list[str]]) -> None:
    paths = {}
    for number, (fault, plant) in enumerate({"none": lambda notebook: None, **FAULTS}.items()):
        notebook = sound()
        plant(notebook)
        paths[fault] = tmp_path / f"nb{number:02d}.ipynb"
        nbformat.write(notebook, paths[fault])
    failed = caught_by_nbval(tmp_path)
    catchers = {fault: [*(["nbval"] if path.stem in failed else []), *check(path)[:1]] for fault, path in paths.items()}
    for fault, by in catchers.items():
        print(f"{fault:<40} {'; '.join(by) or '-'}")
    assert catchers.pop("none") == []
    assert len(catchers) >= 12
    assert [fault for fault, by in catchers.items() if not by] == []
