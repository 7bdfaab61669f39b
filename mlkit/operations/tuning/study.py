"""An Optuna study that can be killed, resumed and shared by processes; what is tried is a task's affair.

One worker and a seed give the same trials each time, whether the run was interrupted or not: the sampler is seeded
anew before every trial, by the seed and the number of trials that were not abandoned before it. Several workers see
each other's results in the order in which they happen to end, so their trials differ from run to run. What a trial
scores depends on its parameters alone.

A killed process leaves its trial behind as ``RUNNING``. The next run on that machine knows it by its process and fails
it; of another machine Optuna's heartbeat tells after ``GRACE`` seconds. Only finished trials, complete or pruned,
count towards the number asked for.

Importing this module imports optuna.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlkit.errors import ConfigError, DependencyError, MlkitError

try:
    import optuna
    from optuna.samplers import BaseSampler, TPESampler
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:  # pragma: no cover - the extra is part of every development install
    raise DependencyError(f"tuning needs {error.name}: pip install 'mlkit[track]'") from error

if TYPE_CHECKING:
    import pandas as pd

HEARTBEAT = 60  # seconds between two signs of life of a running trial
GRACE = 300  # seconds without one until it is taken for dead
LOCK_WAIT = 120  # seconds that a writer waits for another one's lock on a SQLite file
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
DEFAULT = "default"  # marks the trial of the parameters that mlkit has without tuning
CONFIGURATION = "configuration"  # hash under which the trial ledger knows a trial


Space = Mapping[str, tuple[int | float, int | float, bool]]  # parameter -> lowest, highest, on a logarithmic scale


class Task(Protocol):
    """What a trial is: parameters in, score out, the lower the better."""

    @property
    def seed(self) -> int: ...

    @property
    def startup(self) -> int:
        """Trials at random before the sampler learns, and before anything is pruned."""
        ...

    @property
    def warm_up(self) -> int:
        """Reports of a trial before it may be pruned."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """All that the scores depend on besides the parameters; plain JSON values."""
        ...

    @property
    def default(self) -> dict[str, int | float]:
        """The parameters without tuning: the first trial."""
        ...

    @property
    def space(self) -> Space:
        """What is searched."""
        ...

    def score(self, trial: "optuna.Trial", parameters: Mapping[str, int | float]) -> float:
        """Score them; reports on the way and raises TrialPruned where the study says so."""
        ...


def drawn(trial: "optuna.Trial", space: Space) -> dict[str, int | float]:
    """Parameters of a trial: whole numbers where the bounds are."""
    return {
        name: trial.suggest_int(name, low, high, log=log)
        if isinstance(low, int) and isinstance(high, int)
        else trial.suggest_float(name, low, high, log=log)
        for name, (low, high, log) in space.items()
    }


@dataclass(frozen=True)
class Place:
    """Where a study lives."""

    url: str  # Optuna storage, any that SQLAlchemy opens
    name: str


@contextmanager
def opened(place: Place, task: Task, *, shared: bool = False) -> "Iterator[optuna.Study]":
    """The study of a task, made where there is none yet.

    ConfigError where the storage cannot be opened, or the study of that name is of another task.
    """
    with _quiet(), _storage(place.url) as storage:
        study = optuna.create_study(
            study_name=place.name,
            storage=storage,
            direction="minimize",
            sampler=_Seeded(task, shared),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=task.startup, n_warmup_steps=task.warm_up),
            load_if_exists=True,
        )
        about = study.user_attrs.get("task")
        if about is None:
            study.set_user_attr("task", task.about)
        elif about != task.about:
            differ = sorted(key for key in {*about, *task.about} if about.get(key) != task.about.get(key))
            raise ConfigError(
                f"study {place.name}: its trials were made with other {', '.join(differ)}; give another name"
            )
        yield study


@contextmanager
def _storage(url: str) -> "Iterator[optuna.storages.RDBStorage]":
    """The storage, and no connection left open after."""
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():  # the heartbeat counts as experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": LOCK_WAIT}} if sqlite else {},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
            )
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"storage {hidden(url)} cannot be opened ({str(error).splitlines()[0]}); give a URL such as "
            "sqlite:///data/optuna.db or postgresql+psycopg://user@host/optuna"
        ) from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def hidden(url: str) -> str:
    """A storage URL without its password."""
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url.split("@")[-1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs a line a trial; the progress bar says it better."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class _Seeded(BaseSampler):  # type: ignore[misc]
    """Tree-structured Parzen estimator whose draws depend on the seed, the trials before, and nothing else."""

    def __init__(self, task: Task, shared: bool) -> None:
        self._task, self._shared = task, shared
        self._sampler = self._seeded(0)
        self.default = False  # the next trial is that of the default parameters

    def _seeded(self, place: int) -> TPESampler:
        import numpy as np

        entropy = (self._task.seed, int(self._shared), place)
        return TPESampler(
            seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
            n_startup_trials=self._task.startup,
            multivariate=True,
            constant_liar=self._shared,  # keep away from what another worker is trying
        )

    def before_trial(self, study: Any, trial: FrozenTrial) -> None:
        earlier = study.get_trials(deepcopy=False)[: trial.number]
        lost = 0 if self._shared else sum(abandoned(one) for one in earlier)
        self._sampler = self._seeded(trial.number - lost)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> Any:
        return {} if self.default else self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> Any:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        if self.default:
            return self._task.default[param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Any, trial: FrozenTrial, state: Any, values: Any) -> None:
        self.default = False
        self._sampler.after_trial(study, trial, state, values)


def abandoned(trial: FrozenTrial) -> bool:
    """Whether its process was killed or interrupted; a trial that failed by itself holds its error."""
    return trial.state is TrialState.FAIL and "error" not in trial.user_attrs


def finished(study: "optuna.Study") -> list[FrozenTrial]:
    """Complete and pruned trials in the order of their numbers."""
    return list(study.get_trials(deepcopy=False, states=FINISHED))


def best(study: "optuna.Study") -> FrozenTrial:
    """The complete trial of the lowest score, the earliest of equals; MlkitError if none is complete."""
    done = [trial for trial in finished(study) if trial.state is TrialState.COMPLETE]
    if not done:
        raise MlkitError(f"study {study.study_name}: no trial is complete yet; run more")
    return min(done, key=lambda trial: (trial.value, trial.number))


@dataclass(frozen=True, eq=False)
class Found:
    """What a study holds."""

    parameters: dict[str, int | float]  # of the best trial
    score: float
    default_score: float | None  # of the default parameters
    counts: dict[str, int]  # complete, pruned, fail: trials by how they ended, abandoned ones left out
    configurations: tuple[str, ...]  # every trial's hash in the ledger, the abandoned ones' too
    trials: "pd.DataFrame"  # one row a trial: state, score, reports, default, and a column a parameter
    importance: "pd.Series"  # share of the score's variance that each parameter explains; empty for few trials


def found(study: "optuna.Study", parameters: Sequence[str], seed: int) -> Found:
    """Read a study; MlkitError if none of its trials is complete."""
    chosen, table = best(study), _table(study, parameters)
    default = table.loc[table["default"] & (table["state"] == "complete"), "score"]
    known = {t.user_attrs[CONFIGURATION] for t in study.get_trials(deepcopy=False) if CONFIGURATION in t.user_attrs}
    return Found(
        parameters=dict(chosen.params),
        score=float(chosen.value),
        default_score=float(default.iloc[0]) if len(default) else None,
        counts={state: int((table["state"] == state).sum()) for state in ("complete", "pruned", "fail")},
        configurations=tuple(sorted(known)),
        trials=table,
        importance=_importance(study, seed),
    )


def _table(study: "optuna.Study", parameters: Sequence[str]) -> "pd.DataFrame":
    """One row a trial that was not abandoned; the score of a pruned one is the last it reported."""
    import pandas as pd

    rows = {
        trial.number: {
            "state": trial.state.name.lower(),
            "score": float("nan") if trial.value is None else trial.value,
            "reports": len(trial.intermediate_values),
            "default": DEFAULT in trial.user_attrs,
            **{name: trial.params.get(name, float("nan")) for name in parameters},
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not abandoned(trial)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trial")


def _importance(study: "optuna.Study", seed: int, least: int = 6) -> "pd.Series":
    """Share of the score's variance that each parameter explains (fANOVA), largest first.

    Empty with fewer than ``least`` complete trials, or where all scores are equal. Hutter, Hoos & Leyton-Brown (2014).
    """
    import pandas as pd

    scores = [trial.value for trial in finished(study) if trial.state is TrialState.COMPLETE]
    if len(scores) < least or len(set(scores)) < 2:
        return pd.Series(dtype=float, name="importance")
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator), name="importance")
