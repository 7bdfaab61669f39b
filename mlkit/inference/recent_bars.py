"""The newest bars of a market with the counts over its whole history, updated by one closed bar at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError
from mlkit.features import pattern_flags, rule_state
from mlkit.labels import market_standard
from mlkit.market import (
    COLUMNS,
    bar_time,
    bar_values,
    calendar_of,
    fitting_grids,
    forgotten,
    memory_starts,
    open_times,
    timeframe_ns,
)

BarLike = Mapping[str, Any] | Sequence[Any] | pd.Series
# Open time in ns since the epoch, then open, high, low, close, volume.
ClosedBar = tuple[int, tuple[float, float, float, float, float]]


class RecentBars:
    """The newest ``keep`` of valid bars of one market, with the counts over its whole history."""

    def __init__(self, bars: pd.DataFrame, keep: int) -> None:
        self.symbol, self.timeframe = str(bars.attrs["symbol"]), str(bars.attrs["timeframe"])
        self.market = f"{self.symbol} {self.timeframe}"
        times, values, self._keep = open_times(bars), bars[list(COLUMNS)].to_numpy(), keep
        # Open times in ns since the epoch (n,) and open, high, low, close, volume (n, 5) of the newest bars.
        self.times, self.ohlcv = times[-keep:].copy(), values[-keep:].copy()
        self.calendar, self.standard, self.seen = calendar_of(bars), market_standard(bars), len(bars)
        self._grids = fitting_grids(times, self.timeframe, self.calendar)
        # Bars since the last long outage, the newest one included, and the first of them; None without an outage.
        first = int(memory_starts(bars)[-1])
        self._lookback, self._outage_end = len(bars) - first, bars.index[first] if first else None
        self._rules = rule_state()
        self.flags = self._rule_flags(values)

    @property
    def opened(self) -> int:
        """Open time of the newest bar, ns since the epoch."""
        return int(self.times[-1])

    def accept(self, bar: BarLike) -> ClosedBar | None:
        """Check the next closed bar; None where it repeats the newest one with the same values.

        Raises BarsError, changing nothing, for a value that is no bar, off the grid, older than the newest bar, or the
        newest with other values. A bar after a gap is accepted.
        """
        market, newest = self.market, self.opened
        opened, values = read_bar(bar, market)
        time = pd.Timestamp(opened, tz="UTC")
        if not self._grids_with(opened):
            raise BarsError(f"{market}: bar {time} is off the {self.timeframe} grid; pass open times of whole bars")
        if opened < newest:
            raise BarsError(
                f"{market}: bar {time} is older than the last one, {pd.Timestamp(newest, tz='UTC')}; bars come in "
                "order, start(bars) again to change history"
            )
        known = self.ohlcv[-1].tolist()
        if opened > newest:
            return opened, values
        if list(values) == known:
            return None
        raise BarsError(
            f"{market}: bar {time} was taken as {known}, now it is {list(values)}; only closed bars are taken "
            "and they do not change, start(bars) again to amend history"
        )

    def push(self, bar: ClosedBar) -> None:
        """Add an accepted bar."""
        opened, values = bar
        if forgotten(self.opened, opened, timeframe_ns(self.timeframe)):
            self._lookback, self._outage_end = 0, pd.Timestamp(opened, tz="UTC")
        self._lookback += 1
        self.seen += 1
        self.times = np.append(self.times, opened)[-self._keep :]
        self.ohlcv = np.append(self.ohlcv, [values], axis=0)[-self._keep :]
        self._grids = self._grids_with(opened)
        self.flags = self._rule_flags(self.ohlcv[-1:])

    def waiting(self, need: int) -> str | None:
        """Why there is no price forecast after an outage; None without one, or with ``need`` bars since then."""
        if self._outage_end is None or self._lookback >= need:
            return None
        return (
            f"need {need} bars after the outage that ended on {self._outage_end:%Y-%m-%d %H:%M} for the price "
            f"forecast, have {self._lookback}"
        )

    def _grids_with(self, opened: int) -> tuple[str, ...]:
        """The grids on which the bars so far and another open time lie."""
        return fitting_grids(np.array([opened]), self.timeframe, self.calendar, self._grids)

    def _rule_flags(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
        """Direction of each written rule at the last of the rows, (n_patterns,), after the bars before them."""
        o, h, low, c = (rows[:, k] for k in range(4))
        flags: npt.NDArray[np.int8] = pattern_flags(o, h, low, c, self.standard, self._rules)[-1]
        return flags


def read_bar(bar: BarLike, market: str) -> ClosedBar:
    """Read a bar in one of the forms that `Predictor.update` accepts; ``market`` is named in errors.

    Raises BarsError for a missing field, a time without a zone or values that are no bar.
    """
    if isinstance(bar, pd.Series):
        bar = {str(name): value for name, value in bar.items()} | {"timestamp": bar.name}
    if isinstance(bar, Mapping):
        missing = [name for name in ("timestamp", *COLUMNS) if name not in bar]
        if missing:
            raise BarsError(f"{market}: the bar has no {missing[0]}; got {', '.join(map(str, bar))}")
        bar = [bar[name] for name in ("timestamp", *COLUMNS)]
    if isinstance(bar, str | bytes) or not isinstance(bar, Sequence) or len(bar) != 6:
        raise BarsError(f"{market}: {bar!r} is no bar; want (timestamp, open, high, low, close, volume)")
    return bar_time(bar[0], market), bar_values(bar[1:], market)
