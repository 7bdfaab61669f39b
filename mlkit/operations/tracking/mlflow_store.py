"""The MLflow server or database that holds runs and registered bundles; every call ends in bounded time.

``MLFLOW_TRACKING_URI``, ``MLFLOW_REGISTRY_URI``, ``MLFLOW_EXPERIMENT_NAME`` and MLflow's other variables are
respected; without them everything is in ``data/mlflow.db`` and ``data/mlartifacts``. Only `mlflow.MlflowClient` is
used: no global run, no autologging, no model flavour, nothing pickled, no usage statistics.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from mlkit import untrusted
from mlkit.config import project_root, sqlite_url
from mlkit.errors import DependencyError, MlkitError, TrackingError

EXPERIMENT = "mlkit"
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the page shows runs instead of LLM traces

# Defaults under which a dead server costs seconds instead of MLflow's quarter of an hour.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_Result = TypeVar("_Result")


class MlflowStore:
    """A tracking server or database of MLflow, and its model registry."""

    def __init__(self, tracking_uri: str, registry_uri: str | None = None) -> None:
        self._uri, self._registry_uri = tracking_uri, registry_uri
        self._connected: Any = None

    @classmethod
    def default(cls) -> "MlflowStore":
        """The store that the environment names, else the local one."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        return cls(uri, os.environ.get("MLFLOW_REGISTRY_URI") or None) if uri else cls.local()

    @classmethod
    def local(cls) -> "MlflowStore":
        """The SQLite database ``data/mlflow.db`` of the project."""
        return cls(sqlite_url(project_root() / "data" / "mlflow.db"))

    @property
    def is_local(self) -> bool:
        """Whether this is the project's own database."""
        return self._uri == MlflowStore.local()._uri

    @property
    def is_remote(self) -> bool:
        """Whether another machine keeps the runs: what it names is not trusted."""
        return self._uri.partition("://")[0] not in ("sqlite", "file", self._uri)

    def __str__(self) -> str:
        return untrusted.without_password(self._uri)

    def call(self, request: Callable[[Any], _Result], seconds: float) -> _Result:
        """The result of a request to MLflow's client.

        Raises
        ------
        DependencyError where MLflow is not installed. TrackingError, with a message of one line, for an error of any
        kind or where there is no result within ``seconds``.
        """
        result: Future[_Result] = Future()

        def work() -> None:
            try:
                result.set_result(request(self._client()))
            except Exception as error:  # MLflow, requests, SQLAlchemy and the disk raise their own kinds
                result.set_exception(error)

        with _mlflow():
            # A timeout of a socket does not bound a server that sends a byte now and then; waiting for a thread does.
            Thread(target=work, daemon=True, name="mlkit-tracking").start()
            if not wait([result], seconds).done:
                raise TrackingError(f"{self} does not answer within {seconds:.0f} s")
        error = result.exception()
        if error is None or isinstance(error, MlkitError):
            return result.result()
        raise self._described(error) from error

    def experiment(self, client: Any) -> str:
        """Id of the project's experiment, which is created if it does not exist."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, self._artifacts(), _EXPERIMENT_TAGS))
            except Exception:
                # Another process may have created it in the meantime.
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise TrackingError(f"{self}: experiment {name!r} was deleted; restore it or set MLFLOW_EXPERIMENT_NAME")
        return str(found.experiment_id)

    def _artifacts(self) -> str | None:
        """Folder URI of the artifacts: beside a SQLite file, never in ``./mlruns``; a server decides by itself."""
        from sqlalchemy import make_url

        scheme = self._uri.partition("://")[0]
        if scheme in ("http", "https", "databricks"):
            return None
        database = make_url(self._uri).database if scheme == "sqlite" else None
        folder = Path(database).absolute().parent if database else project_root() / "data"
        return (folder / "mlartifacts").as_uri()

    def _client(self) -> Any:
        if self._connected is None:
            from mlflow import MlflowClient

            if self.is_local:
                # MLflow tries for minutes to open a file that cannot be written; this raises at once.
                path = project_root() / "data" / "mlflow.db"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            self._connected = MlflowClient(self._uri, self._registry_uri)
        return self._connected

    def _described(self, error: BaseException) -> TrackingError:
        """The error in one line; of a failed connection only its kind, as its text is long."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and self._uri.startswith("http"):  # errors of requests are OSErrors
                return TrackingError(f"{self} cannot be reached ({type(cause).__name__})")
            cause = cause.__cause__ or cause.__context__
        return TrackingError(f"{self}: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """Kind and text of an error on one line of at most 300 characters, addresses without passwords."""
    return untrusted.one_line(f"{type(error).__name__}: {error}")


def status_of(error: BaseException | None) -> int:
    """HTTP status that an error of MLflow stands for; 500 for any other error."""
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status is not None else 500


@contextmanager
def _mlflow() -> Iterator[None]:
    """MLflow imported with `_ENVIRONMENT` set, and its loggers and warnings silent."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    levels: dict[logging.Logger, int] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                import mlflow.tracking  # noqa: F401
            except ImportError as error:
                raise DependencyError("MLflow is not installed: pip install 'mlkit[track]'") from error
            for logger in map(logging.getLogger, ("mlflow", "alembic", "urllib3", "sqlalchemy")):
                levels[logger] = logger.level
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        for name in added:
            os.environ.pop(name, None)
