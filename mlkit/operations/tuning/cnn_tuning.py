"""Tune the training of the pattern CNN on simulated bars, and say on other simulated bars whether it helped.

A trial is a short training; its score is 1 minus the best macro-F1 on the validation markets, and epochs are what the
pruner sees. Winner and default are then trained alike and compared on markets that neither training, validation nor
calibration drew. No real bar takes part, and what is best in a few epochs need not be best in many.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlkit.config import Settings, write_atomic
from mlkit.errors import ConfigError
from mlkit.evaluation import Ledger, Source, configuration_hash
from mlkit.market.simulate import pattern_factory
from mlkit.models.ensemble import FloatMatrix, Progress
from mlkit.operations.patterns.cnn_training import PROFILES, Profile, train_patterns
from mlkit.operations.patterns.samples import SERIES
from mlkit.operations.patterns.thresholds import counts
from mlkit.operations.tracking.tracking import tracked
from mlkit.operations.tuning.improvement import LEVEL, answer, sentence, teller, track
from mlkit.operations.tuning.tuned import FILE, OutOfSample, Record

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from mlkit.operations.tuning.study import Space

PURPOSE = "patterns"  # of the ledger's trials
TRIALS = {"smoke": 6, "full": 40}
STARTUP = {"smoke": 3, "full": 10}
MARKETS = {"smoke": 20, "full": 100}  # simulated markets of the comparison
HITS = 20  # a pattern that the rules find less often there is left out
SPACE: "Space" = {
    "peak_lr": (2e-3, 1e-1, True),
    "weight_decay": (1e-6, 1e-1, True),
    "ema": (0.9, 0.998, False),
    "jitter": (0.0, 0.4, False),
    "batch": (64, 512, True),
}
SIZES = {
    "smoke": replace(PROFILES["smoke"], epochs=3, windows=4_096, valid=8_000, calibration=8_000),
    "full": PROFILES["smoke"],
}


@dataclass(frozen=True)
class PatternTask:
    """A trial of the pattern CNN: a training of ``size``."""

    settings: Settings
    size: Profile
    warm_up: int = 1  # epochs: after the first one the learning rate has hardly begun

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def startup(self) -> int:
        return STARTUP[self.settings.profile]

    @property
    def about(self) -> dict[str, Any]:
        """See `Task`."""
        return {
            "market": ["pattern_factory", "simulated"],
            "seed": self.seed,
            "size": {name: value for name, value in asdict(self.size).items() if name not in SPACE},
            "search space": {name: list(bounds) for name, bounds in SPACE.items()},
        }

    @property
    def default(self) -> dict[str, int | float]:
        """See `Task`."""
        return {name: getattr(self.size, name) for name in SPACE}

    @property
    def source(self) -> Source:
        """The simulated markets of a seed, as the ledger knows them."""
        return Source("pattern_factory", "simulated", str(self.seed), str(self.seed), configuration_hash(self.about))

    @property
    def space(self) -> "Space":
        """See `Task`."""
        return SPACE

    def score(self, trial: "optuna.Trial", parameters: Mapping[str, int | float]) -> float:
        """1 minus the best macro-F1 on the validation markets; every epoch is reported."""
        import optuna

        from mlkit.operations.tuning.study import CONFIGURATION

        size = replace(self.size, **parameters)  # type: ignore[arg-type]
        tried = {"seed": self.seed, "size": asdict(size)}
        trial.set_user_attr(CONFIGURATION, configuration_hash(tried))
        best = 1.0

        def told(row: dict[str, float]) -> None:
            nonlocal best
            best = min(best, 1.0 - row["valid_macro_f1"])
            trial.report(best, int(row["epoch"]))
            if row["epoch"] + 1 < size.epochs and trial.should_prune():
                raise optuna.TrialPruned

        with Ledger.of(self.settings).trial([self.source], tried, purpose=PURPOSE):
            train_patterns(seed=self.seed, profile=size, progress=told)
        return best


class TunedPatterns(Record):
    """What a tuning study chose for the training of the pattern CNN."""

    schema_version: Literal[1] = 1
    profile: str
    seed: int
    parameters: dict[str, int | float]  # of Profile
    study: str
    storage: str  # URL without password
    epochs: int  # of a trial
    score: float  # 1 - macro-F1 on the validation markets
    default_score: float | None
    trials: dict[str, int]
    configurations: tuple[str, ...]
    out_of_sample: OutOfSample | None
    created: str


@dataclass(frozen=True, eq=False)
class PatternTuning:
    """A study of the pattern CNN after its trials."""

    tuned: TunedPatterns
    trials: "pd.DataFrame"
    importance: "pd.Series"

    def sentence(self) -> str:
        """Whether tuning helped, in one sentence; the loss is 1 minus the macro-F1."""
        return sentence(self.tuned.out_of_sample)


def tune_patterns(
    settings: Settings | None = None,
    *,
    trials: int | None = None,
    workers: int = 1,
    storage: str | None = None,
    study: str | None = None,
    size: Profile | None = None,
    progress: Progress | None = None,
) -> PatternTuning:
    """Bring a study of the pattern CNN to a number of trials, and compare its best with the default.

    Parameters and errors are those of `tune`; ``size`` is that of a training, a few epochs by default. The loss of the
    comparison is 1 minus the macro-F1 (classic standard), on markets that nothing else drew.
    """
    from mlkit.operations.tuning.study import Place, found, hidden, opened
    from mlkit.operations.tuning.workers import run_trials

    settings = settings or Settings()
    trials = TRIALS[settings.profile] if trials is None else trials
    if trials < 1 or workers < 1:
        raise ConfigError(f"tune: trials and workers must be at least 1, got {trials} and {workers}")
    task = PatternTask(settings, size or SIZES[settings.profile])
    digest = configuration_hash(task.about)[:8]
    place = Place(storage or settings.studies, study or f"patterns-{settings.profile}-{task.seed}-{digest}")
    about = {"study": place.name, "trials": trials, "workers": workers, **task.about}
    with tracked("tune", settings, name=place.name, parameters=about, sources=[task.source]) as run:
        run_trials(place, task, trials, workers=workers, told=teller(run, trials, progress))
        with opened(place, task) as held:
            result = found(held, list(SPACE), task.seed)
        Ledger.of(settings).recall([task.source], result.configurations, purpose=PURPOSE)
        verdict = _compare(task, result.parameters)
        track(run, result.parameters, result.trials, verdict, None)
    tuned = TunedPatterns(
        profile=settings.profile,
        seed=task.seed,
        parameters=result.parameters,
        study=place.name,
        storage=hidden(place.url),
        epochs=task.size.epochs,
        score=result.score,
        default_score=result.default_score,
        trials=result.counts,
        configurations=result.configurations,
        out_of_sample=verdict,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return PatternTuning(tuned, result.trials, result.importance)


def _compare(task: PatternTask, parameters: Mapping[str, int | float]) -> OutOfSample:
    """Default and tuned training on new markets; the interval is a bootstrap over whole markets."""
    n = MARKETS[task.settings.profile]
    children = np.random.SeedSequence((task.seed, 5)).generate_state(n)
    markets = [pattern_factory(SERIES, seed=int(child), plant_rate=0.0).to_numpy() for child in children]
    tables: dict[str, FloatMatrix] = {}
    same = dict(parameters) == task.default
    for who, changes in {"default": {}, "tuned": parameters}.items():
        if same and who == "tuned":
            tables[who] = tables["default"]
            continue
        model, _ = train_patterns(seed=task.seed, profile=replace(task.size, **changes))  # type: ignore[arg-type]
        tables[who] = np.array([counts(model, bars) for bars in markets])  # [market, 3, pattern]
    rng = np.random.default_rng(task.seed)
    drawn = [_losses(tables, rng.integers(0, n, n)) for _ in range(1000)]
    draws = [loss["tuned"] - loss["default"] for loss in drawn]
    low, high = np.quantile(draws, [0.5 * (1 - LEVEL), 0.5 * (1 + LEVEL)]).tolist()
    loss = _losses(tables, np.arange(n))
    return OutOfSample(
        answer="same parameters" if same else answer(low, high),
        **loss,
        difference=loss["tuned"] - loss["default"],
        low=low,
        high=high,
        level=LEVEL,
        start="simulated",
        end="simulated",
        bars=n * SERIES,
        reads_before=0,
    )


def _losses(tables: Mapping[str, FloatMatrix], chosen: Any) -> dict[str, float]:
    """1 minus the macro-F1 over some markets, counted together, of ``default`` and ``tuned``."""
    loss = {}
    frequent = tables["default"].sum(axis=0)[2] >= HITS
    for who, table in tables.items():
        both, said, true = table[chosen].sum(axis=0)[:, frequent]
        loss[who] = 1.0 - float(np.mean(2.0 * both / np.maximum(said + true, 1)))
    return loss


def save_tuned_patterns(tuned: TunedPatterns, settings: Settings) -> Path:
    """Write the file beside one's own weights atomically, and return its path."""
    path = settings.models / "patterns" / FILE
    write_atomic(path, (json.dumps(tuned.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode())
    return path
