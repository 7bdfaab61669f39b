"""Tune the price ensemble on purged inner folds, and compare the result on bars that tuning did not use.

`FinalSpan` holds back the newest fifth of the history; a study uses the bars before it only. Every trial is fitted and
scored on them by purged walk-forward. The best parameters are then compared with the default ones on the held-back
bars, once, with an interval.

The loss
--------
The trees' own: the mean squared error of the log return over its expected deviation, clipped as in training, divided
by that of the forecast of no change, averaged over horizons. 1 is no change, under 1 is skill. It scores the forecast
**before** shrinkage, because shrinkage sets most forecasts in a liquid market to zero, and a score that is the same
for all parameters tunes nothing. The comparison reports both.

Tuned are depth and leaf size of all trees, learning rate, penalty, rows and features per tree. Not tuned are the
libraries' weights, which are part of the product's definition, and the number of rounds, which early stopping finds.

Trials are pruned by fold, against the median of earlier trials at the same fold. Hyperband needs more than three to
five folds of about one cost, and a rank test over so few folds is never significant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation import FinalSpan, Ledger, Source, configuration_hash
from mlkit.features import FeatureSet, fit_garch
from mlkit.market import fingerprint, symbol_folder
from mlkit.models.ensemble import EnsembleSettings, Progress
from mlkit.operations.tracking.trials import configuration, feature_digest
from mlkit.operations.training.training import fit_price, folds
from mlkit.operations.training.training_set import TrainingSet, ensemble_settings, prepare
from mlkit.operations.tuning.improvement import chosen, compare_held_back, losses_of, run_study
from mlkit.operations.tuning.study import CONFIGURATION, Search, Space, Study, StudyResult, Trial, TrialPruned
from mlkit.operations.tuning.tuned import Tuned, Tuning, TuningSpan

if TYPE_CHECKING:
    import pandas as pd

HELD_BACK = 0.2  # share of the bars that tuning does not use
FOLDS = {"smoke": 2, "full": 4}
TRIALS = {"smoke": 8, "full": 40}
STARTUP = {"smoke": 4, "full": 10}  # random trials before the sampler learns
# Parameter: lowest, highest, whether on a logarithmic scale. Whole numbers where the bounds are.
SPACE: Space = {
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
class EnsembleObjective:
    """Loss of the price ensemble on inner folds of the bars that tuning may use."""

    bars: "pd.DataFrame"
    settings: Settings
    features: FeatureSet
    ensemble: EnsembleSettings  # with the default parameters

    @cached_property
    def search(self) -> Search:
        """See `Objective`."""
        fitted = configuration(self.settings, self.ensemble, feature_digest(self.features))
        return Search(
            space=SPACE,
            default={name: getattr(self.ensemble, name) for name in SPACE},
            seed=self.settings.seed,
            startup=STARTUP[self.settings.profile],
            # One fold is enough to prune a trial.
            warm_up=0,
            about={
                "market": [self.bars.attrs["symbol"], self.bars.attrs["timeframe"]],
                "bars": fingerprint(self.bars),
                "profile": self.settings.profile,
                "settings": configuration_hash(fitted),
                "folds": FOLDS[self.settings.profile],
                "search space": {name: list(bounds) for name, bounds in SPACE.items()},
            },
        )

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

    def score(self, trial: Trial, parameters: Mapping[str, int | float]) -> float:
        """Mean loss over the inner folds; the running mean is reported to the pruner."""
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
                raise TrialPruned
        return float(np.mean(losses))


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
) -> Tuning[Tuned]:
    """Run a study of the price ensemble, and compare its best parameters with the default ones.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        The newest fifth is held back: trials do not use it.
    trials : finished trials that the study shall have, those of earlier runs included; by default ``TRIALS``.
    workers : processes; with 1 and a seed the trials are the same on every run, with more they are not. A script that
        asks for more must guard its own code with ``if __name__ == "__main__"``.
    storage : URL of an Optuna storage; ``settings.studies`` by default.
    study : its name; by default made from market, profile, seed and bars. An existing study is continued.
    compare : read the held-back bars for the comparison; the ledger records every read.
    progress : callable(stage, done, total)

    Raises
    ------
    BarsError for too few bars; ConfigError for a storage that cannot be opened, or a study of other bars or settings.
    """
    settings, features = settings or Settings(), features or FeatureSet()
    if workers > 1 and features.own:
        raise ConfigError("tune: own features live in this process only; use workers=1")
    span = FinalSpan(bars, Ledger.of(settings), share=HELD_BACK)
    objective = EnsembleObjective(span.development, settings, features, ensemble_settings(settings))
    # Too few bars are refused before a study is created.
    assert objective.splits
    held = Study(objective, study or _default_name(objective), storage or settings.studies)

    def choose(result: StudyResult) -> "tuple[Tuned, pd.DataFrame | None]":
        tuned, comparison, verdict = _tuned(held, objective, result), None, None
        if compare:
            comparison, verdict = compare_held_back(span, result.parameters, held.name, settings, features)
        return tuned.model_copy(update={"out_of_sample": verdict}), comparison

    trials = TRIALS[settings.profile] if trials is None else trials
    return run_study(
        held, settings, choose, trials=trials, workers=workers, sources=[Source.of(bars)], progress=progress
    )


def _tuned(study: Study, objective: EnsembleObjective, result: StudyResult) -> Tuned:
    """Record of the chosen parameters; the trials are written to the ledger of this process."""
    source, settings = Source.of(objective.bars), objective.settings
    Ledger.of(settings).recall([source], result.configurations)
    return Tuned(
        **chosen(study, settings, result),
        symbol=source.symbol,
        timeframe=source.timeframe,
        horizons=settings.prediction_horizons,
        features=feature_digest(objective.features),
        saw=TuningSpan(start=source.start, end=source.end, bars=len(objective.bars), sha256=source.sha256),
        folds=len(objective.splits),
    )


def _default_name(objective: EnsembleObjective) -> str:
    (symbol, timeframe), settings = objective.search.about["market"], objective.settings
    digest = configuration_hash(objective.search.about)[:8]
    return f"{symbol_folder(symbol)}-{timeframe}-{settings.profile}-{settings.seed}-{digest}"
