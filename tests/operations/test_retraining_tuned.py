"""With tuned parameters no bar that tuning saw judges the challenger, by itself or against the champion."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.market.simulate.markets import null_market
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.bundle_folders import market_root, pool_root
from mlkit.models.bundle.publishing import publish
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.retraining import retraining
from mlkit.operations.retraining.comparison import Comparison, compare
from mlkit.operations.retraining.retraining import Retraining, retrain
from mlkit.operations.training import training

Fitted = Callable[..., ModelBundle]
TunedOn = Callable[..., Any]
FEW = {"max_depth": 2, "n_estimators": 8, "forest_trees": 4}


class Calm:
    """No drift."""

    verdict, reasons = "no drift", ()


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return null_market(2000, seed=4, timeframe="1h", symbol="CALM")


@pytest.fixture
def patient(home: mlkit.Settings) -> mlkit.Settings:
    """No champion is stale, and half of what is later than it is compared on."""
    return home.model_copy(update={"retrain_age": 10.0, "retrain_new_bars": 0.6})


def round_(bars: pd.DataFrame, settings: mlkit.Settings, **options: Any) -> Retraining:
    return retrain(bars, settings=settings, tuned=True, drift=Calm(), **{"force": True, **options})


def seen_by_tuning(told: Comparison | None, seen: pd.DataFrame) -> int:
    """Bars among the compared ones that tuning saw."""
    assert told is not None
    return int(((seen.index >= told.first) & (seen.index <= told.last)).sum())


def blind_plan(patch: pytest.MonkeyPatch) -> None:
    """The cut is planned as if every bar after the champion's training were new."""
    patch.setattr(retraining._Round, "_later_than_tuning", lambda self, rows: rows)


def blind_comparison(patch: pytest.MonkeyPatch) -> None:
    """Bars after both trainings are compared, whoever else has seen them."""
    patch.setattr(retraining, "compare", lambda *arguments, after, **options: compare(*arguments, **options))


@pytest.mark.parametrize(("plants", "leaks"), [((), False), ((blind_plan, blind_comparison), True)])
def test_champion_and_challenger_meet_on_bars_that_tuning_did_not_see(
    plants: tuple[Callable[[pytest.MonkeyPatch], None], ...], leaks: bool, bars: pd.DataFrame, patient: mlkit.Settings,
    fitted: Fitted, tuned_on: TunedOn, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    publish(fitted(bars.iloc[:900]))
    seen = bars.iloc[:1500]
    tuned_on(seen, patient, **FEW)
    for plant in plants:
        plant(monkeypatch)
    told = round_(bars, patient)
    assert (seen_by_tuning(told.comparison, seen) > 0) == leaks


@pytest.mark.parametrize("plant", [blind_plan, blind_comparison])
def test_one_of_the_two_guards_is_enough(
    plant: Callable[[pytest.MonkeyPatch], None], bars: pd.DataFrame, patient: mlkit.Settings, fitted: Fitted,
    tuned_on: TunedOn, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    publish(fitted(bars.iloc[:900]))
    tuned_on(bars.iloc[:1500], patient, **FEW)
    plant(monkeypatch)
    assert seen_by_tuning(round_(bars, patient).comparison, bars.iloc[:1500]) == 0


def test_the_challenger_is_made_and_judged_as_train_tuned_would(
    bars: pd.DataFrame, patient: mlkit.Settings, fitted: Fitted, tuned_on: TunedOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(fitted(bars.iloc[:900]))
    tuned = tuned_on(bars.iloc[:1500], patient, **FEW)
    stands_in, asked = training.walk_forward, []
    monkeypatch.setattr(training, "walk_forward", lambda *a, **o: asked.append(o["after"]) or stands_in(*a, **o))
    planned = round_(bars, patient, dry_run=True)
    assert "would train on 1,750 bars" in planned.why and "study study, which saw bars to 2024-03-03" in str(planned)
    assert Ledger.of(patient).trials([Source.of(bars)]) == 0 and not asked  # looking is no trial
    told = round_(bars, patient)
    assert asked == [tuned.saw_until] and told.to_dict()["tuned"].startswith("study study, which saw bars to ")
    challenger = ModelBundle.open(market_root("CALM", "1h", patient) / str(told.challenger)).manifest
    assert challenger.training_span.bars == 1750 and challenger.settings["ensemble"]["max_depth"] == 2
    assert told.comparison is not None and told.comparison.first == bars.index[1750]
    assert Ledger.of(patient).trials([Source.of(bars.iloc[:1750])]) == 2  # those of the study
    assert retrain(bars, settings=patient, drift=Calm(), dry_run=True).to_dict()["tuned"] is None


def test_too_few_bars_later_than_tuning_say_how_many_are_missing(
    bars: pd.DataFrame, patient: mlkit.Settings, fitted: Fitted, tuned_on: TunedOn
) -> None:
    champion = fitted(bars.iloc[:1200])
    publish(champion)
    for seen, why in (
        (1901, "a comparison takes 200 bars later than its training and than what tuning saw, 101 are missing"),
        (1700, "tuned parameters are judged on 201 bars later than what tuning saw, 101 are missing"),
    ):
        tuned_on(bars.iloc[:seen], patient, **FEW)
        told = round_(bars, patient)
        assert (told.outcome, told.why, told.champion, told.challenger) == ("kept", why, champion.id, None)
    stale = patient.model_copy(update={"retrain_age": 0.12})
    tuned_on(bars.iloc[:1801], patient, **FEW)
    told = round_(bars, stale)  # nothing could judge what would take its place
    assert told.decision.due_by("age") and told.outcome == "kept" and told.why.endswith("tuning saw, 2 are missing")
    tuned_on(bars.iloc[:1700], patient, **FEW)
    told = round_(bars, stale)  # all 300 bars of those later ones judge the parameters, none is left to compare on
    assert told.outcome == "promoted" and told.comparison is None and told.why.startswith("stale; tuned parameters are")
    assert ModelBundle.open(market_root("CALM", "1h", patient)).manifest.training_span.bars == 2000


def test_a_first_model_that_nothing_can_judge_is_an_error(
    bars: pd.DataFrame, home: mlkit.Settings, tuned_on: TunedOn
) -> None:
    tuned_on(bars.iloc[:1200], home, **FEW)
    with pytest.raises(BarsError, match=r"need 201 bars after 2024-02-19 23:00:00\+00:00 .* have 100; load newer bars"):
        retrain(bars.iloc[:1300], settings=home, tuned=True)


def test_what_cannot_be_retrained_tuned_is_one_line(
    bars: pd.DataFrame, home: mlkit.Settings, quick: EnsembleSettings, judged: pd.DataFrame, tuned_on: TunedOn
) -> None:
    with pytest.raises(ConfigError, match="nothing was tuned for CALM 1h; run mlkit tune --symbol CALM"):
        retrain(bars, settings=home, tuned=True)
    tuned_on(bars.iloc[:1500], home, **FEW)
    with pytest.raises(ConfigError, match="tuned, or given as an ensemble, not both"):
        retrain(bars, settings=home, tuned=True, ensemble=quick)
    with pytest.raises(ConfigError, match="tuned for profile smoke, this is full"):
        retrain(bars, settings=home.model_copy(update={"profile": "full"}), tuned=True, dry_run=True)
    other = null_market(1000, seed=9, timeframe="1h", symbol="OTHER")
    training.train([bars.iloc[:1000], other], home, ensemble=quick, forecasts=judged.assign(symbol="CALM"), name="TWO")
    for tuned in (False, True):
        with pytest.raises(ConfigError, match=r"TWO 1h: that is a pool .*, and a round is about one market") as caught:
            retrain("TWO", "1h", home, tuned=tuned)
        assert "\n" not in str(caught.value) and str(pool_root("TWO", "1h", home)) in str(caught.value)
