"""An Optuna study that can be killed, resumed and shared by several processes; the caller supplies the objective.

With one worker and a seed the trials are the same on each run, also after a kill: Optuna's sampler is seeded anew
before each trial, by the seed and the number of earlier trials that were not abandoned. With several workers the
trials depend on which one finishes first. The score of a trial depends on its parameters alone.

A killed process leaves its trial in the state ``RUNNING``. On the same machine the next run finds that the process
has ended and fails the trial at once; Optuna's heartbeat would take ``GRACE`` seconds, in which a resumed study could
not know which trial to draw next. A trial of another machine is failed by the heartbeat. Optuna's retry callback is
not used: the seeded sampler draws the parameters of an abandoned trial again. Only finished trials (complete or
pruned) count towards the number asked for.

Importing this module imports optuna.
"""

import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlkit.errors import ConfigError, DependencyError, MlkitError
from mlkit.untrusted import one_line, without_password

try:
    import optuna
    import psutil
    import sqlalchemy
    from optuna import Trial as Trial
    from optuna import TrialPruned as TrialPruned
    from optuna.samplers import TPESampler
    from optuna.study import MaxTrialsCallback
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:  # pragma: no cover - the extra is part of every development install
    raise DependencyError(f"tuning needs {error.name}: pip install 'mlkit[track]'") from error

if TYPE_CHECKING:
    import pandas as pd

HEARTBEAT = 60  # seconds between two heartbeats of a running trial
GRACE = 300  # seconds without a heartbeat after which a trial is failed
LOCK_WAIT = 120  # seconds that a writer waits for another one's lock on a SQLite file
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
DEFAULT = "default"  # user attribute of the trial of the default parameters
CONFIGURATION = "configuration"  # user attribute: hash of the trial in the trial ledger

Space = Mapping[str, tuple[int | float, int | float, bool]]  # parameter -> lowest, highest, on a logarithmic scale
Report = Callable[[int, float | None], None]  # finished trials, best score so far


@dataclass(frozen=True)
class Search:
    """What a study searches."""

    space: Space
    default: dict[str, int | float]  # the parameters without tuning: the first trial
    seed: int
    startup: int  # random trials before the sampler learns, and before trials are pruned
    warm_up: int  # reports of a trial before it may be pruned
    about: dict[str, Any]  # everything the scores depend on besides the parameters; plain JSON values


class Objective(Protocol):
    """The function that a study minimises; it can be pickled if there are several workers."""

    @property
    def search(self) -> Search: ...

    def score(self, trial: Trial, parameters: Mapping[str, int | float]) -> float:
        """The loss of parameters. Reports intermediate losses and raises TrialPruned where the pruner says so."""
        ...


@dataclass(frozen=True, eq=False)
class StudyResult:
    """The trials of a study, and its best parameters."""

    parameters: dict[str, int | float]  # of the complete trial of the lowest score, the earliest of equal ones
    score: float
    default_score: float | None  # of the default parameters
    counts: dict[str, int]  # number of trials by outcome: complete, pruned, fail; abandoned ones are left out
    configurations: tuple[str, ...]  # hash in the ledger of every trial, abandoned ones included
    trials: "pd.DataFrame"  # one row per trial: state, score, reports, default, and a column per parameter
    importance: "pd.Series"  # share of the score's variance that each parameter explains; empty for few trials


@dataclass(frozen=True)
class Study:
    """A study of an objective, stored under a name at an Optuna storage URL."""

    objective: Objective
    name: str
    storage: str

    @contextmanager
    def opened(self, *, shared: bool = False) -> "Iterator[optuna.Study]":
        """Optuna's study, created if it does not exist. ``shared``: several workers run trials at once.

        ConfigError where the storage cannot be opened, or the study of that name has another objective.
        """
        search, storage, verbosity = self.objective.search, _storage(self.storage), optuna.logging.get_verbosity()
        try:
            # The progress bar replaces Optuna's log line per trial.
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            study = optuna.create_study(
                study_name=self.name,
                storage=storage,
                direction="minimize",
                sampler=_SeededSampler(search, shared),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=search.startup, n_warmup_steps=search.warm_up),
                load_if_exists=True,
            )
            about = study.user_attrs.get("task")
            if about is None:
                study.set_user_attr("task", search.about)
            elif about != search.about:
                differ = sorted(key for key in {*about, *search.about} if about.get(key) != search.about.get(key))
                raise ConfigError(
                    f"study {self.name}: its trials were made with other {', '.join(differ)}; give another name"
                )
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()
            optuna.logging.set_verbosity(verbosity)

    def run(self, trials: int, *, workers: int = 1, report: Report | None = None) -> None:
        """Run trials until the study has ``trials`` finished ones, earlier ones included.

        Each round divides the missing number among the workers, so that a killed worker's share is run in the next
        round. MlkitError when a round finishes no trial.
        """
        with self.opened(shared=workers > 1) as study:
            _report(study, report)
            while (missing := trials - (before := len(finished(study)))) > 0:
                fail_dead_trials(study)
                if not any(DEFAULT in one.user_attrs and not abandoned(one) for one in study.get_trials()):
                    study.enqueue_trial(self.objective.search.default, user_attrs={DEFAULT: True})
                if workers == 1:
                    self._optimize(study, missing, trials, report)
                else:
                    shares = [missing // workers + (i < missing % workers) for i in range(workers)]
                    self._run_workers(study, [share for share in shares if share], trials, report)
                if len(finished(study)) == before:
                    raise MlkitError(f"study {self.name}: its workers end without finishing a trial; is memory short?")

    def _optimize(self, study: "optuna.Study", share: int, trials: int, report: Report | None = None) -> None:
        """Run ``share`` trials in this process; fewer where other processes bring the study to ``trials``."""
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}

        def objective(trial: Trial) -> float:
            trial.set_user_attr("owner", owner)
            parameters = suggest(trial, self.objective.search.space)
            try:
                return self.objective.score(trial, parameters)
            except TrialPruned:
                raise
            except Exception as error:
                trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:500])
                raise

        limit = MaxTrialsCallback(trials, states=FINISHED)
        study.optimize(objective, n_trials=share, callbacks=[lambda study, _: _report(study, report), limit])

    def _run_workers(self, study: "optuna.Study", shares: list[int], trials: int, report: Report | None) -> None:
        """Run each share in a process of its own; a killed process loses its current trial only."""
        context, before = get_context("spawn"), len(study.get_trials(deepcopy=False))
        workers = [context.Process(target=_work, args=(self, share, trials)) for share in shares]
        try:
            for worker in workers:
                worker.start()
            while running := [worker.sentinel for worker in workers if worker.is_alive()]:
                connection.wait(running, timeout=0.5)
                _report(study, report)
        finally:
            for worker in workers:
                if worker.pid is not None:
                    worker.terminate()
                    worker.join()
            fail_dead_trials(study)
        for trial in study.get_trials(deepcopy=False)[before:]:
            if "error" in trial.user_attrs:
                raise MlkitError(f"study {self.name}: {trial.user_attrs['error']}")

    def result(self) -> StudyResult:
        """Read the study; MlkitError if none of its trials is complete."""
        with self.opened() as study:
            try:
                best, table = study.best_trial, self._table(study)
            except ValueError:
                raise MlkitError(f"study {self.name}: no trial is complete yet; run more") from None
            complete = table[table["state"] == "complete"]
            default = complete.loc[complete["default"], "score"]
            hashes = {one.user_attrs.get(CONFIGURATION) for one in study.get_trials(deepcopy=False)} - {None}
            return StudyResult(
                parameters=dict(best.params),
                score=float(best.value),
                default_score=float(default.iloc[0]) if len(default) else None,
                counts={state: int((table["state"] == state).sum()) for state in ("complete", "pruned", "fail")},
                configurations=tuple(sorted(hashes)),
                trials=table,
                importance=self._importance(study, complete["score"]),
            )

    def _table(self, study: "optuna.Study") -> "pd.DataFrame":
        """One row per trial that was not abandoned; the score of a pruned one is the last it reported."""
        import pandas as pd

        rows = {
            trial.number: {
                "state": trial.state.name.lower(),
                "score": float("nan") if trial.value is None else trial.value,
                "reports": len(trial.intermediate_values),
                "default": DEFAULT in trial.user_attrs,
                **{name: trial.params.get(name, float("nan")) for name in self.objective.search.space},
            }
            for trial in study.get_trials(deepcopy=False)
            if trial.state.is_finished() and not abandoned(trial)
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trial")

    def _importance(self, study: "optuna.Study", scores: "pd.Series", least: int = 6) -> "pd.Series":
        """Share of the score's variance that each parameter explains (fANOVA), largest first.

        Empty with fewer than ``least`` scores, or where all are equal. Hutter, Hoos & Leyton-Brown (2014).
        """
        import pandas as pd

        if len(scores) < least or scores.nunique() < 2:
            return pd.Series(dtype=float, name="importance")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.objective.search.seed)
        return pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator), name="importance")


class _SeededSampler(TPESampler):  # type: ignore[misc]
    """Tree-structured Parzen estimator whose draws depend on the seed and the trials before, and on nothing else."""

    def __init__(self, search: Search, shared: bool) -> None:
        self._search, self._shared = search, shared
        self._start(0)

    def _start(self, number: int) -> None:
        entropy = (self._search.seed, int(self._shared), number)
        super().__init__(
            seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
            n_startup_trials=self._search.startup,
            multivariate=True,
            # Keeps away from the parameters that another worker is trying.
            constant_liar=self._shared,
        )

    def before_trial(self, study: "optuna.Study", trial: FrozenTrial) -> None:
        earlier = study.get_trials(deepcopy=False)[: trial.number]
        # A trial after abandoned ones gets the seed that the first of them had.
        self._start(trial.number - (0 if self._shared else sum(abandoned(one) for one in earlier)))
        super().before_trial(study, trial)


def _storage(url: str) -> "optuna.storages.RDBStorage":
    """An Optuna storage with heartbeat; ConfigError where it cannot be opened."""
    try:
        parsed = sqlalchemy.make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # Optuna marks the heartbeat as experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": LOCK_WAIT}} if sqlite else {},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
            )
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"storage {without_password(url)} cannot be opened ({one_line(str(error).splitlines()[0])}); give a URL "
            "such as sqlite:///data/optuna.db or postgresql+psycopg://user@host/optuna"
        ) from None


def suggest(trial: Trial, space: Space) -> dict[str, int | float]:
    """Parameters of a trial: whole numbers where the bounds are whole numbers."""
    return {
        name: trial.suggest_int(name, low, high, log=log)
        if isinstance(low, int) and isinstance(high, int)
        else trial.suggest_float(name, low, high, log=log)
        for name, (low, high, log) in space.items()
    }


def abandoned(trial: FrozenTrial) -> bool:
    """Whether the process of a trial was killed or interrupted; a trial that raised an error holds the error."""
    return trial.state is TrialState.FAIL and "error" not in trial.user_attrs


def finished(study: "optuna.Study") -> list[FrozenTrial]:
    """Complete and pruned trials in the order of their numbers."""
    return list(study.get_trials(deepcopy=False, states=FINISHED))


def fail_dead_trials(study: "optuna.Study") -> None:
    """Fail the running trials of this machine whose process has ended."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        if not owner or owner["host"] != socket.gethostname():
            continue
        try:
            # The time tells the process from a later one of the same number.
            alive = psutil.Process(owner["pid"]).create_time() == owner.get("started")
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _report(study: "optuna.Study", report: Report | None) -> None:
    if report is not None:
        done = finished(study)
        report(len(done), min((trial.value for trial in done if trial.state is TrialState.COMPLETE), default=None))


def _work(study: Study, share: int, trials: int) -> None:
    """Run a share of trials in a worker process, which ends when its parent has ended."""
    # Ctrl-C is handled by the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        with study.opened(shared=True) as held:
            study._optimize(held, share, trials)
    except Exception as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
