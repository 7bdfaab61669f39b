"""Bars of a larger timeframe from those of a smaller one, each only when it is complete."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError
from mlkit.market.bar_columns import BAR_COLUMNS
from mlkit.market.bars import BoolArray, Float64Array, bars_of, calendar_of, open_times, validate_bars
from mlkit.market.calendar import ALWAYS_OPEN, Calendar
from mlkit.market.calendar_choice import inside_sessions
from mlkit.market.grids import SESSION, fitting_grids
from mlkit.market.times import Int64Array, floor_times, moment, timeframe_ns

# How a larger bar takes a column from smaller ones: values (n,), row of the first smaller bar of each larger one.
_REDUCE: dict[str, Callable[[Float64Array, Int64Array], Float64Array]] = {
    "first": lambda values, starts: values[starts],
    "max": np.maximum.reduceat,
    "min": np.minimum.reduceat,
    "last": lambda values, starts: values[np.append(starts[1:], len(values)) - 1],
    "sum": np.add.reduceat,
}
_DAY = 86_400_000_000_000  # ns


def resample(bars: pd.DataFrame, timeframe: str, *, known_at: pd.Timestamp | None = None) -> pd.DataFrame:
    """Bars of a larger timeframe: first open, highest high, lowest low, last close, summed volume.

    A bar is labelled by its open time and holds the bars that open in ``[open, open + timeframe)``; its row is
    known when it closes, by the calendar. A day holds the bars of one session and carries its date, a week those of
    the sessions of its dates; bars outside the sessions are left out there. Intraday bars count as the smaller ones
    do, from midnight or from the session's open. A bar of which some smaller bars are missing (no trade, an outage)
    is made of the others.

    At the end, a bar is left out until it is closed: its close must not lie after ``known_at``. At the start it is
    left out unless its own first bar is there. So the result for a prefix of the bars is a prefix of the result.

    Parameters
    ----------
    bars: valid bars (n_bars, 5).
    timeframe: a multiple of that of the bars.
    known_at: the moment up to which the bars are complete; the close of the last of them by default.

    Returns valid bars (n, 5) with open times of the larger timeframe.

    Raises ConfigError for a timeframe that is no multiple, BarsError for bars that break the contract or are too
    few for one complete bar.
    """
    bars = validate_bars(bars)
    small, calendar = bars.attrs["timeframe"], calendar_of(bars)
    if timeframe_ns(timeframe) % timeframe_ns(small):
        raise ConfigError(f"{timeframe} bars cannot be made of {small} bars: not a multiple")
    known = moment("known_at", known_at)
    end = int(calendar.bar_closes(open_times(bars)[-1:], small)[0]) if known is None else known.as_unit("ns").value
    opens, used = _larger(open_times(bars), small, timeframe, calendar)
    bars, opens = bars[used], opens[used]
    times = open_times(bars)
    starts = np.flatnonzero(np.diff(opens, prepend=opens[:1] - 1))
    keep = calendar.bar_closes(opens[starts], timeframe) <= end
    if len(times):
        began = calendar.bar_starts(times[:1], small)
        keep[0] &= bool((began <= calendar.bar_starts(opens[:1], timeframe))[0])
    if not keep.any():
        market = f"{bars.attrs['symbol']} {small}"
        raise BarsError(f"{market}: {len(bars)} bars are too few for one whole {timeframe} bar")
    data = np.stack([_REDUCE[column.resample](bars[column.name].to_numpy(), starts) for column in BAR_COLUMNS])
    values = opens[starts][keep], np.ascontiguousarray(data[:, keep])
    return bars_of(values, symbol=bars.attrs["symbol"], timeframe=timeframe, calendar=calendar.name)


def _larger(times: Int64Array, small: str, timeframe: str, calendar: Calendar) -> tuple[Int64Array, BoolArray]:
    """Open time of the larger bar of each smaller one, (n,), and which smaller bars belong to one, bool (n,)."""
    step, closes = timeframe_ns(timeframe), calendar.bar_closes(times, small)
    used = np.ones(len(times), dtype=bool)
    if step >= _DAY:
        dates = times
        if timeframe_ns(small) < _DAY and calendar.name != ALWAYS_OPEN:
            # Of a bar that the open divides, as 09:00 to 10:00 in New York, the part after the open counts.
            dates, used = calendar.session_dates(closes - 1), inside_sessions(calendar, times, small)
        return floor_times(dates, timeframe), used
    grids = fitting_grids(times, small, calendar)
    if grids[0] == SESSION:
        i = np.maximum(np.searchsorted(calendar.starts, times, side="right") - 1, 0)
        opens = times - (times - calendar.starts[i]) % step
    else:
        opens = floor_times(times, timeframe)
    # A bar that closes later than the larger one, as after the session's close, is not known at that close.
    return opens, closes <= calendar.bar_closes(opens, timeframe)
