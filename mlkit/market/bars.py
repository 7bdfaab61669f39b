"""The Bars contract: a pandas DataFrame, checked once where it enters mlkit; inner code relies on it."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError
from mlkit.market.bar_columns import BAR_COLUMNS
from mlkit.market.bar_columns import COLUMNS as COLUMNS
from mlkit.market.calendar import Calendar, get_calendar
from mlkit.market.calendar_choice import check_fit, check_span, timetable
from mlkit.market.grids import check_grid
from mlkit.market.symbols import check_symbol
from mlkit.market.times import Int64Array, such_rows, timeframe_delta

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
BarArrays = tuple[Int64Array, Float64Array]  # open times in ns (n,), values (5, n)
Month = tuple[str, Int64Array, Float64Array]  # YYYY-MM, open times in ns (n,), values (5, n)

TIME_NAMES = ("timestamp", "date", "time", "datetime", "open time", "open_time", "opentime")

_CHECK_BLOCK = 1 << 15


def validate_bars(
    frame: pd.DataFrame, *, symbol: str | None = None, timeframe: str | None = None, calendar: str | None = None
) -> pd.DataFrame:
    """Check the Bars contract and return a copy in canonical form; ``frame`` is left as it is.

    Bars have a UTC ``DatetimeIndex`` of bar **open** times (the row is known when the bar closes), strictly
    increasing and on the timeframe's grid: intraday bars count from midnight (UTC or the exchange's) or from the
    session's open, daily bars are labelled by their session's date at 00:00 UTC, weekly ones by the Monday. Gaps
    (nights, weekends, no trade) are allowed. Prices are finite and
    positive with ``low <= open, close <= high``; volume is finite and at least 0. Nothing is repaired:
    numeric columns become float64 and the index nanoseconds, which loses nothing; see ``repair_bars``.

    Parameters
    ----------
    frame: exactly the columns open, high, low, close, volume, in any order, (n_bars, 5).
    symbol, timeframe: labels; ``frame.attrs`` supplies those not given.
    calendar: name of the trading calendar (`get_calendar`), into whose sessions and extended hours at least 99 % of
        the bars must fall; else that of ``frame.attrs``; else the weekly timetable of these open times.

    Returns
    -------
    DataFrame (n_bars, 5) float64, index ``timestamp`` datetime64[ns, UTC], attrs symbol, timeframe and calendar.

    Raises BarsError naming the column, the first bad row, the value and how to mend it; ConfigError for a symbol,
    timeframe or calendar that mlkit does not know.
    """
    if not isinstance(frame, pd.DataFrame):
        raise BarsError(f"bars must be a pandas DataFrame, not {type(frame).__name__}; see mlkit.read_bars")
    symbol, timeframe = _labels(frame, symbol, timeframe)
    where = f"{symbol} {timeframe}"
    _check_columns(frame, where)
    index = _check_index(frame.index, where)
    times = np.asarray(index.asi8)
    hours = get_calendar(calendar or frame.attrs.get("calendar") or timetable(times, timeframe))
    check_span(hours, times, where)
    if calendar is not None:
        check_fit(hours, times, timeframe, where)
    check_grid(times, timeframe, hours, where)
    data = np.empty((len(COLUMNS), len(frame)))
    for row, name in enumerate(COLUMNS):
        data[row] = _numbers(frame[name], index, where)
    check_values(data, index, where)
    return make_bars(index, data, symbol=symbol, timeframe=timeframe, calendar=hours.name)


def make_bars(
    index: pd.DatetimeIndex, data: Float64Array, *, symbol: str, timeframe: str, calendar: str
) -> pd.DataFrame:
    """Assemble bars from parts known to be valid: UTC open times and (5, n_bars) values, not copied."""
    index = pd.DatetimeIndex(index.as_unit("ns").asi8, tz="UTC", name="timestamp")
    bars = pd.DataFrame(data.T, index=index, columns=pd.Index(COLUMNS), copy=False)
    bars.attrs = {"symbol": symbol, "timeframe": timeframe, "calendar": calendar}
    return bars


def bars_of(values: BarArrays, *, symbol: str, timeframe: str, calendar: str) -> pd.DataFrame:
    """`make_bars` of open times in ns since the epoch (n,) and values (5, n)."""
    index = pd.DatetimeIndex(values[0], tz="UTC")
    return make_bars(index, values[1], symbol=symbol, timeframe=timeframe, calendar=calendar)


def calendar_of(bars: pd.DataFrame) -> Calendar:
    """The trading calendar of valid bars."""
    return get_calendar(bars.attrs["calendar"])


def by_month(times: Int64Array, data: Float64Array) -> Iterator[Month]:
    """Sorted open times (n,) and values (5, n) month by month."""
    months = times.astype("datetime64[ns]").astype("datetime64[M]")
    if not len(times):
        return
    starts = np.flatnonzero(np.append(True, months[1:] != months[:-1]))
    for start, stop in zip(starts, [*starts[1:], len(times)], strict=True):
        yield str(months[start]), times[start:stop], data[:, start:stop]


def ohlcv_arrays(
    bars: pd.DataFrame,
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array, Float64Array]:
    """Open, high, low, close, volume as private contiguous float64 arrays, (n_bars,) each, for kernels."""
    o, h, lo, c, v = (np.array(bars[name].to_numpy(), dtype=np.float64, order="C") for name in COLUMNS)
    return o, h, lo, c, v


def fingerprint(bars: pd.DataFrame) -> str:
    """Hex SHA-256 of the bars: timeframe, index (int64 ns) and the five columns, not the symbol.

    Equal bars give equal fingerprints on every machine; validated bars are expected.
    """
    digest = hashlib.sha256(f"{bars.attrs['timeframe']}\n".encode())
    digest.update(open_times(bars).astype("<i8", copy=False).tobytes())
    for column in ohlcv_arrays(bars):
        digest.update((column + 0.0).astype("<f8", copy=False).tobytes())  # + 0.0: -0.0 equals 0.0
    return digest.hexdigest()


def price_decimals(bars: pd.DataFrame) -> int:
    """Decimals that show the lowest price with 5 significant digits, at least 2: for tables of cheap coins too."""
    return max(2, 4 - math.floor(math.log10(float(bars["low"].min()))))


def open_times(bars: pd.DataFrame) -> Int64Array:
    """Bar open times in ns since the epoch, (n_bars,)."""
    index = bars.index
    assert isinstance(index, pd.DatetimeIndex)
    return np.asarray(index.as_unit("ns").asi8, dtype=np.int64)


def _labels(frame: pd.DataFrame, symbol: str | None, timeframe: str | None) -> tuple[str, str]:
    symbol = frame.attrs.get("symbol") if symbol is None else symbol
    timeframe = frame.attrs.get("timeframe") if timeframe is None else timeframe
    for name, value in (("symbol", symbol), ("timeframe", timeframe)):
        if value is None:
            raise BarsError(f"bars carry no {name} (attrs[{name!r}] is absent); pass {name}=...")
    assert symbol is not None and timeframe is not None
    timeframe_delta(timeframe)
    return check_symbol(symbol), timeframe


def _check_columns(frame: pd.DataFrame, where: str) -> None:
    names = list(frame.columns)
    missing = [name for name in COLUMNS if name not in names]
    extra = [name for name in names if name not in COLUMNS]
    if missing:
        found = {str(name).strip().lower(): name for name in extra}
        renames = {found[name]: name for name in missing if name in found}
        mend = f"frame.rename(columns={renames})" if len(renames) == len(missing) else "add the missing ones"
        raise BarsError(
            f"{where}: column {missing[0]!r} is missing; got {listing(names)}, bars need "
            f"{', '.join(COLUMNS)}; mend with {mend}"
        )
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise BarsError(f"{where}: column {twice[0]!r} appears {names.count(twice[0])} times; keep one")
    if extra:
        mend = (
            f"frame.set_index({extra[0]!r})"
            if str(extra[0]).strip().lower() in TIME_NAMES
            else f"frame[{list(COLUMNS)}]"
        )
        raise BarsError(f"{where}: column {extra[0]!r} is not part of bars; mend with {mend}")
    if frame.empty:
        raise BarsError(f"{where}: no bars (0 rows); pass at least one")


def _check_index(index: pd.Index, where: str) -> pd.DatetimeIndex:
    """Return the index in nanoseconds if its times are UTC and strictly increasing."""
    if not isinstance(index, pd.DatetimeIndex):
        raise BarsError(
            f"{where}: index is {index.dtype}, row 0 is {index[0]!r}; bars need a UTC DatetimeIndex of open "
            'times: frame.index = pd.to_datetime(frame.index, utc=True) (epoch numbers: with unit="ms")'
        )
    if index.tz is None:
        raise BarsError(
            f"{where}: index has no time zone, row 0 is {index[0]}; mend with "
            'frame.tz_localize("UTC") if the times are UTC'
        )
    if str(index.tz) != "UTC" and index.tz.utcoffset(None) != pd.Timedelta(0):
        raise BarsError(f"{where}: index is in {index.tz}, row 0 is {index[0]}; mend with frame.tz_convert('UTC')")
    if index.hasnans:
        row = int(np.argmax(index.isna()))
        raise BarsError(f"{where}: index row {row} is NaT; drop the row, or use mlkit.repair_bars")
    try:
        utc = index.tz_convert("UTC").as_unit("ns")
    except pd.errors.OutOfBoundsDatetime as error:
        raise BarsError(f"{where}: a timestamp does not fit nanoseconds (1677 to 2262): {error}") from error
    _check_order(utc, where)
    return utc


def _check_order(index: pd.DatetimeIndex, where: str) -> None:
    times = np.asarray(index.asi8)
    gaps = np.diff(times)
    if gaps.size and gaps.min() <= 0:
        row = int(np.argmax(gaps <= 0)) + 1
        kind, mend = "is earlier than", "frame.sort_index()"
        if gaps[row - 1] == 0:
            kind, mend = "repeats", "frame[~frame.index.duplicated(keep='last')]"
        raise BarsError(
            f"{where}: index row {row} ({index[row]}) {kind} row {row - 1} ({index[row - 1]}); "
            f"mend with {mend} or mlkit.repair_bars{such_rows(np.append(False, gaps <= 0))}"
        )


def _numbers(column: pd.Series, index: pd.DatetimeIndex, where: str) -> Float64Array:
    dtype = column.dtype
    if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype) or dtype.kind == "c":
        raise BarsError(
            f"{where}: column {column.name!r} is {dtype}, row 0 ({index[0]}) is {column.iloc[0]!r}; "
            f"mend with frame[{column.name!r}] = pd.to_numeric(frame[{column.name!r}])"
        )
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def check_values(data: Float64Array, index: pd.DatetimeIndex, where: str, first: int = 0) -> None:
    """Raise BarsError for values (5, n) that no bar has; ``first`` is the number of the first row."""
    for start in range(0, data.shape[1], _CHECK_BLOCK):  # in blocks that stay in the cache
        o, h, lo, c, *others = data[:, start : start + _CHECK_BLOCK]
        fine = (lo > 0) & (lo <= o) & (lo <= c) & (o <= h) & (c <= h) & (h < np.inf)
        for column, values in zip(BAR_COLUMNS[4:], others, strict=True):
            fine &= (values >= column.least) & (values < np.inf)
        if not fine.all():
            _report_values(data, index, where, first)


def bar_values(values: Sequence[Any], where: str) -> tuple[float, float, float, float, float]:
    """Open, high, low, close and volume of one bar, numbers of any type or text. BarsError for what is no bar."""
    try:
        o, h, low, c, v = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise BarsError(f"{where}: {list(values)} are not the five numbers {', '.join(COLUMNS)}") from None
    if not (0.0 < low <= o <= h < np.inf and low <= c <= h and 0.0 <= v < np.inf):
        raise BarsError(
            f"{where}: open {o}, high {h}, low {low}, close {c}, volume {v}; "
            "want 0 < low <= open, close <= high and volume >= 0, all finite"
        )
    return o, h, low, c, v


def _report_values(data: Float64Array, index: pd.DatetimeIndex, where: str, first: int) -> NoReturn:
    """Raise BarsError for the first rule that the values break."""

    def refuse(name: str, bad: BoolArray, what: str, mend: str, than: Float64Array | None = None) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            value = float(data[COLUMNS.index(name), row])
            other = "" if than is None else f" {float(than[row])!r}"
            raise BarsError(
                f"{where}: column {name!r}, row {row + first} ({index[row]}): {value!r} {what}{other}; "
                f"{mend}, or use mlkit.repair_bars{such_rows(bad)}"
            )

    for column, values in zip(BAR_COLUMNS, data, strict=True):
        refuse(column.name, np.isnan(values), "is missing", "drop the row")
        refuse(column.name, np.isinf(values), "is infinite", "drop the row")
    for column, values in zip(BAR_COLUMNS, data, strict=True):
        mend = "drop the row" if column.neutral is None else f"set it to {column.neutral:g}"
        refuse(column.name, values < column.least, column.fault, mend)
    o, h, lo, c = data[:4]
    refuse("high", h < lo, "is below the low", "swap them", lo)
    for name, values in (("open", o), ("close", c)):
        refuse(name, values > h, "is above the high", "raise the high", h)
        refuse(name, values < lo, "is below the low", "lower the low", lo)
    raise AssertionError("unreachable: one check above fails")


def listing(names: list[Any], most: int = 12) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return f"{shown}, ... ({len(names)} columns)" if len(names) > most else shown or "no columns"
