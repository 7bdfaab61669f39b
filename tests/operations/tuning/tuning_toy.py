"""An objective of no cost for tests of studies: a bowl over two parameters. As a script it is a process to kill."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna

from mlkit.operations.tuning.study import Search, Study


@dataclass(frozen=True)
class Toy:
    """Trial ``shoot`` kills its process, ``hang`` never ends, ``fail`` raises; each once, recorded in ``marks``."""

    marks: Path
    about_it: str = "bowl"
    shoot: int = -1
    hang: int = -1
    fail: int = -1

    @property
    def search(self) -> Search:
        return Search(
            space={"x": (0.0, 1.0, False), "k": (1, 9, False)},
            default={"x": 0.9, "k": 3},
            seed=7,
            startup=4,
            warm_up=0,
            about={"what": self.about_it, "seed": 7},
        )

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
    Study(Toy(folder, hang=hang), "toy", sys.argv[5]).run(trials, workers=workers)
