"""Which names a market may have, and the one reversible way to write a name as a folder."""

import re
from urllib.parse import quote, unquote

from mlkit.errors import ConfigError

_SYMBOL = re.compile(r"[A-Za-z0-9^][A-Za-z0-9._/:=^+&@-]{0,31}", re.ASCII)


def check_symbol(symbol: str) -> str:
    """Return ``symbol`` if it is safe as a label and, through `symbol_folder`, as a folder name.

    1 to 32 of ASCII letters, digits and ``. _ - / : = ^ + & @``, the first a letter, a digit or ``^``, no
    ``..``: ``BTCUSDT``, ``BTC/USDT:USDT``, ``BRK.B``, ``^GSPC``, ``EURUSD=X``. ConfigError otherwise.
    """
    if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol) or ".." in symbol:
        shown = repr(symbol) if len(repr(symbol)) <= 80 else f"{repr(symbol)[:60]}... ({len(repr(symbol))} characters)"
        raise ConfigError(
            f"symbol {shown} is not accepted; use 1 to 32 of A-Z a-z 0-9 . _ - / : = ^ + & @ starting with a letter, "
            "digit or ^ and without '..', such as BTCUSDT or BTC/USDT:USDT"
        )
    return symbol


def symbol_folder(symbol: str) -> str:
    """``symbol`` as one folder name: every character but letters, digits, ``. _ -`` percent-encoded.

    ``BTC/USDT:USDT`` is ``BTC%2FUSDT%3AUSDT``: the encoding of Hive partitions, which DuckDB and pyarrow decode.
    ConfigError for a symbol that `check_symbol` refuses.
    """
    return quote(check_symbol(symbol), safe="").replace("~", "%7E")


def folder_symbol(folder: str) -> str:
    """The symbol whose `symbol_folder` is ``folder``; ConfigError for a name that none has."""
    symbol = check_symbol(unquote(folder))
    if symbol_folder(symbol) != folder:
        raise ConfigError(f"folder {folder!r} is not the name of a symbol; {symbol} is kept in {symbol_folder(symbol)}")
    return symbol
