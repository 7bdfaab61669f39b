"""Labels of the 15 candlestick patterns: which bar completes which, its direction, and the standard of a market."""

from typing import Literal

import numpy as np
import pandas as pd

from mlkit.features import PATTERNS, RULES, STANDARDS, WARM_UP, Standard, pattern_flags
from mlkit.market import calendar_of, ohlcv_arrays, validate_bars

#: Patterns that are bullish by name.
BULLISH = tuple(name for name, rule in RULES.items() if rule.claim == 1)


def market_standard(bars: pd.DataFrame) -> Standard:
    """Which definition of the patterns fits a market: "continuous" where it trades without closes, else "classic".

    The calendar of the bars decides, never a price; validated bars are expected.
    """
    return "continuous" if calendar_of(bars).never_closes else "classic"


def pattern_labels(bars: pd.DataFrame, standard: Standard = "classic") -> pd.DataFrame:
    """Which of the 15 patterns each bar completes, known at its close; several may hold at once.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        See ``validate_bars``.
    standard : "classic" or "continuous"
        TA-Lib's definition, or the one for markets that never close (``mlkit.features.rules``).

    Returns
    -------
    DataFrame of bool (n_bars, 15)
        Index of ``bars``, columns ``PATTERNS``. ``attrs["warm_up"]`` maps a pattern to the number of first
        rows in which it is not known; those rows are False and should be left out of training and rates.

    ConfigError for an unknown standard, BarsError for bars that break the contract.
    """
    directions = pattern_directions(bars, standard)
    labels = directions != 0
    labels.attrs = dict(directions.attrs)
    return labels


def pattern_directions(bars: pd.DataFrame, standard: Standard = "classic") -> pd.DataFrame:
    """Direction of each pattern at each bar: int8 (n_bars, 15), -1 bearish, 0 absent, +1 bullish.

    Harami and marubozu take both signs, a doji is +1. Parameters, ``attrs`` and errors are those of
    ``pattern_labels``.
    """
    bars = validate_bars(bars)
    open, high, low, close, _ = ohlcv_arrays(bars)
    flags = pattern_flags(open, high, low, close, standard)
    frame = pd.DataFrame(flags, index=bars.index, columns=pd.Index(PATTERNS, name="pattern"))
    frame.attrs = {**bars.attrs, "standard": standard, "warm_up": dict(WARM_UP)}
    return frame


def pattern_direction(name: str, colour: int, previous: int) -> Literal[-1, 0, 1]:
    """Direction that a pattern claims where it is found: +1 bullish, -1 bearish, 0 for a doji, which claims none.

    A marubozu takes the colour of its candle, a harami the opposite of the candle before it, as TA-Lib signs them; the
    other twelve have one direction by name. A name that is none of the 15 has none.

    Parameters
    ----------
    name : one of the 15 patterns.
    colour, previous : +1 where the last bar, and the one before it, closes at or above its open, else -1.
    """
    claim = RULES[name].claim if name in RULES else 0
    if claim == "colour":
        return 1 if colour > 0 else -1
    if claim == "against the colour before":
        return -1 if previous > 0 else 1
    return claim


def claimed_directions(bars: pd.DataFrame) -> pd.DataFrame:
    """`pattern_direction` of every pattern at every bar, known at the bar's close: int8 (n_bars, 15).

    Unlike `pattern_directions` it does not depend on whether the pattern is there, so that a probability can be
    signed. BarsError for bars that break the contract.
    """
    bars = validate_bars(bars)
    white = (bars["close"] >= bars["open"]).to_numpy()
    before = np.append(white[:1], white[:-1])
    frame = pd.DataFrame(np.int8(0), index=bars.index, columns=pd.Index(PATTERNS, name="pattern"))
    for name in PATTERNS:
        sides = [[pattern_direction(name, a, b) for b in (-1, 1)] for a in (-1, 1)]
        frame[name] = np.array(sides, dtype=np.int8)[white.astype(int), before.astype(int)]
    frame.attrs = dict(bars.attrs)
    return frame


def base_rates(bars: pd.DataFrame) -> pd.DataFrame:
    """How often each pattern occurs, per 10,000 bars whose pattern is known, by both standards.

    Returns a DataFrame (15, 2): index ``pattern``, columns "classic" and "continuous"; NaN for a pattern
    that the bars are too few to know. BarsError for bars that break the contract.
    """
    labels = {standard: pattern_labels(bars, standard) for standard in STANDARDS}
    known = (len(bars) - pd.Series(WARM_UP, dtype=float)).clip(lower=0.0).replace(0.0, np.nan)
    return pd.DataFrame({standard: 10_000 * found.sum() / known for standard, found in labels.items()})
