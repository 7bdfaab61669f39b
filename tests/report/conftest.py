"""Tiny notebooks for reports, and a report of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlkit.report import ReportRequest, run_report

Write = Callable[..., Path]

TINY = 'symbol: str = "SP500"\nseed: int = 7\nlabel: str = "x"\nsince: str | None = None\nuntil: str | None = None'
DRAW = """
import numpy as np
import mlkit
from mlkit.report import headline
bars = mlkit.load_bars(symbol, "1d", since=since, until=until)
draw = np.random.default_rng(seed).normal()
headline("Draws", first=draw, close=float(bars["close"].iloc[-1]), label=label)
headline("5 bars", verdict="edge" if draw > 0 else "no edge")
"""


@pytest.fixture(scope="session")
def write() -> Write:
    """Writes a notebook: a title, a cell tagged ``parameters``, and the cells given as code."""

    def made(path: Path, *cells: str, parameters: str = TINY) -> Path:
        tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
        path.parent.mkdir(parents=True, exist_ok=True)
        title = new_markdown_cell(f"# About {path.stem}")
        nbformat.write(new_notebook(cells=[title, tagged, *map(new_code_cell, cells)]), path)
        return path

    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, write: Write) -> tuple[Path, dict[str, Any]]:
    """A report of two tiny notebooks, never to be changed, and the options that made it."""
    root = tmp_path_factory.mktemp("tiny")
    for name in ("00_first", "01_next"):
        write(root / f"nb/{name}.ipynb", DRAW)
    options: dict[str, Any] = {"notebooks": root / "nb", "reports": root / "reports", "progress": False}
    return run_report(ReportRequest(parameters={"label": "007"}), **options), options
