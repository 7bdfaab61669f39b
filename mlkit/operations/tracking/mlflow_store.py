"""An MLflow server or database: journals go in, registered bundles come out, each in bounded time.

``MLFLOW_TRACKING_URI``, ``MLFLOW_REGISTRY_URI``, ``MLFLOW_EXPERIMENT_NAME`` and MLflow's other variables are
respected; without them everything is in ``data/mlflow.db`` and ``data/mlartifacts``. Only the client of MLflow is
used: no global run, no autologging, no model flavour, nothing pickled, no usage statistics.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from mlkit.config import project_root
from mlkit.errors import DependencyError, TrackingError
from mlkit.operations.tracking.journal import Journal

KEY = "mlkit.key"  # tag of a run: the journal that it was made from
BUNDLE = "mlkit.bundle"  # tag of a registered version: id of the bundle
EXPERIMENT = "mlkit"
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its page shows runs, not chats
CHAMPION, CHALLENGER = "champion", "challenger"

# A dead server costs seconds and not MLflow's quarter of an hour; what the environment says comes first.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_REFUSALS = {400, 404, 409, 413, 422}  # the same request would be answered the same way again
_PARAMS, _METRICS = 100, 1000  # that one request may hold
_Answer = TypeVar("_Answer")


@dataclass
class Sent:
    """How far a journal has been sent."""

    run_id: str | None = None
    tried: bool = False  # a run may have been made already
    done: int = 0  # entries
    refused: list[str] = field(default_factory=list)  # what the server will never take
    abandoned: bool = False


class Store:
    """Where runs and registered bundles are kept."""

    def __init__(self, tracking_uri: str, registry_uri: str | None = None) -> None:
        self._uris = tracking_uri, registry_uri
        self._connected: Any = None
        self._asking = Thread(target=int)
        self._asking.start()

    @classmethod
    def default(cls) -> "Store":
        """The store that the environment names, else the project's own database."""
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'data' / 'mlflow.db'}"
        return cls(uri, os.environ.get("MLFLOW_REGISTRY_URI") or None)

    def __str__(self) -> str:
        """The address without a password."""
        scheme, mark, place = self._uris[0].partition("://")
        host, slash, path = place.partition("/")
        return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"

    def ask(self, question: Callable[[Any], _Answer], seconds: float) -> _Answer:
        """The answer to a question put to MLflow's client; TrackingError in one line whatever goes wrong.

        Raises
        ------
        DependencyError where MLflow is not installed. TrackingError where there is no answer within ``seconds``, or
        a fault.
        """
        with _mlflow():
            outcome: list[Any] = []

            def work() -> None:
                try:
                    outcome.append(question(self._client()))
                except Exception as error:  # of MLflow, requests, SQLAlchemy, the disk: each has its own
                    outcome.append(error)

            # No timeout of a socket bounds a server that sends a byte now and then: a thread does.
            self._asking.join(seconds)
            if not self._asking.is_alive():
                self._asking = Thread(target=work, daemon=True, name="mlkit-tracking")
                self._asking.start()
                self._asking.join(seconds)
        if not outcome:
            raise TrackingError(f"{self} does not answer within {seconds:.0f} s")
        if isinstance(outcome[0], TrackingError):
            raise outcome[0]
        if isinstance(outcome[0], Exception):
            raise self._fault(outcome[0]) from outcome[0]
        answer: _Answer = outcome[0]
        return answer

    def _fault(self, error: Exception) -> TrackingError:
        """What went wrong, without the many words of a connection that failed."""
        under: BaseException | None = error
        while under is not None:
            if isinstance(under, OSError) and self._uris[0].startswith("http"):  # those of requests are
                return TrackingError(f"{self} cannot be reached ({type(under).__name__})")
            under = under.__cause__ or under.__context__
        return TrackingError(f"{self}: {one_line(error)}")

    def send(self, journal: Journal, sent: Sent, seconds: float) -> None:
        """Send what is new in a journal; TrackingError, and ``sent`` as far as it came, if that fails.

        Entries that the server refuses for what they are, such as a run that was deleted there, are noted in
        ``sent.refused`` and left behind. Sending an entry twice changes nothing.
        """
        deadline = time.monotonic() + seconds

        def work(client: Any) -> None:
            for group in _groups(journal.entries[sent.done :]):
                if sent.abandoned or time.monotonic() > deadline:
                    raise TrackingError(f"{self} is too slow: not done within {seconds:.0f} s")
                try:
                    _Sender(client, self, journal, sent).send(group)
                except Exception as error:
                    if group[0]["do"] == "start" or status_of(error) not in _REFUSALS:
                        raise
                    sent.refused.append(one_line(error))
                sent.done += len(group)

        try:
            self.ask(work, seconds + 1.0)
        except BaseException:  # Ctrl-C included
            sent.abandoned, sent.tried = True, True
            raise

    def experiment(self, client: Any) -> str:
        """Id of the project's experiment, made if there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, self._artifacts(), _EXPERIMENT_TAGS))
            except Exception:
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise TrackingError(f"{self}: experiment {name!r} was deleted; restore it or set MLFLOW_EXPERIMENT_NAME")
        return str(found.experiment_id)

    def run_of(self, client: Any, key: str) -> str | None:
        """Id of the run that was made from a journal."""
        found = client.search_runs([self.experiment(client)], f"tags.`{KEY}` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _artifacts(self) -> str | None:
        """Where artifacts go: a server decides for itself; those of a database lie beside it, never in ``./mlruns``."""
        scheme, _, place = self._uris[0].partition("://")
        if scheme in ("http", "https", "databricks"):
            return None
        folder = Path(place[1:]).absolute().parent if scheme == "sqlite" else project_root() / "data"
        return (folder / "mlartifacts").as_uri()

    def _client(self) -> Any:
        if self._connected is None:
            from mlflow import MlflowClient

            self._connected = MlflowClient(*self._uris)
        return self._connected


class _Sender:
    """One group of entries on its way."""

    def __init__(self, client: Any, store: Store, journal: Journal, sent: Sent) -> None:
        self._client, self._store, self._journal, self._sent = client, store, journal, sent

    def send(self, group: list[dict[str, Any]]) -> None:
        """A group: several metrics, or one other entry."""
        if group[0]["do"] == "metrics":
            self._metrics(group)
        else:
            getattr(self, f"_{group[0]['do']}")(group[0])

    def _start(self, entry: dict[str, Any]) -> None:
        if not entry.get("lazy"):
            self._run(entry)

    def _run(self, entry: dict[str, Any]) -> str:
        """The run of the journal, made if there is none."""
        if self._sent.run_id is None and self._sent.tried:
            self._sent.run_id = self._store.run_of(self._client, entry["tags"][KEY])
        if self._sent.run_id is None:
            self._sent.tried = True
            tags = dict(entry["tags"])
            above = self._store.run_of(self._client, entry["parent"]) if entry.get("parent") else None
            if above is not None:
                tags["mlflow.parentRunId"] = above
            experiment = self._store.experiment(self._client)
            run = self._client.create_run(experiment, entry["time"], tags, run_name=entry["name"])
            self._sent.run_id = str(run.info.run_id)
        self._parameters({"values": entry["parameters"]})
        self._datasets({"values": entry["datasets"]})
        return self._sent.run_id

    def _datasets(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        inputs = [DatasetInput(Dataset(source_type="mlkit", **one), []) for one in entry["values"]]
        if inputs:
            self._client.log_inputs(self._sent.run_id, inputs)

    def _metrics(self, group: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        rows = [
            Metric(name, value, entry["time"], entry["step"] or 0)
            for entry in group
            for name, value in entry["values"].items()
        ]
        for first in range(0, len(rows), _METRICS):
            self._client.log_batch(self._sent.run_id, metrics=rows[first : first + _METRICS])

    def _parameters(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Param

        rows = [Param(name, value) for name, value in entry["values"].items()]
        for first in range(0, len(rows), _PARAMS):
            self._client.log_batch(self._sent.run_id, params=rows[first : first + _PARAMS])

    def _tags(self, entry: dict[str, Any]) -> None:
        for name, value in entry["values"].items():
            self._client.set_tag(self._sent.run_id, name, value)

    def _file(self, entry: dict[str, Any]) -> None:
        folder = str(Path(entry["name"]).parent)
        path = str(self._journal.files / entry["name"])
        self._client.log_artifact(self._sent.run_id, path, None if folder == "." else folder)

    def _bundle(self, entry: dict[str, Any]) -> None:
        """The files of a bundle and its version in the registry; one that is registered already is not sent again."""
        model, bundle = entry["model"], entry["id"]
        version = registered(self._client, model, bundle)
        if version is None:
            run = self._run(self._journal.entries[0])
            folder = f"bundles/{bundle}"
            for name in entry["files"]:
                self._client.log_artifact(run, str(self._journal.files / folder / name), folder)
            version = self._register(entry, f"runs:/{run}/{folder}", run)
        if self._sent.run_id is not None:
            self._client.set_tag(self._sent.run_id, "mlkit.registered", f"{model}/{version}")
        if entry["alias"]:
            move_alias(self._client, model, entry["alias"], version, entry["time"])

    def _register(self, entry: dict[str, Any], source: str, run: str) -> str:
        model, tags = entry["model"], entry["tags"] | {BUNDLE: entry["id"]}
        try:
            self._client.create_registered_model(model)
        except Exception:
            self._client.get_registered_model(model)  # there already, or this says why not
        made = self._client.create_model_version(model, source, run, tags=tags, description=entry["description"])
        return str(made.version)

    def _end(self, entry: dict[str, Any]) -> None:
        if self._sent.run_id is not None:
            self._client.set_terminated(self._sent.run_id, entry["status"], entry["time"])


def registered(client: Any, model: str, bundle: str) -> str | None:
    """Version of a registered model that holds a bundle and whose run still is there; None if there is none."""
    for version in client.search_model_versions(f"name = '{model}' and tags.`{BUNDLE}` = '{bundle}'"):
        try:
            if client.get_run(version.run_id).info.lifecycle_stage == "active":
                return str(version.version)
        except Exception as error:
            if status_of(error) != 404:
                raise
    return None


def move_alias(client: Any, model: str, alias: str, version: str, moved: int) -> None:
    """Point an alias at a version, unless it was moved after ``moved`` (ms): a run may be sent late.

    A challenger that becomes champion is no challenger any more.
    """
    holder = client.get_registered_model(model)
    mark = f"mlkit.{alias}.moved"
    when = datetime.fromtimestamp(moved / 1000, UTC).isoformat(timespec="milliseconds")
    if holder.tags.get(mark, "") > when:
        return
    client.set_registered_model_alias(model, alias, version)
    client.set_registered_model_tag(model, mark, when)
    if alias == CHAMPION and str(holder.aliases.get(CHALLENGER)) == version:
        client.delete_registered_model_alias(model, CHALLENGER)


def one_line(error: BaseException) -> str:
    """Kind and text of an error on one line, not too long, without the password of an address."""
    text = " ".join(str(error).split())
    words = [word.rpartition("@")[2] if "://" in word and "@" in word else word for word in text.split()]
    return f"{type(error).__name__}: {' '.join(words)}"[:300]


def _groups(entries: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Entries one by one, neighbouring metrics together."""
    group: list[dict[str, Any]] = []
    for entry in entries:
        if group and not (entry["do"] == group[0]["do"] == "metrics"):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def status_of(error: BaseException) -> int:
    """HTTP status that an error of MLflow stands for; 500 for any other error."""
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status is not None else 500


@contextmanager
def _mlflow() -> Iterator[None]:
    """MLflow imported, in bounded time, without notes on the terminal and the warnings of what it is built on."""
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
