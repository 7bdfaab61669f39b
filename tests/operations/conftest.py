"""A market that is trained in half a second and an empty place for its models; a project with an MLflow of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.evaluation.ledger import Source
from mlkit.market.simulate.markets import null_market
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.tracking.mlflow_store import MlflowStore
from mlkit.operations.tracking.tracking import TrackedRun, tracked
from mlkit.operations.training import training, training_bundle

FEW = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)


@pytest.fixture
def home(tmp_path: Path) -> mlkit.Settings:
    """Settings with an empty lake, no models, and one horizon."""
    return mlkit.Settings(
        model_storage_path=tmp_path / "models",
        training_data_path=tmp_path / "bars",
        ledger_path=tmp_path / "ledger.jsonl",
        prediction_horizons=(1,),
        n_threads=1,
        retrain_age=0.12,
    )


@pytest.fixture(scope="session")
def judged() -> pd.DataFrame:
    """A walk-forward that stands for every other one."""
    settings = mlkit.Settings(prediction_horizons=(1,), n_threads=1)
    return training.walk_forward(null_market(1200, seed=1, timeframe="1h"), settings, n_splits=1, ensemble=FEW)


@pytest.fixture
def quick(judged: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> EnsembleSettings:
    """A small ensemble; walk-forward and patterns, which have tests of their own, are not measured again."""

    def stands_in(bars: pd.DataFrame, settings: mlkit.Settings, **options: object) -> pd.DataFrame:
        table = pd.concat([judged.assign(horizon=h) for h in settings.prediction_horizons], ignore_index=True)
        table.attrs = judged.attrs
        return table

    monkeypatch.setattr(training, "walk_forward", stands_in)
    monkeypatch.setattr(training_bundle, "pattern_evidence", lambda *arguments, **options: {})
    return FEW


@pytest.fixture
def fitted(quick: EnsembleSettings, home: mlkit.Settings) -> Callable[..., ModelBundle]:
    """``fitted(bars, ensemble=..., **settings)``: a bundle trained on all of these bars, written and not published."""

    def make(bars: pd.DataFrame, ensemble: EnsembleSettings = quick, **changes: object) -> ModelBundle:
        return training.train(bars, home.model_copy(update=changes), ensemble=ensemble, publish=False)

    return make


# --- MLflow ----------------------------------------------------------------------------------------

SOURCE = Source("SP500", "1d", "2020-01-01T00:00:00+00:00", "2020-06-01T00:00:00+00:00", "ab" * 32)


class Server:
    """``mlflow server`` on a port of its own, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self._folder = f"http://127.0.0.1:{self.port}", folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | quiet, cwd=self._folder, start_new_session=True
            )
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.2)
        raise AssertionError((self._folder / "log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers too
            self._process.wait()
            self._process = None


class Mlflow:
    """What was recorded, and something to record."""

    source = SOURCE

    def ask(self, question: Any, uri: str | None = None) -> Any:
        return (MlflowStore(uri) if uri else MlflowStore.default()).call(question, 60)

    def runs(self, uri: str | None = None) -> list[Any]:
        """Runs of the experiment, the oldest first."""

        def question(client: Any) -> list[Any]:
            experiments = [one.experiment_id for one in client.search_experiments()]
            return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))

        return list(self.ask(question, uri))

    def artifacts(self, run: str, folder: str | None = None, uri: str | None = None) -> list[str]:
        return sorted(one.path for one in self.ask(lambda client: client.list_artifacts(run, folder), uri))

    def bundle_in(self, root: Path, word: str = "one", symbol: str = "SP500", **more: Any) -> ModelBundle:
        span = {"start": "2020-01-01", "end": "2020-06-01", "bars": 100}
        fields = {
            "created": "2026-01-01T00:00:00+00:00",
            "symbol": symbol,
            "timeframe": "1d",
            "feature_names": ["a"],
            "horizons": [1, 5],
            "training_span": span,
            "data_sha256": "ab" * 32,
            "seed": 7,
            "settings": {},
            "metrics": {"1": {"hit_rate": 0.51, "verdict": "no edge"}, "5": {"verdict": "no edge"}},
        }
        return write_bundle(root, fields | more, extra={"words.txt": word.encode(), "more.json": b"{}"})

    def figure(self) -> Any:
        import matplotlib.figure

        drawn = matplotlib.figure.Figure()
        drawn.subplots().plot([1, 2, 3])
        return drawn

    def logged(self, settings: Settings, folder: Path) -> TrackedRun:
        """A run that logs something of every kind."""
        with tracked("train", settings, name="SP500-1d", parameters={"depth": 3}, sources=[SOURCE]) as run:
            run.metrics({"loss": 0.5}, step=1)
            run.figure("loss", self.figure())
            run.text("notes", "plain")
            run.bundle(self.bundle_in(folder), "champion")
        return run

    def check_logged(self, uri: str | None = None) -> None:
        """One run with all that `logged` logs."""
        (found,) = self.runs(uri)
        assert found.info.status == "FINISHED" and found.data.metrics == {"loss": 0.5}
        assert found.data.params["depth"] == "3" and found.info.end_time >= found.info.start_time
        assert self.artifacts(found.info.run_id, None, uri) == ["bundles", "figures", "notes.txt", "versions.json"]
        version = self.ask(lambda client: client.get_model_version_by_alias("SP500-1d", "champion"), uri)
        assert version.run_id == found.info.run_id


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow, made once: that takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowStore(f"sqlite:///{path}").call(lambda client: client.search_experiments(), 300)
    return path


@pytest.fixture
def mlflow_home(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own with an empty database."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "MLKIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(mlflow_database, tmp_path / "data" / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def recorded_by_mlflow(mlflow_home: Path) -> Mlflow:
    """Questions to the database of `mlflow_home`, or to another address."""
    return Mlflow()
