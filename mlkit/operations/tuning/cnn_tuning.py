"""Tune the training of the pattern CNN on simulated bars, and compare the result on other simulated bars.

A trial is a short training; its score is 1 minus the best macro-F1 on the validation markets, and the pruner compares
epochs. The best and the default parameters are then trained alike and compared on markets that neither training,
validation nor calibration used. No real bar is used. What is best in a few epochs need not be best in many.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.config import Settings
from mlkit.evaluation import Ledger, Source, configuration_hash
from mlkit.market.simulate import pattern_factory
from mlkit.models.ensemble import FloatMatrix, Progress
from mlkit.operations.patterns.cnn_training import PROFILES, Profile, train_patterns
from mlkit.operations.patterns.samples import SERIES
from mlkit.operations.patterns.thresholds import counts
from mlkit.operations.tuning.improvement import INTERVAL_LEVEL, answer, chosen, run_study
from mlkit.operations.tuning.study import CONFIGURATION, Search, Space, Study, StudyResult, Trial, TrialPruned
from mlkit.operations.tuning.tuned import OutOfSample, TunedPatterns, Tuning

if TYPE_CHECKING:
    pass

PURPOSE = "patterns"  # of the ledger's trials
CNN_TRIALS = {"smoke": 6, "full": 40}
CNN_STARTUP = {"smoke": 3, "full": 10}  # random trials before the sampler learns
MARKETS = {"smoke": 20, "full": 100}  # simulated markets of the comparison
LEAST_HITS = 20  # a pattern that the rules find less often on them is left out
CNN_SPACE: Space = {
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
class CnnObjective:
    """Loss of a training of the pattern CNN of ``size``."""

    settings: Settings
    size: Profile

    @cached_property
    def search(self) -> Search:
        """See `Objective`."""
        return Search(
            space=CNN_SPACE,
            default={name: getattr(self.size, name) for name in CNN_SPACE},
            seed=self.settings.seed,
            startup=CNN_STARTUP[self.settings.profile],
            # Epochs: after the first one the learning rate has hardly risen.
            warm_up=1,
            about={
                "market": ["pattern_factory", "simulated"],
                "seed": self.settings.seed,
                "size": {name: value for name, value in asdict(self.size).items() if name not in CNN_SPACE},
                "search space": {name: list(bounds) for name, bounds in CNN_SPACE.items()},
            },
        )

    @property
    def source(self) -> Source:
        """The simulated markets of the seed, as the ledger identifies them."""
        seed = str(self.settings.seed)
        return Source("pattern_factory", "simulated", seed, seed, configuration_hash(self.search.about))

    def score(self, trial: Trial, parameters: Mapping[str, int | float]) -> float:
        """1 minus the best macro-F1 on the validation markets; every epoch is reported."""
        size = replace(self.size, **parameters)  # type: ignore[arg-type]
        tried = {"seed": self.settings.seed, "size": asdict(size)}
        trial.set_user_attr(CONFIGURATION, configuration_hash(tried))
        best = 1.0

        def report(row: dict[str, float]) -> None:
            nonlocal best
            best = min(best, 1.0 - row["valid_macro_f1"])
            trial.report(best, int(row["epoch"]))
            if row["epoch"] + 1 < size.epochs and trial.should_prune():
                raise TrialPruned

        with Ledger.of(self.settings).trial([self.source], tried, purpose=PURPOSE):
            train_patterns(seed=self.settings.seed, profile=size, progress=report)
        return best


def tune_patterns(
    settings: Settings | None = None,
    *,
    trials: int | None = None,
    workers: int = 1,
    storage: str | None = None,
    study: str | None = None,
    size: Profile | None = None,
    progress: Progress | None = None,
) -> Tuning[TunedPatterns]:
    """Run a study of the pattern CNN, and compare its best parameters with the default ones.

    Parameters and errors are those of `tune`; ``size`` is that of a training, a few epochs by default. The loss of the
    comparison is 1 minus the macro-F1 (classic standard), on markets that nothing else used.
    """
    settings = settings or Settings()
    objective = CnnObjective(settings, size or SIZES[settings.profile])
    digest = configuration_hash(objective.search.about)[:8]
    name = study or f"patterns-{settings.profile}-{settings.seed}-{digest}"
    held = Study(objective, name, storage or settings.studies)

    def choose(result: StudyResult) -> tuple[TunedPatterns, None]:
        Ledger.of(settings).recall([objective.source], result.configurations, purpose=PURPOSE)
        verdict = _compare(objective, result.parameters)
        fields = chosen(held, settings, result)
        return TunedPatterns(**fields, epochs=objective.size.epochs, out_of_sample=verdict), None

    trials = CNN_TRIALS[settings.profile] if trials is None else trials
    return run_study(
        held, settings, choose, trials=trials, workers=workers, sources=[objective.source], progress=progress
    )


def _compare(objective: CnnObjective, parameters: Mapping[str, int | float]) -> OutOfSample:
    """Default and tuned training on new markets; the interval is a bootstrap over whole markets."""
    n, seed = MARKETS[objective.settings.profile], objective.settings.seed
    children = np.random.SeedSequence((seed, 5)).generate_state(n)
    markets = [pattern_factory(SERIES, seed=int(child), plant_rate=0.0).to_numpy() for child in children]
    tables: dict[str, FloatMatrix] = {}
    same = dict(parameters) == objective.search.default
    for who, changes in {"default": {}, "tuned": parameters}.items():
        if same and who == "tuned":
            tables[who] = tables["default"]
            continue
        model, _ = train_patterns(seed=seed, profile=replace(objective.size, **changes))  # type: ignore[arg-type]
        tables[who] = np.array([counts(model, bars) for bars in markets])  # [market, 3, pattern]
    rng = np.random.default_rng(seed)
    draws = [_losses(tables, rng.integers(0, n, n)) for _ in range(1000)]
    differences = [loss["tuned"] - loss["default"] for loss in draws]
    low, high = np.quantile(differences, [0.5 * (1 - INTERVAL_LEVEL), 0.5 * (1 + INTERVAL_LEVEL)]).tolist()
    loss = _losses(tables, np.arange(n))
    return OutOfSample(
        answer="same parameters" if same else answer(low, high),
        **loss,
        difference=loss["tuned"] - loss["default"],
        low=low,
        high=high,
        level=INTERVAL_LEVEL,
        start="simulated",
        end="simulated",
        bars=n * SERIES,
        reads_before=0,
    )


def _losses(tables: Mapping[str, FloatMatrix], markets: Any) -> dict[str, float]:
    """1 minus the macro-F1 over some markets, counted together, of ``default`` and ``tuned``."""
    loss = {}
    frequent = tables["default"].sum(axis=0)[2] >= LEAST_HITS
    for who, table in tables.items():
        both, predicted, true = table[markets].sum(axis=0)[:, frequent]
        loss[who] = 1.0 - float(np.mean(2.0 * both / np.maximum(predicted + true, 1)))
    return loss
