"""Outages: gaps that are longer than a market's closes, over which no window or label reaches."""

import numpy as np
import pandas as pd

from mlkit.errors import ConfigError
from mlkit.market.bars import open_times, validate_bars
from mlkit.market.times import Int64Array, timeframe_delta

OUTAGE_NEVER_CLOSED = pd.Timedelta(hours=1)
OUTAGE_SESSIONS = pd.Timedelta(days=7)
SATURDAY_SHARE = 0.05  # of all bars; a market with more of them on Saturdays never closes
TIMES_SHARE = 0.8  # of the day's times; the same where no Saturday has passed yet
# A gap longer than both of these is longer than any window of a feature and any close of a market.
MEMORY_BARS = 600  # the longest warm-up of a feature of the catalogue
MEMORY_DAYS = pd.Timedelta(days=14)
_MEMORY_NS = int(MEMORY_DAYS.as_unit("ns").value)

MaxGap = pd.Timedelta | str | None


def gap_tolerance(bars: pd.DataFrame) -> pd.Timedelta:
    """Most time that may be missing between two bars before it is an outage: 1 hour or 7 days.

    In a market that never closes (``never_closes``) more than an hour without a bar means that the exchange or the
    feed was down; a label over it would span days instead of bars. One hour allows the quiet minutes of a thin pair,
    and a single missing hourly bar.

    A session market closes every night, weekend and holiday, and its returns include these: up to 7 days, as New York
    from 11 to 16 September 2001 (6 days of daily bars). Pass ``max_gap`` for markets that close for longer (Shanghai's
    Golden Week).

    Raises BarsError for bars that break the contract.
    """
    return _tolerance(validate_bars(bars))


def never_closes(bars: pd.DataFrame) -> bool:
    """Whether a market trades without closes, from its open times alone; validated bars are expected.

    That is: no two bars are further apart than one timeframe, so that no close separates any of them; or more
    than one bar in twenty opens on a Saturday (UTC); or, in a history without a Saturday between its ends, bars
    open at more than four in five of the day's times. Weekly bars show neither and count as bars of a session market.
    """
    index, step = pd.DatetimeIndex(bars.index), timeframe_delta(bars.attrs["timeframe"])
    if step >= pd.Timedelta(weeks=1):
        return False
    if len(index) > 1 and bool((index[1:] - index[:-1] == step).all()):
        return True
    first = index[0].normalize()
    if first + pd.Timedelta(days=(5 - first.day_of_week) % 7) <= index[-1]:
        return float((index.day_of_week == 5).mean()) > SATURDAY_SHARE
    return (index - index.normalize()).nunique() > TIMES_SHARE * (pd.Timedelta(days=1) / step)


def segments(bars: pd.DataFrame, max_gap: MaxGap = "auto") -> list[pd.DataFrame]:
    """The bars in pieces without an outage, oldest first; no window or label may reach from one into the next.

    Parameters
    ----------
    bars: valid bars (n_bars, 5).
    max_gap: most time that may be missing between two bars of one piece; "auto" is ``gap_tolerance(bars)``, "memory"
        is ``memory_gap`` of their timeframe, None takes all bars as one piece. The nights and weekends of a session
        market are no outages.

    Returns a list of bars. Raises BarsError for bars that break the contract, ConfigError for another max_gap.
    """
    bars = validate_bars(bars)
    starts = np.flatnonzero(np.diff(unbroken_runs(bars, max_gap), prepend=-1))
    return [bars.iloc[start:stop] for start, stop in zip(starts, [*starts[1:], len(bars)], strict=True)]


def unbroken_runs(bars: pd.DataFrame, max_gap: MaxGap = "auto") -> Int64Array:
    """Number of the run without an outage that each bar belongs to, int64 (n_bars,), counted from 0.

    ``max_gap`` is that of ``segments``; validated bars are expected. ConfigError for another ``max_gap``.
    """
    if max_gap is None:
        return np.zeros(len(bars), dtype=np.int64)
    step = timeframe_delta(bars.attrs["timeframe"])
    if isinstance(max_gap, str) and max_gap in ("auto", "memory"):
        tolerance = _tolerance(bars) if max_gap == "auto" else memory_gap(bars.attrs["timeframe"])
    else:
        tolerance = _length(max_gap)
    missing = np.diff(open_times(bars)) > (step + tolerance).as_unit("ns").value
    return np.concatenate([[0], np.cumsum(missing)]).astype(np.int64)


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


def _tolerance(bars: pd.DataFrame) -> pd.Timedelta:
    return OUTAGE_NEVER_CLOSED if never_closes(bars) else OUTAGE_SESSIONS


def _length(max_gap: pd.Timedelta | str) -> pd.Timedelta:
    try:
        length = pd.Timedelta(max_gap)
    except ValueError:
        length = pd.Timedelta(-1)
    if not length >= pd.Timedelta(0):  # NaT is not either
        raise ConfigError(f"max_gap must be 'auto', 'memory', None or a length of time such as '2h', not {max_gap!r}")
    return length
