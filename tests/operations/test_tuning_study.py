"""A study loses no finished trial: not to a kill, not to a worker's death, not to a second process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mlkit.errors import ConfigError, MlkitError
from mlkit.operations.tuning.study import Place, abandoned, best, finished, found, opened
from mlkit.operations.tuning.workers import run_trials
from tests.operations.tuning_toy import Toy

SCRIPT = Path(__file__).with_name("tuning_toy.py")
TRIALS = 9


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(f"sqlite:///{tmp_path / 'optuna.db'}", "toy")


def trials_of(place: Place, task: Toy) -> list[optuna.trial.FrozenTrial]:
    with opened(place, task) as study:
        return list(study.get_trials())


def outcome(trials: list[optuna.trial.FrozenTrial]) -> list[tuple[object, ...]]:
    return [(trial.state, trial.value, trial.params) for trial in trials if not abandoned(trial)]


def shot(place: Place, folder: Path, hang: int, workers: int = 1) -> list[int]:
    """Kill a run of the toy once its trial ``hang`` runs; the processes that hung in it."""
    command = [sys.executable, str(SCRIPT), str(folder), str(TRIALS), str(workers), str(hang), place.url]
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
    folder = tmp_path_factory.mktemp("undisturbed")
    place, task = Place(f"sqlite:///{folder / 'optuna.db'}", "toy"), Toy(folder)
    run_trials(place, task, TRIALS)
    return trials_of(place, task)


def test_killed_and_resumed_equals_undisturbed(
    place: Place, tmp_path: Path, undisturbed: list[optuna.trial.FrozenTrial]
) -> None:
    task = Toy(tmp_path)
    shot(place, tmp_path, hang=0)  # in the very first trial, that of the default parameters
    shot(place, tmp_path, hang=6)
    before = trials_of(place, task)
    assert [trial.state for trial in before if not trial.state.is_finished()] == [TrialState.RUNNING]
    with opened(place, task) as study:
        so_far = best(study).value
    told: list[tuple[int, float | None]] = []
    run_trials(place, task, TRIALS, told=lambda done, score: told.append((done, score)))
    after = trials_of(place, task)
    assert [trial.number for trial in after if abandoned(trial)] == [0, 6]
    assert outcome(after) == outcome(undisturbed)
    assert told[0] == (5, so_far) and told[-1][0] == TRIALS
    assert min(score for _, score in told if score is not None) <= so_far
    assert [trial.state for trial in after].count(TrialState.PRUNED) > 0


def test_a_study_goes_on_where_it_stopped_and_ends_at_its_number(
    place: Place, tmp_path: Path, undisturbed: list[optuna.trial.FrozenTrial]
) -> None:
    task = Toy(tmp_path)
    for asked, there in ((4, 4), (TRIALS, TRIALS), (3, TRIALS)):
        run_trials(place, task, asked)
        assert len(trials_of(place, task)) == there
    assert outcome(trials_of(place, task)) == outcome(undisturbed)
    with opened(place, task) as study:
        importance = found(study, ["x", "k"], 7).importance
    assert sorted(importance.index) == ["k", "x"] and importance.sum() == pytest.approx(1.0)


def test_two_workers_lose_nothing_when_one_is_shot(place: Place, tmp_path: Path) -> None:
    task = Toy(tmp_path, shoot=3)
    run_trials(place, task, 7, workers=2)
    trials = trials_of(place, task)
    assert (tmp_path / "shot").exists()
    assert [trial.number for trial in trials if abandoned(trial)] == [3]
    assert len([trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]) == 7
    assert sorted(trial.number for trial in trials) == list(range(8))
    assert len({trial.user_attrs["owner"]["pid"] for trial in trials} - {os.getpid()}) >= 2
    with opened(place, task) as study:
        result = found(study, ["x", "k"], 7)
        assert result.score == min(trial.value for trial in finished(study) if trial.state is TrialState.COMPLETE)
    assert result.counts["complete"] + result.counts["pruned"] == 7
    assert result.default_score == pytest.approx(0.36 + 0.2)


def test_workers_end_with_the_one_that_hired_them(place: Place, tmp_path: Path) -> None:
    for pid in shot(place, tmp_path, hang=1, workers=2):
        while _lives(pid):
            time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_passed_on_and_its_trial_is_not_tried_again(place: Place, tmp_path: Path, workers: int) -> None:
    task = Toy(tmp_path, fail=1)
    with pytest.raises((ZeroDivisionError, MlkitError), match="in the trial"):
        run_trials(place, task, 3, workers=workers)
    failed = trials_of(place, task)[1]
    assert failed.state is TrialState.FAIL and failed.user_attrs["error"] == "ZeroDivisionError: in the trial"
    run_trials(place, task, 3)
    after = trials_of(place, task)
    assert len([trial for trial in after if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]) == 3
    assert [trial.params for trial in after].count(failed.params) == 1


def test_a_study_of_something_else_is_refused(place: Place, tmp_path: Path) -> None:
    run_trials(place, Toy(tmp_path), 1)
    with pytest.raises(ConfigError, match=r"study toy: its trials were made with other what; give another name"):
        run_trials(place, Toy(tmp_path, about_it="saddle"), 2)


def test_a_storage_that_cannot_be_opened_keeps_its_password(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in ("nonsense", "nosuchdb://user:secret@host/x", f"sqlite:///{tmp_path}/file/optuna.db"):
        with pytest.raises(ConfigError, match=r"storage .* cannot be opened") as error:
            run_trials(Place(url, "toy"), Toy(tmp_path), 1)
        assert "secret" not in str(error.value)


def test_a_study_without_a_complete_trial_has_no_best(place: Place, tmp_path: Path) -> None:
    with opened(place, Toy(tmp_path)) as study, pytest.raises(MlkitError, match="no trial is complete"):
        best(study)
