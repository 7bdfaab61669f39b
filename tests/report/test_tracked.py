"""A report as a tracked run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlkit.errors import ReportError
from mlkit.operations.tracking.journal import waiting
from mlkit.report.plan import ReportRequest, make_plan
from mlkit.report.receipt import read_receipt
from mlkit.report.tracked import tracked_report


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is kept for MLflow, which is not there."""
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlflow", None)

    def read() -> tuple[Path, list[dict[str, Any]]]:
        (folder,) = waiting()
        return folder / "files", [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]

    return read


def plan_of(options: dict[str, Any]) -> Any:
    given = {name: options[name] for name in ("notebooks", "reports")}
    return make_plan(ReportRequest(parameters={"label": "007"}), **given)


def test_page_receipt_and_headline_numbers_are_told(tiny: tuple[Path, dict[str, Any]], journal: Any) -> None:
    folder, options = tiny
    with tracked_report(plan_of(options), True) as tell:
        tell(folder)
    files, entries = journal()
    for name in ("index.html", "receipt.json"):
        assert (files / "report" / name).read_bytes() == (folder / name).read_bytes()
    receipt = read_receipt(folder)
    (told,) = (entry["values"] for entry in entries if entry["do"] == "metrics")
    expected = {f"{Path(e['notebook']).stem} {e['title']} {e['name']}": e["value"] for e in receipt["headlines"]}
    assert told == {name: value for name, value in expected.items() if not isinstance(value, str)} and len(told) == 4
    start = entries[0]
    assert start["name"] == "SP500-1d" and start["parameters"]["00_first.label"] == "007"
    assert start["parameters"]["data.sha256"] == receipt["data"]["sha256"]
    tags = {name: value for entry in entries if entry["do"] == "tags" for name, value in entry["values"].items()}
    assert (
        tags["headline_digest"] == receipt["headline_digest"] and tags["00_first 5 bars verdict"] in expected.values()
    )
    assert entries[-1]["status"] == "FINISHED"


def test_of_a_failed_report_the_page_with_the_failing_cell_is_told(
    tiny: tuple[Path, dict[str, Any]], journal: Any, tmp_path: Path
) -> None:
    page = tmp_path / "reports" / "failed" / "SP500-1d" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("failing cell")
    with pytest.raises(ReportError), tracked_report(plan_of(tiny[1] | {"reports": tmp_path / "reports"}), True):
        raise ReportError("00_first, cell 2: ValueError")
    files, entries = journal()
    assert (files / "report" / "index.html").read_text() == "failing cell"
    assert entries[-1]["status"] == "FAILED"


def test_a_library_call_of_the_smoke_profile_is_not_tracked(tiny: tuple[Path, dict[str, Any]], journal: Any) -> None:
    with tracked_report(plan_of(tiny[1]), None) as tell:
        tell(tiny[0])
    assert waiting() == []
