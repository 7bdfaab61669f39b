"""Leaks planted into the real pipeline, one at a time, at the seams where people make them.

A mutant takes a ``MonkeyPatch`` and the ``World`` that knows the data and the test rows of the fold at hand, as a
careless author would have them at hand, and rewires one function of the pipeline.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from mlkit.evaluation.metrics import r2_no_change
from mlkit.evaluation.splits import WalkForward
from mlkit.labels import forward_returns
from mlkit.models.ensemble import experts, price_predictor
from mlkit.models.ensemble.learners.learner import Rows, TrainingParts
from mlkit.models.ensemble.learners.random_forest import RandomForest
from mlkit.models.ensemble.learners.xgboost import XGBoost
from mlkit.operations.training import training, training_set
from mlkit.operations.training.panel_layout import lay_out, markets_of
from mlkit.operations.training.training_set import TrainingSet

EMBARGO = 20  # bars; the embargo mutant drops it


class World:
    """What lies around while the pipeline runs: all bars, all rows, the test block of the fold being fitted."""

    bars: Any
    data: TrainingSet
    test: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]
    fold: int = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        prepare, folds, fit_price = training.prepare, training.folds, training.fit_price

        def watched_prepare(bars: Any, *args: Any, **options: Any) -> TrainingSet:
            self.bars, self.data = bars, prepare(bars, *args, **options)
            self.test = self.folds[self.fold][1]
            return self.data

        def watched_folds(*args: Any, **options: Any) -> Any:
            self.folds, self.fold = folds(*args, **options), 0
            return self.folds

        def watched_fit(*args: Any, **options: Any) -> Any:
            model = fit_price(*args, **options)
            self.fold = min(self.fold + 1, len(self.folds) - 1)
            return model

        patch.setattr(training, "prepare", watched_prepare)
        patch.setattr(training, "folds", watched_folds)
        patch.setattr(training, "fit_price", watched_fit)

    def z(self, rows: np.ndarray) -> np.ndarray:
        """Normalised labels of rows."""
        return np.clip(self.data.Y[rows] / self.data.scale[rows], -8, 8)

    def test_score(self, model: Any) -> float:
        """What the author of a leak looks at: R² on the test block."""
        raw = price_predictor._combine(
            {n: m.predict(self.data.X[self.test]) for n, m in model.learners.items()}, model.weights
        )
        return r2_no_change(self.z(self.test)[:, 0], raw[:, 0])


Mutant = Callable[[pytest.MonkeyPatch, World], None]


def _prepared(change: Callable[[TrainingSet], TrainingSet]) -> Mutant:
    """A leak in the preparation of the arrays."""

    def plant(patch: pytest.MonkeyPatch, world: World) -> None:
        prepare = training.prepare

        def leaky(*args: Any, **options: Any) -> TrainingSet:
            world.data = change(prepare(*args, **options))
            return world.data

        patch.setattr(training, "prepare", leaky)

    return plant


def _fitted(change: Callable[[Any, World, Callable[..., Any]], Any]) -> Mutant:
    """A leak in what is done with a fitted model: ``change(model, world, fit)``, ``fit(**settings)`` fits again."""

    def plant(patch: pytest.MonkeyPatch, world: World) -> None:
        fit_price = training.fit_price

        def leaky(data: TrainingSet, rows: np.ndarray, settings: Any, **options: Any) -> Any:
            test, fold = world.test, world.fold

            def again(**update: Any) -> Any:
                world.fold = fold
                return fit_price(data, rows, settings.model_copy(update=update), **options)

            model = again()
            world.test = test
            return change(model, world, again)

        patch.setattr(training, "fit_price", leaky)

    return plant


def _scaled(data: TrainingSet) -> TrainingSet:
    return replace(
        data, X=((data.X - np.nanmean(data.X, axis=0)) / (np.nanstd(data.X, axis=0) + 1e-6)).astype(np.float32)
    )


def _selected(data: TrainingSet) -> TrainingSet:
    known = np.isfinite(data.X).all(axis=1) & np.isfinite(data.Y).all(axis=1)
    X, y = data.X[known].astype(np.float64), data.Y[known, 0]
    strength = np.abs((X - X.mean(axis=0)).T @ (y - y.mean())) / (X.std(axis=0) + 1e-9)
    return replace(data, X=np.where(strength >= np.median(strength), data.X, np.float32(0)))


def _with_label(data: TrainingSet) -> TrainingSet:
    X = data.X.copy()
    X[:, 0] = np.nan_to_num(data.Y[:, 0])
    return replace(data, X=X)


def _tomorrow(data: TrainingSet) -> TrainingSet:
    return replace(data, X=np.roll(data.X, -1, axis=0))


def _centred(data: TrainingSet) -> TrainingSet:
    return replace(data, X=((np.roll(data.X, -1, axis=0) + data.X + np.roll(data.X, 1, axis=0)) / 3).astype(np.float32))


def _imputed(data: TrainingSet) -> TrainingSet:
    X = data.X.copy()
    X[300:340] = np.nanmedian(data.X, axis=0)  # rows given up as outliers
    return replace(data, X=X)


def _future_scale(data: TrainingSet) -> TrainingSet:
    ahead = np.abs(np.nan_to_num(data.Y))
    mean = np.mean([np.roll(ahead, -k, axis=0) for k in range(20)], axis=0) + 1e-6
    return replace(data, scale=mean)


def _demeaned(data: TrainingSet) -> TrainingSet:
    return replace(data, Y=data.Y - np.nanmean(data.Y, axis=0))


def _winsorised(data: TrainingSet) -> TrainingSet:
    low, high = np.nanquantile(data.Y, [0.05, 0.95], axis=0)
    return replace(data, Y=np.clip(data.Y, low, high))


def garch_of_all_bars(patch: pytest.MonkeyPatch, world: World) -> None:
    prepare, fit_garch = training.prepare, training.fit_garch

    def leaky(bars: Any, horizons: Any, garch: Any, *args: Any, **options: Any) -> TrainingSet:
        return prepare(bars, horizons, fit_garch(*markets_of(bars)), *args, **options)

    patch.setattr(training, "prepare", leaky)


class _Unpurged(WalkForward):
    """Walk-forward as it is often written: train on all that comes before."""

    def split(self, X: Any, y: Any = None, groups: Any = None, **options: Any) -> Any:
        for train, test in super().split(X, y, groups, **options):
            yield np.arange(train[0], test[0]), test


def gap_of_zero(patch: pytest.MonkeyPatch, world: World) -> None:
    patch.setattr(training, "WalkForward", _Unpurged)


def embargo_ignored(patch: pytest.MonkeyPatch, world: World) -> None:
    patch.setattr(training, "WalkForward", lambda **options: WalkForward(**(options | {"embargo": 0})))


def shuffled_folds(patch: pytest.MonkeyPatch, world: World) -> None:
    folds = training.folds

    def leaky(bars: Any, *args: Any, **options: Any) -> Any:
        rng = np.random.default_rng(0)
        world.folds = [
            (
                np.sort(
                    rng.choice(
                        np.setdiff1d(np.arange(len(lay_out(markets_of(bars)).bar) - 5), test), len(train), replace=False
                    )
                ),
                test,
            )
            for train, test in folds(bars, *args, **options)
        ]
        return world.folds

    patch.setattr(training, "folds", leaky)


def last_fold_trains_on_its_test(patch: pytest.MonkeyPatch, world: World) -> None:
    folds = training.folds

    def leaky(*args: Any, **options: Any) -> Any:
        *first, (train, test) = folds(*args, **options)
        world.folds = [*first, (np.concatenate([train, test]), test)]
        return world.folds

    patch.setattr(training, "folds", leaky)


def early_stopping_on_test(patch: pytest.MonkeyPatch, world: World) -> None:
    honest = XGBoost.train

    def leaky(self: XGBoost, parts: TrainingParts, *args: Any) -> Any:
        seen = Rows(np.ascontiguousarray(world.data.X[world.test]), world.z(world.test))
        return honest(self, replace(parts, valid=seen), *args)

    patch.setattr(XGBoost, "train", leaky)


def forest_of_all_rows(patch: pytest.MonkeyPatch, world: World) -> None:
    honest = RandomForest.train

    def leaky(self: RandomForest, parts: TrainingParts, *args: Any) -> Any:
        early = parts.early
        X, z = world.data.X[world.test], world.z(world.test)
        return honest(self, replace(parts, early=Rows(np.vstack([early.X, X]), np.vstack([early.z, z]))), *args)

    patch.setattr(RandomForest, "train", leaky)


def calibrator_sees_test_outcomes(patch: pytest.MonkeyPatch, world: World) -> None:
    honest = experts.fit_calibration

    def leaky(z: np.ndarray, y: np.ndarray, horizon: int, **options: Any) -> Any:
        column = [1, 3].index(horizon)
        mixed, seen = y.copy(), world.z(world.test)[:, column]
        mixed[-min(len(seen), len(mixed) // 2) :] = seen[: min(len(seen), len(mixed) // 2)]
        return honest(z, mixed, horizon, **options)

    patch.setattr(experts, "fit_calibration", leaky)


def target_clip_of_all_rows(patch: pytest.MonkeyPatch, world: World) -> None:
    honest = training.ensemble_settings

    def leaky(settings: Any) -> Any:
        made = honest(settings)
        if not hasattr(world, "data"):
            return made
        return replace(made, target_clip=float(np.nanquantile(np.abs(world.data.Y / world.data.scale), 0.9)))

    patch.setattr(training, "ensemble_settings", leaky)


def _weights_by_test(model: Any, world: World, fit: Callable[..., Any]) -> Any:
    single = {
        name: world.test_score(replace(model, weights={n: float(n == name) for n in model.weights}))
        for name in model.weights
    }
    gain = {name: np.exp(50 * value) for name, value in single.items()}
    return replace(model, weights={name: value / sum(gain.values()) for name, value in gain.items()})


def _shrink_by_test(model: Any, world: World, fit: Callable[..., Any]) -> Any:
    shrink = float(np.clip(0.5 + 20 * world.test_score(model), 0.0, 1.0))
    return replace(model, calibrations=tuple(replace(c, shrink=shrink) for c in model.calibrations))


def _best_seed(model: Any, world: World, fit: Callable[..., Any]) -> Any:
    test, tried = world.test, []
    for seed in range(8):
        candidate = fit(seed=seed)
        world.test = test
        tried.append((world.test_score(candidate), seed, candidate))
    return max(tried)[2]


def fill_at_the_same_close(patch: pytest.MonkeyPatch, world: World) -> None:
    patch.setattr(training_set, "earned_returns", lambda bars, horizons: forward_returns(bars, horizons)["log_return"])


def fill_inside_the_signals_bar(patch: pytest.MonkeyPatch, world: World) -> None:
    def leaky(bars: Any, horizons: Any) -> Any:
        entry = np.log(0.5 * (bars["open"] + bars["close"]))
        return (
            np.log(bars["open"])
            .to_frame("open")
            .assign(**{str(h): entry.shift(-h) - entry for h in horizons})[[str(h) for h in horizons]]
        )

    patch.setattr(training_set, "earned_returns", leaky)


def intervals_adapt_to_outcomes_to_come(patch: pytest.MonkeyPatch, world: World) -> None:
    honest = price_predictor.PricePredictor.adapted

    def leaky(self: Any, forecast: Any, outcome: np.ndarray, *args: Any) -> Any:
        return honest(self, forecast, np.roll(outcome, -5, axis=0), *args)

    patch.setattr(price_predictor.PricePredictor, "adapted", leaky)


def experts_weighed_by_test_losses(patch: pytest.MonkeyPatch, world: World) -> None:
    honest = experts.fit_experts

    def leaky(residual: np.ndarray, *args: Any, **options: Any) -> Any:
        told = world.data.Y[world.test, 0]
        return honest(np.where(np.arange(len(residual)) < len(told), np.resize(told, len(residual)), residual), *args)

    patch.setattr(experts, "fit_experts", leaky)


def weights_that_know_the_outcome(patch: pytest.MonkeyPatch, world: World) -> None:
    honest = experts.adaptive_bounds

    def leaky(outcome: np.ndarray, scales: np.ndarray, log_scale: np.ndarray, panel: Any, *args: Any) -> Any:
        still = panel._replace(rate=0.0 * panel.rate, slope_rate=0.0 * panel.slope_rate)  # the weights alone look ahead
        return honest(np.roll(outcome, -panel.horizon), scales, log_scale, still, *args)

    patch.setattr(experts, "adaptive_bounds", leaky)


MUTANTS: dict[str, Mutant] = {
    "scaler fitted on all rows": _prepared(_scaled),
    "features selected on all rows": _prepared(_selected),
    "outliers replaced by the median of all rows": _prepared(_imputed),
    "label among the features": _prepared(_with_label),
    "features of the next bar": _prepared(_tomorrow),
    "features smoothed around their bar": _prepared(_centred),
    "scale from the future": _prepared(_future_scale),
    "labels centred by the mean of all rows": _prepared(_demeaned),
    "labels clipped at quantiles of all rows": _prepared(_winsorised),
    "GARCH fitted on all bars": garch_of_all_bars,
    "no purge between train and test": gap_of_zero,
    "embargo ignored": embargo_ignored,
    "shuffled folds": shuffled_folds,
    "last fold trained on its test": last_fold_trains_on_its_test,
    "early stopping on test": early_stopping_on_test,
    "forest grown on test rows too": forest_of_all_rows,
    "calibrator sees test outcomes": calibrator_sees_test_outcomes,
    "intervals adapt to outcomes to come": intervals_adapt_to_outcomes_to_come,
    "experts weighed by test losses": experts_weighed_by_test_losses,
    "weights that know the outcome": weights_that_know_the_outcome,
    "target clip from all rows": target_clip_of_all_rows,
    "ensemble weights by test score": _fitted(_weights_by_test),
    "shrinkage by test score": _fitted(_shrink_by_test),
    "best of eight seeds by test score": _fitted(_best_seed),
    "fill at the close of the signal": fill_at_the_same_close,
    "fill at the middle of the signal's bar": fill_inside_the_signals_bar,
}
with_embargo = partial(WalkForward, embargo=EMBARGO)
