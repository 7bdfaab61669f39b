"""Finished notebooks are taken as they are, and computed again when anything that decides them has changed."""

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mlkit.errors import ReportError
from mlkit.report import ReportRequest, run_report
from mlkit.report.reuse import KEPT, FinishedNotebooks


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> Path:
    """A project of two notebooks; running one leaves a mark, the second writes an artifact and can be broken.

    No kernel is started: what is tested is when a notebook runs, not how.
    """

    def execute(notebook: Path, target: Path, values: dict[str, Any], progress: bool) -> None:
        with (tmp_path / notebook.stem).open("a") as file:
            file.write("x")
        target.write_bytes(notebook.read_bytes())
        if notebook.stem == "01_next":
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / "data/made.txt").write_text(str(values))
            if (tmp_path / "broken").exists():
                raise ReportError("01_next.ipynb, cell 5: broken")

    monkeypatch.setattr("mlkit.report.run.execute", execute)
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    for name in ("00_first", "01_next"):
        write(tmp_path / f"nb/{name}.ipynb", "1 + 1")
    return tmp_path


def runs(project: Path) -> tuple[int, int]:
    """How often each notebook has run."""
    paths = [project / "00_first", project / "01_next"]
    first, second = (len(path.read_text()) if path.exists() else 0 for path in paths)
    return first, second


def report(project: Path, **options: Any) -> list[str]:
    """Make the report; returns what was reused."""
    force = options.pop("force", False)
    folders = {"notebooks": project / "nb", "reports": project / "reports"}
    path = run_report(ReportRequest(**options), force=force, progress=False, **folders)
    reused: list[str] = json.loads((path / "receipt.json").read_bytes())["reused"]
    return reused


def test_a_second_run_computes_only_what_changed(project: Path) -> None:
    assert report(project) == [] and runs(project) == (1, 1)
    assert report(project) == ["00_first.ipynb", "01_next.ipynb"] and runs(project) == (1, 1)

    (project / "data/made.txt").write_text("changed by somebody else")
    assert report(project) == ["00_first.ipynb"] and runs(project) == (1, 2)

    notebook = nbformat.read(project / "nb/00_first.ipynb", as_version=4)
    notebook.cells[-1].source += "\n1 + 1"
    nbformat.write(notebook, project / "nb/00_first.ipynb")
    assert report(project) == [] and runs(project) == (2, 3)  # what comes after it too

    assert report(project, seed=8) == [] and runs(project) == (3, 4)
    assert report(project, force=True) == [] and runs(project) == (4, 5)


def test_after_a_failure_the_finished_notebooks_are_kept(project: Path) -> None:
    (project / "broken").touch()
    with pytest.raises(ReportError, match=r"01_next\.ipynb, cell 5"):
        report(project)
    (project / "broken").unlink()
    assert report(project) == ["00_first.ipynb"] and runs(project) == (1, 2)


def test_a_damaged_or_foreign_entry_is_no_entry(project: Path, tmp_path: Path) -> None:
    report(project)
    for entry in (project / "reports" / KEPT).iterdir():
        executed = next(entry.glob("*.ipynb"))
        executed.write_bytes(executed.read_bytes()[:-9])
    assert report(project) == [] and runs(project) == (2, 2)
    for entry in (project / "reports" / KEPT).iterdir():
        (entry / "entry.json").write_text("[]")
    assert report(project) == [] and runs(project) == (3, 3)


@pytest.mark.parametrize("change", ["value", "data", "thread", "setting", "before"])
def test_the_key_depends_on(change: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, inputs = project / "nb/00_first.ipynb", {"data": {"sha256": "a"}}
    key = FinishedNotebooks(project, inputs).key(notebook, {"seed": 7}, "")
    assert FinishedNotebooks(project, inputs).key(notebook, {"seed": 7}, "") == key
    if change == "thread":
        monkeypatch.setenv("OMP_NUM_THREADS", "63")
    if change == "setting":
        monkeypatch.setenv("MLKIT_COST_BPS", "9")
    values = {"seed": 8 if change == "value" else 7}
    other = {"data": {"sha256": "b" if change == "data" else "a"}}
    assert FinishedNotebooks(project, other).key(notebook, values, "z" if change == "before" else "") != key


def test_only_the_newest_are_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlkit.report.reuse._MOST", 2)
    kept = FinishedNotebooks(project / "reports", {"data": {"sha256": "a"}})
    for number in range(4):
        kept.store(f"{number}", project / "nb/00_first.ipynb", {})
        os.utime(project / "reports" / KEPT / f"{number}", (number, number))
    assert sorted(path.name for path in (project / "reports" / KEPT).iterdir()) == ["2", "3"]
