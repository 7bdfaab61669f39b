"""Prices, returns and probabilities as text, for the card and the terminal."""

import math
from typing import Final

_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_price(value: float, *, plain: bool = False) -> str:
    """A quoted price with all of its digits, at most 7 significant ones."""
    digits = len(f"{value:.7g}".split("e")[0].replace(".", "").strip("0"))
    return format_prices(value, significant=max(1, digits), plain=plain)


def format_prices(*values: float, step: float | None = None, significant: int = 5, plain: bool = False) -> str:
    """Prices with the same number of decimals, enough to show a tenth of ``step``; tiny ones share a power of ten.

    Each has at least ``significant`` digits; whole numbers keep all of theirs. ``plain`` gives ASCII.
    """
    finest = 10.0 ** (math.floor(math.log10(max(values))) - significant + 1)
    finest = min(finest, step / 10) if step else finest
    decimals = max(0, math.ceil(-math.log10(finest) - 1e-9))
    dash = " to " if plain else " \N{EN DASH} "
    if min(values) >= 1e-4:
        return dash.join(f"{value:,.{decimals}f}" for value in values)
    power = math.floor(math.log10(values[0]))
    if plain:
        return dash.join(f"{value:.{max(0, decimals + power)}e}" for value in values)
    mantissas = dash.join(f"{value / 10.0**power:.{max(0, decimals + power)}f}" for value in values)
    return f"{mantissas} \N{MULTIPLICATION SIGN}10{str(power).translate(_SUPERSCRIPT)}"


def format_change(log_return: float, decimals: int | None = None) -> str:
    """A log return as a signed simple return; with ``decimals`` also zero is written as a number."""
    if log_return == 0 and decimals is None:
        return "no change"
    decimals = change_decimals(log_return) if decimals is None else decimals
    return f"{math.expm1(log_return) * 100:+.{decimals}f}%".replace("-", "\N{MINUS SIGN}")


def change_decimals(*log_returns: float) -> int:
    """Decimals of a percentage that give the largest change about three digits."""
    largest = max(map(abs, log_returns), default=0.0)
    return 2 if largest >= 1e-3 or largest < 1e-8 else 3 if largest >= 1e-4 else 4


def format_probability(probability: float) -> str:
    """A probability in per cent; 0 % and 100 % only where they are exact."""
    if 0 < probability < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= probability < 1 else f"{probability:.0%}"


def format_bars(count: str | int) -> str:
    """``1 bar``, ``5 bars``."""
    return f"{count} bar" if str(count) == "1" else f"{count} bars"
