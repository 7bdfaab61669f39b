"""A study loses no finished trial: not to a kill, not to a worker's death, not to a second process."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
from optuna.trial import TrialState

from mlkit.config import sqlite_url
from mlkit.errors import ConfigError, MlkitError
from mlkit.operations.tuning.study import Study, abandoned, suggest
from tests.operations.tuning.tuning_toy import Toy

SCRIPT = Path(__file__).with_name("tuning_toy.py")
TRIALS = 9


def study_of(folder: Path, **changes: Any) -> Study:
    return Study(Toy(folder, **changes), "toy", sqlite_url(folder / "optuna.db"))


def trials_of(study: Study) -> list[optuna.trial.FrozenTrial]:
    with study.opened() as held:
        return list(held.get_trials())


def outcome(trials: list[optuna.trial.FrozenTrial]) -> list[tuple[object, ...]]:
    return [(trial.state, trial.value, trial.params) for trial in trials if not abandoned(trial)]


def shot(folder: Path, hang: int, workers: int = 1) -> list[int]:
    """Kill a run of the toy once its trial ``hang`` runs; the processes that hung in it."""
    command = [
        sys.executable,
        str(SCRIPT),
        str(folder),
        str(TRIALS),
        str(workers),
        str(hang),
        sqlite_url(folder / "optuna.db"),
    ]
    with subprocess.Popen(command) as process:
        while not (marks := list(folder.glob("hangs-*"))):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    pids = [int(mark.name.removeprefix("hangs-")) for mark in marks]
    for mark in marks:
        mark.unlink()
    return pids


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[optuna.trial.FrozenTrial]:
    study = study_of(tmp_path_factory.mktemp("undisturbed"))
    study.run(TRIALS)
    return trials_of(study)


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path, undisturbed: list[optuna.trial.FrozenTrial]) -> None:
    study = study_of(tmp_path)
    shot(tmp_path, hang=0)  # in the very first trial, that of the default parameters
    shot(tmp_path, hang=6)
    before = trials_of(study)
    assert [trial.state for trial in before if not trial.state.is_finished()] == [TrialState.RUNNING]
    so_far = study.result().score
    reports: list[tuple[int, float | None]] = []
    study.run(TRIALS, report=lambda done, score: reports.append((done, score)))
    after = trials_of(study)
    assert [trial.number for trial in after if abandoned(trial)] == [0, 6]
    assert outcome(after) == outcome(undisturbed)
    assert reports[0] == (5, so_far) and reports[-1][0] == TRIALS
    assert min(score for _, score in reports if score is not None) <= so_far
    assert [trial.state for trial in after].count(TrialState.PRUNED) > 0


def test_a_study_is_continued_and_ends_at_its_number(
    tmp_path: Path, undisturbed: list[optuna.trial.FrozenTrial]
) -> None:
    study = study_of(tmp_path)
    for asked, there in ((4, 4), (TRIALS, TRIALS), (3, TRIALS)):
        study.run(asked)
        assert len(trials_of(study)) == there
    assert outcome(trials_of(study)) == outcome(undisturbed)
    importance = study.result().importance
    assert sorted(importance.index) == ["k", "x"] and importance.sum() == pytest.approx(1.0)


def test_the_draws_are_those_of_a_sampler_made_for_each_trial(undisturbed: list[optuna.trial.FrozenTrial]) -> None:
    """The sampler that is seeded anew in place equals a fresh one of Optuna at every trial."""
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0))
    toy = Toy(Path())
    study.enqueue_trial(toy.search.default)
    for number in range(TRIALS):
        seed = int(np.random.SeedSequence((7, 0, number)).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=4, multivariate=True)
        study.optimize(lambda trial: toy.score(trial, suggest(trial, toy.search.space)), n_trials=1)
    assert outcome(study.get_trials()) == outcome(undisturbed)


def test_two_workers_lose_nothing_when_one_is_shot(tmp_path: Path) -> None:
    study = study_of(tmp_path, shoot=3)
    study.run(7, workers=2)
    trials = trials_of(study)
    assert (tmp_path / "shot").exists()
    assert [trial.number for trial in trials if abandoned(trial)] == [3]
    done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(done) == 7 and sorted(trial.number for trial in trials) == list(range(8))
    assert len({trial.user_attrs["owner"]["pid"] for trial in trials} - {os.getpid()}) >= 2
    result = study.result()
    assert result.score == min(trial.value for trial in done if trial.state is TrialState.COMPLETE)
    assert result.counts["complete"] + result.counts["pruned"] == 7
    assert result.default_score == pytest.approx(0.36 + 0.2)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    for pid in shot(tmp_path, hang=1, workers=2):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_passed_on_and_its_trial_is_not_tried_again(tmp_path: Path, workers: int) -> None:
    study = study_of(tmp_path, fail=1)
    with pytest.raises((ZeroDivisionError, MlkitError), match="in the trial"):
        study.run(3, workers=workers)
    failed = trials_of(study)[1]
    assert failed.state is TrialState.FAIL and failed.user_attrs["error"] == "ZeroDivisionError: in the trial"
    study.run(3)
    after = trials_of(study)
    assert len([trial for trial in after if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]) == 3
    assert [trial.params for trial in after].count(failed.params) == 1


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    study_of(tmp_path).run(1)
    with pytest.raises(ConfigError, match=r"study toy: its trials were made with other what; give another name"):
        study_of(tmp_path, about_it="saddle").run(2)


def test_a_storage_that_cannot_be_opened_keeps_its_password(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in ("nonsense", "nosuchdb://user:secret@host/x", f"sqlite:///{tmp_path}/file/optuna.db"):
        with pytest.raises(ConfigError, match=r"storage .* cannot be opened") as error:
            Study(Toy(tmp_path), "toy", url).run(1)
        assert "secret" not in str(error.value)


def test_a_folder_with_a_query_and_a_percent_in_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "what?mode=ro 100%20 #1"
    odd.mkdir()
    study_of(odd).run(1)
    assert (odd / "optuna.db").is_file() and [path.name for path in tmp_path.iterdir()] == [odd.name]


def test_a_study_without_a_complete_trial_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(MlkitError, match="no trial is complete"):
        study_of(tmp_path).result()
