"""Patterns detected at recent bars, as marks on a chart."""

from typing import Final

import pandas as pd

from mlkit.errors import DependencyError
from mlkit.inference.insight import Insight
from mlkit.inference.predictor import Predictor
from mlkit.labels import pattern_direction
from mlkit.market import open_times

Mark = tuple[int, str, int]  # epoch seconds of the bar's open, pattern, direction: 1 bullish, -1 bearish, 0 neutral
MARKED: Final = 250  # newest bars of a history that are marked


def marks_of(insight: Insight) -> list[Mark]:
    """The patterns detected at the insight's own bar."""
    time = int(pd.Timestamp(insight.timestamp, tz="UTC").timestamp())
    patterns = insight.patterns
    return [(time, name, patterns.directions.get(name, 0)) for name in patterns.detected]


def recent_marks(predictor: Predictor, bars: pd.DataFrame) -> list[Mark]:
    """The patterns detected at the newest bars of a history, each known at its own bar's close; oldest first.

    Parameters
    ----------
    predictor : started with these bars.
    bars : DataFrame (n_bars, 5).
    """
    said = predictor.latest
    if said is None or not said.patterns.thresholds:
        return []
    tail = bars.iloc[-2 * MARKED :]
    try:
        probabilities = predictor.pattern_probabilities(tail)
    except DependencyError:  # without safetensors there are no patterns, and the insight says so
        return []
    limits = pd.Series(said.patterns.thresholds)
    found = (probabilities[limits.index] >= limits).iloc[-MARKED:].stack()
    seconds = dict(zip(tail.index, (open_times(tail) // 1_000_000_000).tolist(), strict=True))
    colours = (tail["close"] >= tail["open"]).astype(int) * 2 - 1
    before = colours.shift(fill_value=1)
    return [
        (seconds[time], str(name), pattern_direction(str(name), int(colours[time]), int(before[time])))
        for time, name in found.index[found.to_numpy()]
    ]
