"""Commands over bars: import."""

import gzip
import zlib
from pathlib import Path
from typing import Any

from mlkit.cli.arguments import AddCommand, Arguments, market_arguments, settings_from
from mlkit.errors import BarsError, ConfigError


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("import", _import, "check a CSV or Parquet file of bars and save it into the lake")
    sub.add_argument("file", type=Path, help=".csv, .csv.gz or .parquet with timestamp, open, high, low, close, volume")
    market_arguments(sub)
    sub.add_argument("--repair", action="store_true", help="mend what can be mended and print what was")


def _import(arguments: Arguments) -> None:
    from mlkit.market.repair import repair_bars
    from mlkit.market.sources import read_bars, save_bars

    names = {"symbol": arguments.symbol, "timeframe": arguments.timeframe}
    if arguments.repair:
        bars, report = repair_bars(_raw_frame(arguments.file), **names)
        print(report)
    else:
        bars = read_bars(arguments.file, **names)
    path = save_bars(bars, settings_from()).folder
    span = " to ".join(f"{time:%Y-%m-%d %H:%M}" for time in (bars.index[0], bars.index[-1]))
    print(f"{len(bars):,} bars, {span} UTC, saved as {path}")


def _raw_frame(path: Path) -> Any:
    """A file as pandas reads it, for `repair_bars` to judge."""
    import pandas as pd

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a .csv, .csv.gz or .parquet file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, sep=_separator(path), low_memory=False)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise BarsError(f"{path}: not a readable CSV or Parquet file ({error}); export it again") from error


def _separator(path: Path) -> str:
    """Comma, semicolon, tab or bar: the one that the first line holds most of."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return max(",;\t|", key=file.readline().count)
