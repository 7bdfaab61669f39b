"""Runs of training, tuning, evaluation, retraining and reports, told to MLflow.

    with tracked("train", settings, name="SP500-1d", sources=[Source.of(bars)]) as run:
        ...
        run.scores(scores)
        run.bundle(bundle, alias="champion")

What a run has to tell is written to a journal on disk first (`journal`) and sent from there: at the
start, every few seconds, and at the end. So a server that is down, slow or dies in the middle, or an MLflow that is
not installed, costs one logged warning and bounded time, and nothing is lost: the journal stays in
``data/untracked`` and goes out with the next run that reaches the server, or with ``mlkit track send``.
"""

import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from mlkit.config import Settings
from mlkit.errors import ConfigError, MlkitError
from mlkit.evaluation import Source
from mlkit.market import symbol_folder
from mlkit.models.bundle import MANIFEST, ModelBundle
from mlkit.operations.tracking.journal import Journal, taken, waiting
from mlkit.operations.tracking.mlflow_store import CHALLENGER, CHAMPION, Sent, Store, one_line
from mlkit.operations.tracking.provenance import package_versions
from mlkit.operations.tracking.run_facts import (
    data_parameters,
    datasets,
    file_name,
    flat,
    is_number,
    key_name,
    run_tags,
    shown_name,
)

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["train", "tune", "evaluate", "retrain", "report"]
Alias = Literal["champion", "challenger"]
SECONDS = 60.0  # that a run may wait for its server at a time
POOL = "pool@"  # no folder of a market has this sign in its name
_EVERY = 10.0  # seconds between two sendings of a run that goes on
_PATIENCE = 60.0  # seconds of a run that may go into sending before its end
_log = logging.getLogger(__name__)
_ACTIVE: ContextVar["Run | None"] = ContextVar("mlkit_tracked_run", default=None)


def for_command(settings: Settings) -> Settings:
    """The settings of a command: it is tracked unless ``tracking`` says otherwise."""
    return settings.model_copy(update={"tracking": True}) if settings.tracking is None else settings


def active() -> "Run | None":
    """The tracked run that the caller is in; None where there is none or tracking is off."""
    return _ACTIVE.get()


@contextmanager
def tracked(
    kind: Kind,
    settings: Settings,
    *,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    sources: Sequence[Source] = (),
) -> Iterator["Run"]:
    """Run the block as a tracked run; yields the `Run` that it tells its results to.

    Parameters
    ----------
    kind : what is done. Inside a run, the same kind and ``evaluate`` join it; another becomes a run below it.
    settings : ``tracking`` None tracks the full profile; those of `for_command` track a command.
    name : shown in the list of runs, such as ``SP500-1d``
    parameters : what was chosen besides the settings; nested mappings get names with dots
    sources : which data the run saw

    An exception, KeyboardInterrupt included, marks the run FAILED or KILLED and is passed on. Nothing that goes wrong
    with tracking itself is raised.
    """
    above = _ACTIVE.get()
    if above is not None and kind in (above.kind, "evaluate"):
        above.join(parameters or {}, sources)
        yield above
    elif not wanted(settings):
        yield Run(kind)
    else:
        with _ended(_open(kind, settings, name, parameters or {}, sources, above)) as run:
            yield run


def alias(settings: Settings, bundle: ModelBundle, name: Alias) -> None:
    """Point an alias of the bundle's registered model at the bundle, which is registered if it was not yet."""
    above = _ACTIVE.get()
    if above is not None:
        above.bundle(bundle, name)
    elif settings.tracking is not False:
        with _ended(_open("register", settings, model_name(bundle), {}, (), None, lazy=True)) as run:
            run.bundle(bundle, name)


def wanted(settings: Settings) -> bool:
    """Whether runs under these settings are tracked."""
    return settings.profile == "full" if settings.tracking is None else settings.tracking


class Run:
    """What a run has to tell. Without a journal, where tracking is off, every method does nothing."""

    def __init__(self, kind: str, journal: Journal | None = None, store: Store | None = None) -> None:
        self.kind = kind
        self.key = journal.folder.name if journal is not None else None
        self._journal, self._store = journal, store
        self._sent = Sent()
        self._known: set[str] = set()
        self._failed, self._spent, self._last = False, 0.0, 0.0

    @property
    def id(self) -> str | None:
        """MLflow's id of the run; None where it is not there, or not yet."""
        return self._sent.run_id

    def metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers by name; what is no finite number is left out. ``step``: fold, horizon, trial or epoch."""
        numbers = {key_name(name): float(value) for name, value in values.items() if is_number(value)}
        if numbers:
            self._write("metrics", values=numbers, step=step)

    def join(self, parameters: Mapping[str, Any], sources: Sequence[Source]) -> None:
        """Parameters and data of a run that joins this one."""
        self.parameters({**parameters, **data_parameters(sources)})
        if sources:
            self._write("datasets", values=datasets(sources))

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Further parameters; the first value of a name stands."""
        new = {name: value for name, value in flat(values).items() if name not in self._known}
        self._known |= new.keys()
        if new:
            self._write("parameters", values=new)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Short texts by name, which runs can be searched by."""
        self._write("tags", values={key_name(name): str(value)[:5000] for name, value in values.items()})

    def scores(self, table: "pd.DataFrame") -> None:
        """The table of `score`: ``<metric> h<horizon>``, ``<metric>`` over the horizons as steps, and verdicts."""
        rows: dict[Any, dict[Any, Any]] = table.to_dict("index")
        for horizon, row in rows.items():
            self.metrics(row, step=int(horizon))
            self.metrics({f"{name} h{horizon}": value for name, value in row.items()})
        if "verdict" in table:
            self.tags({f"verdict h{horizon}": verdict for horizon, verdict in table["verdict"].items()})
        self.table("scores", table)

    def folds(self, forecasts: "pd.DataFrame") -> None:
        """Metrics of every fold of `walk_forward`: ``fold <metric> h<horizon>`` with the fold as step."""
        from mlkit.operations.training.scoring import fold_scores

        table = fold_scores(forecasts)
        rows: dict[Any, dict[Any, Any]] = table.to_dict("index")
        for (fold, horizon), row in rows.items():
            self.metrics({f"fold {name} h{horizon}": value for name, value in row.items()}, step=int(fold))
        self.table("folds", table)

    def figure(self, name: str, figure: Any) -> None:
        """A matplotlib figure, as ``figures/<name>.png``."""
        if self._journal is None:
            return
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=120, bbox_inches="tight")
        self._attach(image.getvalue(), f"figures/{file_name(name)}.png")

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """A table, as ``tables/<name>.csv``, which MLflow's pages show as one."""
        self._attach(frame.to_csv().encode(), f"tables/{file_name(name)}.csv")

    def text(self, name: str, text: str) -> None:
        """A text, as a file of that name; ``.txt`` is added where it has no ending."""
        plain = file_name(name)
        self._attach(text.encode(), plain if "." in plain.strip(".") else f"{plain}.txt")

    def file(self, path: Path | str, folder: str = "") -> None:
        """A file as it is, in ``folder``."""
        path = Path(path)
        self._attach(path, "/".join([*(file_name(part) for part in folder.split("/") if part), file_name(path.name)]))

    def bundle(self, bundle: ModelBundle, alias: Alias | None = None) -> None:
        """A bundle: its plain files, a version of the registered model of its market, and an alias of that version."""
        if alias not in (None, CHAMPION, CHALLENGER):
            raise ConfigError(f"alias {alias!r} is neither {CHAMPION} nor {CHALLENGER}")
        if self._journal is None:
            return
        manifest = bundle.manifest
        files = [MANIFEST, *manifest.files]
        measured = {h: row for h, row in manifest.metrics.items() if isinstance(row, dict)}
        verdicts = ", ".join(f"{h}: {row['verdict']}" for h, row in measured.items() if row.get("verdict"))
        span = f"{manifest.training_span.start} to {manifest.training_span.end}, {manifest.training_span.bars:,} bars"
        try:
            for name in files:
                self._journal.link(bundle.path / name, f"bundles/{bundle.id}/{name}")
        except OSError as error:
            self._give_up(error)
        self._write(
            "bundle",
            model=model_name(bundle),
            id=bundle.id,
            files=files,
            alias=alias,
            description=f"{manifest.symbol} {manifest.timeframe}, trained on {span}",
            tags={"data_sha256": manifest.data_sha256} | ({"verdicts": verdicts} if verdicts else {}),
        )

    def _attach(self, source: Path | bytes, name: str) -> None:
        if self._journal is None:
            return
        try:
            self._journal.attach(source, name)
        except OSError as error:
            self._give_up(error)
        self._write("file", name=name)

    def _write(self, do: str, **fields: Any) -> None:
        """Note an entry, and send what waits when it is time to."""
        if self._journal is None:
            return
        try:
            self._journal.write(do, **fields)
        except OSError as error:
            self._give_up(error)
            return
        if not self._failed and self._spent < _PATIENCE and time.monotonic() - self._last >= _EVERY:
            self.send()

    def send(self) -> bool:
        """Send what was noted so far; whether all of it arrived. The first failure of a run is logged, none raised."""
        if self._journal is None or self._store is None:
            return False
        began, arrived = time.monotonic(), False
        try:
            self._store.send(self._journal, self._sent, SECONDS)
            arrived = True
        except MlkitError as error:
            if not self._failed:
                _log.warning(
                    "not tracked yet, the run goes on: %s. It is kept in %s until mlkit track send",
                    error,
                    self._journal.folder,
                )
            self._failed = True
        finally:  # Ctrl-C included: a sending that was left alone has the old object
            self._sent = replace(self._sent, abandoned=False)
            self._last = time.monotonic()
            self._spent += self._last - began
        return arrived

    def end(self, status: str, error: BaseException | None = None) -> None:
        """Note how the run ended, send what is left, and let go of the journal."""
        if error is not None:
            self.tags({"mlkit.error": one_line(error)})
        self._spent = _PATIENCE  # one sending from here on
        self._write("end", status=status)
        if self._journal is None:
            return
        arrived = False
        try:
            arrived = self.send()
        finally:
            _close(self._journal, self._sent, arrived)
        if arrived and self._store is not None:
            send_waiting(self._store, seconds=SECONDS / 2)

    def _give_up(self, error: OSError) -> None:
        if self._journal is not None:
            _log.warning("not tracked any more, the run goes on: %s (%s)", self._journal.folder, one_line(error))
            self._journal.close(sent=False)
        self._journal = None


@contextmanager
def _ended(run: Run) -> Iterator[Run]:
    """The run is the active one in the block, and ends as the block does."""
    token = _ACTIVE.set(run)
    try:
        yield run
    except BaseException as error:
        run.end("FAILED" if isinstance(error, Exception) else "KILLED", error)
        raise
    else:
        run.end("FINISHED")
    finally:
        _ACTIVE.reset(token)


def _open(
    kind: str,
    settings: Settings,
    name: str,
    parameters: Mapping[str, Any],
    sources: Sequence[Source],
    above: Run | None,
    lazy: bool = False,
) -> Run:
    """A run with a journal that has begun; one without where no journal can be written."""
    key = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{kind}-{uuid4().hex[:8]}"
    store = Store.default()
    try:
        journal = Journal.create(key)
    except OSError as error:
        _log.warning("not tracked, the run goes on: no journal can be written (%s)", one_line(error))
        return Run(kind)
    run = Run(kind, journal, store)
    values = flat({**settings.chosen(), **parameters, **data_parameters(sources)})
    run._known |= values.keys()
    run._last = time.monotonic()  # the start is sent below, or with the rest
    run._write(
        "start",
        name=shown_name(name) or kind,
        store=str(store),
        parent=above.key if above is not None else None,
        lazy=lazy,
        tags=run_tags(kind, key),
        parameters=values,
        datasets=datasets(sources),
    )
    if not lazy:
        run.text("versions.json", json.dumps(package_versions(), indent=1))
        run.send()
    return run


def send_waiting(store: Store | None = None, *, seconds: float = SECONDS) -> tuple[int, int]:
    """Send what earlier runs left behind: those meant for ``store``, or all to the default one.

    Returns
    -------
    How many were sent, and how many are left. A run that was killed is marked KILLED at its last entry. A failure is
    logged, and ends the sending.
    """
    target, left = store or Store.default(), time.monotonic() + seconds
    done = 0
    for folder in waiting():
        if time.monotonic() > left:
            break
        with taken(folder) as journal:
            if journal is None or not journal.entries:
                continue
            if store is not None and journal.entries[0]["store"] != str(store):
                continue
            if journal.entries[-1]["do"] != "end":
                journal.write("end", status="KILLED", time=journal.entries[-1]["time"])
            sent, arrived = Sent(tried=True), False
            try:
                target.send(journal, sent, seconds)
                arrived = True
                done += 1
            except MlkitError as error:
                _log.warning("earlier runs stay in %s: %s", folder.parent, error)
                break
            finally:
                _close(journal, sent, arrived)
    return done, len(waiting())


def _close(journal: Journal, sent: Sent, arrived: bool) -> None:
    refused = arrived and bool(sent.refused)
    if refused:
        _log.warning("MLflow refused part of %s, which is kept: %s", journal.folder.name, sent.refused[0])
    journal.close(sent=arrived, refused=refused)


def model_name(bundle: ModelBundle) -> str:
    """Name of the registered model of a bundle: ``SP500-1d`` of a market, ``pool@<name>-1d`` of a pool of markets."""
    manifest = bundle.manifest
    return f"{POOL if manifest.pool else ''}{symbol_folder(manifest.symbol)}-{manifest.timeframe}"
