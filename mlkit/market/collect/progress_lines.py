"""Progress of a collection while it runs, and its report."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class FetchProgress:
    """One symbol's state: ``done`` of ``total`` missing bars asked for, ``added`` of them committed."""

    symbol: str
    timeframe: str
    done: int
    total: int
    added: int
    until: pd.Timestamp | None  # open time of the newest committed bar
    note: str = ""  # what is waited for


@dataclass(frozen=True)
class Collected:
    """The result for one symbol.

    ``added`` bars are new, ``known`` were fetched again and equal, ``revised`` differ from what the lake held;
    ``absent`` bars after the first were asked for and not given: outages of the exchange, or a delisted market.
    """

    symbol: str
    timeframe: str
    source: str
    added: int = 0
    known: int = 0
    revised: int = 0
    absent: int = 0
    retries: int = 0
    first: pd.Timestamp | None = None  # open times of the lake's oldest and newest bar
    last: pd.Timestamp | None = None
    error: str = ""

    def __str__(self) -> str:
        return f"{self.symbol} {self.timeframe}: " + (
            self.error or f"{self.added:,} bars added, up to {utc(self.last)}"
        )


_REPORT_COLUMNS = ("symbol", "timeframe", "source", "added", "known", "revised", "absent", "retries", "first", "last")


@dataclass(frozen=True)
class FetchReport:
    """The results of all symbols, in the order asked for; prints as a table."""

    results: tuple[Collected, ...]

    @property
    def failed(self) -> tuple[Collected, ...]:
        """The symbols that ended with an error; what they committed stays."""
        return tuple(result for result in self.results if result.error)

    def __str__(self) -> str:
        rows = [_REPORT_COLUMNS, *self._cells()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_REPORT_COLUMNS))]
        numbers = range(3, 8)
        lines = [
            "  ".join(
                cell.rjust(width) if column in numbers else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(str(result) for result in self.failed)])

    def _repr_html_(self) -> str:
        table = pd.DataFrame(self._cells(), columns=list(_REPORT_COLUMNS))
        table["error"] = [result.error for result in self.results]
        return table.to_html(index=False, border=0)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            tuple(
                f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else utc(value)
                for value in (getattr(result, name) for name in _REPORT_COLUMNS)
            )
            for result in self.results
        ]


def utc(time: pd.Timestamp | None) -> str:
    """A time to the minute, or a dash."""
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M}"


class ProgressLines:
    """A callback that shows one tqdm line a symbol, with bars, rate and time left: standard error or notebook.

    Nothing is shown where standard error is no terminal, or tqdm is not installed. ``states`` holds the latest
    FetchProgress of each symbol.
    """

    def __init__(self) -> None:
        self.states: dict[str, FetchProgress] = {}
        self._lines: dict[str, Any] = {}
        self._lock = Lock()
        self._tqdm: Any = None
        with suppress(ModuleNotFoundError):
            from tqdm.auto import tqdm

            self._tqdm = tqdm

    def __call__(self, progress: FetchProgress) -> None:
        with self._lock:
            self.states[progress.symbol] = progress
            if self._tqdm is None:
                return
            line = self._lines.get(progress.symbol) or self._line(progress)
            line.total = progress.total
            line.set_postfix_str(progress.note or f"committed up to {utc(progress.until)}", refresh=False)
            line.update(progress.done - line.n)
            if progress.note or progress.done >= progress.total:
                line.refresh()

    def close(self) -> None:
        """Leave the lines as they are and go on below them."""
        with self._lock:
            for line in self._lines.values():
                line.close()

    def _line(self, progress: FetchProgress) -> Any:
        name = f"{progress.symbol} {progress.timeframe}"
        notebook = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)() is not None
        hidden = False if notebook else None  # None: where there is no terminal
        options = {"unit": " bars", "unit_scale": True, "smoothing": 0.1, "position": len(self._lines)}
        line = self._lines[progress.symbol] = self._tqdm(desc=name, disable=hidden, **options)
        return line
