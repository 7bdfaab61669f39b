"""Tuning sees nothing of the bars that judge it, its trials are all answered for, and what it says is so."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit import cli
from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation.final_span import FinalSpan
from mlkit.evaluation.ledger import RUN, Ledger, Source
from mlkit.market.simulate.markets import planted_edge
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training.scoring import score
from mlkit.operations.training.training import walk_forward
from mlkit.operations.tuning.ensemble_tuning import SPACE, tune
from mlkit.operations.tuning.improvement import compare_losses
from mlkit.operations.tuning.tuned import OutOfSample, Tuned, Tuning, load_tuned, save_tuned, tuned_path

HORIZONS = (1, 5)
TRIALS = 5


@pytest.fixture(scope="module", autouse=True)
def _small() -> "pytest.MonkeyPatch":  # type: ignore[misc]
    """A few trees."""
    few = {"n_estimators": 8, "early_stopping_rounds": 2, "forest_trees": 4, "forest_depth": 3}
    smoke = EnsembleSettings.smoke
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnsembleSettings, "smoke", lambda **options: replace(smoke(**options), **few))
        yield patch


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> mlkit.Settings:
    folder = tmp_path_factory.mktemp("tuning")
    return mlkit.Settings(
        prediction_horizons=HORIZONS,
        model_storage_path=folder / "models",
        ledger_path=folder / "ledger.jsonl",
        tuning_storage=f"sqlite:///{folder / 'optuna.db'}",
        n_threads=1,
    )


@pytest.fixture(scope="module")
def bars(sp500: pd.DataFrame) -> pd.DataFrame:
    return sp500.iloc[-2600:]


@pytest.fixture(scope="module")
def tuning(bars: pd.DataFrame, settings: mlkit.Settings) -> Tuning:
    return tune(bars, settings, trials=TRIALS)


def with_another_future(bars: pd.DataFrame, first: int) -> pd.DataFrame:
    """The same bars before ``first``; from there on shuffled, and three times as dear."""
    other = bars.copy()
    rows = np.arange(first, len(bars))
    other.iloc[rows] = bars.iloc[np.random.default_rng(0).permutation(rows)].to_numpy() * [3, 3, 3, 3, 0.5]
    return other


def test_the_held_back_bars_change_no_trial(
    bars: pd.DataFrame, settings: mlkit.Settings, tuning: Tuning, tmp_path: Path
) -> None:
    assert tuning.tuned.saw.bars == 2080
    poisoned = with_another_future(bars, 2080)
    elsewhere = f"sqlite:///{tmp_path / 'optuna.db'}"
    again = tune(poisoned, settings, trials=TRIALS, storage=elsewhere)
    pd.testing.assert_frame_equal(again.trials, tuning.trials)
    assert again.tuned.study == tuning.tuned.study
    assert again.tuned.parameters == tuning.tuned.parameters
    assert not again.comparison.equals(tuning.comparison)  # where the poison does arrive


def test_the_poison_finds_a_tuning_on_all_bars(
    bars: pd.DataFrame, settings: mlkit.Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The planted leak: the study is given the whole history."""
    monkeypatch.setattr(FinalSpan, "development", property(lambda self: self._bars.copy()))
    leaky = []
    for number, history in enumerate((bars, with_another_future(bars, 2080))):
        storage = f"sqlite:///{tmp_path / f'{number}.db'}"
        leaky.append(tune(history, settings, trials=1, storage=storage, compare=False).trials)
    assert not leaky[0].equals(leaky[1])


def test_a_tuned_model_answers_for_every_trial(bars: pd.DataFrame, settings: mlkit.Settings, tuning: Tuning) -> None:
    assert len(tuning.tuned.configurations) == TRIALS
    assert Ledger.of(settings).trials([Source.of(bars)]) == TRIALS  # the comparison tried nothing new
    ensemble = tuning.tuned.ensemble(settings, bars)
    judged = score(walk_forward(bars, settings, n_splits=1, ensemble=ensemble), settings)
    assert (judged["trials"] == TRIALS + 1).all()  # with one split where a trial had none chosen


def test_the_trials_of_another_process_come_along(
    bars: pd.DataFrame, settings: mlkit.Settings, tuning: Tuning, tmp_path: Path
) -> None:
    """The smoke profile counts its own process: a model tuned by an earlier one must not look untuned."""
    fresh = settings.model_copy(update={"ledger_path": tmp_path / "ledger.jsonl"})
    fresh.ledger.write_text(settings.ledger.read_text().replace(RUN, "another run"))
    assert Ledger.of(fresh).trials([Source.of(bars)]) == 0
    tuning.tuned.ensemble(fresh, bars)
    assert Ledger.of(fresh).trials([Source.of(bars)]) == TRIALS


def test_a_finished_study_is_read_and_not_run_again(
    bars: pd.DataFrame, settings: mlkit.Settings, tuning: Tuning, tmp_path: Path
) -> None:
    fresh = settings.model_copy(update={"ledger_path": tmp_path / "ledger.jsonl"})
    again = tune(bars, fresh, trials=TRIALS, compare=False)
    pd.testing.assert_frame_equal(again.trials, tuning.trials)
    assert again.tuned.out_of_sample is None and again.sentence() == "Not compared out of sample."
    events = [entry["event"] for entry in Ledger.of(fresh).entries()]
    assert events == ["recall"]  # no fit, no read


def test_the_held_back_bars_are_read_once_or_it_is_said(
    bars: pd.DataFrame, settings: mlkit.Settings, tuning: Tuning
) -> None:
    first = tuning.tuned.out_of_sample
    assert first is not None and first.tuned - first.default == pytest.approx(first.difference)
    assert first.reads_before == 0 and first.start > tuning.tuned.saw.end
    again = tune(bars, settings, trials=TRIALS)
    assert again.tuned.out_of_sample is not None
    assert again.tuned.out_of_sample.reads_before >= 1
    assert "these bars had been read" in again.sentence() or "changes nothing" in again.sentence()


def test_tuned_json_round_trips_and_says_whom_it_is_for(
    bars: pd.DataFrame, settings: mlkit.Settings, tuning: Tuning
) -> None:
    path = save_tuned(tuning.tuned, settings)
    assert path == settings.models / "SP500-1d" / "tuned.json"
    tuned = load_tuned(settings, "SP500", "1d")
    assert tuned == tuning.tuned
    ensemble = tuned.ensemble(settings, bars)
    assert {name: getattr(ensemble, name) for name in SPACE} == tuned.parameters
    assert ensemble.weights == {"xgboost": 0.4, "lightgbm": 0.4, "random_forest": 0.2}
    assert "configurations" not in json.dumps(tuned.provenance())
    for changes, words in (
        ({"profile": "full"}, "tuned for profile smoke, this is full"),
        ({"prediction_horizons": (1,)}, r"tuned for horizons \(1, 5\), this is \(1,\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            tuned.ensemble(settings.model_copy(update=changes), bars)


@pytest.mark.parametrize("fault", ["{", '{"schema_version": 1}', "max_depth", "unknown"])
def test_a_damaged_file_is_refused(settings: mlkit.Settings, tuning: Tuning, tmp_path: Path, fault: str) -> None:
    there = settings.model_copy(update={"model_storage_path": tmp_path})
    with pytest.raises(ConfigError, match="run mlkit tune --symbol SP500 --timeframe 1d"):
        load_tuned(there, "SP500", "1d")
    changed = {"max_depth": 0} if fault == "max_depth" else {"no_such": 1}
    broken = tuning.tuned.model_copy(update={"parameters": changed})
    save_tuned(broken, there)
    if fault.startswith("{"):
        tuned_path(there, "SP500", "1d").write_text(fault)
    with pytest.raises(ConfigError, match=r"tuned\.json: damaged"):
        load_tuned(there, "SP500", "1d")


def test_the_difference_is_that_of_the_losses() -> None:
    rng = np.random.default_rng(0)
    base = rng.exponential(size=(1000, 2))
    default = base * 0.99
    settings = mlkit.Settings(prediction_horizons=HORIZONS)
    answers = {}
    for name, tuned in (
        ("better", default - 0.05 * rng.random((1000, 2))),
        ("worse", default + 0.05 * rng.random((1000, 2))),
        ("not shown", default + rng.normal(size=(1000, 2)) * 0.05),
    ):
        said = {"trees": default, "told": base, "no change": base}
        table = compare_losses({"default": said, "tuned": said | {"trees": tuned}}, settings)
        expected = (tuned.mean(axis=0) / base.mean(axis=0)) - 0.99
        assert table.loc[("trees", "1"), "difference"] == pytest.approx(expected[0])
        assert table.loc[("trees", "all"), "difference"] == pytest.approx(expected.mean())
        assert table.loc[("told", "all"), "difference"] == 0.0
        low, high = table.loc[("trees", "all"), ["low", "high"]]
        answers[name] = "better" if high < 0 else "worse" if low > 0 else "not shown"
    assert answers == {name: name for name in answers}


def test_a_tuning_that_helps_is_seen_to_help(
    settings: mlkit.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A market with a planted edge, and defaults that cannot learn it in eight rounds."""
    smoke = EnsembleSettings.smoke
    slow = {"learning_rate": 0.01, "reg_lambda": 1000.0}
    monkeypatch.setattr(EnsembleSettings, "smoke", lambda **options: replace(smoke(**options), **slow))
    market = planted_edge(4000, seed=5, strength=0.3)
    few = settings.model_copy(update={"prediction_horizons": (1,), "ledger_path": tmp_path / "ledger.jsonl"})
    found = tune(market, few, trials=6)
    assert found.tuned.score < found.tuned.default_score
    assert found.tuned.out_of_sample is not None
    assert found.tuned.out_of_sample.answer == "better"
    assert found.sentence().startswith("Tuning helped out of sample: relative loss -0.")


def test_what_the_sentence_says() -> None:
    known = {
        "default": 1.0,
        "tuned": 0.995,
        "low": -0.02,
        "high": 0.01,
        "level": 0.95,
        "start": "a",
        "end": "b",
        "bars": 1200,
        "reads_before": 2,
    }
    said = OutOfSample(answer="not shown", difference=-0.005, **known).sentence()
    assert said == (
        "Out of sample it is not shown that tuning helps or hurts: relative loss -0.0050, 95% interval "
        "[-0.0200, +0.0100], 1,200 bars; these bars had been read 2 times before."
    )
    same = OutOfSample(answer="same parameters", difference=0.0, **known).sentence()
    assert same.startswith("No trial beat the default parameters")


def test_too_few_bars_and_no_trials_are_refused(sp500: pd.DataFrame, settings: mlkit.Settings) -> None:
    with pytest.raises(BarsError, match=r"with the newest 20% of the bars held back: SP500 1d: need \d+ bars"):
        tune(sp500.iloc[:700], settings, trials=1)
    with pytest.raises(ConfigError, match="at least 1, got 0 and 1"):
        tune(sp500, settings, trials=0)

    @mlkit.feature(lookback=5)
    def slope(b: pd.DataFrame) -> pd.Series:
        return b["close"] / b["close"].shift(5) - 1

    own = mlkit.FeatureSet(own=[slope], bars=sp500)
    with pytest.raises(ConfigError, match="own features live in this process only"):
        tune(sp500, settings, trials=1, workers=2, features=own)


def test_the_command_prints_what_was_found_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    monkeypatch.setenv("MLKIT_PREDICTION_HORIZONS", "[1]")
    monkeypatch.setenv("MLKIT_LEDGER_PATH", "ledger.jsonl")
    words = ["tune", "--symbol", "SP500", "--timeframe", "1d", "--study", "mine", "--trials"]
    assert cli.main([*words, "1"]) == 0
    assert cli.main([*words, "3", "--workers", "2"]) == 0
    out, err = capsys.readouterr()
    assert "trials of mine: 1 complete, 0 pruned, 0 fail\nNo trial beat the default" in out
    assert "min_leaf" in out and "inner score" in out
    assert "1/3" in err and "3/3" in err  # the bar goes on where the study stood
    tuned = Tuned.model_validate_json((tmp_path / "data/models/SP500-1d/tuned.json").read_bytes())
    assert tuned.trials["complete"] + tuned.trials["pruned"] == 3
    assert (tmp_path / "data/optuna.db").is_file()
    assert cli.main([*words, "2", "--seed", "8"]) == 2
    assert "study mine: its trials were made with other settings" in capsys.readouterr().err
    assert os.listdir(tmp_path / "data/models/SP500-1d") == ["tuned.json"]


def test_the_command_is_a_run_with_a_step_a_trial(
    mlflow_home: Path, recorded_by_mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLKIT_PREDICTION_HORIZONS", "[1]")
    monkeypatch.setenv("MLKIT_TRACKING", "true")
    assert cli.main(["tune", "--symbol", "SP500", "--timeframe", "1d", "--study", "mine", "--trials", "2"]) == 0
    (run,) = recorded_by_mlflow.runs()
    tuned = load_tuned(mlkit.Settings(), "SP500", "1d")
    assert run.data.tags["mlkit.kind"] == "tune" and run.data.params["study"] == "mine"
    assert float(run.data.params["tuned.max_depth"]) == tuned.parameters["max_depth"]
    assert tuned.out_of_sample is not None
    assert run.data.tags["out of sample"] == tuned.out_of_sample.answer
    assert run.data.metrics["trials complete"] == 2 and run.data.metrics["best score"] == pytest.approx(tuned.score)
    history = recorded_by_mlflow.ask(lambda client: client.get_metric_history(run.info.run_id, "score"))
    assert [point.step for point in history] == [0, 1]
    found = recorded_by_mlflow.artifacts(run.info.run_id)
    assert {"figures", "tables", "tuned.json", "comparison.txt"} <= set(found)
