"""Progress of a training on standard error: one bar a stage on a terminal, one line a step elsewhere."""

import sys
from types import TracebackType
from typing import Any, Self


class Steps:
    """A progress callback ``(stage, done, total)``; ``stage`` reads "fold 1/3: xgboost h=5", a bar is a "fold 1/3"."""

    def __init__(self) -> None:
        self._bars = sys.stderr.isatty()
        self._bar: Any = None
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps are done."""
        if not self._bars:
            print(f"{done}/{total} {stage}", file=sys.stderr, flush=True)
            return
        from tqdm import tqdm

        name, _, step = stage.partition(": ")
        if name != self._name:
            if self._bar is not None:
                self._bar.close()
            self._bar, self._name = tqdm(total=total, desc=name, unit="step", file=sys.stderr), name
        self._bar.total = total
        self._bar.set_postfix_str(step, refresh=False)
        self._bar.update(done - self._bar.n)
