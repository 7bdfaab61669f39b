"""Where bars come from: the two built-in series, CSV and Parquet files, and the local lake."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, DependencyError
from mlkit.market.bars import (
    COLUMNS,
    TIME_NAMES,
    Float64Array,
    check_symbol,
    listing,
    timeframe_delta,
    validate_bars,
)
from mlkit.market.commits import Commit
from mlkit.market.store import BarStore
from mlkit.market.times import RowError, first_fault, moment, parse_times

BUILT_IN = {
    "SP500": "sp500",
    "NASDAQ": "nasdaq",
}  # folders of arch.data: real daily bars, 1999 to 2018
_BUILT_IN_DATES = "%m/%d/%Y"
_INDEX_NAME = "__index_level_0__"  # pandas' name for a nameless index in Parquet


def load_bars(
    symbol: str,
    timeframe: str,
    *,
    since: str | pd.Timestamp | None = None,
    until: str | pd.Timestamp | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Bars by name: the built-in SP500 and NASDAQ at 1d (from ``arch``), else those of the lake.

    Parameters
    ----------
    symbol, timeframe: for example ``"SP500", "1d"``.
    since, until: half-open span ``since <= open time < until``; ISO 8601 text or Timestamp, naive is UTC.
    settings: names the lake; ``Settings()`` by default.

    Returns valid bars (n_bars, 5).

    Raises ConfigError for a name that does not exist (it lists those that do) or a time that cannot be read,
    BarsError for bad bars or an empty span, DependencyError where ``arch`` is not installed.
    """
    settings = settings or Settings()
    timeframe_delta(timeframe)
    start, stop = moment("since", since), moment("until", until)
    if start is not None and stop is not None and start >= stop:
        raise ConfigError(f"since ({start}) must be before until ({stop})")
    if check_symbol(symbol) in BUILT_IN and timeframe == "1d":
        whole = _built_in(symbol)
        bars = whole if start is None else whole.loc[whole.index >= start]
        bars = bars if stop is None else bars.loc[bars.index < stop]
    else:
        store = _lake_with(symbol, timeframe, settings)
        bars = store.read(symbol, timeframe, start, stop)
        whole = store.read(symbol, timeframe) if bars.empty else bars
    if bars.empty:
        span = f"{whole.index[0]} to {whole.index[-1]}"
        raise BarsError(f"{symbol} {timeframe}: no bars in [{start}, {stop}); there are bars from {span}")
    return bars


def read_bars(path: str | Path, *, symbol: str, timeframe: str, tz: str | None = "UTC") -> pd.DataFrame:
    """Read bars from one ``.csv``, ``.csv.gz`` or ``.parquet`` file, strictly: nothing is repaired.

    The file has a header with open, high, low, close, volume in any case, and one of timestamp, date, time,
    datetime, open time (or, in Parquet, a time index). Other columns, such as ``Adj Close`` or trade counts,
    are no part of bars and are left out. CSV may be separated by comma, semicolon, tab or bar. Times are
    ISO 8601, datetimes, or epoch numbers whose unit (s, ms, us, ns) follows from their magnitude.

    Parameters
    ----------
    path: the file.
    symbol, timeframe: labels of the result.
    tz: zone of times written without one (``"UTC"``); None refuses such times.

    Returns valid bars (n_bars, 5), see ``validate_bars``.

    Raises ConfigError for a file that is missing or of another kind, and BarsError with path, column, line
    and mend for anything in it that is not a valid bar.
    """
    path = Path(path)
    check_symbol(symbol)
    timeframe_delta(timeframe)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a .csv, .csv.gz or .parquet file")
    text = path.name.lower().endswith((".csv", ".csv.gz"))
    if not text and path.suffix.lower() not in (".parquet", ".pq"):
        raise ConfigError(f"{path}: {path.suffix or 'no'} file type; mlkit reads .csv, .csv.gz and .parquet")
    if path.stat().st_size == 0:
        raise BarsError(f"{path}: the file is empty; export the bars again")
    try:
        table = _csv_table(path) if text else _parquet_table(path)
        frame = _frame(table, path, text, tz)
        return validate_bars(frame, symbol=symbol, timeframe=timeframe)
    except BarsError as error:
        raise BarsError(str(error) if str(error).startswith(f"{path}") else f"{path}: {error}") from None


def save_bars(bars: pd.DataFrame, settings: Settings | None = None) -> Commit:
    """Make a market of the lake exactly these bars: what was there under its name is replaced.

    Atomic: a reader sees the old bars or the new ones. Returns what changed, see `Commit`. Raises BarsError for
    bars that are not valid, ConfigError for the name of a built-in series, LakeError for a disk that refuses.
    To add bars to those that are there, use `mlkit.market.store.BarStore.append`.
    """
    bars = validate_bars(bars)
    symbol, timeframe = bars.attrs["symbol"], bars.attrs["timeframe"]
    check_free(symbol, timeframe)
    return BarStore((settings or Settings()).lake).replace(bars)


def check_free(symbol: str, timeframe: str) -> None:
    """ConfigError where the name is that of a built-in series, which the lake's bars would never be read for."""
    if symbol in BUILT_IN and timeframe == "1d":
        raise ConfigError(f"{symbol} {timeframe} is built in; save the bars under another symbol")


def available(settings: Settings | None = None) -> list[tuple[str, str]]:
    """Every (symbol, timeframe) that ``load_bars`` can load: the built-in series, then the lake's, sorted."""
    return [(symbol, "1d") for symbol in BUILT_IN] + BarStore((settings or Settings()).lake).markets()


def _built_in(symbol: str) -> pd.DataFrame:
    """Daily bars that ``arch`` ships; its file is read directly, as importing arch takes seconds."""
    spec = find_spec("arch")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(f'{symbol} comes with the package arch; install it: pip install "mlkit[train]"')
    name = BUILT_IN[symbol]
    frame = pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / name / f"{name}.csv.gz")
    index = pd.DatetimeIndex(pd.to_datetime(frame.pop("Date"), format=_BUILT_IN_DATES)).tz_localize("UTC")
    frame = frame.set_index(index).drop(columns="Adj Close").rename(columns=str.lower)
    return validate_bars(frame, symbol=symbol, timeframe="1d")


def _lake_with(symbol: str, timeframe: str, settings: Settings) -> BarStore:
    """The lake, if it has this market; ConfigError naming those that there are."""
    store = BarStore(settings.lake)
    if not store.has_bars(symbol, timeframe):
        names = listing([f"{name} {tf}" for name, tf in available(settings)], 20)
        raise ConfigError(
            f"no bars {symbol} {timeframe}; there are {names}; import a file with "
            f'mlkit.save_bars(mlkit.read_bars("file.csv", symbol="{symbol}", timeframe="{timeframe}"))'
        )
    return store


# --- files to frames ------------------------------------------------------------------------------


def _csv_table(path: Path) -> pa.Table:
    """Every column as text, so that nothing is parsed by a guess."""
    raw = path.read_bytes()
    try:
        data = gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw
        head = data.lstrip(b"\xef\xbb\xbf\r\n").split(b"\n", 1)[0].decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BarsError(f"{path}: not a readable UTF-8 CSV file ({error}); export it again") from error
    comma = max(",;\t|", key=head.count)
    names = [name.strip('"') for name in head.rstrip("\r").split(comma)]
    try:
        return pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 24),
            parse_options=pa.csv.ParseOptions(delimiter=comma),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise BarsError(f"{path}: {' '.join(str(error).split())}; mend the line or export again") from error


def _parquet_table(path: Path) -> pa.Table:
    try:
        return pa.parquet.ParquetFile(path).read()  # not read_table: it would read labels off the path
    except (pa.ArrowInvalid, OSError) as error:
        raise BarsError(f"{path}: not a readable Parquet file ({error}); write it again") from error


def _frame(table: pa.Table, path: Path, text: bool, tz: str | None) -> pd.DataFrame:
    chosen = _choose(table.column_names, path)
    if table.num_rows == 0:
        raise BarsError(f"{path}: a header but no rows; export the bars again")
    columns = {}
    for role, name in chosen.items():
        values = table.column(table.column_names.index(name))
        try:
            columns[role] = parse_times(_times(values), tz=tz) if role == "timestamp" else _numbers(values)
        except RowError as error:
            at = f"line {_line(path, error.row)}" if text else f"row {error.row}"
            raise BarsError(f"{path}: column {name!r}, {at}: {error.detail}") from None
    index = columns.pop("timestamp")
    return pd.DataFrame(columns, index=index, copy=False)


def _choose(names: list[str], path: Path) -> dict[str, str]:
    """Map timestamp, open, ... volume to the file's column names."""
    chosen: dict[str, str] = {}
    for name in names:
        key = name.strip().lower()
        key = "timestamp" if key in (*TIME_NAMES, _INDEX_NAME) else key
        if key not in ("timestamp", *COLUMNS):
            continue
        if key in chosen:
            raise BarsError(f"{path}: columns {chosen[key]!r} and {name!r} both name the {key}; keep one")
        chosen[key] = name
    for role in ("timestamp", *COLUMNS):
        if role not in chosen:
            raise BarsError(
                f"{path}: no column {role!r} in the header ({listing(names)}); "
                "name the columns timestamp, open, high, low, close, volume in the first line"
            )
    return chosen


def _times(values: pa.ChunkedArray) -> pd.Series:
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    return pd.Series(values.to_pandas())


def _numbers(values: pa.ChunkedArray) -> Float64Array:
    try:
        return np.asarray(values.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        column = values.to_pandas()
        parsed = pd.to_numeric(column, errors="coerce")
        bad = parsed.isna().to_numpy() if parsed.dtype.kind in "fiu" else np.ones(len(column), dtype=bool)
        if bad.any():
            raise first_fault(column, bad, "is not a number", "mend the value") from None
        return np.asarray(parsed, dtype=np.float64)


def _line(path: Path, row: int) -> int:
    """Line of a CSV file, from 1, that holds data row ``row``; blank lines hold none."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        filled = (number for number, line in enumerate(file, 1) if line.strip())
        return next(number for position, number in enumerate(filled) if position == row + 1)
