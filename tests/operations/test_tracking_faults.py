"""Tracking where something is amiss: no MLflow, no server, a dying one, a full disk, two writers at once."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlkit.config import Settings
from mlkit.operations.tracking import tracking
from mlkit.operations.tracking.journal import untracked, waiting
from mlkit.operations.tracking.mlflow_store import Sent
from mlkit.operations.tracking.tracking import send_waiting, tracked

pytest.importorskip("mlflow")
ON = {"tracking": True}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(mlflow_home: Path) -> Path:
    return mlflow_home


@pytest.fixture
def there(recorded_by_mlflow: Any) -> Any:
    return recorded_by_mlflow


# --- without a server -----------------------------------------------------------------------------


def test_without_mlflow_the_run_goes_on_and_is_sent_once_there_is_one(
    home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        run = there.told(Settings(**ON), home / "models")
    assert run.id is None
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING and "pip install 'mlkit[track]'" in warning.getMessage()
    assert there.runs() == [] and len(waiting()) == 1
    shutil.rmtree(home / "models")  # what waits needs nothing else
    assert send_waiting() == (1, 0)
    there.check_told()
    assert waiting() == []
    caplog.clear()
    assert send_waiting() == (0, 0) and caplog.records == []


@pytest.mark.parametrize("fault", ["refusing", "silent", "nonsense", "no folder", "no scheme"])
def test_a_store_that_does_not_work_costs_a_warning(
    fault: str, home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(tracking, "SECONDS", 5.0)
    listener = socket.create_server(("127.0.0.1", 0))
    uri = f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"
    if fault == "refusing":
        listener.close()
    elif fault != "silent":
        uri = {
            "nonsense": f"file:{home}/store",
            "no folder": "sqlite:////proc/nowhere/mlflow.db",
            "no scheme": "nosuchscheme://somewhere",
        }[fault]
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        there.told(Settings(**ON), home / "models")
    listener.close()
    (warning,) = caplog.records
    assert "the run goes on" in warning.getMessage() and "secret" not in warning.getMessage()
    (folder,) = waiting()
    assert "secret" not in (folder / "journal.jsonl").read_text()
    assert send_waiting() == (1, 0)
    there.check_told()


def test_a_full_disk_ends_the_tracking_and_not_the_run(
    home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with tracked("train", Settings(**ON), name="x") as run:
        monkeypatch.setattr("mlkit.operations.tracking.journal.Journal.attach", full)
        run.text("a", "a")
        run.metrics({"b": 1.0})
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    monkeypatch.setattr("mlkit.operations.tracking.journal.Journal.create", full)
    with tracked("train", Settings(**ON), name="x") as run:
        run.metrics({"b": 1.0})
    assert len(caplog.records) == 2


def test_a_torn_journal_is_sent_up_to_the_tear_and_a_killed_run_is_marked(home: Path, there: Any) -> None:
    code = (
        "import os, signal\n"
        "from mlkit.config import Settings\n"
        "from mlkit.operations.tracking.tracking import tracked\n"
        "with tracked('train', Settings(tracking=True), name='x') as run:\n"
        "    run.metrics({'loss': 0.25}, step=4)\n"
        '    run._journal._file.write(\'{"do": "met\'); run._journal._file.flush()\n'
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [run.info.status for run in there.runs()] == ["RUNNING"]
    assert send_waiting() == (1, 0)
    (found,) = there.runs()
    assert found.info.status == "KILLED" and found.data.metrics == {"loss": 0.25}


def test_a_journal_in_use_is_left_alone(home: Path, there: Any) -> None:
    with tracked("train", Settings(**ON), name="x") as run:
        assert send_waiting() == (0, 1)
        run.metrics({"a": 1.0})
    assert there.runs()[0].data.metrics == {"a": 1.0}


def test_what_the_server_refuses_is_set_aside_with_a_warning(
    home: Path, there: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tracked("train", Settings(**ON), name="x") as run:
        there.ask(lambda client: client.log_param(run.id, "depth", "another"))
        run.parameters({"depth": 3})
        run.metrics({"a": 1.0})
    assert "refused part of" in caplog.text and "depth" in caplog.text
    (found,) = there.runs()
    assert found.data.metrics == {"a": 1.0} and found.info.status == "FINISHED"
    assert waiting() == [] and [path.name for path in (untracked() / "refused").iterdir()] == [run.key]


# --- several at once, and the server --------------------------------------------------------------


def test_two_processes_write_to_one_database(
    home: Path,
    there: Any,
) -> None:
    code = (
        "import sys\n"
        "from mlkit.config import Settings\n"
        "from mlkit.operations.tracking.tracking import tracked\n"
        "for number in range(3):\n"
        "    with tracked('train', Settings(tracking=True), name=f'{sys.argv[1]} {number}') as run:\n"
        "        for step in range(6):\n"
        "            run.metrics({'loss': step}, step=step)\n"
        "            run.send()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", code, name], env=environment, stderr=subprocess.PIPE) for name in "ab"
    ]
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    found = there.runs()
    assert sorted(run.info.run_name for run in found) == [f"{name} {number}" for name in "ab" for number in range(3)]
    for run in found:
        assert run.info.status == "FINISHED"
        assert len(there.ask(lambda client, of=run.info.run_id: client.get_metric_history(of, "loss"))) == 6
    assert waiting() == []


def test_a_server_takes_all_of_a_run(
    mlflow_server: Any, home: Path, there: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    there.told(Settings(**ON), home / "models")
    there.check_told(mlflow_server.uri)
    assert not (home / "data" / "mlartifacts").exists() and waiting() == []


def test_a_server_killed_in_the_middle_gets_the_rest_when_it_is_back(
    mlflow_server: Any, home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "killed")
    with tracked("train", Settings(**ON), name="x") as run:
        run.metrics({"loss": 0.5}, step=1)
        assert run.send()
        first = run.id
        mlflow_server.kill()
        run.metrics({"loss": 0.4}, step=2)
        assert not run.send()
        run.bundle(there.bundle_in(home / "models", "late", symbol="LATE"), "champion")
    (warning,) = caplog.records
    assert "the run goes on" in warning.getMessage() and len(waiting()) == 1
    mlflow_server.start()
    assert send_waiting() == (1, 0)
    found = [one for one in there.runs(mlflow_server.uri) if one.info.run_id == first]
    assert len(found) == 1 and found[0].info.status == "FINISHED"
    history = there.ask(lambda client: client.get_metric_history(first, "loss"))
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.4)]
    version = there.ask(lambda client: client.get_model_version_by_alias("LATE-1d", "champion"))
    assert version.run_id == first


def test_sending_twice_changes_nothing(home: Path, there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        there.told(Settings(**ON), home / "models")
    (folder,) = waiting()
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    assert send_waiting() == (2, 0)
    there.check_told()
    assert len(there.ask(lambda client: client.get_metric_history(there.runs()[0].info.run_id, "loss"))) == 1
    assert len(there.ask(lambda client: client.search_model_versions("name = 'SP500-1d'"))) == 1


def test_the_environment_and_the_loggers_are_as_before(home: Path, there: Any) -> None:
    before = dict(os.environ), [logging.getLogger(name).level for name in ("mlflow", "urllib3")]
    there.told(Settings(**ON), home / "models")
    assert (dict(os.environ), [logging.getLogger(name).level for name in ("mlflow", "urllib3")]) == before


def test_an_entry_of_the_journal_is_plain_json(home: Path, there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = there.told(Settings(**ON), home / "models")
    entries = [json.loads(line) for line in (untracked() / str(run.key) / "journal.jsonl").read_text().splitlines()]
    assert [entry["do"] for entry in entries] == ["start", "file", "metrics", "file", "file", "bundle", "end"]
    assert Sent().run_id is None
