"""Level 2: what a model learns, each value with the time at which it is known."""

from .returns import BEARISH as BEARISH
from .returns import BULLISH as BULLISH

# How often each pattern occurs, per 10,000 bars whose pattern is known, by both standards.
from .returns import base_rates as base_rates

# Direction that each pattern claims where it is found, known at the bar's close: int8 (n_bars, 15).
from .returns import claimed_directions as claimed_directions

# What acting on a forecast earns: log return from the open of bar t + 1 to the open of bar t + 1 + h.
from .returns import earned_returns as earned_returns

# Log return to each horizon, with the time at which it is known.
from .returns import forward_returns as forward_returns
from .returns import never_closes as never_closes

# Direction of each pattern at each bar: int8 (n_bars, 15), -1 bearish, 0 absent, +1 bullish.
from .returns import pattern_directions as pattern_directions

# Which of the 15 patterns each bar completes, known at its close; several may hold at once.
from .returns import pattern_labels as pattern_labels
