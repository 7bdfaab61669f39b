"""Which market rows are of, by a symbol column or a file's name: bars of several markets never become one."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from mlkit.errors import BarsError, ConfigError
from mlkit.market.bars import listing
from mlkit.market.reading.headers import LABELS, Piece, as_pandas

# A timeframe or a date, which in file names follows the symbol: BTCUSDT-1h-2024-01, EURUSD_M5, AAPL 2023.
_PERIOD = r"(?:\d{1,3}(?:min|mo|[smhdwMHDW])|[MHDW]\d{1,3}|(?:19|20)\d\d(?:[-_.]?\d\d){0,2})"
_NAME = re.compile(rf"(?P<market>.+?)[-_ .]+{_PERIOD}(?:[-_ .].*)?")


def check_instrument(piece: Piece, symbol: str) -> None:
    """BarsError where the symbol column of rows has several values, or another one than ``symbol``."""
    if "instrument" not in piece.columns:
        return
    column, found = piece.names["instrument"], _distinct(piece)
    if len(found) > 1:
        raise BarsError(
            f"{piece.where}: column {column!r} holds {len(found)} markets ({listing(found, 5)}); import each under its "
            "own name with --split (mlkit.import_markets), or keep the rows of one"
        )
    if found and column.strip().strip("<>").lower() not in LABELS and _plain(found[0]) != _plain(symbol):
        raise BarsError(
            f"{piece.where}: column {column!r} says {found[0]}, not {symbol}; pass that symbol, or remove the column"
        )


def by_instrument(piece: Piece, file_name: str | None) -> Iterator[tuple[str, Piece]]:
    """The rows of each market under the name in the symbol column, else in the file's name.

    Raises BarsError for rows of which neither names a market.
    """
    if "instrument" in piece.columns:
        names = as_pandas(piece.columns["instrument"]).astype("str").str.strip()
        if not (names.isna() | names.eq("")).any():
            for name in sorted(names.unique()):
                yield name, piece.take(np.flatnonzero(names == name))
            return
        raise BarsError(f"{piece.where}: column {piece.names['instrument']!r} is empty in some rows; mend or drop them")
    if file_name is None:
        raise BarsError(f"{piece.where}: no column symbol, ticker or instrument names the markets; add one")
    yield file_market(file_name) or file_name.split(".")[0], piece


def file_market(file_name: str) -> str | None:
    """The market before a timeframe or date in a file's name; None for a name of another form."""
    found = _NAME.fullmatch(file_name.split(".")[0])
    return found["market"] if found else None


def check_files(paths: Sequence[Path]) -> None:
    """ConfigError where the names of files that are to become one market name different ones."""
    named = {_plain(name): path for path in reversed(paths) if (name := file_market(path.name))}
    if len(named) > 1:
        first, second, *_ = sorted(named.values())
        raise ConfigError(
            f"{first.parent}: its files name {len(named)} markets, such as {first.name} and {second.name}; import each "
            "under its own name with --split, or from a folder of its own"
        )


def _distinct(piece: Piece) -> list[str]:
    """Values of the symbol column, blanks and repeated header lines left out."""
    column = piece.columns["instrument"]
    values = column.unique() if isinstance(column, pd.Series) else pa.compute.unique(column).to_pylist()
    texts = {str(value).strip() for value in values if value is not None and value == value}
    return sorted(texts - {"", piece.names["instrument"]})


def _plain(name: str) -> str:
    """Letters and digits: BTC/USDT, btc-usdt and BTCUSDT are one market."""
    return re.sub(r"[^A-Z0-9]", "", name.upper())
