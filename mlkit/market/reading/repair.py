"""Untidy bars made valid, with every repair counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mlkit.errors import BarsError
from mlkit.market.bars import COLUMNS, BoolArray, Float64Array, validate_bars
from mlkit.market.reading.headers import choose, joined_times, names_time
from mlkit.market.times import Int64Array, RowError, floor_times, parse_times, such_rows, timeframe_ns

Count = Callable[[str, Any], None]  # a repair, and how many more rows it touched


@dataclass(frozen=True)
class RepairReport:
    """What ``repair_bars`` changed: rows in and out, and how many rows (or columns) each repair touched."""

    symbol: str
    timeframe: str
    rows_in: int
    rows_out: int
    counts: Mapping[str, int]  # repair -> rows it touched, every kind present

    @property
    def total(self) -> int:
        """Repairs of all kinds; 0 means that the bars were valid as they came."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        done = ", ".join(f"{kind} {count}" for kind, count in self.counts.items() if count) or "nothing to repair"
        return f"{self.symbol} {self.timeframe}: {self.rows_in} rows in, {self.rows_out} out; {done}"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(kind)}</td><td>{count}</td></tr>" for kind, count in self.counts.items())
        title = escape(f"{self.symbol} {self.timeframe}: {self.rows_in} rows in, {self.rows_out} out")
        return f"<table><caption>{title}</caption><tr><th>repair</th><th>rows</th></tr>{rows}</table>"


def repair_bars(frame: pd.DataFrame, *, symbol: str, timeframe: str) -> tuple[pd.DataFrame, RepairReport]:
    """Make valid bars of an untidy frame, counting every repair; ``frame`` is left as it is.

    Row by row: columns named as in ``read_bars`` and other columns left out; times read as UTC (naive ones taken
    as UTC) and floored to the timeframe's grid; text read as numbers; rows with a missing, infinite or
    non-positive price dropped; volume that is missing, infinite or negative set to 0; high and low widened to hold
    open and close (swapped where high < low). Then rows sorted, exact duplicates dropped, and of conflicting rows
    with one time the last one kept. Repairing repaired bars changes nothing.

    Flooring moves a bar back in time by less than one bar, so an off-grid bar ends later than its new label
    says. That is harmless for a few milliseconds of exchange jitter only: read the report.

    Parameters
    ----------
    frame: any OHLCV frame, (n_rows, >= 5).
    symbol, timeframe: labels of the result.

    Returns
    -------
    (bars, report): valid bars and a RepairReport.

    Raises BarsError where no honest repair exists: a missing column, times or units that are mixed, decimal commas
    and thousands separators, no row left, bars of another timeframe (resample finer ones).
    """
    from mlkit.market.reading.rows import Intake  # it mends with the rules below

    if not isinstance(frame, pd.DataFrame):
        raise BarsError(f"bars must be a pandas DataFrame, not {type(frame).__name__}; see mlkit.read_bars")
    with Intake(symbol, timeframe, repair=True) as intake:
        intake.add(frame)
        return validate_bars(intake.bars()), intake.report


def mend_rows(
    frame: pd.DataFrame,
    timeframe: str,
    where: str,
    counts: dict[str, int],
    *,
    tz: str | None = "UTC",
    now: int | None = None,
) -> tuple[Int64Array, Float64Array]:
    """Rows (n,), (5, n) of which each alone would be a bar: what `repair_bars` does before it sorts.

    ``now``: ns since the epoch; rows of bars that close after it are dropped. ``counts`` is added to.
    """

    def count(kind: str, number: int) -> None:
        counts[kind] = counts.get(kind, 0) + int(number)

    times, data = _tidy(frame, where, count, tz)
    floored = floor_times(times, timeframe)
    _check_finer(times, floored, timeframe, where)
    count("times floored to the grid", (floored != times).sum())
    count("rows out of order", (np.diff(floored) < 0).sum())
    keep = (np.isfinite(data[:4]) & (data[:4] > 0)).all(axis=0)
    count("rows without a valid price dropped", (~keep).sum())
    if now is not None:
        closed = floored + timeframe_ns(timeframe) <= now
        count("bars not closed yet dropped", (keep & ~closed).sum())
        keep &= closed
    return floored[keep], _mend_values(data[:, keep], count)


def _tidy(frame: pd.DataFrame, where: str, count: Count, tz: str | None) -> tuple[Int64Array, Float64Array]:
    """Times in ns (n,) and values (5, n) of a frame with free column names and types."""
    names = [str(name) for name in frame.columns]
    indexed = not any(names_time(name) for name in names)
    chosen = choose(["timestamp", *names] if indexed else names, where)
    if frame.empty:
        raise BarsError(f"{where}: no bars (0 rows); pass at least one")
    count("columns renamed", sum(name in COLUMNS and chosen[name] != name for name in chosen))
    count("columns left out", len(names) - len(chosen) + indexed)
    raw = {role: frame.iloc[:, names.index(name)] for role, name in chosen.items() if role in COLUMNS or not indexed}
    source = frame.index.to_series() if indexed else joined_times(raw)
    source = source.reset_index(drop=True)
    dated = source.notna().to_numpy(copy=True)
    if not pd.api.types.is_numeric_dtype(source.dtype) and not indexed:
        dated &= source.astype("str").str.strip().ne("").to_numpy()
    count("rows without a time dropped", (~dated).sum())
    if not dated.any():
        raise BarsError(f"{where}: no row has a time; set the index to the bars' open times")
    try:
        times = parse_times(source[dated].reset_index(drop=True), tz=tz)
    except RowError as error:
        raise BarsError(f"{where}: time of {error}") from None
    zoned = not pd.api.types.is_datetime64_any_dtype(source.dtype) or str(getattr(source.dtype, "tz", "")) == "UTC"
    count("times converted to UTC", 0 if zoned else len(times))
    data = np.empty((len(COLUMNS), len(times)))
    unread = np.zeros(len(times), dtype=bool)
    for row, name in enumerate(COLUMNS):
        column = raw[name].reset_index(drop=True)[dated].reset_index(drop=True)
        data[row], odd = _lenient_numbers(column, name, where)
        unread |= odd
    count("rows with text for a number", unread.sum())
    return np.asarray(times.asi8), data


def _lenient_numbers(column: pd.Series, name: str, where: str) -> tuple[Float64Array, BoolArray]:
    """Numbers of a column, NaN for what is none, and which rows hold such text.

    Decimal commas and thousands separators are refused: a row dropped for them is lost, a guess is a factor 1000.
    """
    numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if numeric:
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    try:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError):  # lists and other objects
        numbers = np.full(len(column), np.nan)
    text = column.astype("str").str.strip()
    odd = np.isnan(numbers) & column.notna().to_numpy() & (~text.str.lower().isin(["", "nan"])).to_numpy()
    commas = odd & text.str.fullmatch(r"[-+]?\d[\d.' ]*,[\d.,' ]*\d|[-+]?\d[\d]*[' ][\d.,' ]*\d").to_numpy(dtype=bool)
    if commas.any():
        row = int(np.argmax(commas))
        raise BarsError(
            f"{where}: column {name!r}, row {row}: {text.iloc[row]!r} has a decimal comma or thousands separators, "
            f"which are not guessed; export with decimal points and without separators{such_rows(commas)}"
        )
    return numbers, odd


def _check_finer(times: Int64Array, floored: Int64Array, timeframe: str, where: str) -> None:
    """Rows that crowd into fewer bars are finer than the timeframe: flooring would throw most of them away."""
    moved = int((floored != times).sum())
    if not moved:
        return
    slots, moments = (1 + np.count_nonzero(np.diff(np.sort(column))) for column in (floored, times))
    if slots * 2 < moments:
        raise BarsError(
            f"{where}: {moments} times (first {pd.Timestamp(int(times[0]), tz='UTC')}) fall into {slots} "
            f"bars; they are finer than {timeframe}: pass their own timeframe, or resample them"
        )


def _mend_values(data: Float64Array, count: Count) -> Float64Array:
    """Volume made finite and non-negative; high and low made to hold all four prices."""
    volume = data[4]
    bad = ~np.isfinite(volume) | (volume < 0)
    count("volumes set to 0", bad.sum())
    data[4] = np.where(bad, 0.0, volume)
    high, low = data[:4].max(axis=0, initial=0.0), data[:4].min(axis=0, initial=np.inf)
    count("ranges widened", ((high != data[1]) | (low != data[2])).sum())
    data[1], data[2] = high, low
    return data
