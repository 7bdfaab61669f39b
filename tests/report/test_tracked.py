"""A report as a tracked run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlkit.errors import ReportError
from mlkit.operations.tracking.mlflow_store import MlflowStore
from mlkit.report.plan import ReportRequest, make_plan
from mlkit.report.receipt import read_receipt
from mlkit.report.tracked import tracked_report


class Client:
    """What MLflow's client was asked to store."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.name = self.status = ""

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(lifecycle_stage="active", experiment_id="1")

    def create_run(self, experiment: str, time: int, tags: dict[str, str], run_name: str) -> Any:
        self.name = run_name
        return SimpleNamespace(info=SimpleNamespace(run_id="run"))

    def log_batch(self, run: str, **rows: Any) -> None:
        for field, values in rows.items():
            getattr(self, field).update({one.key: one.value for one in values})

    def log_artifact(self, run: str, path: str, folder: str | None) -> None:
        self.files[f"{folder}/{Path(path).name}"] = Path(path).read_bytes()

    def log_text(self, run: str, text: str, path: str) -> None: ...

    def log_inputs(self, run: str, datasets: Any) -> None: ...

    def set_terminated(self, run: str, status: str, time: int) -> None:
        self.status = status


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client that stores nothing on the disk."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    made = Client()
    monkeypatch.setattr(MlflowStore, "_client", lambda self: made)
    return made


def plan_of(options: dict[str, Any]) -> Any:
    given = {name: options[name] for name in ("notebooks", "reports")}
    return make_plan(ReportRequest(parameters={"label": "007"}), **given)


def test_page_receipt_and_headline_numbers_are_logged(tiny: tuple[Path, dict[str, Any]], client: Client) -> None:
    folder, options = tiny
    with tracked_report(plan_of(options), True) as tell:
        tell(folder)
    for name in ("index.html", "receipt.json"):
        assert client.files[f"report/{name}"] == (folder / name).read_bytes()
    receipt = read_receipt(folder)
    expected = {f"{Path(e['notebook']).stem} {e['title']} {e['name']}": e["value"] for e in receipt["headlines"]}
    numbers = {name: value for name, value in expected.items() if not isinstance(value, str)}
    assert client.metrics == numbers and len(numbers) == 4
    assert client.name == "SP500-1d" and client.params["00_first.label"] == "007"
    assert client.params["data.sha256"] == receipt["data"]["sha256"]
    assert client.tags["headline_digest"] == receipt["headline_digest"]
    assert client.tags["00_first 5 bars verdict"] in expected.values()
    assert client.status == "FINISHED"


def test_of_a_failed_report_the_page_with_the_failing_cell_is_logged(
    tiny: tuple[Path, dict[str, Any]], client: Client, tmp_path: Path
) -> None:
    page = tmp_path / "reports" / "failed" / "SP500-1d" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("failing cell")
    with pytest.raises(ReportError), tracked_report(plan_of(tiny[1] | {"reports": tmp_path / "reports"}), True):
        raise ReportError("00_first, cell 2: ValueError")
    assert client.files == {"report/index.html": b"failing cell"}
    assert client.status == "FAILED"


def test_a_library_call_of_the_smoke_profile_is_not_tracked(tiny: tuple[Path, dict[str, Any]], client: Client) -> None:
    with tracked_report(plan_of(tiny[1]), None) as tell:
        tell(tiny[0])
    assert client.name == "" and client.files == {}
