"""Runs of training, tuning, evaluation, retraining and reports in MLflow.

    with tracked("train", settings, name="SP500-1d", sources=[Source.of(bars)]) as run:
        ...
        run.scores(scores)
        run.bundle(bundle, alias="champion")

A run is written while it goes on. If the server of ``MLFLOW_TRACKING_URI`` is down, slow, or dies in the middle, one
warning is logged, and the whole run, with what the server had already, is written to the local SQLite store
``data/mlflow.db`` instead. If that fails too, or MLflow is not installed, one warning is logged and the run is not
tracked. Tracking takes bounded time and never makes the work fail.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from uuid import uuid4

import numpy as np

from mlkit.config import Settings
from mlkit.errors import ConfigError, DependencyError, MlkitError
from mlkit.evaluation import Source
from mlkit.models.bundle import ModelBundle
from mlkit.operations.tracking.mlflow_store import MlflowStore, one_line, status_of
from mlkit.operations.tracking.provenance import package_versions
from mlkit.operations.tracking.registry import Alias, model_name, move_alias, register_bundle
from mlkit.operations.tracking.run_facts import data_parameters, datasets, file_name, flat, key_name, run_tags

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["train", "tune", "evaluate", "retrain", "report"]
START_SECONDS = 20.0  # that a server may take to create a run
SERVER_SECONDS = 60.0  # that a run may wait for its server in all
LOCAL_SECONDS = 120.0  # that one request to the local store may take: it creates its tables, or waits for a lock
_REFUSALS = {400, 404, 409, 413, 422}  # the server works and does not accept this request
_log = logging.getLogger(__name__)
_ACTIVE: ContextVar["TrackedRun | None"] = ContextVar("mlkit_tracked_run", default=None)


def for_command(settings: Settings) -> Settings:
    """The settings of a command, which is tracked unless ``tracking`` is False."""
    return settings.model_copy(update={"tracking": True}) if settings.tracking is None else settings


def active() -> "TrackedRun | None":
    """The tracked run that the caller is in; None where there is none or tracking is off."""
    return _ACTIVE.get()


def _wanted(settings: Settings) -> bool:
    return settings.profile == "full" if settings.tracking is None else settings.tracking


@contextmanager
def tracked(
    kind: Kind,
    settings: Settings,
    *,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    sources: Sequence[Source] = (),
) -> Iterator["TrackedRun"]:
    """Run the block as a run in MLflow; yields the `TrackedRun` to log results to.

    Parameters
    ----------
    kind : what is done. Inside a run, a block of the same kind or of kind ``evaluate`` logs to that run; a block of
        another kind is a child run.
    settings : ``tracking`` None tracks the full profile; those of `for_command` track a command.
    name : shown in the list of runs, such as ``SP500-1d``
    parameters : what was chosen besides the settings; the names of nested mappings are joined by dots
    sources : which data the run used

    An exception, KeyboardInterrupt included, marks the run FAILED or KILLED and is raised again. No error of tracking
    itself is raised.
    """
    parent = _ACTIVE.get()
    if parent is not None and kind in (parent.kind, "evaluate"):
        parent.parameters({**(parameters or {}), **data_parameters(sources)})
        parent.sources(sources)
        yield parent
        return
    if not _wanted(settings):
        yield TrackedRun(kind)
        return
    run = TrackedRun(kind)
    run.begin(name, parent)
    run.parameters({**settings.chosen(), **(parameters or {}), **data_parameters(sources)})
    run.sources(sources)
    run.text("versions.json", json.dumps(package_versions(), indent=1))
    token = _ACTIVE.set(run)
    try:
        yield run
    except BaseException as error:
        run.tags({"mlkit.error": one_line(error)})
        run.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    else:
        run.end("FINISHED")
    finally:
        _ACTIVE.reset(token)


def alias(settings: Settings, bundle: ModelBundle, name: Alias) -> None:
    """Point an alias of the bundle's registered model at the bundle; only a bundle not yet registered gets a run."""
    if not _wanted(settings):
        return
    try:
        moved = MlflowStore.default().call(lambda client: move_alias(client, bundle, name), START_SECONDS)
    except MlkitError:
        moved = False  # the run below reports why
    if not moved:
        with tracked("train", settings, name=model_name(bundle)) as run:
            run.bundle(bundle, name)


class TrackedRun:
    """A run in MLflow. Where tracking is off, or has failed, every method does nothing.

    Attributes
    ----------
    kind : kind of `tracked`
    key : name that the trial ledger and the tag ``mlkit.key`` give the run; None where it is not tracked
    id : MLflow's id; None where the run is not tracked
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.key: str | None = None
        self.id: str | None = None
        self._store: MlflowStore | None = None
        self._create: Callable[[Any], str] = lambda client: ""
        # Requests that a server has taken, repeated on the local store if the server fails.
        self._sent: list[Callable[[Any, str], None]] = []
        self._parameters: set[str] = set()
        self._seconds_left = SERVER_SECONDS
        self._refused = False

    def begin(self, name: str, parent: "TrackedRun | None") -> None:
        """Create the run, in the store of its parent if it has one."""
        key = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{self.kind}-{uuid4().hex[:8]}"
        tags, started = run_tags(self.kind, key), _milliseconds()
        # On one line, without characters that control a terminal.
        shown = "".join(letter if letter.isprintable() else " " for letter in name).strip()[:200] or self.kind
        if parent is not None:
            tags["mlflow.parentRunId"] = str(parent.id)

        def create(client: Any) -> str:
            assert self._store is not None
            experiment = self._store.experiment(client)
            run = client.create_run(experiment, started, tags, run_name=shown)
            return str(run.info.run_id)

        self._create = create
        try:
            self._store = MlflowStore.default() if parent is None else parent._store
            if self._store is not None:
                self.key = key
                self.id = self._store.call(create, LOCAL_SECONDS if self._store.is_local else START_SECONDS)
        except MlkitError as error:
            self._fail(error)

    def metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers by name; values that are not finite numbers are left out. ``step``: fold, horizon, trial."""
        self._log_metrics([(values, step)])

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log further parameters; the first value of a name is kept."""
        rows = [row for row in flat(values).items() if row[0] not in self._parameters]
        self._parameters |= {name for name, _ in rows}
        self._log_batches("params", rows)

    def sources(self, sources: Sequence[Source]) -> None:
        """Log the data that the run used as datasets of MLflow."""
        if not sources:
            return

        def request(client: Any, run: str) -> None:
            from mlflow.entities import Dataset, DatasetInput

            found = [Dataset(source_type="mlkit", **fields) for fields in datasets(sources)]
            client.log_inputs(run, [DatasetInput(one, []) for one in found])

        self._send(request)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set short texts by name, which runs can be searched by."""
        self._log_batches("tags", [(key_name(name), str(value)[:5000]) for name, value in values.items()])

    def scores(self, table: "pd.DataFrame") -> None:
        """Log the table of `score`: ``<metric> h<horizon>``, ``<metric>`` with horizons as steps, and the verdicts."""
        rows: dict[Any, dict[Any, Any]] = table.to_dict("index")
        by_step = [(row, int(horizon)) for horizon, row in rows.items()]
        by_name = [({f"{name} h{h}": value for name, value in row.items()}, None) for h, row in rows.items()]
        self._log_metrics([*by_step, *by_name])
        if "verdict" in table:
            self.tags({f"verdict h{horizon}": verdict for horizon, verdict in table["verdict"].items()})
        self.table("scores", table)

    def folds(self, table: "pd.DataFrame") -> None:
        """Log the table of `fold_scores`: ``fold <metric> h<horizon>`` with folds as steps."""
        rows: dict[Any, dict[Any, Any]] = table.to_dict("index")
        self._log_metrics(
            [
                ({f"fold {name} h{h}": value for name, value in row.items()}, int(fold))
                for (fold, h), row in rows.items()
            ]
        )
        self.table("folds", table)

    def figure(self, name: str, figure: Any) -> None:
        """Log a matplotlib figure as ``figures/<name>.png``."""
        path, options = f"figures/{file_name(name)}.png", {"dpi": 120, "bbox_inches": "tight"}
        self._send(lambda client, run: client.log_figure(run, figure, path, save_kwargs=options))

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """Log a table as ``tables/<name>.csv``, which MLflow's pages show as a table."""
        text, path = frame.to_csv(), f"tables/{file_name(name)}.csv"
        self._send(lambda client, run: client.log_text(run, text, path))

    def text(self, name: str, text: str) -> None:
        """Log a text as a file of that name; ``.txt`` is appended to a name without suffix."""
        plain = file_name(name)
        path = plain if "." in plain else f"{plain}.txt"
        self._send(lambda client, run: client.log_text(run, text, path))

    def file(self, path: Path | str, folder: str = "") -> None:
        """Log a file, under its own name in a folder of the artifacts."""
        below = "/".join(file_name(part) for part in folder.split("/") if part)
        self._send(lambda client, run: client.log_artifact(run, str(path), below or None))

    def bundle(self, bundle: ModelBundle, alias: Alias | None = None) -> None:
        """Register a bundle as a version of its market's model, and point an alias at that version."""
        if alias is not None and alias not in get_args(Alias):
            raise ConfigError(f"alias {alias!r} is neither champion nor challenger")
        self._send(lambda client, run: register_bundle(client, run, bundle, alias))

    def end(self, status: str) -> None:
        """Mark the run FINISHED, FAILED or KILLED."""
        ended = _milliseconds()
        self._send(lambda client, run: client.set_terminated(run, status, ended))

    def _log_metrics(self, groups: Iterable[tuple[Mapping[Any, Any], int | None]]) -> None:
        """Log numbers by name with their steps, in few requests."""
        now = _milliseconds()
        rows = [
            (key_name(name), float(value), now, step or 0)
            for values, step in groups
            for name, value in values.items()
            if isinstance(value, int | float | np.number | np.bool_) and np.isfinite(value)
        ]

        self._log_batches("metrics", rows)

    def _log_batches(self, field: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Log metrics, params or tags in requests of the size that MLflow accepts."""

        def request(client: Any, run: str) -> None:
            from mlflow.entities import Metric, Param, RunTag

            entity, most = {"metrics": (Metric, 1000), "params": (Param, 100), "tags": (RunTag, 100)}[field]
            for first in range(0, len(rows), most):
                client.log_batch(run, **{field: [entity(*row) for row in rows[first : first + most]]})

        if rows:
            self._send(request)

    def _send(self, request: Callable[[Any, str], None]) -> None:
        """Make a request about this run; a refused one is logged and left out, any other error changes the store."""
        store, run = self._store, self.id
        if store is None or run is None:
            return
        began = time.monotonic()
        try:
            store.call(lambda client: request(client, run), LOCAL_SECONDS if store.is_local else self._seconds_left)
        except MlkitError as error:
            if status_of(error.__cause__) in _REFUSALS:
                if not self._refused:
                    _log.warning("not tracked in full, the run goes on: %s", error)
                self._refused = True
            else:
                self._sent.append(request)
                self._fail(error)
            return
        if not store.is_local:
            self._sent.append(request)
            self._seconds_left = max(0.0, self._seconds_left - (time.monotonic() - began))

    def _fail(self, error: MlkitError) -> None:
        """Go on with the local store, which gets the whole run; without tracking where that is not possible."""
        failed, self._store, self.id = self._store, None, None
        if failed is None or failed.is_local or isinstance(error, DependencyError):
            self.key = None
            _log.warning("not tracked, the run goes on: %s", error)
            return
        self._store = MlflowStore.local()
        _log.warning("the run goes on, tracked in %s: %s", self._store, error)
        try:
            self.id = self._store.call(self._create, LOCAL_SECONDS)
        except MlkitError as second:
            self._fail(second)
        requests, self._sent = self._sent, []
        for request in requests:
            self._send(request)


def _milliseconds() -> int:
    return int(time.time() * 1000)
