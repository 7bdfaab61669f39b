"""Candidates for the 15 candlestick patterns, planted into simulated bars around the rules' thresholds."""

from dataclasses import dataclass

import numpy as np

from mlkit.market.bars import Float64Array
from mlkit.market.times import Int64Array

_WINDOW = 10  # bars of TA-Lib's averages of body and range


@dataclass(frozen=True)
class Moves:
    """Bars as log moves, (n_bars,) each: gap from the previous close, body, upper and lower shadow."""

    gap: Float64Array
    body: Float64Array
    upper: Float64Array
    lower: Float64Array

    def range(self) -> Float64Array:
        """High minus low in logs, (n_bars,)."""
        return np.asarray(np.abs(self.body) + self.upper + self.lower)


# One row is one candle: uniform ranges of gap, body, upper and lower shadow. Bodies are in units of the mean
# body of the 10 bars before the shape, the rest in units of their mean high-low range. The ranges straddle
# TA-Lib's thresholds: long body 1, short body 1, very short shadow 0.1, near 0.2, doji 0.1 of a range.
Candle = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
_ANY = (0.0, 0.4)  # a shadow that does not matter
_BARE = (0.0, 0.13)  # a shadow around "very short"

PATTERN_SHAPES: dict[str, tuple[Candle, ...]] = {
    "doji": (((-0.1, 0.1), (-0.35, 0.35), (0.0, 0.9), (0.0, 0.9)),),
    "hammer": (
        ((-0.1, 0.1), (-1.6, -0.3), _ANY, (0.0, 0.3)),
        ((-0.15, 0.1), (-0.9, 1.0), (0.0, 0.16), (0.2, 1.6)),
    ),
    "shooting_star": (
        ((-0.1, 0.1), (0.2, 1.6), _ANY, _ANY),
        ((0.0, 0.7), (-0.7, 0.9), (0.2, 1.6), (0.0, 0.16)),
    ),
    "engulfing_bullish": (
        ((-0.1, 0.1), (-1.3, -0.1), _ANY, _ANY),
        ((-0.35, 0.05), (0.3, 2.5), _ANY, _ANY),
    ),
    "morning_star": (
        ((-0.1, 0.1), (-2.4, -0.9), _ANY, _ANY),
        ((-0.6, 0.0), (-0.8, 0.7), _ANY, _ANY),
        ((-0.1, 0.4), (0.7, 2.6), _ANY, _ANY),
    ),
    "three_white_soldiers": (
        ((-0.1, 0.1), (0.8, 1.8), _BARE, _ANY),
        ((-0.4, 0.15), (0.8, 1.9), _BARE, _ANY),
        ((-0.4, 0.15), (0.8, 2.0), _BARE, _ANY),
    ),
    "three_black_crows": (
        ((-0.1, 0.1), (0.2, 1.4), _ANY, _ANY),
        ((-0.2, 0.1), (-2.0, -0.5), _ANY, _BARE),
        ((-0.03, 0.4), (-2.0, -0.5), _ANY, _BARE),
        ((-0.03, 0.4), (-2.0, -0.5), _ANY, _BARE),
    ),
    "harami": (
        ((-0.1, 0.1), (0.8, 2.6), _ANY, _ANY),
        ((-0.6, 0.05), (-0.9, 0.6), _ANY, _ANY),
    ),
    "piercing_line": (
        ((-0.1, 0.1), (-2.4, -0.9), _ANY, (0.0, 0.2)),
        ((-0.45, 0.0), (0.9, 2.6), _ANY, _ANY),
    ),
    "tweezer_top": (
        ((-0.1, 0.1), (0.1, 1.6), (0.0, 0.5), _ANY),
        ((-0.1, 0.0), (-1.6, -0.1), (-0.08, 0.08), _ANY),  # upper: its high less the high before
    ),
    "marubozu": (((-0.1, 0.1), (0.8, 2.6), _BARE, _BARE),),
}


def _mirror(shape: tuple[Candle, ...]) -> tuple[Candle, ...]:
    """The same shape upside down."""

    def flip(span: tuple[float, float]) -> tuple[float, float]:
        return -span[1], -span[0]

    return tuple((flip(gap), flip(body), lower, upper) for gap, body, upper, lower in shape)


PATTERN_SHAPES |= {
    "engulfing_bearish": _mirror(PATTERN_SHAPES["engulfing_bullish"]),
    "evening_star": _mirror(PATTERN_SHAPES["morning_star"]),
    "harami_bearish": _mirror(PATTERN_SHAPES["harami"]),
    "dark_cloud_cover": _mirror(PATTERN_SHAPES["piercing_line"]),
    "tweezer_bottom": _mirror(PATTERN_SHAPES["tweezer_top"]),
    "marubozu_black": _mirror(PATTERN_SHAPES["marubozu"]),
}
# Shapes that nature seldom makes are planted more often.
PATTERN_WEIGHTS = dict.fromkeys(PATTERN_SHAPES, 1.0) | {
    "shooting_star": 3.0,
    "morning_star": 3.0,
    "evening_star": 3.0,
    "three_black_crows": 5.0,
    "piercing_line": 4.0,
    "dark_cloud_cover": 4.0,
}


def plant_shapes(moves: Moves, rng: np.random.Generator, rate: float, *, with_gaps: bool) -> None:
    """Replace about a share ``rate`` of the bars by shapes, in place; they never overlap.

    ``with_gaps=False`` plants every shape with ``open == previous close``.
    """
    names = list(PATTERN_SHAPES)
    lengths = np.array([len(PATTERN_SHAPES[name]) for name in names])
    weights = np.array([PATTERN_WEIGHTS[name] for name in names])
    weights /= weights.sum()
    n_bars = len(moves.body)
    mean = float(lengths @ weights)
    most = int(n_bars / mean) + 1
    kinds = rng.choice(len(names), size=most, p=weights)
    idle = rng.geometric(1 / (1 + mean * (1 - rate) / rate), size=most) - 1
    starts = np.cumsum(idle + lengths[kinds]) - lengths[kinds]
    fits = starts + lengths[kinds] <= n_bars
    kinds, starts = kinds[fits], starts[fits]
    body_unit, range_unit = _recent_mean(np.abs(moves.body)), _recent_mean(moves.range())
    for kind, name in enumerate(names):
        at = starts[kinds == kind]
        for step, candle in enumerate(PATTERN_SHAPES[name]):
            rows = at + step
            gap, body, upper, lower = (rng.uniform(*span, size=len(rows)) for span in candle)
            moves.gap[rows] = gap * range_unit[at] if with_gaps else 0.0
            moves.body[rows] = body * body_unit[at]
            moves.upper[rows] = upper * range_unit[at]
            moves.lower[rows] = lower * range_unit[at]
        if name.startswith("tweezer"):
            _level(moves, at, top=name == "tweezer_top")


def _level(moves: Moves, at: Int64Array, *, top: bool) -> None:
    """Turn the second shadow of a tweezer from a difference of extremes into a shadow."""
    shadow = moves.upper if top else moves.lower
    sign = 1.0 if top else -1.0
    shadow[at + 1] = np.maximum(shadow[at] - sign * moves.gap[at + 1] + shadow[at + 1], 0.0)


def _recent_mean(values: Float64Array) -> Float64Array:
    """Mean of the 10 values before each bar; the mean of all where fewer exist."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means = np.full(len(values), values.mean())
    if len(values) > _WINDOW:
        means[_WINDOW:] = (sums[_WINDOW:-1] - sums[: -_WINDOW - 1]) / _WINDOW
    return means
