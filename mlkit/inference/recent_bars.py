"""The newest bars of a market with the counts over its whole history, updated by one closed bar at a time."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError
from mlkit.features import Standard, pattern_flags, rule_state
from mlkit.market import (
    COLUMNS,
    SATURDAY_SHARE,
    TIMES_SHARE,
    bar_time,
    bar_values,
    floor_times,
    forgotten,
    memory_starts,
    open_times,
    timeframe_ns,
)

Number = TypeVar("Number", bound=np.generic)
BarLike = Mapping[str, Any] | Sequence[Any] | pd.Series
DAY_NS = 86_400_000_000_000


class ClosedBar(NamedTuple):
    """Open time in ns since the epoch, UTC, and the values of one closed bar."""

    opened: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class RecentBars:
    """The newest bars of one market with the counts over its whole history.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), valid bars.
    keep : number of newest bars to keep.
    """

    def __init__(self, bars: pd.DataFrame, keep: int) -> None:
        self.symbol, self.timeframe = str(bars.attrs["symbol"]), str(bars.attrs["timeframe"])
        self.market = f"{self.symbol} {self.timeframe}"
        times, values = open_times(bars), bars[list(COLUMNS)].to_numpy()
        self.times, self.ohlcv = NewestRows(times, keep), NewestRows(values, keep)
        self.hours, self.seen = TradingHours(times, self.timeframe), len(bars)
        self.lookback = Lookback.of(bars)
        self._rules = rule_state()
        self.flags = self._rule_flags(values)

    @property
    def opened(self) -> int:
        """Open time of the newest bar, ns since the epoch."""
        return int(self.times.rows[-1])

    def accept(self, bar: BarLike) -> ClosedBar | None:
        """Check the next closed bar; None where it repeats the newest one with the same values.

        Raises BarsError, changing nothing, for a value that is no bar, off the grid, older than the newest bar, or the
        newest with other values. A bar after a gap is accepted.
        """
        market, opened = self.market, self.opened
        found = read_bar(bar, market)
        time = pd.Timestamp(found.opened, tz="UTC")
        if floor_times(np.array([found.opened]), self.timeframe)[0] != found.opened:
            raise BarsError(f"{market}: bar {time} is off the {self.timeframe} grid; pass open times of whole bars")
        if found.opened < opened:
            raise BarsError(
                f"{market}: bar {time} is older than the last one, {pd.Timestamp(opened, tz='UTC')}; bars come in "
                "order, start(bars) again to change history"
            )
        known = self.ohlcv.rows[-1].tolist()
        if found.opened > opened:
            return found
        if list(found[1:]) == known:
            return None
        raise BarsError(
            f"{market}: bar {time} was taken as {known}, now it is {list(found[1:])}; only closed bars are taken "
            "and they do not change, start(bars) again to amend history"
        )

    def push(self, bar: ClosedBar) -> None:
        """Add an accepted bar."""
        self.lookback = self.lookback.after(self.opened, bar.opened, self.timeframe)
        self.times.push(bar.opened)
        self.ohlcv.push(bar[1:])
        self.hours.push(bar.opened)
        self.seen += 1
        self.flags = self._rule_flags(self.ohlcv.rows[-1:])

    def _rule_flags(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
        """Direction of each written rule at the last of the rows, (n_patterns,), after the bars before them."""
        o, h, low, c = (rows[:, k] for k in range(4))
        flags: npt.NDArray[np.int8] = pattern_flags(o, h, low, c, self.hours.standard, self._rules)[-1]
        return flags


class NewestRows(Generic[Number]):
    """The newest rows of a growing table, contiguous in memory.

    Parameters
    ----------
    rows : (n, ...), the history.
    keep : number of newest rows to keep.
    """

    def __init__(self, rows: npt.NDArray[Number], keep: int) -> None:
        self._keep = keep
        self._table = np.empty((2 * keep, *rows.shape[1:]), dtype=rows.dtype)
        self._end = min(len(rows), keep)
        self._table[: self._end] = rows[-keep:]

    def push(self, row: Any) -> None:
        """Add a row; when the table is full, the newest ``keep`` rows move to its front."""
        if self._end == len(self._table):
            self._table[: self._keep - 1] = self._table[self._end - self._keep + 1 : self._end]
            self._end = self._keep - 1
        self._table[self._end] = row
        self._end += 1

    @property
    def rows(self) -> npt.NDArray[Number]:
        """A view of the newest rows, (at most keep, ...), valid until the next push."""
        return self._table[max(self._end - self._keep, 0) : self._end]


class TradingHours:
    """`mlkit.market.never_closes` of a growing history, updated one bar at a time."""

    def __init__(self, times: npt.NDArray[np.int64], timeframe: str) -> None:
        self._step = timeframe_ns(timeframe)
        self._first, self._last, self._n = int(times[0]), int(times[-1]), len(times)
        self._saturdays = int((_weekday(times) == 5).sum())
        self._unbroken = bool((np.diff(times) == self._step).all())
        self._times_of_day = set(np.unique(times % DAY_NS).tolist())

    def push(self, time: int) -> None:
        """Add the open time of the next bar."""
        self._unbroken &= time - self._last == self._step
        self._last, self._n = time, self._n + 1
        self._saturdays += _weekday(time) == 5
        self._times_of_day.add(time % DAY_NS)

    @property
    def never_closes(self) -> bool:
        """Whether the market trades without closes, judged from the bars so far."""
        if self._step >= 7 * DAY_NS:
            return False
        if self._n > 1 and self._unbroken:
            return True
        first_day = self._first - self._first % DAY_NS
        first_saturday = first_day + (5 - _weekday(first_day)) % 7 * DAY_NS
        if first_saturday <= self._last:
            return self._saturdays / self._n > SATURDAY_SHARE
        return len(self._times_of_day) > TIMES_SHARE * (DAY_NS / self._step)

    @property
    def standard(self) -> Standard:
        """Definition of the patterns that fits the market."""
        return "continuous" if self.never_closes else "classic"


def _weekday(times: Any) -> Any:
    """Monday 0 to Sunday 6 of times in ns since the epoch, which was a Thursday."""
    return (times // DAY_NS + 3) % 7


class Lookback(NamedTuple):
    """Number of bars that the features of the newest bar can use: the whole history, or since its last long outage."""

    bars: int  # the newest one included
    outage: int | None  # open time of the first bar after that outage, ns since the epoch; None without one

    @classmethod
    def of(cls, bars: pd.DataFrame) -> "Lookback":
        """Lookback of the last bar of a history."""
        first = int(memory_starts(bars)[-1])
        return cls(len(bars) - first, int(open_times(bars)[first]) if first else None)

    def after(self, before: int, opened: int, timeframe: str) -> "Lookback":
        """Lookback of the next bar; open times of this bar and the next in ns since the epoch."""
        if forgotten(before, opened, timeframe_ns(timeframe)):
            return Lookback(1, opened)
        return Lookback(self.bars + 1, self.outage)

    def missing(self, need: int) -> str | None:
        """Why there is no forecast yet after an outage; None without an outage or with ``need`` bars since then."""
        if self.outage is None or self.bars >= need:
            return None
        ended = pd.Timestamp(self.outage, tz="UTC")
        return (
            f"need {need} bars after the outage that ended on {ended:%Y-%m-%d %H:%M} for the price forecast, "
            f"have {self.bars}"
        )


def read_bar(bar: BarLike, market: str) -> ClosedBar:
    """Read and check a bar.

    Parameters
    ----------
    bar : a row of a bars frame (`Series` named by its time, or of ``itertuples``), a mapping with ``timestamp``, or
        ``(timestamp, open, high, low, close, volume)``; times as `bar_time` reads them.
    market : named in errors.

    Raises BarsError for a missing field, a time without a zone or values that are no bar.
    """
    time, values = _fields(bar, market)
    return ClosedBar(bar_time(time, market), *bar_values(values, market))


def _fields(bar: BarLike, market: str) -> tuple[Any, Sequence[Any]]:
    """Open time and the five values."""
    if isinstance(bar, pd.Series):
        bar = {str(name): value for name, value in bar.items()} | {"timestamp": bar.name}
    if isinstance(bar, Mapping):
        missing = [name for name in ("timestamp", *COLUMNS) if name not in bar]
        if missing:
            raise BarsError(f"{market}: the bar has no {missing[0]}; got {', '.join(map(str, bar))}")
        return bar["timestamp"], [bar[name] for name in COLUMNS]
    if isinstance(bar, str | bytes) or not isinstance(bar, Sequence) or len(bar) != 6:
        raise BarsError(f"{market}: {bar!r} is no bar; want (timestamp, open, high, low, close, volume)")
    return bar[0], bar[1:]
