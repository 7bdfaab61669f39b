"""Trading calendars: when a market is open, when a bar closes, how much closed time lies between two instants.

A calendar has a name, kept in ``bars.attrs["calendar"]``:

- a name of the library ``exchange_calendars``: ``XNYS``, ``XLON``, ``XHKG``, ``CMES``, ...;
- ``24/7``, for markets that never close: one session a UTC day;
- ``24/5``, the week of foreign exchange: sessions from 17:00 to 17:00 New York, Sunday evening to Friday;
- a weekly timetable such as ``Mon-Fri 08:00-16:30 Europe/London``, without holidays. Several parts are separated
  by commas; a part that ends at or before its start ends on the next day and carries that day's date.

All times are int64 nanoseconds since the epoch, UTC.
"""

import difflib
import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from mlkit.errors import ConfigError
from mlkit.market.times import Int64Array, timeframe_delta, timeframe_ns

ALWAYS_OPEN, WEEKDAYS = "24/7", "24/5"
INSIDE, NIGHT, LONG_CLOSE = 0, 1, 2  # what lies between two instants: no close, nights only, a weekend or holiday
_TIMETABLES = {ALWAYS_OPEN: "Mon-Sun 00:00-24:00 UTC", WEEKDAYS: "Sun-Thu 17:00-17:00 America/New_York"}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_PART = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?:-(Mon|Tue|Wed|Thu|Fri|Sat|Sun))? ([0-2]\d):([0-5]\d)-([0-2]\d):([0-5]\d)"
_TIMETABLE = rf"{_PART}(?:, {_PART})* ([A-Za-z0-9_+\-/]+)"
_FIRST_DAY, _LAST_DAY = "1970-01-01", "2100-01-01"  # span of the weekly timetables
_DAY = 86_400_000_000_000  # ns


@dataclass(frozen=True, eq=False)
class Calendar:
    """Sessions of one market, sorted by time.

    Attributes
    ----------
    name, zone : name of the calendar; time zone of the exchange.
    dates, opens, closes : date (at 00:00 UTC), open and close of each session, (n_sessions,).
    starts, ends : open intervals, (n_intervals,); a lunch break makes two intervals of a session.
    """

    name: str
    zone: str
    dates: Int64Array
    opens: Int64Array
    closes: Int64Array
    starts: Int64Array
    ends: Int64Array
    _traded: Int64Array  # open time before each interval
    _nights: Int64Array  # number of closes before each session that are nights
    _long_closes: Int64Array  # number of closes before each session that are weekends or holidays

    def __reduce__(self) -> tuple[Any, ...]:
        return get_calendar, (self.name,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Calendar":
        return self

    @property
    def knows_holidays(self) -> bool:
        """Whether days without trading are known: of an exchange, and of a market that never closes."""
        return self.never_closes or not re.fullmatch(_TIMETABLE, _TIMETABLES.get(self.name, self.name))

    @property
    def never_closes(self) -> bool:
        """Whether trading pauses at no time."""
        return bool((self.starts[1:] == self.ends[:-1]).all())

    def is_open(self, times: Int64Array) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Whether trading is possible at each instant, bool (n,)."""
        i = np.searchsorted(self.starts, times, side="right") - 1
        return np.asarray((i >= 0) & (np.asarray(times) < self.ends[i]))

    def trading_time(self, start: Int64Array, end: Int64Array) -> Int64Array:
        """Open time between pairs of instants in ns, (n,); negative where ``end`` is the earlier one."""
        return self._traded_until(end) - self._traded_until(start)

    def closed_time(self, start: Int64Array, end: Int64Array) -> Int64Array:
        """Closed time between pairs of instants in ns, (n,): nights, weekends, holidays and lunch breaks."""
        return np.asarray(end) - np.asarray(start) - self.trading_time(start, end)

    def closes_between(self, start: Int64Array, end: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Number of nights, and of weekends or holidays, between pairs of instants, (n,) each.

        A close lies between two instants if the session before it began at or before the first one and the session
        after it began before or at the second one. Two sessions on neighbouring dates are a night apart; more dates
        make a weekend or a holiday. Sessions that follow each other without a pause (24/7) have no close between.
        """
        a, b = (np.maximum(np.searchsorted(self.opens, t, side="right") - 1, 0) for t in (start, end))
        return self._nights[b] - self._nights[a], self._long_closes[b] - self._long_closes[a]

    def classes(self, start: Int64Array, end: Int64Array) -> Int64Array:
        """INSIDE, NIGHT or LONG_CLOSE of each pair of instants, (n,): the longest kind of close between them."""
        nights, long_closes = self.closes_between(start, end)
        return np.where(long_closes > 0, LONG_CLOSE, np.where(nights > 0, NIGHT, INSIDE))

    def bar_closes(self, opened: Int64Array, timeframe: str) -> Int64Array:
        """Instant at which each bar is complete, (n,), from its open time.

        An intraday bar ends one timeframe after it opens, or with the last trading before that: at the session's
        close, an early close, or the start of a lunch break. A bar outside the sessions lasts one timeframe. A daily
        bar carries its session's date at 00:00 UTC and is complete at the session's close, a weekly or monthly bar at
        the close of its last session; without any session it is complete when its days are over.
        """
        opened = np.asarray(opened, dtype=np.int64)
        full = opened + timeframe_ns(timeframe)
        if timeframe_delta(timeframe) >= pd.Timedelta(days=1):
            last = np.searchsorted(self.dates, full, side="left") - 1
            found = (last >= 0) & (self.dates[last] >= opened)
            return np.asarray(np.where(found, self.closes[last], full), dtype=np.int64)
        i = np.searchsorted(self.starts, full, side="left") - 1  # the last interval that began before the bar's end
        cut = np.minimum(full, self.ends[i])
        return np.asarray(np.where((i >= 0) & (cut > opened), cut, full), dtype=np.int64)

    def bar_starts(self, opened: Int64Array, timeframe: str) -> Int64Array:
        """Instant at which the trading of each bar begins, (n,): its open time, or the open of its first session."""
        opened = np.asarray(opened, dtype=np.int64)
        if timeframe_delta(timeframe) < pd.Timedelta(days=1):
            return opened
        first = np.minimum(np.searchsorted(self.dates, opened), len(self.dates) - 1)
        found = (self.dates[first] >= opened) & (self.dates[first] < opened + timeframe_ns(timeframe))
        return np.asarray(np.where(found, self.opens[first], opened), dtype=np.int64)

    def missing_bars(self, opened: Int64Array, timeframe: str) -> Int64Array:
        """Number of expected bars between each bar and the next, int64 (n - 1,), from sorted open times (n,)."""
        opened = np.asarray(opened, dtype=np.int64)
        missing = np.zeros(len(opened) - 1, dtype=np.int64)
        odd = np.flatnonzero(np.diff(opened) != timeframe_ns(timeframe))
        if len(odd):
            expected = self.expected_opens(timeframe, int(opened[odd[0]]), int(opened[-1]))
            closed = self.bar_closes(opened[odd], timeframe)
            after, until = np.searchsorted(expected, closed), np.searchsorted(expected, opened[odd + 1])
            missing[odd] = np.maximum(until - after, 0)
        return missing

    def missing_time(self, opened: Int64Array, timeframe: str) -> Int64Array:
        """Trading time between each bar and the next in ns, (n - 1,), from sorted open times (n,)."""
        opened = np.asarray(opened, dtype=np.int64)
        missing = np.zeros(len(opened) - 1, dtype=np.int64)
        odd = np.flatnonzero(np.diff(opened) != timeframe_ns(timeframe))
        closed, began = self.bar_closes(opened[odd], timeframe), self.bar_starts(opened[odd + 1], timeframe)
        missing[odd] = np.maximum(self.trading_time(closed, began), 0)
        return missing

    def expected_opens(self, timeframe: str, first: int, last: int, *, anchor: str = "session") -> Int64Array:
        """Open times of all bars from ``first`` to ``last``, both included, sorted, (n,).

        ``anchor``: intraday bars count from the "session" (and from the end of a lunch break) or from the "clock":
        midnight UTC.
        """
        step = timeframe_ns(timeframe)
        if timeframe_delta(timeframe) >= pd.Timedelta(days=1):
            periods = _period_starts(self.dates, timeframe)
            opens = np.unique(periods)
        else:
            near = (self.ends > first) & (self.starts <= last)
            starts, ends = self.starts[near], self.ends[near]
            if anchor == "clock":
                starts = starts - starts % step
            counts = -(-(ends - starts) // step)
            opens = np.repeat(starts, counts) + step * _counted(counts)
            opens = np.unique(opens)
        return np.asarray(opens[(opens >= first) & (opens <= last)], dtype=np.int64)

    def session_dates(self, times: Int64Array) -> Int64Array:
        """Date (at 00:00 UTC) of the session that each instant belongs to, (n,).

        Before the open and after the close of a day, that is the session on the same local date where there is one,
        else the next one.
        """
        times = np.asarray(times, dtype=np.int64)
        i = np.clip(np.searchsorted(self.closes, times, side="right"), 0, len(self.closes) - 1)  # open, or the next one
        before = np.maximum(i - 1, 0)
        local = self.local(times) // _DAY * _DAY
        late = (times < self.opens[i]) & (self.dates[before] == local)
        return np.asarray(np.where(late, self.dates[before], self.dates[i]), dtype=np.int64)

    def local(self, times: Int64Array) -> Int64Array:
        """Wall-clock times in the exchange's zone, as ns since the epoch, (n,)."""
        if self.zone == "UTC":
            return np.asarray(times, dtype=np.int64)
        index = pd.DatetimeIndex(np.asarray(times, dtype=np.int64), tz="UTC")
        return np.asarray(index.tz_convert(self.zone).tz_localize(None).as_unit("ns").asi8, dtype=np.int64)

    def bars_a_year(self, timeframe: str) -> float:
        """Mean number of bars a year, over the ten years before 2025."""
        first, last = (int(pd.Timestamp(f"{year}-01-01", tz="UTC").value) for year in (2015, 2025))
        return len(self.expected_opens(timeframe, first, last - 1)) / 10.0

    def _traded_until(self, times: Int64Array) -> Int64Array:
        i = np.maximum(np.searchsorted(self.starts, times, side="right") - 1, 0)
        inside = np.clip(np.asarray(times) - self.starts[i], 0, self.ends[i] - self.starts[i])
        return np.asarray(self._traded[i] + inside, dtype=np.int64)


@cache
def get_calendar(name: str) -> Calendar:
    """The calendar of that name, cached for the process.

    Raises ConfigError, with the closest names, for a name that is neither one of ``exchange_calendars``, ``24/7``,
    ``24/5`` nor a weekly timetable.
    """
    timetable = _TIMETABLES.get(name, name)
    if re.fullmatch(_TIMETABLE, timetable):
        return _weekly(name, timetable)
    return _exchange(name)


def calendar_names() -> list[str]:
    """Every name that `get_calendar` knows, sorted; weekly timetables come on top of these."""
    import exchange_calendars

    return sorted({*exchange_calendars.get_calendar_names(), ALWAYS_OPEN, WEEKDAYS})


def _exchange(name: str) -> Calendar:
    import exchange_calendars

    names = calendar_names()
    if name not in names:
        close = difflib.get_close_matches(str(name).upper(), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see mlkit.market.calendar_names()"
        raise ConfigError(f"calendar {name!r} is unknown; {hint} (24/7, 24/5 and 'Mon-Fri 08:00-16:30 ZONE' work too)")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=pd.errors.Pandas4Warning)
        kind = type(exchange_calendars.get_calendar(name))
        start = max(pd.Timestamp("1990-01-01"), kind.bound_min() or pd.Timestamp("1990-01-01"))
        found = exchange_calendars.get_calendar(name, start=start)
    times = {column: found.schedule[column].astype("int64").to_numpy() for column in ("open", "close")}
    breaks = found.schedule[["break_start", "break_end"]]
    paused = breaks["break_start"].notna().to_numpy()
    pauses = breaks[paused].astype("int64").to_numpy()
    starts = np.sort(np.concatenate([times["open"], pauses[:, 1]]))
    ends = np.sort(np.concatenate([times["close"], pauses[:, 0]]))
    dates = found.sessions.as_unit("ns").asi8
    return _calendar(name, str(found.tz), dates, times["open"], times["close"], starts, ends)


def _weekly(name: str, timetable: str) -> Calendar:
    """Sessions of a weekly timetable, local times of its zone."""
    parts, _, zone = timetable.rpartition(" ")
    days = pd.date_range(_FIRST_DAY, _LAST_DAY, unit="ns")
    opens, closes, dates = [], [], []
    for part in parts.split(", "):
        match = re.fullmatch(_PART, part)
        assert match is not None
        first = _DAYS.index(match[1])
        width = (_DAYS.index(match[2] or match[1]) - first) % 7 + 1
        open_, close = (pd.Timedelta(hours=int(match[k]), minutes=int(match[k + 1])) for k in (3, 5))
        over_midnight = close <= open_
        on = days[(days.day_of_week - first) % 7 < width]
        ended = on + pd.Timedelta(days=1) if over_midnight else on
        opens.append(_to_utc(on + open_, zone, name))
        closes.append(_to_utc(ended + close, zone, name))
        dates.append(ended.asi8)
    order = np.argsort(np.concatenate(opens), kind="stable")
    opened, closed, dated = (np.concatenate(values)[order] for values in (opens, closes, dates))
    if (opened[1:] < closed[:-1]).any():
        raise ConfigError(f"calendar {name!r}: its sessions overlap")
    return _calendar(name, zone, dated, opened, closed, opened, closed)


def _to_utc(local: pd.DatetimeIndex, zone: str, name: str) -> Int64Array:
    try:
        zoned = local.tz_localize(zone, ambiguous=np.ones(len(local), dtype=bool), nonexistent="shift_forward")
    except (KeyError, ValueError) as error:
        raise ConfigError(f"calendar {name!r}: no time zone {zone!r}; use one such as America/New_York") from error
    return np.asarray(zoned.as_unit("ns").asi8, dtype=np.int64)


def _calendar(
    name: str, zone: str, dates: Int64Array, opens: Int64Array, closes: Int64Array, starts: Int64Array, ends: Int64Array
) -> Calendar:
    pause = opens[1:] > closes[:-1]
    near = np.diff(dates) <= _DAY
    nights = np.concatenate([[0], np.cumsum(pause & near)])
    long_closes = np.concatenate([[0], np.cumsum(pause & ~near)])
    traded = np.concatenate([[0], np.cumsum(ends - starts)[:-1]])
    arrays = (dates, opens, closes, starts, ends, traded, nights, long_closes)
    return Calendar(name, zone, *(_frozen(values) for values in arrays))


def _frozen(values: Any) -> Int64Array:
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array


def _period_starts(dates: Int64Array, timeframe: str) -> Int64Array:
    """Label of the daily or weekly bar that holds each session: its date, or the Monday of its week."""
    if timeframe == "1w":
        return np.asarray(dates - (dates // _DAY + 3) % 7 * _DAY, dtype=np.int64)
    return dates


def _counted(counts: Int64Array) -> Int64Array:
    """0, 1, ..., count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
