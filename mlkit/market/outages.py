"""Outages: gaps that are longer than a market's closes, over which no window or label reaches."""

import numpy as np
import pandas as pd

from mlkit.errors import ConfigError
from mlkit.market.bars import BoolArray, calendar_of, open_times, validate_bars
from mlkit.market.calendar import Calendar
from mlkit.market.times import Int64Array, timeframe_delta

OUTAGE = pd.Timedelta(hours=1)  # of trading time
OUTAGE_WITH_HOLIDAYS = pd.Timedelta(days=7)  # of all time, where the calendar does not know the market's holidays
# A gap longer than both of these is longer than any window of a feature and any close of a market.
MEMORY_BARS = 600  # the longest warm-up of a feature of the catalogue
MEMORY_DAYS = pd.Timedelta(days=14)
_MEMORY_NS = int(MEMORY_DAYS.as_unit("ns").value)

MaxGap = pd.Timedelta | str | None


def segments(bars: pd.DataFrame, max_gap: MaxGap = "auto") -> list[pd.DataFrame]:
    """The bars in pieces without an outage, oldest first; no window or label may reach from one into the next.

    Parameters
    ----------
    bars: valid bars (n_bars, 5).
    max_gap: most trading time, by the calendar of the bars, that may be missing between two bars of one piece. "auto"
        is 1 hour, so that a missing session is an outage of daily bars; of a weekly timetable, whose holidays are not
        known, it is 7 days of all time. "memory" is ``memory_gap`` of the timeframe, in all time. None takes all bars
        as one piece.

    Returns a list of bars. Raises BarsError for bars that break the contract, ConfigError for another max_gap.
    """
    bars = validate_bars(bars)
    starts = np.flatnonzero(np.diff(unbroken_runs(bars, max_gap), prepend=-1))
    return [bars.iloc[start:stop] for start, stop in zip(starts, [*starts[1:], len(bars)], strict=True)]


def unbroken_runs(bars: pd.DataFrame, max_gap: MaxGap = "auto") -> Int64Array:
    """Number of the run without an outage that each bar belongs to, int64 (n_bars,), counted from 0.

    ``max_gap`` is that of ``segments``; validated bars are expected. ConfigError for another ``max_gap``.
    """
    gaps = outage_gaps(open_times(bars), bars.attrs["timeframe"], calendar_of(bars), max_gap)
    return np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)


def outage_gaps(times: Int64Array, timeframe: str, calendar: Calendar, max_gap: MaxGap = "auto") -> BoolArray:
    """Whether an outage lies between each bar and the next, bool (n - 1,), from sorted open times in ns (n,).

    ``max_gap`` is that of ``segments``. ConfigError for another one.
    """
    if max_gap is None:
        return np.zeros(len(times) - 1, dtype=bool)
    holidays = isinstance(max_gap, str) and max_gap == "auto" and not calendar.knows_holidays
    if holidays or (isinstance(max_gap, str) and max_gap == "memory"):
        tolerance = OUTAGE_WITH_HOLIDAYS if holidays else memory_gap(timeframe)
        return np.diff(times) > (timeframe_delta(timeframe) + tolerance).as_unit("ns").value
    tolerance = OUTAGE if isinstance(max_gap, str) and max_gap == "auto" else _length(max_gap)
    return calendar.missing_time(times, timeframe) > tolerance.as_unit("ns").value


def memory_gap(timeframe: str) -> pd.Timedelta:
    """Most time that may be missing between two bars for features to go on: 14 days, or 600 bars where that is longer.

    A longer gap exceeds every window of the catalogue and every close of a market. Features, the GARCH filter and
    averages start anew after it, as at the start of a history. It follows from two neighbouring open times alone, so a
    live bar finds the same. ConfigError for an unknown timeframe.
    """
    return max(MEMORY_DAYS, MEMORY_BARS * timeframe_delta(timeframe))


def forgotten(before: int, opened: int, step: int) -> bool:
    """Whether more than ``memory_gap`` is missing between two neighbours; open times and a bar's length in ns."""
    return opened - before - step > max(_MEMORY_NS, MEMORY_BARS * step)


def memory_starts(bars: pd.DataFrame) -> Int64Array:
    """Rows at which features start anew, int64, the first of them 0; validated bars are expected."""
    return np.flatnonzero(np.diff(unbroken_runs(bars, "memory"), prepend=-1))


def memory_ages(bars: pd.DataFrame) -> Int64Array:
    """How many bars before each one its features may use, int64 (n_bars,); validated bars are expected.

    That is its number in the history, or counted from the last outage beyond ``memory_gap``.
    """
    starts = memory_starts(bars)
    return np.arange(len(bars)) - np.repeat(starts, np.diff(starts, append=len(bars)))


def _length(max_gap: pd.Timedelta | str) -> pd.Timedelta:
    try:
        length = pd.Timedelta(max_gap)
    except ValueError:
        length = pd.Timedelta(-1)
    if not length >= pd.Timedelta(0):  # NaT is not either
        raise ConfigError(f"max_gap must be 'auto', 'memory', None or a length of time such as '2h', not {max_gap!r}")
    return length
