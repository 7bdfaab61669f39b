"""Grids of open times: from which instant the bars of a market count, and how far times lie beside it."""

from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError
from mlkit.market.calendar import ALWAYS_OPEN, Calendar, get_calendar
from mlkit.market.calendar_choice import WELL_KNOWN, choose_calendar
from mlkit.market.times import Int64Array, floor_times, such_rows, timeframe_ns

# Intraday bars count from midnight UTC, from midnight in the exchange's zone, or from the session's open and the end
# of its lunch break. Daily and longer bars are labelled by a date and have the first grid only.
UTC_MIDNIGHT, LOCAL_MIDNIGHT, SESSION = GRIDS = ("UTC midnight", "local midnight", "session")
JITTER = 2_000_000_000  # ns between a time and its grid that `repair_bars` mends
_DAY = 86_400_000_000_000  # ns
_FINE = 300_000_000_000  # ns; every exchange opens at a multiple of 5 minutes


def grid_offsets(times: Int64Array, timeframe: str, calendar: Calendar, grid: str = UTC_MIDNIGHT) -> Int64Array:
    """Time since the last grid time, in ns (n,), of times in ns since the epoch; 0 on the grid."""
    step = timeframe_ns(timeframe)
    if grid == UTC_MIDNIGHT or step >= _DAY:
        return times - floor_times(times, timeframe)
    if grid == LOCAL_MIDNIGHT:
        return np.asarray(calendar.local(times) % step)
    i = np.maximum(np.searchsorted(calendar.starts, times, side="right") - 1, 0)
    offsets = (times - calendar.starts[i]) % step
    # Extended hours count on from the close, or towards the next open.
    later = calendar.starts[np.minimum(i + 1, len(calendar.starts) - 1)]
    near = np.minimum((times - calendar.ends[i]) % step, (times - later) % step)
    return np.asarray(np.where(times < calendar.ends[i], offsets, np.minimum(offsets, near)))


def fitting_grids(
    times: Int64Array, timeframe: str, calendar: Calendar, among: tuple[str, ...] = GRIDS
) -> tuple[str, ...]:
    """The grids on which all times lie; the first one alone for daily bars, and for minutes, whose grids are one."""
    step = timeframe_ns(timeframe)
    if step >= _DAY or _FINE % step == 0 or calendar.zone == "UTC":
        among = among[:1]
    return tuple(grid for grid in among if _all_on(times, timeframe, calendar, grid))


def check_grid(times: Int64Array, timeframe: str, calendar: Calendar, where: str, first: int = 0) -> None:
    """BarsError for times that lie on no grid in common; ``first`` is the number of the first row."""
    if not fitting_grids(times, timeframe, calendar):
        tried = [grid_offsets(times, timeframe, calendar, grid) for grid in GRIDS]
        refuse_offsets(times, min(tried, key=np.count_nonzero), timeframe, where, first)


def refuse_offsets(times: Int64Array, offsets: Int64Array, timeframe: str, where: str, first: int = 0) -> NoReturn:
    """Raise BarsError for the first time off the grid, with its offset and the likely cause."""
    off = offsets != 0
    row = int(np.argmax(off))
    found = pd.Timedelta(int(offsets[row]), "ns")
    raise BarsError(
        f"{where}: index row {row + first} ({pd.Timestamp(int(times[row]), tz='UTC')}) is off the {timeframe} grid by "
        f"{_words(found)}; {_cause(times, offsets[off], timeframe)}{such_rows(off)}"
    )


def snapped(times: Int64Array, timeframe: str) -> Int64Array:
    """Times within two seconds of a possible open time moved to it, all others as they are, (n,)."""
    fine = min(timeframe_ns(timeframe), _FINE)
    nearest = (times + fine // 2) // fine * fine
    return np.asarray(np.where(np.abs(times - nearest) <= JITTER, nearest, times))


def fine_offsets(times: Int64Array, timeframe: str) -> Int64Array:
    """Time since the last multiple of five minutes, or of a shorter timeframe, at which bars can open, in ns (n,)."""
    return np.asarray(times % min(timeframe_ns(timeframe), _FINE))


def _all_on(times: Int64Array, timeframe: str, calendar: Calendar, grid: str) -> bool:
    if grid == UTC_MIDNIGHT:  # most markets have few odd gaps: a division for each of these, not for each bar
        gaps, step = np.diff(times), timeframe_ns(timeframe)
        return floor_times(times[:1], timeframe)[0] == times[0] and not (gaps[gaps != step] % step).any()
    return not fine_offsets(times, timeframe).any() and not grid_offsets(times, timeframe, calendar, grid).any()


def _cause(times: Int64Array, offsets: npt.NDArray[np.int64], timeframe: str) -> str:
    step = timeframe_ns(timeframe)
    if (np.minimum(offsets, step - offsets) <= JITTER).all():
        if (offsets > step // 2).all():
            return "the times may be those of the closes: subtract one bar and add the difference"
        return "that is jitter, which mlkit.repair_bars (--repair) mends up to 2 seconds"
    values, counts = np.unique(offsets, return_counts=True)
    if step < _DAY and 2 * counts.max() > len(offsets) and values[np.argmax(counts)] % _FINE == 0:
        proposed = choose_calendar(times, timeframe).proposed
        example = f"calendar={proposed!r}, which fits" if proposed else "calendar='XNYS', for example"
        return f"the bars may count from their session's open: pass the exchange's calendar ({example})"
    return "pass the right timeframe, or the times of the opens"


def _words(length: pd.Timedelta) -> str:
    return f"{length.total_seconds():g} s" if length < pd.Timedelta(minutes=1) else str(length).removeprefix("0 days ")


def is_date_labelled(times: Int64Array, timeframe: str) -> bool:
    """Whether daily or longer bars are labelled by their dates at 00:00 UTC; intraday bars need no label."""
    return timeframe_ns(timeframe) < _DAY or not (times % _DAY).any()


def label_zones(calendar: Calendar | None) -> list[str]:
    """Zones whose midnights daily bars may open at: that of the calendar, or those of the well-known exchanges."""
    names = [calendar] if calendar is not None else [get_calendar(name) for name in WELL_KNOWN]
    return list(dict.fromkeys(each.zone for each in names))


def date_labels(times: Int64Array, timeframe: str, zones: list[str], where: str) -> tuple[Int64Array, str]:
    """Dates (at 00:00 UTC) of daily or longer bars that open at midnight in one of the zones, and that zone.

    Raises BarsError, naming the offset, where they open at midnight in none of them.
    """
    index = pd.DatetimeIndex(times, tz="UTC")
    for zone in zones:
        local = index.tz_convert(zone).tz_localize(None)
        if (local == local.normalize()).all():
            return floor_times(np.asarray(local.as_unit("ns").asi8), timeframe), zone
    refuse_offsets(times, grid_offsets(times, timeframe, get_calendar(ALWAYS_OPEN)), timeframe, where)
