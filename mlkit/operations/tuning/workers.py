"""The trials of a study, in this process or in several, with what killed processes left behind put right.

Importing this module imports optuna.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from mlkit.errors import MlkitError
from mlkit.operations.tuning.study import DEFAULT, Place, Task, abandoned, drawn, finished, opened

Told = Callable[[int, float | None], None]  # finished trials and the best score so far


def run_trials(place: Place, task: Task, trials: int, *, workers: int = 1, told: Told | None = None) -> None:
    """Bring a study to ``trials`` finished trials; those it has already are kept.

    Each round shares out what is missing, so exactly that number is reached unless another command works on the same
    study: then up to a trial a worker more. MlkitError when a whole round finishes nothing.
    """
    with opened(place, task, shared=workers > 1) as study:
        _tell(study, told)
        while (missing := trials - (before := len(finished(study)))) > 0:
            bury(study)
            default = not any(DEFAULT in trial.user_attrs and not abandoned(trial) for trial in study.get_trials())
            if workers == 1:
                _work(study, task, missing, trials, default, told)
            else:
                shares = [missing // workers + (i < missing % workers) for i in range(workers)]
                _crew(study, place, task, [share for share in shares if share], trials, default, told)
            if len(finished(study)) == before:
                raise MlkitError(f"study {place.name}: its workers end without finishing a trial; is memory short?")


def bury(study: "optuna.Study") -> int:
    """Fail the running trials whose process, of this machine, is no more; returns how many."""
    dead = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        if owner and owner["host"] == socket.gethostname() and _begun(owner["pid"]) != owner["begun"]:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            dead += 1
    return dead


def _begun(pid: int) -> str:
    """When a process began, which tells it from a later one of the same number; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        pass
    try:  # without /proc the number has to do
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"


def _work(study: "optuna.Study", task: Task, share: int, trials: int, default: bool, told: Told | None = None) -> None:
    """Run some trials in this process, first the default one if asked; fewer where others have finished them."""
    study.sampler.default = default
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "begun": _begun(os.getpid())}

    def objective(trial: "optuna.Trial") -> float:
        trial.set_user_attr("owner", owner)
        if study.sampler.default:
            trial.set_user_attr(DEFAULT, True)
        parameters = drawn(trial, task.space)
        try:
            return task.score(trial, parameters)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:500])
            raise

    def after(study: "optuna.Study", _: FrozenTrial) -> None:
        _tell(study, told)
        if len(finished(study)) >= trials:
            study.stop()

    study.optimize(objective, n_trials=share, callbacks=[after])


def _tell(study: "optuna.Study", told: Told | None) -> None:
    if told is not None:
        done = finished(study)
        scores = [trial.value for trial in done if trial.state is TrialState.COMPLETE]
        told(len(done), min(scores, default=None))


def _crew(
    study: "optuna.Study",
    place: Place,
    task: Task,
    shares: list[int],
    trials: int,
    default: bool,
    told: Told | None,
) -> None:
    """Run the shares in processes of their own; a killed one loses the trial at hand only."""
    context = get_context("spawn")
    near, far = context.Pipe(duplex=False)
    hired = [(place, task, share, trials, default and i == 0, far) for i, share in enumerate(shares)]
    crew = [context.Process(target=_hired, args=arguments) for arguments in hired]
    try:
        for worker in crew:
            worker.start()
        far.close()
        while any(worker.is_alive() for worker in crew):
            connection.wait([worker.sentinel for worker in crew if worker.is_alive()], timeout=0.5)
            _tell(study, told)
    finally:
        for worker in crew:
            if worker.pid is not None:
                worker.terminate()
                worker.join()
        bury(study)
        errors = []
        try:
            while near.poll():
                errors.append(near.recv())
        except EOFError:  # every worker has closed its end
            pass
        near.close()
    if errors:
        raise MlkitError(f"study {place.name}: {errors[0]}")


def _hired(place: Place, task: Task, share: int, trials: int, default: bool, errors: "connection.Connection") -> None:
    """A worker process: its share of trials, and no trial more once the one that hired it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the one that hired it
    master = parent_process()
    assert master is not None

    def follow() -> None:
        connection.wait([master.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    try:
        with opened(place, task, shared=True) as study:
            _work(study, task, share, trials, default)
    except Exception as error:
        errors.send(f"{type(error).__name__}: {error}")
