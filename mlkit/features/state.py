"""The one causal state that every feature reads: recent bars, rolling sums, extremes and averages.

The state is a single float64 vector; `State` names views into it. Closed bars enter through `advance`, a block of
up to eight at a time, which touches nothing but that vector; so whatever a feature can see lies in the past.

What a bar is by itself (returns, ranges, products) is worked out for the whole block in `Lanes`. What remembers
(sums, extremes, averages) then goes bar by bar, all quantities of a bar side by side, and is turned into lanes
again for the formula sheets: `Seen`.
"""

import math
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mlkit.features.kernel import LANES, TINY, kernel, view
from mlkit.features.lanes import WIDTH, Lanes, Shelf, choose
from mlkit.features.rules import RULE_SIZES, RuleState

Vector = npt.NDArray[np.float64]
Part = TypeVar("Part")

# fmt: off
# Summed quantities, in an order in which each window sums one contiguous stretch.
(HIGHER_HIGH, HIGHER_LOW, BODY, RANGE, VOLUME, CLOSE, RETURN, RETURN2, RETURN3, RETURN4, CLOSE_VOLUME,
 SIGNED_VOLUME, BULK_VOLUME, ABS_MOVE, ABS_BODY, PARKINSON, ROGERS_SATCHELL, OPEN_CLOSE2, TYPICAL_VOLUME,
 FLOW_VOLUME, VOLUME2, RETURN_VOLUME, LAGGED_PRODUCT, BIPOWER, ABS_RETURN, ILLIQUIDITY, CORWIN_SCHULTZ,
 ZERO_RETURN, TYPICAL, TRUE_RANGE, FLOW_UP, FLOW_DOWN, VORTEX_UP, VORTEX_DOWN, UP_MOVE, DOWN_MOVE) = range(36)
N_QUANTITIES = 36

WINDOWS = (5, 10, 14, 20, 50, 100, 200)  # lengths of the rolling sums, bars
# Of each window, where its sums begin: `total[W20 + VOLUME]`.
W5, W10, W14, W20, W50, W100, W200 = range(0, 7 * N_QUANTITIES, N_QUANTITIES)
_STRETCHES = (  # first and last quantity that a window sums
    (HIGHER_HIGH, RETURN2), (HIGHER_HIGH, ABS_BODY), (TYPICAL, DOWN_MOVE), (VOLUME, TYPICAL),
    (BODY, BULK_VOLUME), (VOLUME, CLOSE_VOLUME), (VOLUME, RETURN2),
)
F5, F10, F14, F20, F50, F100, F200 = (first for first, _ in _STRETCHES)
WIDTHS = tuple(-(-(last + 1 - first) // LANES) * LANES for first, last in _STRETCHES)
EXTREMES = (14, 20, 50)  # lengths of the rolling highs and lows, bars
TRENDS = (20, 50)  # lengths of the regressions of the close on time, bars

# Fields of the recent bars.
(R_OPEN, R_HIGH, R_LOW, R_CLOSE, R_VOLUME, R_RETURN, R_TYPICAL, R_TO_HIGH, R_TO_LOW, R_VARIANCE,
 R_STOCHASTIC) = range(11)
N_FIELDS = 11
PAST = 64  # bars kept, at least
LENGTH = 2 * PAST + WIDTH  # room for a field: bar t is at PAST + t % PAST
AT_ONCE = 16  # a block of bars may not cross a multiple of this

# Exponential averages. The first eight are of the close, then twelve of changes, the last two of averages.
(E5, E10, E20, E50, E100, E200, E12, E26,
 GAIN7, LOSS7, GAIN14, LOSS14, GAIN21, LOSS21, ATR7, ATR14, ATR28, PLUS_DM, MINUS_DM,
 EWMA_VARIANCE) = range(20)
MACD_SIGNAL, ADX = 24, 25
SLOWEST = 200
# fmt: on
EMA_WEIGHTS = np.array(
    [2 / (n + 1) for n in (5, 10, 20, 50, 100, 200, 12, 26)]  # exponential
    + [1 / n for n in (7, 7, 14, 14, 21, 21, 7, 14, 28, 14, 14)]  # Wilder's
    + [0.06, 0.0, 0.0, 0.0, 0.0]  # RiskMetrics' variance, and places that make it three times eight
)
MACD_WEIGHT, ADX_WEIGHT = 2 / 10, 1 / 14

# What the windows tell of a block, beside the sums.
(HIGHEST14, LOWEST14, HIGHEST20, LOWEST20, HIGHEST50, LOWEST50) = range(6)
RAW20, RAW50 = 6, 11  # sums of the regressions: of y, y squared, y times position; anchor; position
(MEAN20, VARIANCE20, SLOPE20, R_SQUARED20, MEAN50, VARIANCE50, SLOPE50, R_SQUARED50,
 STOCHASTIC_D, RUN, GARCH) = range(16, 27)  # fmt: skip

# The results of one bar in a row: the sums of each window, each rounded up to eights, then the others.
_ROOM = tuple(-(-width // WIDTH) * WIDTH for width in WIDTHS)
S5, S10, S14, S20, S50, S100, S200, OTHERS = (sum(_ROOM[:k]) for k in range(8))
TILES = np.array(  # where each eight of them go among the totals
    [
        window + first + j
        for window, (first, _), room in zip(range(0, 7 * N_QUANTITIES, N_QUANTITIES), _STRETCHES, _ROOM, strict=True)
        for j in range(0, room, WIDTH)
    ]
)
ROW = OTHERS + 16
QUANTITIES = 40  # of a bar, rounded up to eights
# Sizes of the arrays of a block.
SIZE_QUANTITIES, SIZE_ROWS, SIZE_TOTALS = QUANTITIES * WIDTH, ROW * WIDTH, (7 * N_QUANTITIES) * WIDTH
SIZE_CHANGES, SIZE_AVERAGES, SIZE_OTHERS = 16 * WIDTH, 26 * WIDTH, 27 * WIDTH
SIZE_LEVELS = 24 * WIDTH

# Columns of the clock. The last two are of a saved stream, no kernel reads them: open time of the newest bar (NaN: not
# told) and length of a bar (0: not told), in ns, exact for whole minutes.
BARS_SEEN, RUN_LENGTH, GARCH_VARIANCE, MACD_STATE, ADX_STATE, NEWEST, STEP = range(7)
OMEGA, ALPHA, BETA = range(3)  # GARCH(1,1); a negative omega means "target the 200-bar variance"
HALF_CORWIN = 0.5 / (3.0 - 2.0 * math.sqrt(2.0))


class Parts(NamedTuple, Generic[Part]):
    """The parts of the state vector, by what they hold; as views `State`, as shapes `SHAPES`."""

    clock: Part  # [7]: bars seen, signed run of candles, GARCH variance of the next bar, MACD signal, ADX, times
    garch: Part  # [3]: omega, alpha, beta
    past: Part  # [N_FIELDS * LENGTH]: each field of the recent bars in time order
    average: Part  # [24]
    weight: Part  # [24], of the newest value in each average
    sum5: Part  # [w + 2, width of its stretch], as are its neighbours
    sum10: Part
    sum14: Part
    sum20: Part
    sum50: Part
    sum100: Part
    sum200: Part
    extreme14: Part  # [w + 2, 2], as are its neighbours
    extreme20: Part
    extreme50: Part
    trend20: Part  # [w + 3, 3]
    trend50: Part  # [w + 3, 3]
    rules: Any  # RuleState


State = Parts[Vector]
SHAPES: Parts[tuple[int, ...]] = Parts._make(
    [(7,), (3,), (N_FIELDS * LENGTH,), *[(len(EMA_WEIGHTS),)] * 2]
    + [(w + 2, width) for w, width in zip(WINDOWS, WIDTHS, strict=True)]
    + [(w + 2, 2) for w in EXTREMES]
    + [(w + 3, 3) for w in TRENDS]
    + [(sum(RULE_SIZES),)]
)
_LINE = 8  # float64 in a line of the processor's cache; a part that starts with a line is quickest to reach
_ENDS = np.cumsum([0, *(-(-math.prod(shape) // _LINE) * _LINE for shape in SHAPES)])
AT: Parts[int] = Parts._make(int(at) for at in _ENDS[:-1])
RULES_AT = tuple(AT.rules + int(at) for at in np.cumsum([0, *RULE_SIZES[:2]]))
STATE_SIZE = int(_ENDS[-1])


@kernel
def view_state(vector: Vector) -> State:
    """Name the parts of a state vector of `STATE_SIZE` float64; the views share its memory."""
    x = vector
    rules = RuleState(
        view(x, RULES_AT[0], (RULE_SIZES[0],)),
        view(x, RULES_AT[1], (RULE_SIZES[1],)),
        view(x, RULES_AT[2], (RULE_SIZES[2],)),
    )
    return Parts(
        view(x, AT.clock, SHAPES.clock),
        view(x, AT.garch, SHAPES.garch),
        view(x, AT.past, SHAPES.past),
        view(x, AT.average, SHAPES.average),
        view(x, AT.weight, SHAPES.weight),
        view(x, AT.sum5, SHAPES.sum5),
        view(x, AT.sum10, SHAPES.sum10),
        view(x, AT.sum14, SHAPES.sum14),
        view(x, AT.sum20, SHAPES.sum20),
        view(x, AT.sum50, SHAPES.sum50),
        view(x, AT.sum100, SHAPES.sum100),
        view(x, AT.sum200, SHAPES.sum200),
        view(x, AT.extreme14, SHAPES.extreme14),
        view(x, AT.extreme20, SHAPES.extreme20),
        view(x, AT.extreme50, SHAPES.extreme50),
        view(x, AT.trend20, SHAPES.trend20),
        view(x, AT.trend50, SHAPES.trend50),
        rules,
    )


def new_state(garch: tuple[float, float, float]) -> Vector:
    """State vector before the first bar, float64 (`STATE_SIZE`,); ``garch`` is omega, alpha, beta."""
    memory = np.zeros(STATE_SIZE + _LINE)
    start = -memory.ctypes.data // 8 % _LINE
    vector = memory[start : start + STATE_SIZE]
    vector[AT.garch : AT.garch + 3] = garch
    vector[AT.clock + NEWEST] = np.nan
    for at, shape in (
        (AT.extreme14, SHAPES.extreme14),
        (AT.extreme20, SHAPES.extreme20),
        (AT.extreme50, SHAPES.extreme50),
    ):
        block = vector[at : at + math.prod(shape)].reshape(shape)
        block[:, 0], block[:, 1] = -np.inf, np.inf
    return vector


def start_anew(vector: Vector) -> None:
    """Forget every bar of a state vector, in place; the GARCH parameters stay."""
    omega, alpha, beta = vector[AT.garch : AT.garch + 3].tolist()
    vector[:] = new_state((omega, alpha, beta))


class Bar(NamedTuple):
    """A block of closed bars and the bars before them; at the first bar the one before is the bar itself."""

    open: Lanes
    high: Lanes
    low: Lanes
    close: Lanes
    volume: Lanes
    open1: Lanes
    high1: Lanes
    low1: Lanes
    close1: Lanes
    volume1: Lanes
    log_return: Lanes
    true_range: Lanes


class Seen(NamedTuple):
    """What the formula sheets see at the close of each bar of a block: lanes by number."""

    total: Shelf  # [window + quantity]
    average: Shelf  # [E5] and its neighbours
    other: Shelf  # [HIGHEST14] and its neighbours
    now: Shelf  # [R_OPEN] and its neighbours
    ago1: Shelf  # the same some bars ago
    ago2: Shelf
    ago3: Shelf
    ago5: Shelf
    ago10: Shelf
    ago20: Shelf
    ago60: Shelf
    past: Vector
    at: int  # place of the block in each field of ``past``


@kernel
def inverse(b: Lanes) -> Lanes:
    """``1 / b``, and 0 where b is not positive: no information is zero, never inf."""
    some = b > TINY
    inverted: Lanes = choose(some, 1.0, 0.0) / choose(some, b, 1.0)
    return inverted


@kernel
def ratio(a: Lanes, b: Lanes) -> Lanes:
    """``a / b``, and 0 where b is not positive."""
    return a * inverse(b)
