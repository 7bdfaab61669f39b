"""Untidy bars made valid, with every repair counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from types import MappingProxyType

import numpy as np
import pandas as pd

from mlkit.errors import BarsError
from mlkit.market.bars import (
    COLUMNS,
    TIME_NAMES,
    BoolArray,
    Float64Array,
    check_symbol,
    listing,
    make_bars,
    validate_bars,
)
from mlkit.market.times import Int64Array, RowError, floor_times, parse_times, timeframe_delta


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

    In this order: column names lowered and other columns left out; a time column (``timestamp``, ``date``,
    ...) made the index; times read as UTC (naive ones taken as UTC) and floored to the timeframe's grid;
    rows sorted; text read as numbers; rows with a missing, infinite or non-positive price dropped; volume
    that is missing, infinite or negative set to 0; high and low widened to hold open and close (swapped
    where high < low); exact duplicates dropped; of conflicting rows with one time the last one kept.
    Repairing repaired bars changes nothing.

    Flooring moves a bar back in time by less than one bar, so an off-grid bar ends later than its new label
    says. That is harmless for a few milliseconds of exchange jitter only: read the report.

    Parameters
    ----------
    frame: any OHLCV frame, (n_rows, >= 5).
    symbol, timeframe: labels of the result.

    Returns
    -------
    (bars, report): valid bars and a RepairReport.

    Raises BarsError where no honest repair exists: a missing column, no row left, or bars that are finer than
    ``timeframe`` (resample those).
    """
    timeframe_delta(timeframe)
    where = f"{check_symbol(symbol)} {timeframe}"
    if not isinstance(frame, pd.DataFrame):
        raise BarsError(f"bars must be a pandas DataFrame, not {type(frame).__name__}; see mlkit.read_bars")
    counts: dict[str, int] = {}
    times, data = _on_grid(*_tidy(frame, where, counts), timeframe, where, counts)
    keep = (np.isfinite(data[:4]) & (data[:4] > 0)).all(axis=0)
    counts["rows without a valid price dropped"] = int((~keep).sum())
    times, data = times[keep], _mend_values(data[:, keep], counts)
    keep = _keep_last(times, data, counts)
    times, data = times[keep], np.ascontiguousarray(data[:, keep])
    if not times.size:
        raise BarsError(f"{where}: no valid row is left of {len(frame)}; check that the columns hold prices")
    index = pd.DatetimeIndex(times).tz_localize("UTC")
    bars = validate_bars(make_bars(index, data, symbol=symbol, timeframe=timeframe))
    return bars, RepairReport(symbol, timeframe, len(frame), len(bars), MappingProxyType(counts))


def _tidy(frame: pd.DataFrame, where: str, counts: dict[str, int]) -> tuple[Int64Array, Float64Array]:
    """Times in ns (n,) and values (5, n) of a frame with free column names and types."""
    raw: dict[str, pd.Series] = {}
    renamed = 0
    for position, name in enumerate(frame.columns):
        key = str(name).strip().lower()
        key = "timestamp" if key in TIME_NAMES else key
        if key == "timestamp" and key in raw:
            raise BarsError(f"{where}: columns {raw[key].name!r} and {name!r} both hold times; keep one")
        raw.setdefault(key, frame.iloc[:, position])
        renamed += key in COLUMNS and key != name
    missing = [name for name in COLUMNS if name not in raw]
    if missing:
        raise BarsError(f"{where}: column {missing[0]!r} is missing; got {listing(list(frame.columns))}")
    if frame.empty:
        raise BarsError(f"{where}: no bars (0 rows); pass at least one")
    counts["columns renamed"] = int(renamed)
    wanted = len(COLUMNS) + ("timestamp" in raw)
    counts["columns left out"] = frame.shape[1] - wanted

    source = raw.get("timestamp", frame.index.to_series()).reset_index(drop=True)
    dated = source.notna().to_numpy()
    counts["rows without a time dropped"] = int((~dated).sum())
    if not dated.any():
        raise BarsError(f"{where}: no row has a time; set the index to the bars' open times")
    try:
        times = parse_times(source[dated].reset_index(drop=True))
    except RowError as error:
        raise BarsError(f"{where}: time of {error}") from None
    counts["times converted to UTC"] = int(str(getattr(source.dtype, "tz", None)) != "UTC") * len(times)

    data = np.empty((len(COLUMNS), len(times)))
    unread = np.zeros(len(times), dtype=bool)
    for row, name in enumerate(COLUMNS):
        column = raw[name].reset_index(drop=True)[dated]
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        unread |= np.isnan(numbers) & column.notna().to_numpy()
        data[row] = numbers
    counts["rows with text for a number"] = int(unread.sum())
    return np.asarray(times.asi8), data


def _on_grid(
    times: Int64Array, data: Float64Array, timeframe: str, where: str, counts: dict[str, int]
) -> tuple[Int64Array, Float64Array]:
    """Times floored to the grid, rows sorted by them; rows of one time keep their order."""
    floored = floor_times(times, timeframe)
    moved = int((floored != times).sum())
    if moved:
        slots, moments = (1 + np.count_nonzero(np.diff(np.sort(column))) for column in (floored, times))
        if slots * 2 < moments:
            raise BarsError(
                f"{where}: {moments} times (first {pd.Timestamp(int(times[0]), tz='UTC')}) fall into {slots} "
                f"bars; they are finer than {timeframe}: pass their own timeframe, or resample them"
            )
    counts["times floored to the grid"] = moved
    counts["rows out of order"] = int((np.diff(floored) < 0).sum())
    if counts["rows out of order"]:
        order = np.argsort(floored, kind="stable")
        return floored[order], data[:, order]
    return floored, data


def _mend_values(data: Float64Array, counts: dict[str, int]) -> Float64Array:
    """Volume made finite and non-negative; high and low made to hold all four prices."""
    volume = data[4]
    bad = ~np.isfinite(volume) | (volume < 0)
    counts["volumes set to 0"] = int(bad.sum())
    data[4] = np.where(bad, 0.0, volume)
    high, low = data[:4].max(axis=0), data[:4].min(axis=0)
    counts["ranges widened"] = int(((high != data[1]) | (low != data[2])).sum())
    data[1], data[2] = high, low
    return data


def _keep_last(times: Int64Array, data: Float64Array, counts: dict[str, int]) -> BoolArray:
    """Rows to keep, one per time, of rows sorted by time; the last of each time."""
    dropped = np.zeros(len(times), dtype=bool)
    dropped[:-1] = times[1:] == times[:-1]
    same = np.zeros(len(times), dtype=bool)
    same[:-1] = (data[:, 1:] == data[:, :-1]).all(axis=0)
    counts["exact duplicates dropped"] = int((dropped & same).sum())
    counts["conflicting rows dropped"] = int((dropped & ~same).sum())
    return ~dropped
