"""Timeframes, their grids, and timestamps read by fixed rules."""

from datetime import date, datetime
from decimal import Decimal
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError, ConfigError

Int64Array = npt.NDArray[np.int64]

TIMEFRAMES: dict[str, pd.Timedelta] = {
    **{f"{n}m": pd.Timedelta(minutes=n) for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": pd.Timedelta(hours=n) for n in (1, 2, 4, 6, 8, 12)},
    "1d": pd.Timedelta(days=1),
    "1w": pd.Timedelta(weeks=1),
}
_DAY = 86_400_000_000_000  # ns
_MONDAY = 4 * _DAY  # from the epoch, a Thursday, to the first Monday

# Epoch units by magnitude. The bands do not overlap: each spans the years 1973 to 5138 of its unit.
_EPOCHS = {"s": (10**8, 10**11), "ms": (10**11, 10**14), "us": (10**14, 10**17), "ns": (10**17, 2**63 - 1)}
_NS_PER = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
# Text with a zone: a clock time, then Z or an offset.
_ZONED = r"[T ]\d{2}(?::?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)?\s*(?:[Zz]|[+-]\d{2}(?::?\d{2})?)$"


def timeframe_delta(timeframe: str) -> pd.Timedelta:
    """Length of one bar.

    Raises ConfigError for a name that is not in ``TIMEFRAMES``.
    """
    if not isinstance(timeframe, str) or timeframe not in TIMEFRAMES:
        raise ConfigError(f"timeframe {timeframe!r} is unknown; use one of {', '.join(TIMEFRAMES)}")
    return TIMEFRAMES[timeframe]


def timeframe_ns(timeframe: str) -> int:
    """Length of one bar in nanoseconds."""
    return int(timeframe_delta(timeframe).as_unit("ns").value)


def month_slots(timeframe: str) -> int:
    """Most bars that open in one month."""
    return 31 * 86_400 * 10**9 // timeframe_ns(timeframe) + 1


def floor_times(times: Int64Array, timeframe: str) -> Int64Array:
    """Open time of the bar that holds each time, both in ns since the epoch.

    Intraday bars are counted from midnight UTC, daily bars open at 00:00 UTC, weekly bars on Monday.
    """
    anchor = _MONDAY if timeframe == "1w" else 0
    return np.asarray(times - (times - anchor) % timeframe_ns(timeframe), dtype=np.int64)


def time_after(timestamp: Any, last: int | None, number: int, step: int) -> int:
    """Open time of bar ``number`` in ns since the epoch, see `bar_time`; ``step`` is the length of a bar in ns.

    Raises BarsError unless it is later than ``last`` and on a grid that bars of this length can have: midnight UTC for
    daily bars, that of a Monday for weekly ones, whole minutes or 5 minutes inside the day.
    """
    opened = bar_time(timestamp, f"bar {number}")
    if step == 7 * _DAY:
        anchor, unit = _MONDAY, step
    else:
        anchor, unit = 0, gcd(step, _DAY if step >= _DAY else _DAY // 288)
    time = pd.Timestamp(opened, tz="UTC")
    if (opened - anchor) % unit:
        length = str(pd.Timedelta(step)).removeprefix("0 days ")
        raise BarsError(f"bar {number}: {time} is off the grid of bars of {length}; pass the open time of a whole bar")
    if last is not None and opened <= last:
        before = pd.Timestamp(last, tz="UTC")
        raise BarsError(f"bar {number}: {time} is not later than the bar before, {before}")
    return opened


class RowError(BarsError):
    """A value that cannot be read; ``row`` is its position, ``detail`` the message without the row."""

    def __init__(self, row: int, detail: str) -> None:
        super().__init__(f"row {row}: {detail}")
        self.row = row
        self.detail = detail


def first_fault(values: pd.Series, bad: npt.NDArray[np.bool_], what: str, mend: str) -> RowError:
    """Error for the first row marked ``bad``: its value, what is wrong and how to mend it."""
    row = int(np.argmax(bad))
    return RowError(row, f"{values.tolist()[row]!r} {what}; {mend}{such_rows(bad)}")


def such_rows(bad: npt.NDArray[np.bool_]) -> str:
    """Text for messages: number of marked rows and the first five, empty for a single one."""
    rows = np.flatnonzero(bad)
    if len(rows) < 2:
        return ""
    shown = ", ".join(str(row) for row in rows[:5])
    return f" ({len(rows)} such rows: {shown}{', ...' if len(rows) > 5 else ''})"


def parse_times(values: pd.Series, *, tz: str | None = "UTC") -> pd.DatetimeIndex:
    """Timestamps of a column as UTC nanoseconds, (n,).

    Accepts datetimes, dates, periods (their start), ISO 8601 text, dates such as 31.01.2024 whose rows admit one
    reading only, and epoch numbers (or digits as text) in s, ms, us or ns. The unit of epochs follows from their
    magnitude, and all rows must have the same one: a mistake would be a factor of 1000.

    Parameters
    ----------
    values: the column.
    tz: zone of times written without one; None refuses such times.

    Raises RowError (a BarsError) naming the first bad row and its value.
    """
    missing = values.isna().to_numpy()
    if missing.any():
        raise first_fault(values, missing, "is no time", "drop the row")
    values = _without_objects(values)
    dtype = values.dtype
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype):
        return _epochs(values)
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return _utc(pd.DatetimeIndex(values), values, tz)
    bad = np.array([not isinstance(value, str) for value in values])
    if bad.any():
        raise first_fault(values, bad, "is neither text, number nor datetime", "convert the column")
    text = values.astype("str").str.strip()
    epochs = text.str.fullmatch(r"\d{9,}(?:\.0*)?").to_numpy(dtype=bool)  # 8 digits are the ISO date 20240131
    if epochs.mean() > 0.5:
        if not epochs.all():
            raise first_fault(text, ~epochs, "is no epoch number, as most rows are", "mend or drop the row")
        return _epochs(text.str.replace(r"\.0*$", "", regex=True).astype(np.int64))
    return _texts(_iso_dates(text), tz)


def _without_objects(values: pd.Series) -> pd.Series:
    """Periods, and objects that are all numbers, dates or datetimes, as an integer or datetime column."""
    if isinstance(values.dtype, pd.PeriodDtype):
        return pd.Series(pd.PeriodIndex(values).to_timestamp())
    if values.dtype != object:
        return values
    items = [value.start_time if isinstance(value, pd.Period) else value for value in values]
    if all(isinstance(item, (int, float, Decimal, np.number)) and not isinstance(item, bool) for item in items):
        whole = [int(item) for item in items]
        fits = whole == items and max(map(abs, whole)) < 2**63
        return pd.Series(whole, dtype=np.int64) if fits else values
    if all(isinstance(item, date | np.datetime64) for item in items):
        stamps = [pd.Timestamp(item) for item in items]
        aware = {stamp.tzinfo is not None for stamp in stamps}
        if len(aware) == 1:
            return pd.Series(pd.to_datetime(stamps, utc=aware.pop()))
    return values


def _iso_dates(text: pd.Series) -> pd.Series:
    """Dates such as 31.01.2024, 01/31/2024 and 2024.01.31 as ISO 8601; other text as it is.

    Whether the day or the month stands first must follow from the rows: RowError where no number is above 12.
    """
    compact = r"^(\d{4})(\d{2})(\d{2})[ T](\d{2})(\d{2})(\d{2})$"  # HistData, Finam, Stooq
    text = text.str.replace(compact, r"\1-\2-\3 \4:\5:\6", regex=True)
    year_first = text.str.extract(r"^(\d{4})[./](\d{1,2})[./](\d{1,2})(?!\d)(.*)$")
    year_last = text.str.extract(r"^(\d{1,2})[./-](\d{1,2})[./-](\d{4})(?!\d)(.*)$")
    if year_first.iloc[0].notna().all():
        parts, (y, m, d) = year_first, (0, 1, 2)
    elif year_last.iloc[0].notna().all():
        parts, y = year_last, 2
        large = [pd.to_numeric(parts[column]).to_numpy() > 12 for column in (0, 1)]
        if large[0].any() == large[1].any() and not (parts[0] == parts[1]).all():
            what = "may be day or month first" if not large[0].any() else "and other rows put day and month differently"
            raise first_fault(text, large[0] | ~large[0].any(), what, "write ISO 8601, as 2024-01-31")
        d, m = (1, 0) if large[1].any() else (0, 1)
    else:
        return text
    odd = parts[0].isna().to_numpy()
    if odd.any():
        raise first_fault(text, odd, f"is no date as the first row, {text.iloc[0]!r}, is", "mend or drop the row")
    rest = parts[3].str.replace(r"\s*(?:GMT|UTC)([+-]\d)", r"\1", regex=True)
    return parts[y] + "-" + parts[m].str.zfill(2) + "-" + parts[d].str.zfill(2) + rest


def bar_time(timestamp: Any, where: str) -> int:
    """Open time of one bar in ns since the epoch.

    It is a datetime or ISO 8601 text with a zone, or an epoch number whose unit (s, ms, us, ns) follows from its
    magnitude, as in `parse_times`. BarsError, which begins with ``where``, for anything else.
    """
    try:
        if isinstance(timestamp, datetime) and timestamp.tzinfo is not None:  # by far the most frequent kind
            return int(pd.Timestamp(timestamp).as_unit("ns").value)
        return int(parse_times(pd.Series([timestamp]), tz=None).asi8[0])
    except RowError as error:
        raise BarsError(f"{where}: time {error.detail}") from None
    except pd.errors.OutOfBoundsDatetime:
        raise BarsError(f"{where}: time {timestamp} does not fit nanoseconds (1677 to 2262)") from None
    except (TypeError, ValueError, OverflowError):
        raise BarsError(f"{where}: {timestamp!r} is no time; pass a datetime with a zone") from None


def moment(name: str, value: str | pd.Timestamp | None) -> pd.Timestamp | None:
    """The time that a user passed as ``name``, in UTC; naive is UTC. ConfigError for what is no time."""
    if value is None:
        return None
    try:
        return pd.Timestamp(parse_times(pd.Series([value]))[0])
    except BarsError as error:
        raise ConfigError(f"{name}={value!r} is not a time; write ISO 8601, such as 2024-01-31") from error


def _epochs(values: pd.Series) -> pd.DatetimeIndex:
    numbers = values.to_numpy()
    refused = ~((numbers >= _EPOCHS["s"][0]) & (numbers < _EPOCHS["ns"][1]))
    if numbers.dtype.kind == "f":
        refused |= numbers != np.floor(numbers)
    if refused.any():
        mend = "write ISO 8601, such as 2024-01-31T00:00Z"
        raise first_fault(values, refused, "is no whole epoch number in s, ms, us or ns", mend)
    whole = numbers.astype(np.int64)
    unit = next(name for name, (start, stop) in _EPOCHS.items() if start <= whole[0] < stop)
    start, stop = _EPOCHS[unit]
    other = (whole < start) | (whole >= stop)
    if other.any():
        what = f"is not an epoch in {unit} as the first row, {whole[0]}, is"
        raise first_fault(values, other, what, "write one unit throughout")
    late = whole > (2**63 - 1) // _NS_PER[unit]
    if late.any():
        raise first_fault(values, late, f"(an epoch in {unit}) is after the year 2262", "mend the row")
    return pd.DatetimeIndex(whole * _NS_PER[unit]).tz_localize("UTC")


def _texts(text: pd.Series, tz: str | None) -> pd.DatetimeIndex:
    no_time = ~text.str.contains(r"\d", regex=True).to_numpy(dtype=bool)
    if no_time.any():
        raise first_fault(text, no_time, "is not an ISO 8601 time", "write it as 2024-01-31T00:00Z")
    aware = text.str.contains(_ZONED, regex=True).to_numpy(dtype=bool)
    odd = aware != aware[0]
    if odd.any():
        what = f"has {'no' if aware[0] else 'a'} time zone, unlike the first row, {text.iloc[0]!r}"
        raise first_fault(text, odd, what, "write all of them alike")
    try:
        parsed = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=bool(aware[0]))
    except ValueError as error:
        raise BarsError(f"times cannot be read: {error}; write ISO 8601 in UTC") from error
    bad = parsed.isna().to_numpy()
    if bad.any():
        raise first_fault(text, bad, "is not an ISO 8601 time", "write it as 2024-01-31T00:00Z")
    return _utc(pd.DatetimeIndex(parsed), text, tz)


def _utc(index: pd.DatetimeIndex, values: pd.Series, tz: str | None) -> pd.DatetimeIndex:
    if index.tz is None:
        if tz is None:
            every = np.ones(len(values), dtype=bool)
            raise first_fault(values, every, "has no time zone", 'pass tz="UTC" if the times are UTC')
        index = _localized(index, values, tz)
    try:
        return index.tz_convert("UTC").as_unit("ns")
    except pd.errors.OutOfBoundsDatetime as error:
        raise BarsError(f"a time does not fit nanoseconds (1677 to 2262): {error}") from error


def _localized(index: pd.DatetimeIndex, values: pd.Series, tz: str) -> pd.DatetimeIndex:
    """Local times of a zone. RowError for those that do not exist or happen twice where its clocks change."""
    try:
        ahead = index.tz_localize(str(tz), nonexistent="shift_forward", ambiguous="NaT")
    except (ValueError, KeyError, IndexError) as error:  # a zone that does not exist, or empty text
        raise BarsError(f"times cannot be read in zone {tz!r}: {error}; pass a name such as Europe/Berlin") from error
    twice = np.asarray(ahead.isna())
    if twice.any():
        what = f"happens twice in {tz}, where the clock was set back"
        raise first_fault(values, twice, what, "write the times in UTC, or with an offset")
    moved = np.asarray(ahead.tz_localize(None) != index)
    if moved.any():
        what = f"does not exist in {tz}, where the clock was set forward"
        raise first_fault(values, moved, what, "write the times in UTC, or pass the zone they are really in")
    return ahead
