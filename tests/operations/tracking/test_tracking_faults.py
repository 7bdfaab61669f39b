"""Tracking where something is amiss: no MLflow, no server, a dying one, a full disk, two writers at once."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mlkit.config import Settings, sqlite_url
from mlkit.operations.tracking import tracking
from mlkit.operations.tracking.mlflow_store import MlflowStore
from mlkit.operations.tracking.tracking import tracked

pytest.importorskip("mlflow")
ON = {"tracking": True}
ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(mlflow_home: Path) -> Path:
    return mlflow_home


@pytest.fixture
def there(recorded_by_mlflow: Any) -> Any:
    return recorded_by_mlflow


# --- without a server -----------------------------------------------------------------------------


def test_without_mlflow_the_run_goes_on_untracked(
    home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mlflow", None)
        run = there.logged(Settings(**ON), home / "models")
    assert run.id is None and run.key is None
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING and "pip install 'mlkit[track]'" in warning.getMessage()
    assert there.runs() == []


def trickle(listener: socket.socket) -> None:
    """Answer a byte every tenth of a second, so that no timeout of a socket ends the request."""
    try:
        connection, _ = listener.accept()
        while True:
            connection.send(b"H")
            threading.Event().wait(0.1)
    except OSError:
        pass


@pytest.mark.parametrize("fault", ["refusing", "silent", "trickling", "file store", "no folder", "no scheme"])
def test_a_server_that_does_not_work_costs_a_warning_and_the_run_is_in_the_local_store(
    fault: str, home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "START_SECONDS", 3.0)
    listener = socket.create_server(("127.0.0.1", 0))
    uri = f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"
    if fault == "refusing":
        listener.close()
    elif fault == "trickling":
        threading.Thread(target=trickle, args=(listener,), daemon=True).start()
    elif fault != "silent":
        uri = {
            "file store": f"file:{home}/store",
            "no folder": "sqlite:////proc/nowhere/mlflow.db",
            "no scheme": "nosuchscheme://somewhere",
        }[fault]
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        there.logged(Settings(**ON), home / "models")
    listener.close()
    (warning,) = caplog.records
    assert "the run goes on" in warning.getMessage() and "secret" not in warning.getMessage()
    assert "data/mlflow.db" in warning.getMessage()
    there.check_logged()


def test_a_server_that_is_slow_at_everything_gets_a_bounded_part_of_the_run(
    home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "SERVER_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_url(home / "elsewhere.db"))
    there.ask(lambda client: client.search_experiments(), sqlite_url(home / "elsewhere.db"))  # its tables
    there.logged(Settings(**ON), home / "models")
    (warning,) = caplog.records
    assert "does not answer within 0 s" in warning.getMessage()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    there.check_logged()


def test_a_local_store_that_fails_ends_the_tracking_and_not_the_run(
    home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with tracked("train", Settings(**ON), name="x") as run:
        monkeypatch.setattr("mlflow.MlflowClient.log_text", full)
        run.text("a", "a")
        run.metrics({"b": 1.0})
        with tracked("retrain", Settings(**ON), name="below") as below:
            below.metrics({"c": 1.0})
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    assert below.key is None and run.key is None


def test_a_killed_run_keeps_what_it_logged(home: Path, there: Any) -> None:
    code = (
        "import os, signal\n"
        "from mlkit.config import Settings\n"
        "from mlkit.operations.tracking.tracking import tracked\n"
        "with tracked('train', Settings(tracking=True), name='x') as run:\n"
        "    run.metrics({'loss': 0.25}, step=4)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    (found,) = there.runs()
    assert found.info.status == "RUNNING" and found.data.metrics == {"loss": 0.25}


def test_a_refused_request_is_left_out_with_a_warning(home: Path, there: Any, caplog: pytest.LogCaptureFixture) -> None:
    with tracked("train", Settings(**ON), name="x") as run:
        there.ask(lambda client: client.log_param(run.id, "depth", "another"))
        run.parameters({"depth": 3})
        run.metrics({"a": 1.0})
    assert "not tracked in full" in caplog.text and "depth" in caplog.text
    (found,) = there.runs()
    assert found.data.metrics == {"a": 1.0} and found.info.status == "FINISHED"


def test_a_folder_with_a_query_and_a_percent_in_its_name(
    home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    odd = home / "what?mode=ro 100%20 #1"
    odd.mkdir()
    (home / "data" / "mlflow.db").unlink()
    monkeypatch.setenv("MLKIT_HOME", str(odd))
    there.logged(Settings(**ON), odd / "models")
    assert caplog.records == [] and (odd / "data" / "mlflow.db").is_file() and (odd / "data" / "mlartifacts").is_dir()
    there.check_logged()
    # MLflow makes the parent folders of the quoted address too; nothing is in them.
    assert not [path for path in home.rglob("*") if path.is_file() and odd not in path.parents]
    assert MlflowStore.local().is_local


def test_a_local_store_that_cannot_be_written_costs_a_warning(
    home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("MLKIT_HOME", str(home / "file"))
    run = there.logged(Settings(**ON), home / "models")
    (warning,) = caplog.records
    assert "not tracked, the run goes on" in warning.getMessage() and run.id is None


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
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", code, name], env=environment, stderr=subprocess.PIPE) for name in "ab"
    ]
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0] and errors == [b"", b""]
    found = there.runs()
    assert sorted(run.info.run_name for run in found) == [f"{name} {number}" for name in "ab" for number in range(3)]
    for run in found:
        assert run.info.status == "FINISHED"
        assert len(there.ask(lambda client, of=run.info.run_id: client.get_metric_history(of, "loss"))) == 6


def test_a_server_takes_all_of_a_run(
    mlflow_server: Any, home: Path, there: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    there.logged(Settings(**ON), home / "models")
    there.check_logged(mlflow_server.uri)
    assert not (home / "data" / "mlartifacts").exists()


def test_of_a_server_killed_in_the_middle_the_local_store_gets_the_whole_run(
    mlflow_server: Any, home: Path, there: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "killed")
    with tracked("train", Settings(**ON), name="x") as run:
        run.metrics({"loss": 0.5}, step=1)
        first = run.id
        mlflow_server.kill()
        run.metrics({"loss": 0.4}, step=2)
        with tracked("retrain", Settings(**ON), name="below") as below:
            below.bundle(there.bundle_in(home / "models", "late", symbol="LATE"), "champion")
    (warning,) = caplog.records
    assert "the run goes on, tracked in sqlite:///" in warning.getMessage()
    mlflow_server.start()
    (half,) = [one for one in there.runs(mlflow_server.uri) if one.info.run_id == first]
    assert half.info.status == "RUNNING" and half.data.metrics == {"loss": 0.5}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    whole, child = there.runs()
    assert whole.info.run_id == run.id and whole.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == run.id
    history = there.ask(lambda client: client.get_metric_history(run.id, "loss"))
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.4)]
    version = there.ask(lambda client: client.get_model_version_by_alias("LATE-1d", "champion"))
    assert version.run_id == below.id


def test_the_environment_and_the_loggers_are_as_before(home: Path, there: Any) -> None:
    before = dict(os.environ), [logging.getLogger(name).level for name in ("mlflow", "urllib3")]
    there.logged(Settings(**ON), home / "models")
    assert (dict(os.environ), [logging.getLogger(name).level for name in ("mlflow", "urllib3")]) == before
