"""The newest bars and detected patterns as rows for a chart, and their positions in the static picture."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import pandas as pd
from pydantic import Field

from mlkit.inference.insight_data import InsightData, PatternReading, Price, PricePrediction
from mlkit.inference.show.number_format import format_bars, format_change
from mlkit.market import COLUMNS, open_times

# Epoch seconds of the bar's open time, open, high, low, close, volume.
CandleRow = tuple[int, Price, Price, Price, Price, Annotated[float, Field(ge=0.0)]]
# Epoch seconds of the bar's open time, pattern, direction: 1 bullish, -1 bearish, 0 neutral.
PatternMark = tuple[int, str, Literal[-1, 0, 1]]
CARD_CANDLES: Final = 90  # candles in the static picture
FORECAST_WIDTH: Final = 34  # per cent of the picture's width


def candles_of(bars: pd.DataFrame, newest: int = CARD_CANDLES) -> list[CandleRow]:
    """The ``newest`` of valid bars as the endpoints send them, oldest first."""
    seconds = (open_times(bars)[-newest:] // 1_000_000_000).tolist()
    rows = bars[list(COLUMNS)].iloc[-newest:].to_numpy().tolist()
    return [(time, *row) for time, row in zip(seconds, rows, strict=True)]


def marks_of(insight: InsightData) -> list[PatternMark]:
    """The patterns detected at the insight's own bar."""
    time = int(pd.Timestamp(insight.timestamp, tz="UTC").timestamp())
    directions = insight.patterns.directions
    return [(time, name, directions.get(name, 0)) for name in insight.patterns.detected]


# Colours of rising and falling candles.
_COLOURS: Final = {"up": "var(--up,#0b7566)", "down": "var(--down,#b23a26)"}


class Plot:
    """Positions in a picture of 100 by 100 of candles, forecasts, marks and labels.

    Candles share the left part evenly; the forecasts start at the last one and are spaced by the square root of their
    horizon, so that the cone of a random walk has straight edges. The price axis is logarithmic. Without candles the
    forecasts take the full width, and no change lies in the middle.

    ``candles`` come oldest first, the last is the bar of the forecasts, and ``current`` the price at its close.
    """

    def __init__(self, candles: Sequence[CandleRow], prices: Mapping[str, PricePrediction], current: float) -> None:
        self.candles = list(candles[-CARD_CANDLES:])
        self.known = sorted((int(h), p) for h, p in prices.items() if p.log_return is not None and p.interval)
        # Of each horizon the lower 90 %, lower 80 %, upper 80 % and upper 90 % interval bound as log returns.
        self.bounds: dict[int, list[float]] = {}
        for horizon, price in self.known:
            assert price.interval is not None
            four = (price.interval[0], *(price.interval_80 or price.interval), price.interval[1])
            self.bounds[horizon] = [math.log(bound / current) for bound in four]
        self.start = 100 - (FORECAST_WIDTH if self.known else 1) if self.candles else 0
        self.label = " and ".join(["candles"] * bool(self.candles) + ["forecast cones"] * bool(self.known))
        self._current = current
        moves = [bound for bounds in self.bounds.values() for bound in bounds]
        moves += [p.log_return or 0.0 for _, p in self.known]
        moves += [math.log(price / current) for candle in self.candles for price in candle[2:4]]
        reach = max(map(abs, moves), default=0.0) or 1e-6
        self.top, self.bottom = reach, -reach
        if self.candles:
            self.top, self.bottom = max([*moves, 0.0]) or 1e-6, min([*moves, 0.0]) or -1e-6

    def x(self, horizon: int) -> float:
        """Position of a horizon in bars."""
        farthest = self.known[-1][0] if self.known else 1
        return self.start + (100 - self.start) * math.sqrt(horizon / farthest)

    def y(self, log_return: float) -> float:
        """Position of a log return against the current price."""
        return 2 + 96 * (self.top - log_return) / (self.top - self.bottom)

    def points(self) -> list[tuple[float, float]]:
        """The point forecast of each horizon."""
        return [(self.x(h), self.y(p.log_return or 0.0)) for h, p in self.known]

    def cone(self, low: int, high: int) -> str:
        """Points of the polygon between two of the four interval bounds of each horizon."""
        upper = [f"{self.x(h):.2f},{self.y(self.bounds[h][high]):.2f}" for h, _ in self.known]
        lower = [f"{self.x(h):.2f},{self.y(self.bounds[h][low]):.2f}" for h, _ in reversed(self.known)]
        return " ".join([f"{self.start:.2f},{self.y(0.0):.2f}", *upper, *lower])

    def candle_paths(self) -> list[tuple[str, str]]:
        """SVG path and style of the wicks and the bodies, one each for rising and for falling candles."""
        step = (self.start - 0.5) / max(len(self.candles), 1)
        wicks: dict[str, list[str]] = {"up": [], "down": []}
        bodies: dict[str, list[str]] = {"up": [], "down": []}
        for k, (_, *ohlc, _) in enumerate(self.candles):
            opened, high, low, close = (self.y(math.log(price / self._current)) for price in ohlc)
            tone, left = "up" if ohlc[3] >= ohlc[0] else "down", k * step
            wicks[tone].append(f"M{left + step / 2:.2f} {high:.2f}V{low:.2f}")
            top, height = min(opened, close), max(abs(opened - close), 0.3)
            bodies[tone].append(f"M{left + step * 0.15:.2f} {top:.2f}h{step * 0.7:.2f}v{height:.2f}h{-step * 0.7:.2f}z")
        stroke = "fill:none;vector-effect:non-scaling-stroke;stroke-width:1;stroke"
        return [
            ("".join(paths[tone]), f"{style}:{colour}")
            for paths, style in ((wicks, stroke), (bodies, "fill"))
            for tone, colour in _COLOURS.items()
            if paths[tone]
        ]

    def markers(self, patterns: PatternReading) -> list[tuple[int, float, float]]:
        """Direction and position of a sign for each direction that was detected, below or above the last candle."""
        if not self.candles:
            return []
        sides = sorted({patterns.directions.get(name, 0) for name in patterns.detected}, reverse=True)
        low, high = (self.y(math.log(self.candles[-1][k] / self.candles[-1][4])) for k in (3, 2))
        y = {1: low + 6, 0: high - (12 if -1 in sides else 6), -1: high - 6}
        return [(side, self.x(0) - 0.8, y[side]) for side in sides]

    def x_labels(self) -> list[tuple[str, str, str]]:
        """CSS class, position and text: dates of the candles, then horizons, longest first, without overlaps."""
        labels, placed = [("x", f"{self.x(0):.4g}%", "0")], [self.x(0)]
        if self.candles:
            first, last = (f"{datetime.fromtimestamp(self.candles[k][0], UTC):%Y-%m-%d}" for k in (0, -1))
            labels = [("x first", "0", first), ("x last", f"{self.x(0):.2f}%", last)]
        for horizon, _ in reversed(self.known):
            x, longest = self.x(horizon), len(placed) == 1
            # Without candles the longest horizon has a unit, which takes more room.
            gap = (10 if len(placed) == 2 else 7) if self.candles else (20 if len(placed) == 2 else 12)
            if min(abs(x - other) for other in placed) >= gap:
                text = f"+{horizon}" if self.candles else format_bars(horizon) if longest else str(horizon)
                labels.append(("x", f"{x:.2f}%", text))
                placed.append(x)
        return labels

    def y_labels(self) -> list[tuple[float, str]]:
        """Position and text of the top, no change and the bottom, where they are far enough apart."""
        zero = self.y(0.0)
        ends = [(2.0, format_change(self.top)), (98.0, format_change(self.bottom))]
        return sorted([(zero, "no change"), *(end for end in ends if abs(end[0] - zero) > 10)])
