"""The one causal state that every feature reads: recent bars, rolling sums, extremes and averages.

The state is a single float64 vector; `State` names views into it. A closed bar enters through `advance`,
which touches nothing but that vector, so whatever a feature can see lies in the past.
"""

import math
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from mlkit.features.kernel import LANES, TINY, approach_four, kernel, quotients, view
from mlkit.features.rolling import roll_extremes, roll_sums, roll_trend
from mlkit.features.rules import RULE_SIZES, Flags, RuleState, rules_step

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
W5, W10, W14, W20, W50, W100, W200 = range(7)
_STRETCHES = (  # first and last quantity that a window sums
    (HIGHER_HIGH, RETURN2), (HIGHER_HIGH, ABS_BODY), (TYPICAL, DOWN_MOVE), (VOLUME, TYPICAL),
    (BODY, BULK_VOLUME), (VOLUME, CLOSE_VOLUME), (VOLUME, RETURN2),
)
FIRST = tuple(first for first, _ in _STRETCHES)
WIDTHS = tuple(-(-(last + 1 - first) // LANES) * LANES for first, last in _STRETCHES)
EXTREMES = (14, 20, 50)  # lengths of the rolling highs and lows, bars
X14, X20, X50 = range(3)
TRENDS = (20, 50)  # lengths of the regressions of the close on time, bars
T20, T50 = range(2)

# Columns of the ring of recent bars.
R_OPEN, R_HIGH, R_LOW, R_CLOSE, R_VOLUME, R_RETURN, R_TYPICAL, R_TO_HIGH, R_TO_LOW = range(9)
RING = 64  # bars kept; a power of two, so that a position is one bitwise and

# Exponential averages. The first eight are of the close, the others of changes.
(E5, E10, E20, E50, E100, E200, E12, E26,
 GAIN7, LOSS7, GAIN14, LOSS14, GAIN21, LOSS21, ATR7, ATR14, ATR28, PLUS_DM, MINUS_DM,
 EWMA_VARIANCE, MACD_SIGNAL, ADX) = range(22)
N_LEVELS, N_DIRECT = 8, 20  # the last two are averages of averages
SLOWEST = 200
# fmt: on
EMA_WEIGHTS = np.array(
    [2 / (n + 1) for n in (5, 10, 20, 50, 100, 200, 12, 26)]  # exponential
    + [1 / n for n in (7, 7, 14, 14, 21, 21, 7, 14, 28, 14, 14)]  # Wilder's
    + [0.06, 2 / 10, 1 / 14]  # RiskMetrics' variance, the MACD signal, Wilder's ADX
)

BARS_SEEN, RUN_LENGTH, GARCH_VARIANCE = range(3)  # columns of the clock
OMEGA, ALPHA, BETA = range(3)  # GARCH(1,1); a negative omega means "target the 200-bar variance"
HALF_CORWIN = 0.5 / (3.0 - 2.0 * math.sqrt(2.0))


class Parts(NamedTuple, Generic[Part]):
    """The parts of the state vector, by what they hold; as views `State`, as shapes `SHAPES`."""

    clock: Part  # [3]: bars seen, signed run of candles, GARCH variance of the next bar
    garch: Part  # [3]: omega, alpha, beta
    ring: Part  # [RING, 9]
    typical: Part  # [2 RING]: typical prices twice over, so that the newest 64 lie in one stretch
    average: Part  # [22]
    weight: Part  # [22], of the newest value in each average
    newest: Part  # [22], what each average moves to
    quantity: Part  # [N_QUANTITIES], of the newest bar
    total: Part  # [len(WINDOWS), N_QUANTITIES]
    sum5: Part  # [w + 2, width of its stretch], as are its neighbours
    sum10: Part
    sum14: Part
    sum20: Part
    sum50: Part
    sum100: Part
    sum200: Part
    highest: Part  # [len(EXTREMES)]
    lowest: Part  # [len(EXTREMES)]
    extreme14: Part  # [w + 2, 2], as are its neighbours
    extreme20: Part
    extreme50: Part
    trend: Part  # [len(TRENDS), 4]: mean, variance, slope per bar, r squared
    trend20: Part  # [w + 3, 3]
    trend50: Part  # [w + 3, 3]
    stochastic: Part  # [3]: place of the close in the 14-bar range, 0 to 100, newest first
    rules: Any  # RuleState


State = Parts[Vector]
SHAPES: Parts[tuple[int, ...]] = Parts._make(
    [(3,), (3,), (RING, 9), (2 * RING,), *[(len(EMA_WEIGHTS),)] * 3, (N_QUANTITIES,), (len(WINDOWS), N_QUANTITIES)]
    + [(w + 2, width) for w, width in zip(WINDOWS, WIDTHS, strict=True)]
    + [(len(EXTREMES),), (len(EXTREMES),), *((w + 2, 2) for w in EXTREMES)]
    + [(len(TRENDS), 4), *((w + 3, 3) for w in TRENDS), (3,), (sum(RULE_SIZES),)]
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
        view(x, AT.ring, SHAPES.ring),
        view(x, AT.typical, SHAPES.typical),
        view(x, AT.average, SHAPES.average),
        view(x, AT.weight, SHAPES.weight),
        view(x, AT.newest, SHAPES.newest),
        view(x, AT.quantity, SHAPES.quantity),
        view(x, AT.total, SHAPES.total),
        view(x, AT.sum5, SHAPES.sum5),
        view(x, AT.sum10, SHAPES.sum10),
        view(x, AT.sum14, SHAPES.sum14),
        view(x, AT.sum20, SHAPES.sum20),
        view(x, AT.sum50, SHAPES.sum50),
        view(x, AT.sum100, SHAPES.sum100),
        view(x, AT.sum200, SHAPES.sum200),
        view(x, AT.highest, SHAPES.highest),
        view(x, AT.lowest, SHAPES.lowest),
        view(x, AT.extreme14, SHAPES.extreme14),
        view(x, AT.extreme20, SHAPES.extreme20),
        view(x, AT.extreme50, SHAPES.extreme50),
        view(x, AT.trend, SHAPES.trend),
        view(x, AT.trend20, SHAPES.trend20),
        view(x, AT.trend50, SHAPES.trend50),
        view(x, AT.stochastic, SHAPES.stochastic),
        rules,
    )


def new_state(garch: tuple[float, float, float]) -> Vector:
    """State vector before the first bar, float64 (`STATE_SIZE`,); ``garch`` is omega, alpha, beta."""
    memory = np.zeros(STATE_SIZE + _LINE)
    start = -memory.ctypes.data // 8 % _LINE
    vector = memory[start : start + STATE_SIZE]
    vector[AT.garch : AT.garch + 3] = garch
    for at, shape in (
        (AT.extreme14, SHAPES.extreme14),
        (AT.extreme20, SHAPES.extreme20),
        (AT.extreme50, SHAPES.extreme50),
    ):
        block = vector[at : at + math.prod(shape)].reshape(shape)
        block[:, 0], block[:, 1] = -np.inf, np.inf
    return vector


class Bar(NamedTuple):
    """The newest closed bar and the one before it; at the first bar the one before is the bar itself."""

    t: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    open1: float
    high1: float
    low1: float
    close1: float
    volume1: float
    log_return: float
    true_range: float


@kernel
def inverse(b: float) -> float:
    """``1 / b``, and 0 where b is not positive: no information is zero, never inf. Without a branch."""
    some = b > TINY
    return (1.0 if some else 0.0) / (b if some else 1.0)


@kernel
def ratio(a: float, b: float) -> float:
    """``a / b``, and 0 where b is not positive."""
    return a * inverse(b)


@kernel
def advance(o: float, h: float, low: float, c: float, v: float, s: State, flags: Flags) -> Bar:
    """Take one closed bar into the state; returns it with what it shares with the bar before.

    ``flags`` receives the rules of the bar, classic and continuous.
    """
    t = int(s.clock[BARS_SEEN])
    now, before = s.ring[t & (RING - 1)], s.ring[(t - 1) & (RING - 1)]
    if t == 0:
        before[R_OPEN] = before[R_CLOSE] = before[R_HIGH] = before[R_LOW] = before[R_TYPICAL] = c
        before[R_VOLUME] = v
    close1, r1, typical1 = before[R_CLOSE], before[R_RETURN], before[R_TYPICAL]
    typical = (h + low + c) * (1.0 / 3.0)
    # The log of a quotient keeps the digits of a small move that a difference of logs would lose.
    high_c, low_c, close1_c, open_c = quotients((h, low, close1, o), (c, c, c, c))
    to_high, to_low, to_close1 = math.log(high_c), math.log(low_c), math.log(close1_c)
    to_open, r = to_close1 if o == close1 else math.log(open_c), 0.0 - to_close1
    bar = Bar(
        t, o, h, low, c, v,
        before[R_OPEN], before[R_HIGH], before[R_LOW], close1, before[R_VOLUME],
        r, max(h, close1) - min(low, close1),
    )  # fmt: skip
    _measure_price(bar, typical, r1, s)
    _measure_volume(bar, typical, typical1, s)
    _measure_range(to_open, to_high, to_low, s)
    spread = _corwin_schultz(to_high, to_low, before[R_TO_HIGH] - r, before[R_TO_LOW] - r)
    s.quantity[CORWIN_SCHULTZ] = spread
    now[R_OPEN], now[R_HIGH], now[R_LOW], now[R_CLOSE], now[R_VOLUME] = o, h, low, c, v
    now[R_RETURN], now[R_TYPICAL], now[R_TO_HIGH], now[R_TO_LOW] = r, typical, to_high, to_low
    s.typical[t & (RING - 1)] = s.typical[(t & (RING - 1)) + RING] = typical
    # The rules come here so that the quantities have reached the cache before they are read four at a time.
    rules_step(o, h, low, c, s.rules, flags)
    _roll(t, h, low, c, s)
    _average(bar, s)
    _count(bar, s)
    s.clock[BARS_SEEN] = t + 1
    return bar


@kernel
def _measure_price(b: Bar, typical: float, r1: float, s: State) -> None:
    """Summed quantities of the newest bar that are made of prices and returns."""
    q, r, change, body = s.quantity, b.log_return, b.close - b.close1, b.close - b.open
    q[HIGHER_HIGH] = 1.0 if b.high > b.high1 else 0.0
    q[HIGHER_LOW] = 1.0 if b.low > b.low1 else 0.0
    q[BODY], q[ABS_BODY], q[RANGE], q[TRUE_RANGE] = body, abs(body), b.high - b.low, b.true_range
    q[CLOSE], q[TYPICAL] = b.close, typical
    q[RETURN], q[RETURN2], q[RETURN3], q[RETURN4] = r, r * r, r * r * r, (r * r) * (r * r)
    q[ABS_RETURN], q[LAGGED_PRODUCT], q[BIPOWER] = abs(r), r * r1, abs(r * r1)
    q[ABS_MOVE], q[UP_MOVE], q[DOWN_MOVE] = abs(change), max(change, 0.0), max(-change, 0.0)
    q[ZERO_RETURN] = 1.0 if change == 0.0 else 0.0
    q[VORTEX_UP], q[VORTEX_DOWN] = abs(b.high - b.low1), abs(b.low - b.high1)


@kernel
def _measure_volume(b: Bar, typical: float, typical1: float, s: State) -> None:
    """Summed quantities of the newest bar that weigh with its volume."""
    q, r, v = s.quantity, b.log_return, b.volume
    flow = typical * v
    q[VOLUME], q[VOLUME2], q[RETURN_VOLUME] = v, v * v, r * v
    q[TYPICAL_VOLUME], q[CLOSE_VOLUME] = flow, b.close * v
    q[SIGNED_VOLUME] = v if r > 0.0 else (-v if r < 0.0 else 0.0)
    q[FLOW_VOLUME] = ratio((b.close - b.low) - (b.high - b.close), b.high - b.low) * v
    rise, tie = typical - typical1, 1e-14 * typical  # prices on a grid tie but for rounding; TA-Lib agrees
    q[FLOW_UP] = flow if rise > tie else 0.0
    q[FLOW_DOWN] = flow if rise < -tie else 0.0
    q[ILLIQUIDITY] = ratio(abs(r), b.close * v)
    variance = s.average[EWMA_VARIANCE]  # as it stood before this bar
    q[BULK_VOLUME] = v * math.erf(r / math.sqrt(2.0 * variance)) if variance > TINY else 0.0


@kernel
def _measure_range(to_open: float, to_high: float, to_low: float, s: State) -> None:
    """Summed quantities of the newest bar that estimate variance from its range; logs of / close."""
    q, log_range = s.quantity, to_high - to_low
    q[PARKINSON], q[OPEN_CLOSE2] = log_range * log_range, to_open * to_open
    q[ROGERS_SATCHELL] = to_high * (to_high - to_open) + to_low * (to_low - to_open)


@kernel
def _corwin_schultz(high: float, low: float, high1: float, low1: float) -> float:
    """Two-bar spread from logs of highs and lows, floored at 0 (Corwin and Schultz 2012)."""
    beta = (high - low) * (high - low) + (high1 - low1) * (high1 - low1)
    gamma = max(high, high1) - min(low, low1)
    half = HALF_CORWIN * (math.sqrt(2.0) - 1.0) * math.sqrt(beta) - math.sqrt(0.5 * HALF_CORWIN) * gamma
    return 2.0 * math.tanh(half) if half > 0.0 else 0.0


@kernel
def _roll(t: int, h: float, low: float, c: float, s: State) -> None:
    """Move every window on by the newest bar."""
    roll_sums(s.sum5, t % 5, FIRST[W5], s.quantity, s.total[W5])
    roll_sums(s.sum10, t % 10, FIRST[W10], s.quantity, s.total[W10])
    roll_sums(s.sum14, t % 14, FIRST[W14], s.quantity, s.total[W14])
    roll_sums(s.sum20, t % 20, FIRST[W20], s.quantity, s.total[W20])
    roll_sums(s.sum50, t % 50, FIRST[W50], s.quantity, s.total[W50])
    roll_sums(s.sum100, t % 100, FIRST[W100], s.quantity, s.total[W100])
    roll_sums(s.sum200, t % 200, FIRST[W200], s.quantity, s.total[W200])
    s.highest[X14], s.lowest[X14] = roll_extremes(s.extreme14, t % 14, h, low)
    s.highest[X20], s.lowest[X20] = roll_extremes(s.extreme20, t % 20, h, low)
    s.highest[X50], s.lowest[X50] = roll_extremes(s.extreme50, t % 50, h, low)
    roll_trend(s.trend20, t % 20, t == 0, c, s.trend[T20])
    roll_trend(s.trend50, t % 50, t == 0, c, s.trend[T50])


@kernel
def _average(b: Bar, s: State) -> None:
    """Exponential averages. Each begins as the plain mean of what it has seen, as Wilder's do, until its own
    weight takes over."""
    a, q, t, weight, x = s.average, s.quantity, b.t, s.weight, s.newest
    if t <= SLOWEST:
        for j in range(N_LEVELS):
            weight[j] = max(EMA_WEIGHTS[j], 1.0 / (t + 1.0))
        for j in range(N_LEVELS, len(EMA_WEIGHTS)):
            weight[j] = max(EMA_WEIGHTS[j], 1.0 / max(t, 1))  # the first bar has no change
    up, down = b.high - b.high1, b.low1 - b.low
    for j in range(N_LEVELS):
        x[j] = b.close
    x[GAIN7] = x[GAIN14] = x[GAIN21] = q[UP_MOVE]
    x[LOSS7] = x[LOSS14] = x[LOSS21] = q[DOWN_MOVE]
    x[ATR7] = x[ATR14] = x[ATR28] = b.true_range
    x[PLUS_DM] = up if (up > down) & (up > 0.0) else 0.0
    x[MINUS_DM] = down if (down > up) & (down > 0.0) else 0.0
    x[EWMA_VARIANCE] = q[RETURN2]
    for j in range(0, N_DIRECT, LANES):
        approach_four(a, j, x, j, weight, j)
    a[MACD_SIGNAL] += weight[MACD_SIGNAL] * (a[E12] - a[E26] - a[MACD_SIGNAL])
    spread, total = abs(a[PLUS_DM] - a[MINUS_DM]), a[PLUS_DM] + a[MINUS_DM]
    a[ADX] += weight[ADX] * (100.0 * ratio(spread, total) - a[ADX])


@kernel
def _count(b: Bar, s: State) -> None:
    """Run of same-coloured candles, place in the 14-bar range, GARCH(1,1) variance of the next bar."""
    span = s.highest[X14] - s.lowest[X14]
    s.stochastic[2], s.stochastic[1] = s.stochastic[1], s.stochastic[0]
    s.stochastic[0] = ratio(100.0 * (b.close - s.lowest[X14]), span) if span > 0.0 else 50.0
    rises, falls, run = b.close > b.open, b.close < b.open, s.clock[RUN_LENGTH]
    longer = min(10.0, max(run, 0.0) + 1.0) if rises else max(-10.0, min(run, 0.0) - 1.0)
    s.clock[RUN_LENGTH] = longer if rises | falls else 0.0
    omega, alpha, beta = s.garch[OMEGA], s.garch[ALPHA], s.garch[BETA]
    squared = b.log_return * b.log_return
    if omega < 0.0:
        omega = (1.0 - alpha - beta) * s.total[W200, RETURN2] * (1.0 / min(b.t + 1.0, 200.0))
    variance = s.clock[GARCH_VARIANCE] if b.t > 1 else squared
    s.clock[GARCH_VARIANCE] = omega + alpha * squared + beta * variance
