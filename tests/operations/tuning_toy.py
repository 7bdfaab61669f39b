"""A task of no cost for tests of studies: a bowl over two parameters. As a script it is a process that can be shot."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from mlkit.operations.tuning.study import Place, Space
from mlkit.operations.tuning.workers import run_trials


@dataclass(frozen=True)
class Toy:
    """Trial ``shoot`` kills its process, ``hang`` never ends, ``fail`` raises; each once, as ``marks`` remembers."""

    marks: Path
    seed: int = 7
    startup: int = 4
    warm_up: int = 0
    about_it: str = "bowl"
    shoot: int = -1
    hang: int = -1
    fail: int = -1

    @property
    def about(self) -> dict[str, Any]:
        return {"what": self.about_it, "seed": self.seed}

    @property
    def default(self) -> dict[str, int | float]:
        return {"x": 0.9, "k": 3}

    @property
    def space(self) -> Space:
        return {"x": (0.0, 1.0, False), "k": (1, 9, False)}

    def score(self, trial: optuna.Trial, parameters: Mapping[str, int | float]) -> float:
        if trial.number == self.shoot and self._first("shot"):
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.number == self.fail and self._first("failed"):
            raise ZeroDivisionError("in the trial")
        if trial.number == self.hang:
            (self.marks / f"hangs-{os.getpid()}").touch()
            time.sleep(600)
        bowl = (parameters["x"] - 0.3) ** 2 + abs(parameters["k"] - 5) / 10
        for step in range(2):
            trial.report(bowl + (1 - step) / 10, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return bowl

    def _first(self, mark: str) -> bool:
        there = (self.marks / mark).exists()
        (self.marks / mark).touch()
        return not there


if __name__ == "__main__":
    folder, trials, workers, hang = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    run_trials(Place(sys.argv[5], "toy"), Toy(folder, hang=hang), trials, workers=workers)
