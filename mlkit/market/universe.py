"""A universe: the symbols of a study, one a line of a text file."""

from pathlib import Path

from mlkit.errors import ConfigError
from mlkit.market.symbols import check_symbol


def read_universe(path: str | Path) -> tuple[str, ...]:
    """The symbols of a file in its order: one a line, ``#`` begins a comment, blank lines are left out.

    Raises ConfigError, with file and line, for a name that `check_symbol` refuses, a symbol that appears twice,
    a file that cannot be read as UTF-8 text, and one without symbols.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"universe {path}: cannot be read ({reason}); want text, one symbol a line") from error
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        symbol = line.partition("#")[0].strip()
        if not symbol:
            continue
        try:
            check_symbol(symbol)
        except ConfigError as error:
            raise ConfigError(f"universe {path}, line {number}: {error}") from error
        if symbol in lines:
            raise ConfigError(f"universe {path}, line {number}: {symbol} stands in line {lines[symbol]} already")
        lines[symbol] = number
    if not lines:
        raise ConfigError(f"universe {path}: no symbol in it; write one a line")
    return tuple(lines)
