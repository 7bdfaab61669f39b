"""Columns with free names and types become times and numbers: by rule, never by a guess."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from mlkit.errors import BarsError
from mlkit.market.bars import COLUMNS, TIME_NAMES, Float64Array, listing
from mlkit.market.times import Int64Array, RowError, first_fault, parse_times

_INDEX_NAME = "__index_level_0__"  # pandas' name for a nameless index in Parquet
_VOLUMES = ("tickvol", "tick_volume")  # MetaTrader: its real volume is 0 at most brokers, its tick volume is not

Column = Any  # pa.Array, pa.ChunkedArray or pd.Series


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file, as they stand there."""

    times: Int64Array  # ns since the epoch, (n,)
    data: Float64Array  # open, high, low, close, volume: (5, n)
    first_row: int  # of the file's data rows, from 0


def names_time(name: object) -> bool:
    """Whether a column of this name holds the bars' times."""
    return _plain(name) in (*TIME_NAMES, "unix") or name == _INDEX_NAME


def _plain(name: object) -> str:
    return re.sub(r"[\s_]+", "_", str(name).strip().strip("<>").lower())


def choose(names: list[str], where: object) -> dict[str, str]:
    """Map timestamp, open, ... volume (and MetaTrader's separate clock) to a table's column names.

    Case, blanks and ``<>`` do not matter. The header lines of Binance, Yahoo, Kraken, MetaTrader and TradingView
    are understood; columns that are no part of bars are left out.
    """
    plain = {name: _plain(name) for name in names}
    clock = sorted(key for key in plain.values() if key in ("date", "time")) == ["date", "time"]
    chosen: dict[str, str] = {}
    for name in names:
        key = plain[name]
        if key == "time" and clock:
            key = "clock"
        elif names_time(name):
            key = "timestamp"
        elif key in _VOLUMES:
            key = "volume"
        if key not in ("timestamp", "clock", *COLUMNS):
            continue
        if key in chosen or names.count(name) > 1:
            other = chosen.get(key, name)
            raise BarsError(f"{where}: columns {other!r} and {name!r} both name the {key}; keep one")
        chosen[key] = name
    for role in ("timestamp", *COLUMNS):
        if role not in chosen:
            raise BarsError(
                f"{where}: no column {role!r} among {listing(names)}; "
                "name the columns timestamp, open, high, low, close, volume"
            )
    return chosen


def read_frame(frame: Any, tz: str | None) -> Block:
    """The rows of a frame in memory: pandas, or anything with the Arrow C stream interface (polars, pyarrow)."""
    where = f"{type(frame).__module__.split('.')[0]} frame"
    columns: Mapping[str, Column]
    if isinstance(frame, pd.DataFrame):
        names = [str(name) for name in frame.columns]
        if not isinstance(frame.index, pd.RangeIndex):
            frame = frame.reset_index(names="timestamp" if frame.index.name is None else frame.index.name)
            names = [str(name) for name in frame.columns]
        chosen = choose(names, where)
        columns = {role: frame.iloc[:, names.index(name)] for role, name in chosen.items()}
    elif hasattr(frame, "__arrow_c_stream__"):
        try:
            table = pa.table(frame)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise BarsError(f"{where}: not a table ({error}); pass a frame with a column for each field") from error
        chosen = choose(table.column_names, where)
        columns = {role: table.column(table.column_names.index(name)) for role, name in chosen.items()}
    else:
        raise BarsError(f"read_bars takes a path, or a frame of pandas, polars or pyarrow, not {type(frame).__name__}")
    if not len(columns["timestamp"]):
        raise BarsError(f"{where}: no bars (0 rows); pass at least one")
    return make_block(columns, chosen, where, tz, 0, lambda row: f"row {row}")


def make_block(
    columns: Mapping[str, Column],
    names: Mapping[str, str],
    where: object,
    tz: str | None,
    first: int,
    at: Callable[[int], str],
) -> Block:
    """Times and numbers of one piece; BarsError naming ``where``, column, row and mend."""
    role = "timestamp"
    if not len(columns[role]):
        return Block(np.empty(0, np.int64), np.empty((len(COLUMNS), 0)), first)
    try:
        times = parse_times(joined_times(columns), tz=tz).asi8
        data = np.empty((len(COLUMNS), len(times)))
        for number, role in enumerate(COLUMNS):
            data[number] = _numbers(columns[role])
    except RowError as error:
        raise BarsError(f"{where}: column {names[role]!r}, {at(first + error.row)}: {error.detail}") from None
    except BarsError as error:
        raise BarsError(f"{where}: column {names[role]!r}: {error}") from None
    return Block(np.asarray(times, dtype=np.int64), data, first)


def joined_times(columns: Mapping[str, Column]) -> pd.Series:
    """The time column; MetaTrader's date and clock columns as one."""
    values = columns["timestamp"]
    if "clock" in columns:  # MetaTrader: 2024.01.31 and 09:30:00
        day, clock = (as_pandas(column).astype("str") for column in (values, columns["clock"]))
        return day.str.strip().str.replace(".", "-") + " " + clock.str.strip()
    if isinstance(values, pd.Series):
        return as_pandas(values)
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    return as_pandas(values)


def as_pandas(values: Column) -> pd.Series:
    """A column as a pandas Series with rows from 0."""
    return values.reset_index(drop=True) if isinstance(values, pd.Series) else pd.Series(values.to_pandas())


def _numbers(values: Column) -> Float64Array:
    try:
        if isinstance(values, pd.Series):
            if pd.api.types.is_bool_dtype(values.dtype) or not pd.api.types.is_numeric_dtype(values.dtype):
                raise TypeError
            return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
        if pa.types.is_boolean(values.type):
            raise TypeError
        return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError):
        column = as_pandas(values)
        return parse_numbers(column)


def parse_numbers(column: pd.Series) -> Float64Array:
    """A column of text or mixed values as numbers. Raises RowError for the first that is none."""
    text = column.map(lambda value: isinstance(value, str | int | float | np.number) and not isinstance(value, bool))
    parsed = pd.to_numeric(column.where(text.astype(bool)), errors="coerce")
    bad = parsed.isna().to_numpy() & ~_written_nan(column)
    if bad.any():
        value = column.iloc[int(np.argmax(bad))]
        what, mend = "is not a number", "mend the value"
        if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d[\d.,' ]*", value):
            what = "has a decimal comma or thousands separators, which are not guessed"
            mend = "mend it: export with decimal points and without separators"
        raise first_fault(column, bad, what, mend)
    return np.asarray(parsed, dtype=np.float64)


def _written_nan(column: pd.Series) -> npt.NDArray[np.bool_]:
    """Where "nan" is what stands there, in text or number: missing, but no fault of reading."""
    return np.array(
        [
            (isinstance(value, str) and value.strip().lower() == "nan") or (isinstance(value, float) and value != value)
            for value in column
        ],
        dtype=bool,
    )
