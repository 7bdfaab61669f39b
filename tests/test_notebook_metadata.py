"""Committed notebooks carry nothing that differs between two runs or two machines."""

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    """The script behind ``make notebooks``."""
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / ".ci" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sound(notebooks: ModuleType) -> NotebookNode:
    """A notebook that may be committed."""
    cell = new_code_cell("1 + 1", execution_count=1, metadata={"tags": ["parameters"]})
    notebook: NotebookNode = new_notebook(cells=[cell])
    notebooks.clean(notebook)
    return notebook


def test_committed_notebooks_are_clean(notebooks: ModuleType) -> None:
    found = {path.name: notebooks.problems(path) for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_each_fault_is_named(notebooks: ModuleType, sound: NotebookNode, tmp_path: Path) -> None:
    path = tmp_path / "planted.ipynb"
    nbformat.write(sound, path)
    assert notebooks.problems(path) == []

    sound.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    sound.cells[0].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    sound.cells[0].execution_count = 3
    styler = {"text/html": '<table id="T_6df84">', "text/plain": "<Styler at 0x7f0227addd50>"}
    sound.cells[0].outputs = [
        new_output("stream", name="stderr", text="a warning"),
        new_output("display_data", styler),
        new_output("execute_result", {"text/plain": str(ROOT / "data")}),
    ]
    nbformat.write(sound, path)
    assert notebooks.problems(path) == [
        "notebook metadata is not the canonical one",
        "cells were not run once from top to bottom",
        "cell 0 has metadata execution",
        "cell 0 shows an error or a warning",
        "cell 0 shows a memory address",
        "cell 0 shows a random Styler id",
        "cell 0 shows the path of this checkout",
    ]


def test_clean_mends_the_metadata(notebooks: ModuleType, sound: NotebookNode, tmp_path: Path) -> None:
    sound.metadata["papermill"] = {"duration": 1.5}
    sound.cells[0].metadata["collapsed"] = True
    notebooks.clean(sound)
    path = tmp_path / "cleaned.ipynb"
    nbformat.write(sound, path)
    assert notebooks.problems(path) == []
    assert sound.cells[0].metadata["tags"] == ["parameters"]


def test_a_widget_leaves_only_its_static_face(notebooks: ModuleType, sound: NotebookNode, tmp_path: Path) -> None:
    faces = {"application/vnd.jupyter.widget-view+json": {"model_id": "6df84"}, "text/html": "<div>card</div>"}
    sound.cells[0].outputs = [new_output("display_data", faces)]
    sound.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    path = tmp_path / "planted.ipynb"
    nbformat.write(sound, path)
    assert notebooks.problems(path) == ["notebook metadata is not the canonical one", "cell 0 shows a widget"]
    notebooks.clean(sound)
    nbformat.write(sound, path)
    assert notebooks.problems(path) == [] and sound.cells[0].outputs[0].data == {"text/html": "<div>card</div>"}
