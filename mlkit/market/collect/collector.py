"""What collecting from an exchange and from an archive have in common: one symbol's way into the lake."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError, FetchError
from mlkit.market.bars import BarArrays, bars_of, open_times
from mlkit.market.calendar import ALWAYS_OPEN
from mlkit.market.collect.progress_lines import Collected, FetchProgress, FetchReport, ProgressLines
from mlkit.market.lake.store import BarStore
from mlkit.market.sources import check_free
from mlkit.market.symbols import check_symbol
from mlkit.market.times import Int64Array, timeframe_ns

_FOREIGN = 3  # so many differing bars, and at least half of those compared: another market, not a revision

Revised = Literal["replace", "keep"]
Time = str | pd.Timestamp
Show = Callable[[FetchProgress], None]


class BarSource(Protocol):
    """Where bars are collected from."""

    name: str
    retries: int  # requests that were made again


@dataclass(frozen=True)
class Request:
    """What one call asks for, the same for each of its symbols."""

    store: BarStore
    timeframe: str
    since: pd.Timestamp | None
    until: pd.Timestamp | None
    revised: Revised = "replace"
    show: Show = lambda state: None

    def __post_init__(self) -> None:
        if self.revised not in ("replace", "keep"):
            raise ConfigError(f"revised={self.revised!r} is unknown; use 'replace' or 'keep'")


def lake_names(symbols: str | Sequence[str], name: str | None, timeframe: str) -> dict[str, str]:
    """Names in the lake -> the source's names. ConfigError for a name that is not accepted, or none."""
    names = [symbols] if isinstance(symbols, str) else list(symbols)
    if not names or (name is not None and len(names) != 1):
        raise ConfigError("name= needs exactly one symbol" if names else "no symbol to fetch; give at least one")
    markets = {check_symbol(name or symbol): symbol for symbol in names}
    for symbol in markets:
        check_free(symbol, timeframe)
    return markets


@contextmanager
def shown(progress: bool | Show) -> Iterator[Show]:
    """The function that shows progress: lines of tqdm for True, the caller's own, or one that does nothing."""
    lines = ProgressLines() if progress is True else None
    try:
        yield lines or (progress if callable(progress) else lambda state: None)
    finally:
        if lines is not None:
            lines.close()


def report_of(results: Sequence[Collected]) -> FetchReport:
    """The report of all symbols. FetchError, with the report, where one failed."""
    report = FetchReport(tuple(results))
    if report.failed:
        others = f" ({len(report.failed)} of {len(results)} symbols failed)" if len(results) > 1 else ""
        error = FetchError(f"{report.failed[0]}{others}")
        error.report = report
        raise error
    return report


class Collector:
    """Collects one symbol; ``result`` says how many bars it added and which error ended it."""

    checks_overlap = True  # whether `commit` compares bars that the lake already has

    def __init__(self, request: Request, source: BarSource, symbol: str, market: str) -> None:
        self.request, self.source, self.store = request, source, request.store
        self.symbol, self.market, self.timeframe = symbol, market, request.timeframe
        self.step = timeframe_ns(request.timeframe)
        self.result = Collected(symbol, request.timeframe, source.name)
        self.have: Int64Array = np.empty(0, dtype=np.int64)  # open times in the lake, within reach of the span
        self.pending: list[BarArrays] = []  # collected, not committed
        self.done = self.total = 0  # bars asked for, and to ask for

    def last(self) -> pd.Timestamp | None:
        """Open time of the lake's newest bar."""
        return self.store.last(self.symbol, self.timeframe)

    def look_up(self, since: pd.Timestamp, until: pd.Timestamp) -> None:
        """Read which bars the lake has in a span."""
        if self.last() is not None:
            self.have = open_times(self.store.read(self.symbol, self.timeframe, since=since, until=until))

    def commit(self) -> None:
        """Write the pending bars into the lake and count them; of two with one time the first."""
        if not self.pending:
            return
        times, order = np.unique(np.concatenate([times for times, _ in self.pending]), return_index=True)
        values = np.ascontiguousarray(np.concatenate([values for _, values in self.pending], axis=1)[:, order])
        self.pending = []
        bars = bars_of((times, values), symbol=self.symbol, timeframe=self.timeframe, calendar=ALWAYS_OPEN)
        if self.checks_overlap and np.isin(times, self.have).any():
            self.refuse_foreign(bars, self.source.name)
        commit = self.store.append(bars, on_conflict=self.request.revised, source=self.source.name)
        self.have = np.union1d(self.have, times)
        done = self.result
        added, known = done.added + commit.added, done.known + commit.known
        self.update(added=added, known=known, revised=done.revised + commit.revised)

    def refuse_foreign(self, bars: pd.DataFrame, source: str) -> None:
        """BarsError where bars disagree with the lake's so often that they are those of another market."""
        ours = self.store.read(self.symbol, self.timeframe, bars.index[0], bars.index[-1] + pd.Timedelta(1, "ns"))
        common = ours.index.intersection(bars.index)
        differs = (ours.loc[common].to_numpy() != bars.loc[common].to_numpy()).any(axis=1)
        if differs.sum() >= _FOREIGN and 2 * differs.sum() >= differs.size:
            raise BarsError(
                f"{int(differs.sum())} of {differs.size} bars that the lake already has differ from those of {source}, "
                f"the first at {common[int(np.argmax(differs))]:%Y-%m-%d %H:%M}: it is another market; collect it "
                "under another name (--as NAME)"
            )

    def count_absent(self, start: int, stop: int) -> None:
        """Count the bars after the first one in [start, stop), in ns, that the source did not have."""
        inside = self.have[(self.have >= start) & (self.have < stop)]
        if inside.size:
            self.update(absent=int((stop - inside[0]) // self.step - inside.size))

    def update(self, **changes: int | str) -> None:
        """Bring ``result`` up to date with the lake, and with these changes."""
        manifest = self.store.manifest(self.symbol, self.timeframe)
        span: Mapping[str, object] = {} if manifest is None else {"first": manifest.first, "last": manifest.last}
        self.result = replace(self.result, retries=self.source.retries, **span, **changes)  # type: ignore[arg-type]

    def show(self, note: str = "") -> None:
        """Report the progress; ``note``: what is waited for."""
        done = self.result
        progress = self.symbol, self.timeframe, self.done, self.total, done.added, done.last, note
        self.request.show(FetchProgress(*progress))
