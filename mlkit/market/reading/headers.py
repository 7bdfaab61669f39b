"""Columns with free names and types become times and numbers by fixed rules; nothing is guessed."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from mlkit.errors import BarsError
from mlkit.market.bars import COLUMNS, TIME_NAMES, BarArrays, BoolArray, Float64Array, listing
from mlkit.market.times import RowError, first_fault, parse_times

_INDEX_NAME = "__index_level_0__"  # pandas' name for a nameless index in Parquet
_OTHER_TIME_NAMES = ("unix", "datum", "date_time", "gmt_time", "local_time")  # Dukascopy: the last two
_VOLUMES = ("tickvol", "tick_volume")  # MetaTrader: its real volume is 0 at most brokers, its tick volume is not
# Columns that name the market, the most telling first; those of LABELS may hold a longer name than its symbol.
LABELS = ("name", "asset")
_INSTRUMENT = ("symbol", "ticker", "instrument", "pair", "tic", *LABELS)
_COMMA = r"[-+]?\d[\d.' ]*,[\d.,' ]*\d|[-+]?\d+[' ][\d.,' ]*\d"  # a decimal comma or thousands separators

_NUMERIC = (str, int, float, np.number, Decimal)  # types of values that may be numbers

Column = Any  # pa.Array, pa.ChunkedArray or pd.Series


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a file or frame as they were read."""

    columns: Mapping[str, Column]  # role (timestamp, clock, open, ... volume, instrument) -> values
    names: Mapping[str, str]  # role -> name of the column in the source
    where: str  # the source, for messages
    place: Callable[[int], str] = "row {}".format  # row of the source, from 0 -> how a message names it
    first_row: int = 0  # number of the piece's first row in the source

    def __len__(self) -> int:
        return len(self.columns["timestamp"])

    def take(self, rows: npt.NDArray[np.intp]) -> "Piece":
        """Some of the rows; messages name them as rows of this piece."""
        columns = {
            role: values.iloc[rows] if isinstance(values, pd.Series) else values.take(pa.array(rows))
            for role, values in self.columns.items()
        }
        places = (self.first_row + rows).tolist()
        return Piece(columns, self.names, self.where, lambda row: self.place(places[row]))

    def values(self, tz: str | None) -> BarArrays:
        """Times and numbers, read strictly. BarsError naming source, column, row and mend for one that is neither."""
        with self.located("timestamp"):
            times = parse_times(joined_times(self.columns), tz=tz).asi8
        data = np.empty((len(COLUMNS), len(times)))
        for number, role in enumerate(COLUMNS):
            with self.located(role):
                data[number], bad = parse_numbers(self.columns[role])
                if bad.any():
                    raise first_fault(as_pandas(self.columns[role]), bad, "is not a number", "mend the value")
        return np.asarray(times, dtype=np.int64), data

    @contextmanager
    def located(self, role: str) -> Iterator[None]:
        """Add source, column and row to a BarsError that the reading of a column raises."""
        try:
            yield
        except RowError as error:
            at = self.place(self.first_row + error.row)
            raise BarsError(f"{self.where}: column {self.names[role]!r}, {at}: {error.detail}") from None
        except BarsError as error:
            raise BarsError(f"{self.where}: column {self.names[role]!r}: {error}") from None


def names_time(name: object) -> bool:
    """Whether a column of this name holds the bars' times."""
    return _plain(name) in (*TIME_NAMES, *_OTHER_TIME_NAMES) or name == _INDEX_NAME


def _plain(name: object) -> str:
    return re.sub(r"[\s_]+", "_", str(name).strip().strip("<>").lower())


def choose(names: list[str], where: object) -> dict[str, str]:
    """Map timestamp, open, ... volume (and MetaTrader's separate clock) to a table's column names.

    Case, blanks and ``<>`` do not matter. The header lines of Binance, Yahoo, Kraken, MetaTrader and TradingView
    are understood. A column that names the market is chosen as ``instrument``; others that are no part of bars are
    left out.
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
    if "volume" not in chosen and "vol" in plain.values():  # Finam, Stooq
        chosen["volume"] = next(name for name in names if plain[name] == "vol")
    for role in ("timestamp", *COLUMNS):
        if role not in chosen:
            raise BarsError(
                f"{where}: no column {role!r} among {listing(names)}; "
                "name the columns timestamp, open, high, low, close, volume"
            )
    telling = [name for key in _INSTRUMENT for name in names if plain[name] == key]
    return chosen | ({"instrument": telling[0]} if telling else {})


def frame_piece(frame: Any, where: str, counts: dict[str, int]) -> Piece:
    """The rows of a frame in memory: pandas, or anything with the Arrow C stream interface (polars, pyarrow).

    The index of a pandas frame holds the times where no column does. ``counts`` gains the columns that have another
    name than in bars, and those that are left out.
    """
    columns: dict[str, Column]
    if isinstance(frame, pd.DataFrame):
        frame = _flat(frame, where)
        names = [str(name) for name in frame.columns]
        indexed = not isinstance(frame.index, pd.RangeIndex) and not any(map(names_time, names))
        chosen = choose(["timestamp", *names] if indexed else names, where)
        inside = {role: name for role, name in chosen.items() if not indexed or role != "timestamp"}
        columns = {role: frame.iloc[:, names.index(name)] for role, name in inside.items()}
        if indexed:
            columns["timestamp"] = frame.index.to_series()
    elif hasattr(frame, "__arrow_c_stream__"):
        try:
            table = pa.table(frame)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise BarsError(f"{where}: not a table ({error}); pass a frame with a column for each field") from error
        names, indexed = table.column_names, False
        chosen = choose(names, where)
        columns = {role: table.column(name) for role, name in chosen.items()}
    else:
        kind = type(frame).__name__
        raise BarsError(f"{where}: bars come from a path, or a frame of pandas, polars or pyarrow, not {kind}")
    if not len(columns["timestamp"]):
        raise BarsError(f"{where}: no bars (0 rows); pass at least one")
    counts["columns renamed"] = sum(role in COLUMNS and name != role for role, name in chosen.items())
    counts["columns left out"] = len(names) - len(chosen) + indexed + ("instrument" in chosen)
    return Piece(columns, chosen, where)


def _flat(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """A frame with one row of column names, and the levels of a MultiIndex as columns."""
    if frame.columns.nlevels > 1:
        raise BarsError(
            f"{where}: columns have {frame.columns.nlevels} levels, such as {frame.columns[0]!r} (yfinance); pass one "
            "market with one level, as frame.xs(ticker, axis=1, level='Ticker')"
        )
    if not isinstance(frame.index, pd.MultiIndex):
        return frame
    dated = [pd.api.types.is_datetime64_any_dtype(level.dtype) for level in frame.index.levels]
    names = [
        name or ("timestamp" if has_times else "symbol")
        for name, has_times in zip(frame.index.names, dated, strict=True)
    ]
    return frame.reset_index(names=names, allow_duplicates=True)


def joined_times(columns: Mapping[str, Column]) -> pd.Series:
    """The time column; MetaTrader's date and clock columns as one."""
    values = columns["timestamp"]
    if "clock" in columns:  # MetaTrader: 2024.01.31 and 09:30:00
        day, clock = (as_pandas(column).astype("str") for column in (values, columns["clock"]))
        return day.str.strip().str.replace(".", "-") + " " + clock.str.strip()
    if not isinstance(values, pd.Series) and pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    return as_pandas(values)


def as_pandas(values: Column) -> pd.Series:
    """A column as a pandas Series with rows from 0."""
    return values.reset_index(drop=True) if isinstance(values, pd.Series) else pd.Series(values.to_pandas())


def parse_numbers(values: Column) -> tuple[Float64Array, BoolArray]:
    """Numbers of a column (n,), NaN where there is none, and the rows that hold something else than a number or "nan".

    Raises RowError for a decimal comma or thousands separators: a guess would be wrong by a factor of 1000.
    """
    none = np.zeros(len(values), dtype=bool)
    if not isinstance(values, pd.Series) and not pa.types.is_boolean(values.type):
        try:
            return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64), none
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass  # text that Arrow does not read as a number, or another type
    column = as_pandas(values)
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        try:
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan)), none
        except (TypeError, ValueError):
            pass  # complex numbers
    plain = np.array([isinstance(x, _NUMERIC) and not isinstance(x, bool) for x in column], dtype=bool)
    numbers = pd.to_numeric(column.astype(object).where(plain), errors="coerce").to_numpy(dtype=np.float64)
    bad, commas = np.isnan(numbers), none
    for row in np.flatnonzero(bad):
        value = column.iloc[row]
        bad[row] = value.strip().lower() != "nan" if isinstance(value, str) else not isinstance(value, float)
        commas[row] = isinstance(value, str) and re.fullmatch(_COMMA, value.strip()) is not None
    if commas.any():
        what = "has a decimal comma or thousands separators, which are not guessed"
        raise first_fault(column, commas, what, "mend it: export with decimal points and without separators")
    return numbers, bad
