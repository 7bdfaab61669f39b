"""What moved between two reports."""

from pathlib import Path
from typing import Any

import pytest

from mlkit.cli import main
from mlkit.report import ReportRequest, compare_reports, run_report


def test_inputs_and_numbers_that_moved_are_listed_verdicts_first(
    tiny: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**tiny[1], "reports": tmp_path}
    other = run_report(ReportRequest(seed=8, parameters={"label": "007", "until": "2010-01-01"}), **options)
    diff = compare_reports(tiny[0], other)
    assert [row[0] for row in diff.numbers[:2]] == ["00_first: 5 bars: verdict", "01_next: 5 bars: verdict"]
    assert ("seed", "7", "8") in diff.inputs
    assert any(name == "data bars" for name, _, _ in diff.inputs)
    moved = {name: change for name, _, _, change in diff.numbers}
    assert "%" in moved["00_first: Draws: close"]
    assert diff.same == 2  # the labels
    assert main(["diff", str(tiny[0]), str(other)]) == 0
    assert "2 headline numbers are equal, 6 differ" in capsys.readouterr().out
    assert "<table>" in diff._repr_html_()


def test_a_report_does_not_differ_from_itself(tiny: tuple[Path, dict[str, Any]]) -> None:
    diff = compare_reports(tiny[0], tiny[0])
    assert (diff.inputs, diff.numbers, diff.same) == ((), (), 8)


def test_a_folder_without_a_receipt_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(tmp_path), str(tmp_path)]) == 2
    assert "holds no readable receipt.json" in capsys.readouterr().err
