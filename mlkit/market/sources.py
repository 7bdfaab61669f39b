"""Bars by name, from files and frames, and into the lake."""

from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError, DependencyError
from mlkit.market.bars import listing, validate_bars
from mlkit.market.lake.commits import Commit, Conflict
from mlkit.market.lake.store import BarStore
from mlkit.market.reading.instruments import by_instrument, check_files
from mlkit.market.reading.repair import RepairReport
from mlkit.market.reading.rows import Hours, Intake, source_pieces
from mlkit.market.reading.tables import KINDS
from mlkit.market.symbols import check_symbol
from mlkit.market.times import moment, timeframe_delta

BUILT_IN = {
    "SP500": "sp500",
    "NASDAQ": "nasdaq",
}  # folders of arch.data: real daily bars, 1999 to 2018
_BUILT_IN_DATES = "%m/%d/%Y"


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


def read_bars(
    source: Any, *, symbol: str, timeframe: str, tz: str | None = "UTC", calendar: str | None = None
) -> pd.DataFrame:
    """Read bars from a file or a frame in memory, strictly: nothing is repaired.

    A file is ``.csv``, ``.csv.gz``, ``.txt``, ``.tsv`` (comma, semicolon, tab or bar), ``.parquet`` or
    ``.feather``; a frame is one of pandas, polars, pyarrow or anything with the Arrow C stream interface. Its
    columns are open, high, low, close, volume in any case, and one of timestamp, date, time, datetime, open time,
    unix (or a time index): so exports of Binance, Yahoo, Kraken, MetaTrader (tick volume) and TradingView read as
    they are, and those of Binance, Kraken and MetaTrader without a header too. Other columns are left out. Times
    are ISO 8601, datetimes, or epoch numbers whose unit (s, ms, us, ns) follows from their magnitude. Rows may
    come in any order, and rows that repeat another exactly are dropped; nothing is lost by either.

    Parameters
    ----------
    source: path or frame.
    symbol, timeframe: labels of the result.
    tz: zone of times written without one (``"UTC"``); None refuses such times.
    calendar: trading calendar of the market, such as ``"XNYS"`` or ``"24/7"`` (`mlkit.market.calendar_names`); by
        default the weekly timetable in which the bars open, without holidays. Daily and longer bars that open at
        midnight of the exchange's zone are labelled by their local date.

    Returns valid bars (n_bars, 5), see ``validate_bars``.

    Raises ConfigError for a file that is missing or of another kind, and BarsError with path, column, rows
    and how to mend it for a row that is not a valid bar, such as one that is not closed yet.
    """
    with Intake(symbol, timeframe, tz=tz, now=_now(), hours=Hours(calendar)) as intake:
        intake.add(source)
        try:
            return intake.bars()
        except BarsError as error:
            raise BarsError(f"{source}: {error}" if isinstance(source, str | Path) else str(error)) from None


def import_bars(
    source: Any,
    *,
    symbol: str,
    timeframe: str,
    tz: str | None = "UTC",
    repair: bool = False,
    on_conflict: Conflict = "refuse",
    calendar: str | None = None,
    regular: bool = False,
    settings: Settings | None = None,
) -> tuple[Commit, RepairReport]:
    """Add the bars of a file, of all files of a folder, or of a frame to the lake, in one commit.

    Memory is bounded for files of any size: rows beyond 64 MB are kept in a temporary folder.

    Parameters
    ----------
    source, symbol, timeframe, tz: see ``read_bars``; files of a folder may overlap where they agree.
    repair: repair rows by the rules of ``repair_bars``; bars that are not closed yet are dropped then.
    on_conflict: for bars that the lake has with other values, see ``BarStore.append``.
    calendar: trading calendar of the market from now on, see ``read_bars``; by default that of the lake, or at the
        first import one chosen from all open times: ``commit.note`` says which.
    regular: drop the bars outside the calendar's sessions (extended hours).

    Returns (commit, report): what the lake gained, and how many rows were sorted, dropped or repaired.

    Raises as ``read_bars``, ConfigError for the name of a built-in series or a folder without files, and
    LakeError for a disk that refuses. Nothing is written then.
    """
    check_free(symbol, timeframe)
    store = BarStore((settings or Settings()).lake)
    name = Path(source).name if isinstance(source, str | Path) else None
    stored = _stored_calendar(store, symbol, timeframe, calendar)
    hours = Hours(calendar, stored, regular)
    with Intake(symbol, timeframe, tz=tz, repair=repair, now=_now(), hours=hours) as intake:
        files = _files(Path(source)) if isinstance(source, str | Path) else (source,)
        if name:
            check_files(files)
        for each in files:
            intake.add(each)
        return _commit(store, intake, on_conflict, name), intake.report


def import_markets(
    source: Any,
    *,
    timeframe: str,
    tz: str | None = "UTC",
    repair: bool = False,
    on_conflict: Conflict = "refuse",
    calendar: str | None = None,
    regular: bool = False,
    settings: Settings | None = None,
) -> dict[str, tuple[Commit, RepairReport]]:
    """Add the bars of several markets to the lake, each under its own name, in one commit a market.

    The name is that in the column ``symbol``, ``ticker`` or ``instrument``, else that at the start of the file's name.
    All rows are read and checked before the first commit. Other parameters and errors are those of ``import_bars``.

    Returns {symbol: (commit, report)}.
    """
    store = BarStore((settings or Settings()).lake)
    path = Path(source) if isinstance(source, str | Path) else None
    intakes: dict[str, Intake] = {}
    with ExitStack() as stack:
        for each in _files(path) if path else (source,):
            file_name = each.name if path else None
            for piece in source_pieces(each, f"markets {timeframe}", {} if repair else None):
                for symbol, rows in by_instrument(piece, file_name):
                    if symbol not in intakes:
                        check_free(symbol, timeframe)
                        stored = _stored_calendar(store, symbol, timeframe, calendar)
                        hours = Hours(calendar, stored, regular)
                        intake = Intake(symbol, timeframe, tz=tz, repair=repair, now=_now(), hours=hours)
                        intakes[symbol] = stack.enter_context(intake)
                    intakes[symbol].add_piece(rows)
        done = {}
        for symbol, intake in sorted(intakes.items()):
            done[symbol] = _commit(store, intake, on_conflict, path.name if path else None), intake.report
        return done


def _stored_calendar(store: BarStore, symbol: str, timeframe: str, calendar: str | None) -> str | None:
    """The calendar that the lake has for the market. BarsError where its bars do not fit the one that was asked for."""
    there = store.manifest(symbol, timeframe)
    if there is not None and calendar not in (None, there.calendar):
        validate_bars(store.read(symbol, timeframe), calendar=calendar)
    return None if there is None else there.calendar


def _commit(store: BarStore, intake: Intake, on_conflict: Conflict, source: str | None) -> Commit:
    """Write the rows of an intake; where it chose the calendar, the commit says which."""
    market, hours = (intake.symbol, intake.timeframe), intake.settle_times()
    commit = store.append_months(*market, intake.months(), calendar=hours, on_conflict=on_conflict, source=source)
    return commit if intake.choice is None else replace(commit, note=f"{intake.symbol}: {intake.choice.sentence}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.name.lower().endswith(KINDS) and each.name[0] not in "._")
    if not found:
        raise ConfigError(f"{path}: no file in it is one of {', '.join(KINDS)}")
    return found


def save_bars(bars: pd.DataFrame, settings: Settings | None = None) -> Commit:
    """Make a market of the lake exactly these bars: what was there under its name is replaced.

    Atomic: a reader sees the old bars or the new ones. Returns what changed, see `Commit`. Raises BarsError for
    bars that are not valid, ConfigError for the name of a built-in series, LakeError for a disk that refuses.
    To add bars to those that are there, use `mlkit.market.lake.store.BarStore.append`.
    """
    bars = validate_bars(bars)
    symbol, timeframe = bars.attrs["symbol"], bars.attrs["timeframe"]
    check_free(symbol, timeframe)
    return BarStore((settings or Settings()).lake).replace(bars)


def check_free(symbol: str, timeframe: str) -> None:
    """ConfigError where the name is that of a built-in series, which `load_bars` reads instead of the lake's."""
    if symbol in BUILT_IN and timeframe == "1d":
        raise ConfigError(f"{symbol} {timeframe} is built in; save the bars under another symbol")


def available(settings: Settings | None = None) -> list[tuple[str, str]]:
    """Every (symbol, timeframe) that ``load_bars`` can load: the built-in series, then the lake's, sorted."""
    return [(symbol, "1d") for symbol in BUILT_IN] + BarStore((settings or Settings()).lake).markets()


def _now() -> pd.Timestamp:
    """This machine's time: a bar that closes after it is not closed yet."""
    return pd.Timestamp.now("UTC")


def _built_in(symbol: str) -> pd.DataFrame:
    """Daily bars that ``arch`` ships; its file is read directly, as importing arch takes seconds."""
    spec = find_spec("arch")
    if spec is None or not spec.submodule_search_locations:
        raise DependencyError(f'{symbol} comes with the package arch; install it: pip install "mlkit[train]"')
    name = BUILT_IN[symbol]
    frame = pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / name / f"{name}.csv.gz")
    index = pd.DatetimeIndex(pd.to_datetime(frame.pop("Date"), format=_BUILT_IN_DATES)).tz_localize("UTC")
    frame = frame.set_index(index).drop(columns="Adj Close").rename(columns=str.lower)
    return validate_bars(frame, symbol=symbol, timeframe="1d", calendar="XNYS")


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
