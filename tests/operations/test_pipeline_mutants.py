"""Every planted leak is caught by poisoning the rows that must not be seen; the honest pipeline raises no alarm.

The pipeline runs twice, on a market and on the same market with another future, and every fitted state that should
not know that future is compared: GARCH, training rows, the prepared arrays up to then, every file of every model,
every forecast made before. Fills are probed by moving each close inside its bar: no return that is earned from
open to open may notice. ``-s -k table`` prints who caught what.
"""

import runpy
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.market.simulate.markets import planted_edge
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training import training
from mlkit.operations.training.training_set import TrainingSet

PLANTED = runpy.run_path(str(Path(__file__).with_name("pipeline_mutants.py")))
EMBARGO, MUTANTS, World, with_embargo = (PLANTED[name] for name in ("EMBARGO", "MUTANTS", "World", "with_embargo"))
Mutant = Callable[[pytest.MonkeyPatch, Any], None]
HORIZONS = (1, 3)
State = dict[str, Any]


def tiny(settings: mlkit.Settings) -> EnsembleSettings:
    return EnsembleSettings.smoke(
        n_estimators=10,
        early_stopping_rounds=4,
        learning_rate=0.3,
        min_leaf=10,
        forest_trees=4,
        forest_rows=400,
        n_threads=1,
    )


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return planted_edge(2200, seed=4, strength=0.5)


@pytest.fixture(scope="module")
def settings() -> mlkit.Settings:
    return mlkit.Settings(prediction_horizons=HORIZONS, n_threads=1)


def another_future(bars: pd.DataFrame, first: int) -> pd.DataFrame:
    """The same bars up to ``first``, then the rest in another order and three times as dear."""
    rows = np.arange(first, len(bars))
    other = bars.copy()
    other.iloc[rows] = bars.iloc[np.random.default_rng(0).permutation(rows)].to_numpy() * [3, 3, 3, 3, 0.5]
    return other


def other_closes(bars: pd.DataFrame) -> pd.DataFrame:
    """The same opens; every close at the other end of its bar."""
    return bars.assign(close=(bars["high"] + bars["low"] - bars["close"]).clip(bars["low"], bars["high"]))


def run(bars: pd.DataFrame, settings: mlkit.Settings, first: int, plant: Mutant | None) -> State:
    """Everything the pipeline fits or says that must not know a bar from ``first`` on."""
    state: State = {}
    with pytest.MonkeyPatch.context() as patch:
        world = World()
        patch.setattr(training, "ensemble_settings", tiny)
        patch.setattr(training, "WalkForward", with_embargo)
        world.watch(patch)
        if plant:
            plant(patch, world)
        record(patch, state, first)
        forecasts = training.walk_forward(bars, settings, n_splits=2)
    early = forecasts[forecasts["bar"] < first]
    state["forecasts"] = early.drop(columns=["outcome", "earned"])
    return state


def record(patch: pytest.MonkeyPatch, state: State, first: int) -> None:
    prepare, fit_price, fit_garch = training.prepare, training.fit_price, training.fit_garch

    def prepared(bars: pd.DataFrame, horizons: Any, garch: Any, *args: Any, **options: Any) -> TrainingSet:
        data = prepare(bars, horizons, garch, *args, **options)
        after = {"Y": 0, "earned": 1}  # bars from the end of a label to the bar that holds its last price
        for field in fields(data):
            name, values = field.name, getattr(data, field.name)
            if name in after:
                state[f"{name} {len(state)}"] = values[(data.end >= 0) & (data.end + after[name] < first)]
            elif isinstance(values, np.ndarray) and name != "end":
                state[f"{name} {len(state)}"] = values[:first]
        return data

    def fitted_garch(bars: pd.DataFrame) -> Any:
        state[f"garch {len(state)}"] = fit_garch(bars)
        return state[f"garch {len(state) - 1}"]

    def fitted(data: Any, rows: np.ndarray, *args: Any, **options: Any) -> Any:
        model = fit_price(data, rows, *args, **options)
        fold = len(state)
        state[f"rows {fold}"] = rows.tolist()
        state.update({f"model {fold} {name}": content for name, content in model.to_bytes().items()})
        return model

    patch.setattr(training, "prepare", prepared)
    patch.setattr(training, "fit_price", fitted)
    patch.setattr(training, "fit_garch", fitted_garch)


def earned(bars: pd.DataFrame, settings: mlkit.Settings, plant: Mutant | None) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        world = World()
        world.folds = [(np.arange(1), np.arange(1))]
        world.watch(patch)
        if plant:
            plant(patch, world)
        return training.prepare(bars, settings.prediction_horizons, (0.05, 0.05, 0.9)).earned


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=True)
    return bool(a.equals(b)) if isinstance(a, pd.DataFrame) else a == b


def alarms(bars: pd.DataFrame, settings: mlkit.Settings, plant: Mutant | None) -> list[str]:
    """Kinds of state that notice a future they must not know, and ``fills``."""
    test = training.folds(bars, settings, n_splits=2)[1][1]
    first = int(test[0]) - EMBARGO
    clean = run(bars, settings, first, plant)
    poisoned = run(another_future(bars, first), settings, first, plant)
    assert clean.keys() == poisoned.keys() and len(clean) > 12
    found = dict.fromkeys(name.split()[0] for name in clean if not same(clean[name], poisoned[name]))
    if not same(earned(bars, settings, plant), earned(other_closes(bars), settings, plant)):
        found["fills"] = None
    return list(found)


@pytest.fixture(scope="module")
def caught(bars: pd.DataFrame, settings: mlkit.Settings) -> Iterator[dict[str, list[str]]]:
    yield {name: alarms(bars, settings, plant) for name, plant in MUTANTS.items()}


def test_the_honest_pipeline_raises_no_alarm(bars: pd.DataFrame, settings: mlkit.Settings) -> None:
    assert alarms(bars, settings, None) == []


def test_the_poison_reaches_what_it_should(bars: pd.DataFrame, settings: mlkit.Settings) -> None:
    """The alarm is not silent by nature: one bar earlier, and the last fold's training labels notice."""
    train = training.folds(bars, settings, n_splits=2)[1][0]
    first = int(train[-1]) - EMBARGO
    clean, poisoned = (run(b, settings, first + 1, None) for b in (bars, another_future(bars, first)))
    assert not all(same(clean[name], poisoned[name]) for name in clean)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_leak_is_caught(name: str, caught: dict[str, list[str]]) -> None:
    assert caught[name], f"nobody noticed: {name}"


def test_table(caught: dict[str, list[str]]) -> None:
    print(f"\n{'planted leak':<46}caught by")
    for name, by in caught.items():
        print(f"{name:<46}{', '.join(by)}")
    assert len(caught) >= 15
