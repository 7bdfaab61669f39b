"""The newest bars and detected patterns as rows for a chart, and their positions in the static picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import pandas as pd
from pydantic import Field

from mlkit.inference.insight_data import InsightData, Price, PricePrediction
from mlkit.market import COLUMNS, open_times

# Epoch seconds of the bar's open time, open, high, low, close, volume.
CandleRow = tuple[int, Price, Price, Price, Price, Annotated[float, Field(ge=0.0)]]
# Epoch seconds of the bar's open time, pattern, direction: 1 bullish, -1 bearish, 0 neutral.
PatternMark = tuple[int, str, Literal[-1, 0, 1]]
CARD_CANDLES: Final = 90  # candles in the static picture
FORECAST_WIDTH: Final = 34  # per cent of the picture's width


def candles_of(bars: pd.DataFrame, newest: int = CARD_CANDLES) -> list[CandleRow]:
    """The newest bars as the endpoints send them, oldest first.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), valid bars.
    newest : number of bars.
    """
    seconds = (open_times(bars)[-newest:] // 1_000_000_000).tolist()
    rows = bars[list(COLUMNS)].iloc[-newest:].to_numpy().tolist()
    return [(time, *row) for time, row in zip(seconds, rows, strict=True)]


def marks_of(insight: InsightData) -> list[PatternMark]:
    """The patterns detected at the insight's own bar."""
    time = int(pd.Timestamp(insight.timestamp, tz="UTC").timestamp())
    directions = insight.patterns.directions
    return [(time, name, directions.get(name, 0)) for name in insight.patterns.detected]


_TONES: Final = {"up": "var(--up,#0b7566)", "down": "var(--down,#b23a26)"}


class Plot:
    """Where a time and a price lie in a picture of 100 by 100, from the candles and the forecasts.

    Candles share the left part evenly, the last one ends where the forecasts begin; from there time runs on a
    square-root axis. The price axis is logarithmic. Without candles the forecasts have all of the width, and no
    change lies in the middle.

    Parameters
    ----------
    candles : oldest first, the last is the bar of the forecasts; may be empty.
    prices : horizon in bars -> forecast.
    current : price at the end of the last candle.
    """

    def __init__(self, candles: Sequence[CandleRow], prices: Mapping[str, PricePrediction], current: float) -> None:
        self.candles = list(candles[-CARD_CANDLES:])
        self.known = sorted((int(h), p) for h, p in prices.items() if p.log_return is not None and p.interval)
        self.edges = {h: log_edges(p, current) for h, p in self.known}
        self._start = 100 - (FORECAST_WIDTH if self.known else 1) if self.candles else 0
        self._current = current
        moves = [e for four in self.edges.values() for e in four] + [p.log_return or 0.0 for _, p in self.known]
        moves += [math.log(price / current) for candle in self.candles for price in candle[2:4]]
        self.reach = max(map(abs, moves), default=0.0) or 1e-6
        self.top, self.bottom = self.reach, -self.reach
        if self.candles:
            self.top, self.bottom = max([*moves, 0.0]) or 1e-6, min([*moves, 0.0]) or -1e-6

    def x(self, horizon: int) -> float:
        """Of a horizon, in bars."""
        farthest = self.known[-1][0] if self.known else 1
        return self._start + (100 - self._start) * math.sqrt(horizon / farthest)

    def y(self, log_return: float) -> float:
        """Of a log return against the current price."""
        return 2 + 96 * (self.top - log_return) / (self.top - self.bottom)

    def candle_paths(self) -> str:
        """Wicks and bodies, one path of each for rising and for falling candles."""
        if not self.candles:
            return ""
        step = (self._start - 0.5) / len(self.candles)
        wicks: dict[str, list[str]] = {"up": [], "down": []}
        bodies: dict[str, list[str]] = {"up": [], "down": []}
        for k, (_, *ohlc, _) in enumerate(self.candles):
            opened, high, low, close = (self.y(math.log(price / self._current)) for price in ohlc)
            tone, left = "up" if ohlc[3] >= ohlc[0] else "down", k * step
            wicks[tone].append(f"M{left + step / 2:.2f} {high:.2f}V{low:.2f}")
            top, height = min(opened, close), max(abs(opened - close), 0.3)
            bodies[tone].append(f"M{left + step * 0.15:.2f} {top:.2f}h{step * 0.7:.2f}v{height:.2f}h{-step * 0.7:.2f}z")
        stroke = "fill:none;vector-effect:non-scaling-stroke;stroke-width:1;stroke"
        return "".join(
            f'<path d="{"".join(paths[tone])}" style="{style}:{colour}"/>'
            for paths, style in ((wicks, stroke), (bodies, "fill"))
            for tone, colour in _TONES.items()
            if paths[tone]
        )

    def cone(self, low: int, high: int, opacity: float) -> str:
        """The polygon between two of the four edges of each horizon."""
        upper = [f"{self.x(h):.2f},{self.y(self.edges[h][high]):.2f}" for h, _ in self.known]
        lower = [f"{self.x(h):.2f},{self.y(self.edges[h][low]):.2f}" for h, _ in reversed(self.known)]
        points = " ".join([f"{self._start:.2f},{self.y(0.0):.2f}", *upper, *lower])
        return f'<polygon points="{points}" style="fill:var(--accent);opacity:{opacity}"/>'

    def lines(self) -> str:
        """No change, dashed, and the point forecast."""
        stroke = "fill:none;vector-effect:non-scaling-stroke"
        start, zero = f"{self._start:.2f}", f"{self.y(0.0):.2f}"
        flat = (
            f'<line x1="{start}" y1="{zero}" x2="100" y2="{zero}" '
            f'style="{stroke};stroke:var(--soft);stroke-dasharray:3 4"/>'
        )
        path = " ".join([f"{start},{zero}", *(f"{x:.2f},{y:.2f}" for x, y in self.points())])
        return f'{flat}<polyline points="{path}" style="{stroke};stroke:var(--accent);stroke-width:2"/>'

    def points(self) -> list[tuple[float, float]]:
        """The point forecast of each horizon."""
        return [(self.x(h), self.y(p.log_return or 0.0)) for h, p in self.known]


def log_edges(price: PricePrediction, current: float) -> tuple[float, float, float, float]:
    """Lower 90, lower 80, upper 80, upper 90 as log returns."""
    assert price.interval is not None
    inner = price.interval_80 or price.interval
    ends = (price.interval[0], inner[0], inner[1], price.interval[1])
    low90, low80, high80, high90 = (math.log(end / current) for end in ends)
    return low90, low80, high80, high90
