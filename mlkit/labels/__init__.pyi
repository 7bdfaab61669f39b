"""Level 2: what a model learns, each value with the time at which it is known."""

# Names of the patterns that are bullish by name.
from .candlesticks import BULLISH as BULLISH

# How often each pattern occurs, per 10,000 bars whose pattern is known, by both standards.
from .candlesticks import base_rates as base_rates

# Direction that each pattern claims where it is found, known at the bar's close: int8 (n_bars, 15).
from .candlesticks import claimed_directions as claimed_directions

# Definition of the patterns that fits a market: "continuous" where it trades without closes, else "classic".
from .candlesticks import market_standard as market_standard

# Direction of one pattern, from the colours of the last two candles: +1 bullish, -1 bearish, 0 none.
from .candlesticks import pattern_direction as pattern_direction

# Direction of each pattern at each bar by its rule: int8 (n_bars, 15), -1 bearish, 0 absent, +1 bullish.
from .candlesticks import pattern_directions as pattern_directions

# Which of the 15 patterns each bar completes, known at its close; several may hold at once.
from .candlesticks import pattern_labels as pattern_labels

# Horizons by default, bars ahead.
from .returns import HORIZONS as HORIZONS

# Log return of acting on a forecast: from the open of bar t + 1 to the open of bar t + 1 + h.
from .returns import earned_returns as earned_returns

# Log return from close to close to each horizon, with the time at which it is known.
from .returns import forward_returns as forward_returns
