"""Which calendar the bars of a file follow: chosen once, at import, from all of its open times."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlkit.errors import BarsError
from mlkit.market.calendar import ALWAYS_OPEN, WEEKDAYS, Calendar, get_calendar
from mlkit.market.times import Int64Array, timeframe_delta

WELL_KNOWN = ("XNYS", "CMES", "XLON", "XPAR", "XFRA", "XSWX", "XTSE", "XTKS", "XHKG", "XSHG", "XASX", "XBOM")
FITS = 0.99  # share of the bars inside the sessions from which an exchange is proposed
_ZONES = ("America/New_York", "Europe/London", "Asia/Tokyo", "UTC")
_SATURDAYS = 0.05  # share of the bars; a market with more of them on Saturdays never closes
_TIMES = 0.8  # share of the day's open times; a market that opens at more of them trades around the clock
_RARE = 0.25  # of the days; a time at which bars open more rarely is outside the timetable
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = 86_400_000_000_000  # ns
_HOUR = 3_600_000_000_000  # ns
_EXTENDED = 6 * _HOUR  # before the open and after the close
_MONDAY = 4 * _DAY  # the epoch was a Thursday


@dataclass(frozen=True)
class CalendarChoice:
    """The calendar that was chosen, the exchange that would fit, and one sentence that says so."""

    calendar: str
    proposed: str | None
    sentence: str


def fitting_share(calendar: Calendar, opened: Int64Array, timeframe: str) -> float:
    """Share of the bars that have trading time inside, 0 to 1; of daily and longer bars, those with a session."""
    return float(inside_sessions(calendar, opened, timeframe).mean()) if len(opened) else 0.0


def inside_sessions(
    calendar: Calendar, opened: Int64Array, timeframe: str
) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Whether a session, or a part of one, lies inside each bar, bool (n,)."""
    step = timeframe_delta(timeframe)
    full = opened + int(step.as_unit("ns").value)
    if step >= pd.Timedelta(days=1):
        return np.searchsorted(calendar.dates, full) > np.searchsorted(calendar.dates, opened)
    return np.asarray(calendar.trading_time(opened, full) > 0)


def check_fit(calendar: Calendar, opened: Int64Array, timeframe: str, where: str) -> None:
    """BarsError where fewer than 99 % of the bars lie in the sessions or their extended hours, with a better calendar.

    Extended hours are the six hours before an open and after a close on a day with a session.
    """
    if calendar.name == ALWAYS_OPEN:
        return
    fits = inside_sessions(calendar, opened, timeframe)
    if timeframe_delta(timeframe) < pd.Timedelta(days=1):
        near = np.searchsorted(calendar.opens - _EXTENDED, opened, side="right") - 1
        fits |= (near >= 0) & (opened < calendar.closes[near] + _EXTENDED)
    if fits.mean() >= FITS:
        return
    rows = np.flatnonzero(~fits)[:5]
    shown = ", ".join(f"row {row} {pd.Timestamp(int(opened[row])):%Y-%m-%d %H:%M}" for row in rows)
    better = choose_calendar(opened, timeframe)
    raise BarsError(
        f"{where}: only {fits.mean():.1%} of the bars lie in the hours of calendar {calendar.name} (outside: {shown}); "
        f"pass calendar={better.proposed or better.calendar!r}, which fits better"
    )


def check_span(calendar: Calendar, opened: Int64Array, where: str) -> None:
    """BarsError where bars lie before the first or after the last session that the calendar knows."""
    first, last = int(calendar.dates[0]), max(int(calendar.dates[-1]) + _DAY, int(calendar.closes[-1])) - 1
    bad = opened[0] < first or opened[-1] > last
    if bad:
        span, have = ((pd.Timestamp(int(t)) for t in pair) for pair in ((first, last), (opened[0], opened[-1])))
        raise BarsError(
            f"{where}: calendar {calendar.name} knows {' to '.join(f'{t:%Y-%m-%d}' for t in span)}, the bars go from "
            f"{' to '.join(f'{t:%Y-%m-%d}' for t in have)}; update exchange_calendars or pass another calendar="
        )


def choose_calendar(opened: Int64Array, timeframe: str, zone: str | None = None) -> CalendarChoice:
    """Choose among ``24/7``, ``24/5`` and the observed weekly timetable; propose an exchange that fits.

    Parameters
    ----------
    opened : open times of all bars, ns since the epoch, sorted, (n_bars,).
    timeframe : of the bars.
    zone : in whose midnights daily bars open; None for dates of UTC.

    A named exchange is never chosen by itself, since holidays and early closes are a claim about the market: where
    at least 99 % of the bars lie inside its sessions, and most of its sessions have bars, the sentence names it.
    """
    proposed = None if _trades_around_the_clock(opened, timeframe) else _proposed(opened, timeframe)
    if proposed and timeframe_delta(timeframe) < pd.Timedelta(days=1):
        zone = get_calendar(proposed).zone
    chosen = timetable(opened, timeframe, zone)
    hint = f"{proposed} fits too and knows holidays: " if proposed else "to change it, "
    other = proposed or "NAME"
    sentence = (
        f"calendar {chosen}, chosen from the bars' open times; {hint}import with --calendar {other} "
        f"(calendar={other!r})"
    )
    return CalendarChoice(chosen, proposed, sentence)


def _trades_around_the_clock(opened: Int64Array, timeframe: str) -> bool:
    """Whether bars open on Saturdays; before the first Saturday, whether they open at most times of the day."""
    step = timeframe_delta(timeframe)
    if step >= pd.Timedelta(weeks=1):
        return False
    day = (opened - _MONDAY) // _DAY % 7
    if opened[0] // _DAY * _DAY + (5 - day[0]) % 7 * _DAY <= opened[-1]:  # a Saturday lies between first and last
        return float((day == 5).mean()) > _SATURDAYS
    if len(opened) > 1 and bool((np.diff(opened) == step.as_unit("ns").value).all()):
        return True
    return len(np.unique(opened % _DAY)) > _TIMES * (pd.Timedelta(days=1) / step)


def timetable(opened: Int64Array, timeframe: str, zone: str | None = None) -> str:
    """``24/7``, ``24/5`` or the weekly hours in which the bars open, in ``zone`` where that makes them shortest."""
    step, always = timeframe_delta(timeframe), _trades_around_the_clock(opened, timeframe)
    if step >= pd.Timedelta(days=1) and zone:
        return f"Mon-{'Sun' if always else 'Fri'} 00:00-24:00 {zone}"
    if always:
        return ALWAYS_OPEN
    if step >= pd.Timedelta(days=1):
        return "Mon-Fri 00:00-24:00 UTC"
    around = len(np.unique(opened % _DAY)) > _TIMES * (pd.Timedelta(days=1) / step)
    if around and fitting_share(get_calendar(WEEKDAYS), opened, timeframe) >= FITS:
        return WEEKDAYS
    # In its own zone a timetable is shortest, as no clock change smears it there.
    zones = [*([zone] if zone else []), *_ZONES]
    found = {zone: _weekly_hours(opened, int(step.as_unit("ns").value), zone) for zone in zones}
    zone = min(zones, key=lambda name: sum(close - open_ for _, open_, close in found[name]))
    parts: list[tuple[int, int, int, int]] = []  # first weekday, last weekday, open, close
    for day, open_, close in found[zone]:
        if parts and parts[-1][1] == day - 1 and parts[-1][2:] == (open_, close):
            parts[-1] = (parts[-1][0], day, open_, close)
        else:
            parts.append((day, day, open_, close))
    names = (
        f"{_DAYS[first]}{'' if first == last else f'-{_DAYS[last]}'} {_clock(open_)}-{_clock(close)}"
        for first, last, open_, close in parts
    )
    return f"{', '.join(names)} {zone}"


def _weekly_hours(opened: Int64Array, step: int, zone: str) -> list[tuple[int, int, int]]:
    """``(weekday, open, close)`` in ns after local midnight, of each weekday that has bars.

    A time at which bars open on hardly any day does not count. Weekdays whose hours differ by less than an hour, as
    those of a thin market do by chance, get the hours that hold all of them.
    """
    local = pd.DatetimeIndex(opened, tz="UTC").tz_convert(zone).tz_localize(None).as_unit("ns").asi8
    weekday, time = (local - _MONDAY) // _DAY % 7, local % _DAY
    days = []
    for day in range(7):
        times, counts = np.unique(time[weekday == day], return_counts=True)
        usual = times[counts >= _RARE * counts.max()] if len(times) else times
        if len(usual):
            days.append((day, int(usual[0]), min(int(usual[-1]) + step, _DAY)))
    first, last = [open_ for _, open_, _ in days], [close for _, _, close in days]
    if max(first) - min(first) < _HOUR and max(last) - min(last) < _HOUR:
        return [(day, min(first), max(last)) for day, _, _ in days]
    return days


def _clock(ns: int) -> str:
    minutes = ns // 60_000_000_000
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _proposed(opened: Int64Array, timeframe: str) -> str | None:
    """The well-known exchange with the most of its sessions filled, among those that hold 99 % of the bars."""
    best, best_filled = None, 0.9
    for name in WELL_KNOWN:
        calendar = get_calendar(name)
        if opened[0] < calendar.opens[0] or opened[-1] > calendar.closes[-1]:
            continue
        if fitting_share(calendar, opened, timeframe) < FITS:
            continue
        expected = calendar.expected_opens(timeframe, int(opened[0]), int(opened[-1]))
        filled = min(1.0, len(opened) / max(1, len(expected)))
        if filled > best_filled:
            best, best_filled = name, filled
    return best
