"""Run the committed notebooks again and rewrite them in place (make notebooks), or check them.

What a committed notebook may carry: cells run once from top to bottom, tags, and the metadata every
machine agrees on. No run times, no interpreter version, no tool's private metadata.

    python .ci/notebooks.py [--check] [notebook ...]
"""

import argparse
import ast
import json
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = {"tags"}
WIDGET = "application/vnd.jupyter.widget-view+json"  # the id of a live object; its static face stands beside it
# What the next run writes otherwise: an object's address, a Styler's random id (Styler.set_uuid fixes it),
# the folder of this checkout.
VOLATILE = {
    "a memory address": re.compile(r" at 0x[0-9a-f]{6,}>"),
    "a random Styler id": re.compile(r'<table id=\\?"T_[0-9a-f]{5}\\?"'),
    "the path of this checkout": re.compile(re.escape(str(FOLDER.parent))),
}


# A notebook calls mlkit and reads the answer; what is longer than a plot helper belongs into the package.
HELPER_LINES = 12
CELL_LINES = 30
NETWORK = {"requests", "urllib", "http", "httpx", "aiohttp", "socket", "ccxt", "ftplib", "s3fs"}


def clean(notebook: NotebookNode) -> None:
    """Drop everything that differs between two runs or two machines, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)


def problems(path: Path) -> list[str]:
    """Why this notebook may not be committed as it is; empty when it may."""
    notebook = nbformat.read(path, as_version=4)
    found = [] if notebook.metadata == METADATA else ["notebook metadata is not the canonical one"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("cells were not run once from top to bottom")
    for number, cell in enumerate(notebook.cells):
        if extra := sorted(set(cell.metadata) - CELL_METADATA):
            found.append(f"cell {number} has metadata {', '.join(extra)}")
        if cell.cell_type == "code":
            found += [f"cell {number} {fault}" for fault in logic(cell.source)]
        on_purpose = "raises-exception" in cell.metadata.get("tags", ())
        for output in cell.get("outputs", ()):
            if (output.output_type == "error" and not on_purpose) or output.get("name") == "stderr":
                found.append(f"cell {number} shows an error or a warning")
            found += [f"cell {number} shows a widget"] if WIDGET in output.get("data", {}) else []
            text = json.dumps({k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")})
            found += [f"cell {number} shows {name}" for name, seen in VOLATILE.items() if seen.search(text)]
    return found


def logic(source: str) -> list[str]:
    """What in the code of one cell belongs elsewhere: logic, or a way to the network."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    found = [f"is {len(lines)} lines long"] if len(lines) > CELL_LINES else []
    found += ["runs a shell or magic command"] if len(lines) < len(source.splitlines()) else []
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ClassDef):
            found.append(f"defines the class {node.name}")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            found += [f"defines {node.name}, {length} lines long"] if length > HELPER_LINES else []
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}: no network" for name in names if name.split(".")[0] in NETWORK]
    return found


def run(path: Path) -> None:
    """Execute a notebook in its own folder and replace it when every cell has succeeded."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # of the kernel's own log, not of the cells
    ).execute()
    clean(notebook)
    temporary = path.with_name(f".{path.name}.tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run the notebooks again, or check what is committed.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of them")
    parser.add_argument("--check", action="store_true", help="run nothing; say what may not be committed")
    options = parser.parse_args()
    status = 0
    for path in options.notebooks or sorted(FOLDER.glob("*.ipynb")):
        if options.check:
            for problem in problems(path):
                print(f"{path.name}: {problem}", file=sys.stderr)
                status = 1
        else:
            print(path.name, flush=True)
            run(path)
    return status


if __name__ == "__main__":
    sys.exit(main())
