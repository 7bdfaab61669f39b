"""Tune the price ensemble on purged inner folds, and say whether it helped on bars that tuning never saw.

The newest fifth of the history is held back by `FinalSpan`: a study gets the bars before it and nothing else. Inside
them every trial is fitted and scored by purged walk-forward. The winner is then compared with the default parameters on
the held-back bars, once, with an interval.

The loss
--------
The trees' own: the mean squared error of the log return over its expected deviation, clipped as in training, over
that of the forecast of no change, averaged over horizons. 1 is no change, under 1 is skill. What the trees say is
scored, **before** shrinkage: shrinkage tells hardly anything in a liquid market, and a score that is the same for all
parameters tunes nothing. The comparison says both.

What is tuned: depth and leaf size of all trees, learning rate, penalty, rows and features per tree. What is not: the
libraries' weights, which are part of the product's definition, and the number of rounds, which early stopping finds.

Pruning is by fold, against the median of the trials before at the same fold. Hyperband has nothing to hand out with
three to five folds of about one cost, and a rank test over so few folds never becomes significant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation import FinalSpan, Ledger, Source, configuration_hash
from mlkit.features import FeatureSet, fit_garch
from mlkit.market import fingerprint, symbol_folder
from mlkit.models.ensemble import EnsembleSettings, Progress
from mlkit.operations.tracking.tracking import tracked
from mlkit.operations.tracking.trials import configuration, feature_digest
from mlkit.operations.training.training import fit_price, folds
from mlkit.operations.training.training_set import TrainingSet, ensemble_settings, prepare
from mlkit.operations.tuning.improvement import compare_held_back, losses_of, sentence, teller, track
from mlkit.operations.tuning.tuned import Saw, Tuned
from mlkit.operations.tuning.tuned import load_tuned as load_tuned
from mlkit.operations.tuning.tuned import save_tuned as save_tuned

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from mlkit.operations.tuning.study import Found, Place, Space

HELD_BACK = 0.2  # of the bars: the test span that tuning never sees
FOLDS = {"smoke": 2, "full": 4}
TRIALS = {"smoke": 8, "full": 40}
STARTUP = {"smoke": 4, "full": 10}  # random trials before the sampler learns
# Parameter: lowest, highest, whether on a logarithmic scale. Integers where the bounds are.
SPACE: "Space" = {
    "max_depth": (2, 8, False),
    "min_leaf": (10, 400, True),
    "learning_rate": (0.01, 0.3, True),
    "subsample": (0.4, 1.0, False),
    "colsample": (0.1, 1.0, False),
    "reg_lambda": (0.1, 1000.0, True),
    "forest_depth": (2, 12, False),
    "forest_features": (0.03, 0.6, True),
}


@dataclass(frozen=True, eq=False)
class PriceTask:
    """A trial of the price ensemble; the bars are those that tuning may see."""

    bars: "pd.DataFrame"
    settings: Settings
    features: FeatureSet
    ensemble: EnsembleSettings  # what the parameters change
    warm_up: int = 0  # one fold is enough to be pruned: the median of the trials before is the bar

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def startup(self) -> int:
        return STARTUP[self.settings.profile]

    @cached_property
    def about(self) -> dict[str, Any]:
        """See `Task`."""
        return {
            "market": [self.bars.attrs["symbol"], self.bars.attrs["timeframe"]],
            "bars": fingerprint(self.bars),
            "profile": self.settings.profile,
            "settings": configuration_hash(configuration(self.settings, self.ensemble, feature_digest(self.features))),
            "folds": FOLDS[self.settings.profile],
            "search space": {name: list(bounds) for name, bounds in SPACE.items()},
        }

    @cached_property
    def default(self) -> dict[str, int | float]:
        """See `Task`; within the space, which holds the profiles' own."""
        return {name: getattr(self.ensemble, name) for name in SPACE}

    @cached_property
    def splits(self) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """(train rows, test rows) of the inner folds, purged by label end time."""
        n_splits = FOLDS[self.settings.profile]
        try:
            return folds(self.bars, self.settings, n_splits=n_splits, features=self.features)
        except BarsError as error:
            raise BarsError(f"tuning, with the newest {HELD_BACK:.0%} of the bars held back: {error}") from None

    @cached_property
    def data(self) -> TrainingSet:
        """Features and labels; GARCH is fitted on the bars before the first inner test block."""
        garch = fit_garch(self.bars.iloc[: self.splits[0][0][-1] + 1])
        return prepare(self.bars, self.settings.prediction_horizons, garch, self.features)

    @property
    def space(self) -> "Space":
        """See `Task`."""
        return SPACE

    def score(self, trial: "optuna.Trial", parameters: Mapping[str, int | float]) -> float:
        """Mean loss over the inner folds; the running mean is what the pruner sees."""
        import optuna

        from mlkit.operations.tuning.study import CONFIGURATION

        ensemble = replace(self.ensemble, **parameters)  # type: ignore[arg-type]
        tried = configuration(self.settings, ensemble, self.data.features)
        trial.set_user_attr(CONFIGURATION, configuration_hash(tried))
        losses: list[float] = []
        for fold, (train_rows, test_rows) in enumerate(self.splits):
            model = fit_price(self.data, train_rows, self.settings, ensemble=ensemble)
            rows = losses_of(model, self.data, test_rows, ensemble.target_clip)
            losses.append(float(np.mean(rows["trees"].mean(axis=0) / rows["no change"].mean(axis=0))))
            trial.report(float(np.mean(losses)), fold)
            if fold + 1 < len(self.splits) and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(losses))


@dataclass(frozen=True, eq=False)
class Tuning:
    """A study after its trials: what it chose, every trial, and what that was worth."""

    tuned: Tuned
    trials: "pd.DataFrame"  # one row a trial: number, state, score, default, and a column a parameter
    importance: "pd.Series"  # share of the score's variance that each parameter explains; empty for few trials
    comparison: "pd.DataFrame | None"  # index (forecast, horizon): default, tuned, difference, low, high

    def sentence(self) -> str:
        """Whether tuning helped, in one sentence."""
        return sentence(self.tuned.out_of_sample)


def tune(
    bars: "pd.DataFrame",
    settings: Settings | None = None,
    *,
    trials: int | None = None,
    workers: int = 1,
    storage: str | None = None,
    study: str | None = None,
    features: FeatureSet | None = None,
    compare: bool = True,
    progress: Progress | None = None,
) -> Tuning:
    """Bring a study of the price ensemble to a number of trials, and compare its best with the default.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        The newest fifth is held back: tuning does not see it.
    trials : finished trials that the study shall have, those of earlier runs included; by default ``TRIALS``.
    workers : processes; with 1 and a seed the trials are the same on every run, with more they are not. A script that
        asks for more must guard its own code with ``if __name__ == "__main__"``.
    storage : URL of an Optuna storage; ``settings.studies`` by default.
    study : its name; by default one that follows from market, profile, seed and bars. A name that is there goes on.
    compare : read the held-back bars for the comparison; the ledger keeps every read.
    progress : callable(stage, done, total)

    Raises
    ------
    BarsError for too few bars; ConfigError for a storage that cannot be opened, or a study of other bars or settings.
    """
    from mlkit.operations.tuning.study import Place, opened
    from mlkit.operations.tuning.workers import run_trials

    settings, features = settings or Settings(), features or FeatureSet()
    trials = TRIALS[settings.profile] if trials is None else trials
    _demand(trials, workers, features)
    span = FinalSpan(bars, Ledger.of(settings), share=HELD_BACK)
    task = PriceTask(span.development, settings, features, ensemble_settings(settings))
    assert len(task.splits)  # too few bars are said before a study is made
    place = Place(storage or settings.studies, study or _name(task))

    about = {"study": place.name, "trials": trials, "workers": workers, "search space": task.about["search space"]}
    with tracked("tune", settings, name=place.name, parameters=about, sources=[Source.of(bars)]) as run:
        run_trials(place, task, trials, workers=workers, told=teller(run, trials, progress))
        with opened(place, task) as held:
            tuned, found = _read(held, place, task)
        comparison, verdict = compare_held_back(span, tuned, settings, features) if compare else (None, None)
        tuned = tuned.model_copy(update={"out_of_sample": verdict})
        track(run, tuned.parameters, found.trials, verdict, comparison)
    return Tuning(tuned, found.trials, found.importance, comparison)


def _demand(trials: int, workers: int, features: FeatureSet) -> None:
    if trials < 1 or workers < 1:
        raise ConfigError(f"tune: trials and workers must be at least 1, got {trials} and {workers}")
    if workers > 1 and features.own:
        raise ConfigError("tune: own features live in this process only; use workers=1")


def _name(task: PriceTask) -> str:
    symbol, timeframe = task.about["market"]
    digest = configuration_hash(task.about)[:8]
    return f"{symbol_folder(symbol)}-{timeframe}-{task.settings.profile}-{task.seed}-{digest}"


def _read(study: "optuna.Study", place: "Place", task: PriceTask) -> "tuple[Tuned, Found]":
    """What the study chose, and all it holds; the ledger of this process is told of every trial."""
    from mlkit.operations.tuning.study import found, hidden

    result, source = found(study, list(SPACE), task.seed), Source.of(task.bars)
    Ledger.of(task.settings).recall([source], result.configurations)
    tuned = Tuned(
        symbol=source.symbol,
        timeframe=source.timeframe,
        profile=task.settings.profile,
        horizons=task.settings.prediction_horizons,
        features=feature_digest(task.features),
        seed=task.seed,
        parameters=result.parameters,
        study=place.name,
        storage=hidden(place.url),
        saw=Saw(start=source.start, end=source.end, bars=len(task.bars), sha256=source.sha256),
        folds=len(task.splits),
        score=result.score,
        default_score=result.default_score,
        trials=result.counts,
        configurations=result.configurations,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return tuned, result
