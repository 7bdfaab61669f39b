"""A round decides by its rules, publishes what is better, keeps what is not, and leaves one whole champion."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.cli import main
from mlkit.errors import BarsError, NotTrainedError, RetrainingError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.market.simulate.markets import null_market, regime_change
from mlkit.models.bundle import only_one
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.bundle_folders import market_root
from mlkit.models.bundle.publishing import history, publish
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.retraining import retraining
from mlkit.operations.retraining.champions import champion_of, published, record, roll_back
from mlkit.operations.retraining.comparison import Comparison
from mlkit.operations.retraining.decision import decide
from mlkit.operations.retraining.retraining import Retraining, retrain
from mlkit.operations.training import training

Fitted = Callable[..., ModelBundle]
Round = Callable[..., Retraining]


@dataclass
class Seen:
    """What a check for drift found."""

    verdict: str
    reasons: tuple[str, ...] = ()


CALM = Seen("no drift")


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return null_market(2000, seed=4, timeframe="1h", symbol="CALM")


@pytest.fixture
def root(home: mlkit.Settings) -> Path:
    return market_root("CALM", "1h", home)


@pytest.fixture
def round_(home: mlkit.Settings, quick: EnsembleSettings) -> Round:
    """``round_(bars, **options)``: a round with a small ensemble, no drift."""
    return lambda history, **options: retrain(history, settings=home, ensemble=quick, **{"drift": CALM, **options})


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``found("worse")``: whatever is compared is found so."""

    def find(answer: str) -> None:
        ends = {"better": (-0.3, -0.1), "worse": (0.1, 0.3), "no difference": (-0.1, 0.1)}[answer]
        then = pd.Timestamp("2024-03-01", tz="UTC")

        def compared(champion: ModelBundle, challenger: ModelBundle, *_: Any, **__: Any) -> Comparison:
            middle = sum(ends) / 2
            return Comparison(
                champion.id,
                challenger.id,
                200,
                then,
                then,
                (1,),
                1.0,
                1.0 + middle,
                middle,
                *ends,
                0.95,
                pd.DataFrame(),
            )

        monkeypatch.setattr(retraining, "compare", compared)

    return find


# --- deciding -------------------------------------------------------------------------------------


def test_each_rule_says_its_numbers(bars: pd.DataFrame, home: mlkit.Settings, fitted: Fitted) -> None:
    none = decide(None, bars, home)
    assert none.due and none.reasons == ("champion: none was published",) and none.due_by("champion")
    damaged = decide(None, bars, home, fault="bundle x: y is missing")
    assert damaged.reasons == ("champion: it cannot be used: bundle x: y is missing",)
    bundle = fitted(bars.iloc[:1200])  # 50 days: stale after 6 days, 144 bars
    early = decide(bundle, bars.iloc[:1344], home)
    assert not early.due and len(early.reasons) == 3
    assert early.reasons[0] == "age: 6.0 days since training, due after 6.0 days"
    assert early.reasons[1] == "new bars: 144 since training, due from 400"
    old = decide(bundle, bars.iloc[:1345], home)
    assert old.due_by("age") and old.reasons == ("age: 6.0 days since training, due after 6.0 days",)
    patient = home.model_copy(update={"retrain_age": 1.0})
    assert not decide(bundle, bars.iloc[:1599], patient).due
    many = decide(bundle, bars.iloc[:1600], patient)
    assert many.due and not many.due_by("age") and many.reasons == ("new bars: 400 since training, due from 400",)
    drifted = decide(bundle, bars.iloc[:1210], home, Seen("drift", ("PSI of rsi_14 is 0.4",)))
    assert drifted.reasons == ("drift: drift: PSI of rsi_14 is 0.4",)
    assert not decide(bundle, bars.iloc[:1210], home, Seen("no drift")).due
    assert not decide(bundle, bars.iloc[:900], home).due  # bars that it has seen


def test_a_gap_ages_a_model_without_new_bars(bars: pd.DataFrame, home: mlkit.Settings, fitted: Fitted) -> None:
    holed = bars.drop(bars.index[1190:1500])
    decision = decide(fitted(holed.iloc[:1190]), holed.iloc[:1200], home)
    assert [check.due for check in decision.checks] == [True, False, False]
    assert str(decision.checks[1]) == "new bars: 10 since training, due from 400"


# --- rounds ---------------------------------------------------------------------------------------


def test_the_first_round_publishes_and_the_next_is_not_due(
    bars: pd.DataFrame, home: mlkit.Settings, root: Path, round_: Round
) -> None:
    told = round_(bars.iloc[:1300])
    assert told.outcome == "published" and told.why == "none was published"
    assert ModelBundle.open(root).id == told.champion == told.challenger
    assert ModelBundle.open(root).manifest.training_span.bars == 1300  # nobody is to be judged: all of them
    again = round_(bars.iloc[:1310])
    assert again.outcome == "not due" and again.challenger is None and history(root) == (told.champion,)
    table = published(root)
    assert table.loc[told.champion, ["event", "why", "bars"]].to_list() == ["published", "none was published", 1300]
    assert Ledger.of(home).table([Source.of(bars)], purpose="publish")["done"].sum() == 1


def test_a_challenger_learns_and_is_judged_on_different_bars(bars: pd.DataFrame, root: Path, round_: Round) -> None:
    first = round_(bars.iloc[:1200]).champion
    told = round_(bars, force=True)
    assert told.comparison is not None and told.comparison.champion == first
    challenger = ModelBundle.open(root / str(told.challenger)).manifest.training_span
    assert challenger.bars == 1800 and pd.Timestamp(challenger.end) == bars.index[1799]
    assert told.comparison.first == bars.index[1800] and told.comparison.rows == 199
    lines = str(told).splitlines()
    assert lines[0].startswith("CALM 1h: ") and any(line.startswith("  compared: loss ") for line in lines)
    assert json.loads(json.dumps(told.to_dict()))["comparison"]["answer"] == told.comparison.answer


@pytest.mark.parametrize(
    ("answer", "stale", "outcome"),
    [
        ("better", False, "promoted"),
        ("better", True, "promoted"),
        ("no difference", False, "kept"),
        ("no difference", True, "promoted"),
        ("worse", False, "kept"),
        ("worse", True, "kept"),
    ],
)
def test_only_what_is_better_or_follows_a_stale_one_is_published(
    answer: str, stale: bool, outcome: str, bars: pd.DataFrame, home: mlkit.Settings, quick: EnsembleSettings,
    found: Callable[[str], None],
) -> None:  # fmt: skip
    patient = home.model_copy(update={"retrain_age": 0.12 if stale else 10.0})
    first = retrain(bars.iloc[:1200], settings=patient, ensemble=quick).champion
    found(answer)
    told = retrain(bars, settings=patient, ensemble=quick, drift=CALM)
    assert told.outcome == outcome
    expected = told.challenger if outcome == "promoted" else first
    assert ModelBundle.open(market_root("CALM", "1h", home)).id == told.champion == expected


def test_too_few_later_bars_say_how_many_are_missing(bars: pd.DataFrame, root: Path, round_: Round) -> None:
    first = round_(bars.iloc[:1300]).champion
    told = round_(bars.iloc[:1310], drift=Seen("drift", ("planted",)))
    assert (told.outcome, told.champion, told.challenger) == ("kept", first, None)
    assert told.why == "a comparison takes 200 bars later than its training, 190 are missing"
    stale = round_(bars.iloc[:1490])
    assert stale.outcome == "promoted" and stale.why.startswith("stale; a comparison takes 200 bars")
    assert ModelBundle.open(root).manifest.training_span.bars == 1490
    short = round_(bars.iloc[:1790])  # 200 to judge on are more than 12 % of the other 1,590: not compared
    assert short.outcome == "promoted" and short.comparison is None and "successor would be stale too" in short.why
    assert round_(bars.iloc[:1791]).outcome == "not due"


def test_the_same_bars_and_settings_promote_nothing(
    bars: pd.DataFrame, home: mlkit.Settings, quick: EnsembleSettings
) -> None:
    patient = home.model_copy(update={"retrain_age": 10.0})
    first = retrain(bars.iloc[:1300], settings=patient, ensemble=quick).champion
    options: dict[str, Any] = {"settings": patient, "ensemble": quick}
    told = retrain(bars.iloc[:1500], drift=Seen("drift"), **options)
    assert told.outcome == "kept" and told.challenger is None and "none is left to learn from" in told.why
    told = retrain(bars.iloc[:1500], drift=CALM, force=True, **options)
    assert told.outcome == "kept" and told.challenger == first and "the same bundle again" in told.why


def test_drift_is_looked_for_and_kept_for_those_who_answer(
    home: mlkit.Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = regime_change(3200, 2600, "volatility", seed=3, timeframe="1h", symbol="CALM")
    patient = home.model_copy(update={"retrain_age": 10.0, "retrain_new_bars": 1.0})
    monkeypatch.setattr("mlkit.operations.training.training_bundle.pattern_evidence", lambda *arguments, **options: {})
    few = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
    retrain(market.iloc[:2500], settings=patient, ensemble=few)
    calm = retrain(market.iloc[:2600], settings=patient, ensemble=few)
    assert calm.outcome == "not due" and not (root / "drift.json").read_text().count('"verdict": "drift"')
    told = retrain(market, settings=patient, ensemble=few)
    assert [check.due for check in told.decision.checks] == [False, False, True]
    assert told.comparison is not None and json.loads((root / "drift.json").read_text())["verdict"] == "drift"


def test_a_damaged_champion_is_replaced(bars: pd.DataFrame, home: mlkit.Settings, root: Path, round_: Round) -> None:
    first = str(round_(bars.iloc[:1300]).champion)
    (root / first / "calibration.json").write_text("{}")
    assert champion_of("CALM", "1h", home)[0] is None
    told = round_(bars.iloc[:1300])  # the same bars: the same id, written anew
    assert told.outcome == "published" and told.why.startswith("it cannot be used: bundle ")
    assert ModelBundle.open(root).id == told.champion == first
    (root / first / "calibration.json").unlink()
    told = round_(bars.iloc[:1310])
    assert history(root) == (told.champion,)  # no rollback leads to the damaged one
    (root / "CURRENT").write_text("nonsense\n")
    told = round_(bars.iloc[:1320])
    assert "is not a bundle id" in told.why and history(root) == (told.champion,)


def test_a_pool_that_answers_is_the_champion(
    bars: pd.DataFrame, home: mlkit.Settings, root: Path, quick: EnsembleSettings, judged: pd.DataFrame,
    round_: Round, found: Callable[[str], None],
) -> None:  # fmt: skip
    other = null_market(1300, seed=9, timeframe="1h", symbol="OTHER")
    both = [bars.iloc[:1200], other]
    pool = training.train(both, home, ensemble=quick, forecasts=judged.assign(symbol="CALM"), name="two")
    young = round_(bars.iloc[:1310])  # 10 bars that no market of the pool had
    assert (young.outcome, young.champion) == ("not due", pool.id)
    assert str(young.decision.checks[1]) == "new bars: 10 since training, due from 400"
    found("better")
    told = round_(bars)
    assert told.outcome == "promoted" and told.comparison is not None and told.comparison.champion == pool.id
    assert history(root) == (told.champion,) and history(pool.path.parent) == (pool.id,)
    with pytest.raises(NotTrainedError, match="nothing was published before"):
        roll_back("CALM", "1h", home)


def test_what_fails_leaves_the_champion(
    bars: pd.DataFrame, home: mlkit.Settings, root: Path, round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BarsError, match=r"need .* bars to train and evaluate, have 600"):
        monkeypatch.undo()  # the real walk-forward says so
        retrain(bars.iloc[:600], settings=home)
    assert champion_of("CALM", "1h", home) == (None, "")


def test_a_bundle_that_others_publish_meanwhile_is_not_overrun(
    bars: pd.DataFrame, root: Path, round_: Round, fitted: Fitted, found: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    round_(bars.iloc[:1200])
    theirs = fitted(bars.iloc[:1250])
    found("better")
    compared = retraining.compare

    def slow(*arguments: Any, **options: Any) -> Comparison:
        publish(theirs)
        return compared(*arguments, **options)

    monkeypatch.setattr(retraining, "compare", slow)
    with pytest.raises(RetrainingError, match="somebody else published meanwhile"):
        round_(bars)
    assert ModelBundle.open(root).id == theirs.id


# --- which one is current -------------------------------------------------------------------------


def test_a_rollback_is_not_undone_by_the_next_round(
    bars: pd.DataFrame, home: mlkit.Settings, root: Path, round_: Round, found: Callable[[str], None]
) -> None:
    first = round_(bars.iloc[:1200]).champion
    found("better")
    second = round_(bars).champion
    assert second != first and roll_back("CALM", "1h", home).id == first
    told = round_(bars)
    assert told.outcome == "kept" and f"{second} was rolled back on" in told.why
    third = round_(bars.iloc[:-1]).champion  # other bars, another model
    assert history(root) == (third, first) and (root / str(second)).is_dir()
    assert [entry["event"] for entry in record(root)] == ["published", "promoted", "rolled back", "promoted"]
    with pytest.raises(NotTrainedError, match="no published model"):
        roll_back("OTHER", "1h", home)
    assert not market_root("OTHER", "1h", home).exists()


def test_old_bundles_and_leftovers_go(
    bars: pd.DataFrame, home: mlkit.Settings, root: Path, quick: EnsembleSettings, fitted: Fitted,
    found: Callable[[str], None],
) -> None:  # fmt: skip
    two = home.model_copy(update={"retrain_keep": 2})
    for count in (1200, 1201, 1202):
        publish(fitted(bars.iloc[:count]))
    earlier = history(root)
    never = fitted(bars.iloc[:1203])
    (root / ".bundle-killed").mkdir()
    (root / ".CURRENT.x.tmp").write_text("torn")
    fresh = root / ".bundle-fresh"
    fresh.mkdir()
    for name in (never.id, ".bundle-killed", ".CURRENT.x.tmp"):
        os.utime(root / name, (1e9, 1e9))
    found("no difference")
    told = retrain(bars.iloc[:1700], settings=two.model_copy(update={"retrain_age": 9.0}), ensemble=quick, drift=CALM)
    assert told.outcome == "kept"
    assert set(told.removed) == {earlier[2], never.id, ".bundle-killed", ".CURRENT.x.tmp"}
    assert history(root) == earlier[:2] and fresh.is_dir() and (root / str(told.challenger)).is_dir()


def test_only_one_round_at_a_time(
    bars: pd.DataFrame, home: mlkit.Settings, root: Path, round_: Round, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLKIT_MODEL_STORAGE_PATH", str(home.models))
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(home.lake))
    mlkit.save_bars(bars, home)
    with ThreadPoolExecutor(1) as other, ExitStack() as held:
        other.submit(held.enter_context, only_one(root)).result()  # within a thread the lock is re-entrant
        for command in ("retrain", "rollback"):
            assert main([command, "--symbol", "CALM", "--timeframe", "1h"]) == 2
            said = capsys.readouterr().err
            assert said.startswith("mlkit: error: CALM-1h: another training, retraining or rollback is running")
            assert said.count("\n") == 1
        assert main(["retrain", "--symbol", "CALM", "--timeframe", "1h", "--dry-run"]) == 0  # looking is free
        assert "dry run, would train on 2,000 bars to 2024-03-24, then publish" in capsys.readouterr().out
        other.submit(held.close).result()
    assert round_(bars.iloc[:1200]).outcome == "published"


def test_mlflow_knows_champion_and_challenger(
    bars: pd.DataFrame, mlflow_home: Path, recorded_by_mlflow: Any, quick: EnsembleSettings,
    found: Callable[[str], None],
) -> None:  # fmt: skip
    settings = mlkit.Settings(prediction_horizons=(1,), n_threads=1, retrain_age=0.12, tracking=True)

    def aliases() -> dict[str, str]:
        """Bundle id behind each alias."""

        def question(client: Any) -> dict[str, str]:
            held = client.get_registered_model("CALM-1h").aliases
            of = {alias: client.get_model_version("CALM-1h", version) for alias, version in held.items()}
            return {alias: version.tags["mlkit.bundle"] for alias, version in of.items()}

        return dict(recorded_by_mlflow.ask(question))

    first = retrain(bars.iloc[:1200], settings=settings, ensemble=quick).champion
    assert aliases() == {"champion": first}
    found("worse")
    told = retrain(bars, settings=settings, ensemble=quick)
    assert aliases() == {"champion": first, "challenger": told.challenger}
    found("better")
    told = retrain(bars.iloc[:-1], settings=settings, ensemble=quick)
    assert aliases()["champion"] == told.champion == told.challenger != first
    roll_back("CALM", "1h", settings)
    assert aliases()["champion"] == first
    retrained = [run for run in recorded_by_mlflow.runs() if run.data.tags["mlkit.kind"] == "retrain"]
    outcomes = [run.data.tags["outcome"] for run in retrained]
    assert outcomes == ["published", "kept", "promoted", "rolled back"]
    assert retrained[2].data.metrics["difference"] == pytest.approx(-0.2)
    assert retrained[2].data.params["trained_bars"] == "1799" and "age: " in retrained[2].data.params["due"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_a_kill_at_any_step_leaves_a_whole_champion() -> None:
    """A sample; tests/bench/soak_retrain.py kills at every step and at random moments."""
    script = Path(__file__).with_name("retrain_kills.py")
    run = subprocess.run([sys.executable, str(script), "calls", "31"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)
    print(counts)
    assert counts["kills"] >= 3 and counts["old champion"] and counts["new champion"]
