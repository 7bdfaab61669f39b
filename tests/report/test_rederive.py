"""Verify: an untouched report passes; one changed bar, parameter, number, byte or cell does not."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mlkit.errors import ReportError
from mlkit.report import verify_report
from mlkit.report.headlines import HEADLINE_MIME, collect_headlines, headline_digest
from mlkit.report.index_page import render_page
from mlkit.report.receipt import build_receipt, environment_of, read_notebooks
from mlkit.report.rederive import TOLERANCE, first_difference, same_kind


def receipt_of(folder: Path) -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads((folder / "receipt.json").read_bytes())
    return receipt


def forge(folder: Path, sources: Path | None = None, **changes: Any) -> None:
    """Write the receipt, and with ``sources`` the page, that fit the files: what a careful forger would do."""
    receipt = {**receipt_of(folder), **changes}
    if sources is not None:
        page = render_page(receipt, read_notebooks(folder), folder=sources)
        (folder / "index.html").write_text(page)
    names = [path.name for path in folder.iterdir() if path.name != "receipt.json"]
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names)}
    (folder / "receipt.json").write_text(json.dumps({**receipt, "files": files}))


@pytest.fixture
def copy(tiny: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return shutil.copytree(tiny[0], tmp_path / "copy")


def refusal(copy: Path, tiny: tuple[Path, dict[str, Any]], *, again: bool = False) -> str:
    with pytest.raises(ReportError) as caught:
        verify_report(copy, again=again, notebooks=tiny[1]["notebooks"], progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_untouched_report_is_run_again_and_is_equal(tiny: tuple[Path, dict[str, Any]]) -> None:
    before = sorted(path.name for path in tiny[0].parent.iterdir())
    lines = verify_report(tiny[0], notebooks=tiny[1]["notebooks"], progress=False)
    assert lines[-2:] == ["data: the same bars", "again: 8 headline numbers equal"]
    assert sorted(path.name for path in tiny[0].parent.iterdir()) == before


@pytest.mark.parametrize("name", ["00_first.ipynb", "index.html", "receipt.json"])
def test_one_edited_number_is_seen(name: str, copy: Path, tiny: tuple[Path, dict[str, Any]]) -> None:
    path = copy / name
    number = receipt_of(copy)["headlines"][0]["value"]
    text = path.read_text()
    path.write_text(text.replace(repr(number), repr(number + 1)))
    assert path.read_text() != text
    refusal(copy, tiny)


def test_a_page_whose_digest_was_forged_is_still_not_what_the_notebooks_render_to(
    copy: Path, tiny: tuple[Path, dict[str, Any]]
) -> None:
    page = copy / "index.html"
    page.write_text(page.read_text().replace("no edge", "edge") if "no edge" in page.read_text() else "edited")
    forge(copy)
    assert "index.html is not what its notebooks render to" in refusal(copy, tiny)


def test_a_missing_and_a_foreign_file_are_named(copy: Path, tiny: tuple[Path, dict[str, Any]]) -> None:
    (copy / "00_first.ipynb").rename(copy / "02_new.ipynb")
    message = refusal(copy, tiny)
    assert "00_first.ipynb is missing" in message and "02_new.ipynb is not in the receipt" in message


def test_a_consistent_forgery_is_found_by_running_it_again(copy: Path, tiny: tuple[Path, dict[str, Any]]) -> None:
    """Notebook, page, receipt and digests all tell the same false number; only the truth can object."""
    notebook = nbformat.read(copy / "01_next.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    payload = next(output.data[HEADLINE_MIME] for output in outputs if HEADLINE_MIME in output.get("data", {}))
    payload["numbers"][0][1] = 9.99
    nbformat.write(notebook, copy / "01_next.ipynb")
    headlines = collect_headlines(read_notebooks(copy))
    forge(copy, tiny[1]["notebooks"], headlines=headlines, headline_digest=headline_digest(headlines))
    verify_report(copy, again=False, notebooks=tiny[1]["notebooks"])
    message = refusal(copy, tiny, again=True)
    assert "01_next.ipynb" in message and "first was 9.99 and comes out as 0.00123" in message


def test_another_parameter_or_other_bars_or_another_cell_is_named(
    copy: Path, tiny: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    receipt = receipt_of(copy)
    sources = tiny[1]["notebooks"]
    forge(copy, sources, data={**receipt["data"], "sha256": "0" * 64})
    assert "the bars are not the ones it was made from" in refusal(copy, tiny, again=True)

    values = {name: {**passed, "label": "008"} for name, passed in receipt["parameters"].items()}
    forge(copy, sources, data=receipt["data"], parameters=values)
    assert "label was '007' and comes out as '008'" in refusal(copy, tiny, again=True)

    forge(copy, sources, parameters=receipt["parameters"])
    changed = shutil.copytree(sources, tmp_path / "changed")
    notebook = nbformat.read(changed / "01_next.ipynb", as_version=4)
    notebook.cells[-1].source += "\n# one more line"
    nbformat.write(notebook, changed / "01_next.ipynb")
    with pytest.raises(ReportError, match=r"01_next\.ipynb is not the notebook that ran \(code cell 2 differs\)"):
        verify_report(copy, notebooks=changed, progress=False)


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("settings", "PYTHONPATH", None),  # None: the folder of the report
        ("settings", "PYTHONSTARTUP", None),
        ("settings", "LD_PRELOAD", "evil.so"),
        ("settings", "MLKIT_HOME", "/tmp/elsewhere"),
        ("settings", "MLKIT_LEDGER_PATH", "/tmp/elsewhere/ledger.jsonl"),
        ("settings", "MLKIT_TUNING_STORAGE", "postgresql://user:secret@host/db"),
        ("settings", "MLKIT_PATTERN_WEIGHTS_PATH", "/tmp/elsewhere"),
        ("settings", "MLFLOW_TRACKING_URI", "http://elsewhere"),
        ("settings", "MLKIT_SEED", "seven"),
        ("settings", "MLKIT_SEED", 7),
        ("settings", "MLKIT_SEED", "1" * 501),
        ("threads", "PYTHONPATH", None),
        ("threads", "OMP_NUM_THREADS", "2; touch x"),
        ("threads", "OMP_NUM_THREADS", "2\n"),
    ],
)
def test_a_receipt_sets_no_variable_but_settings_of_models_and_threads(
    table: str, name: str, value: Any, copy: Path, tiny: tuple[Path, dict[str, Any]]
) -> None:
    """A stranger's receipt that could run the stranger's code: the interpreter would import it at its start."""
    (copy / "sitecustomize.py").write_text(f"from pathlib import Path\nPath({str(copy / 'ran')!r}).touch()\n")
    planted = {**receipt_of(copy)[table], name: str(copy) if value is None else value}
    forge(copy, tiny[1]["notebooks"], **{table: planted})
    assert "receipt.json" in refusal(copy, tiny, again=True)
    assert not (copy / "ran").exists()


def test_a_receipt_holds_no_secret_and_no_folder(
    tiny: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLKIT_TUNING_STORAGE", "postgresql://user:secret@host/db")
    monkeypatch.setenv("MLKIT_LEDGER_PATH", "/somewhere/ledger.jsonl")
    monkeypatch.setenv("MLKIT_COST_BPS", "2.5")
    settings = build_receipt({}, {})["settings"]
    assert settings["MLKIT_COST_BPS"] == "2.5"
    assert not [value for value in settings.values() if "secret" in value or "somewhere" in value]
    assert environment_of({"settings": {"MLKIT_COST_BPS": "2.5"}, "threads": {"OMP_NUM_THREADS": "1"}}) == {
        "MLKIT_COST_BPS": "2.5",
        "OMP_NUM_THREADS": "1",
    }


def test_a_folder_that_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no readable receipt\.json"):
        verify_report(tmp_path)


# --- the comparison -------------------------------------------------------------------------------


def entry(value: Any, name: str = "r2") -> dict[str, Any]:
    return {"notebook": "04_a.ipynb", "cell": 3, "title": "5 bars", "name": name, "value": value, "digits": 4}


def test_the_first_difference_is_named_with_its_place() -> None:
    was = [entry(0.5, "a"), entry(0.25, "b"), entry("edge", "c")]
    now = [entry(0.5, "a"), entry(0.26, "b"), entry("no edge", "c")]
    assert first_difference(was, was, 0.0) is None
    assert first_difference(was, now, 0.0) == "04_a.ipynb, cell 3 '5 bars': b was 0.25 and comes out as 0.26"
    assert first_difference(was, now[:1], 0.0) == "3 headline numbers were written and 1 come out"


def test_tolerance_is_for_numbers_and_never_for_words() -> None:
    near, far = 0.25 * (1 + TOLERANCE / 2), 0.25 * (1 + 2 * TOLERANCE)
    assert first_difference([entry(0.25)], [entry(near)], TOLERANCE) is None
    assert first_difference([entry(0.25)], [entry(far)], TOLERANCE)
    assert first_difference([entry(0.25)], [entry(near)], 0.0)
    assert first_difference([entry("edge")], [entry("no edge")], TOLERANCE)
    assert first_difference([entry(True)], [entry(1.0)], TOLERANCE) is None  # JSON keeps them apart by type only
    assert first_difference([entry(None)], [entry(0.0)], TOLERANCE)


def test_another_version_or_thread_count_is_another_kind(tiny: tuple[Path, dict[str, Any]]) -> None:
    receipt = receipt_of(tiny[0])
    assert same_kind(receipt, receipt)
    assert same_kind(receipt, {**receipt, "platform": {**receipt["platform"], "cpus": 999}})
    assert not same_kind(receipt, {**receipt, "versions": {**receipt["versions"], "numpy": "0"}})
    assert not same_kind(receipt, {**receipt, "threads": {**receipt["threads"], "OMP_NUM_THREADS": "64"}})
