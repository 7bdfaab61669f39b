"""The 15 candlestick patterns as one causal state machine, for both standards in one pass.

``classic`` is TA-Lib 0.8 bit for bit: the conditions of 12 ``CDL*`` functions with their default settings,
and their order of operations. A threshold is a factor times the mean body (or high-low range) of the 10 (or
5) bars *before* the candle it judges. TA-Lib keeps each mean as a running total that starts at the first bar
its function looks at; where a total rounds, a tie can depend on that start. Hence ten totals, one for each
start in use (three shared ones agree on all real bars tried, but not on every wild one).

TA-Lib has no tweezers. Here they are two adjacent bars of opposite colour whose highs (top: white, then
black) or lows (bottom: black, then white) agree within TA-Lib's ``Equal`` tolerance at the first of the two,
as in ``CDLMATCHINGLOW``: 0.05 x the mean high-low range of the 5 bars before that first bar.

``continuous`` relaxes the gap conditions only, for markets that never close, where a bar opens at the
previous close; see :data:`RELAXATIONS`. Every classic hit is a continuous hit.

A bar that closes at its open is white, as in TA-Lib. Constant prices show a doji (0 <= 0) and nothing else.
"""

from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mlkit.errors import BarsError, ConfigError

Standard = Literal["classic", "continuous"]
Vector = NDArray[np.float64]
Flags = tuple[Vector, Vector]  # classic, continuous
Part = TypeVar("Part")

STANDARDS: tuple[Standard, ...] = ("classic", "continuous")

#: Bars a pattern needs before its first verdict, TA-Lib's lookback: row t is known for t >= WARM_UP[name].
WARM_UP: dict[str, int] = {
    "doji": 10,  # CDLDOJI
    "hammer": 11,  # CDLHAMMER
    "shooting_star": 11,  # CDLSHOOTINGSTAR
    "engulfing_bullish": 2,  # CDLENGULFING > 0
    "engulfing_bearish": 2,  # CDLENGULFING < 0
    "morning_star": 12,  # CDLMORNINGSTAR, penetration 0.3
    "evening_star": 12,  # CDLEVENINGSTAR, penetration 0.3
    "three_white_soldiers": 12,  # CDL3WHITESOLDIERS
    "three_black_crows": 13,  # CDL3BLACKCROWS
    "harami": 11,  # CDLHARAMI, either sign
    "piercing_line": 11,  # CDLPIERCING
    "dark_cloud_cover": 11,  # CDLDARKCLOUDCOVER, penetration 0.5
    "tweezer_top": 6,  # CDLMATCHINGLOW's lookback
    "tweezer_bottom": 6,
    "marubozu": 10,  # CDLMARUBOZU, either sign
}
PATTERNS: tuple[str, ...] = tuple(WARM_UP)
N_PATTERNS = len(PATTERNS)

_LOOKBACKS = tuple(WARM_UP.values())
_DOJI, _HAMMER, _SHOOTING_STAR, _ENGULFING_BULLISH, _ENGULFING_BEARISH = range(0, 5)
_MORNING_STAR, _EVENING_STAR, _WHITE_SOLDIERS, _BLACK_CROWS, _HARAMI = range(5, 10)
_PIERCING_LINE, _DARK_CLOUD_COVER, _TWEEZER_TOP, _TWEEZER_BOTTOM, _MARUBOZU = range(10, 15)


class Relaxation(NamedTuple):
    """What ``continuous`` asks for in place of a classic gap; ``t`` is the bar of the flag."""

    classic: str
    continuous: str
    reason: str


_TOUCH = "an open at the previous close leaves no gap between bodies, so they may touch"
_PRIOR_CLOSE = "an open at the previous close cannot pass the previous extreme, so it is held to the close"
_FROM_CLOSE = "an open at the previous close is not inside the previous body, so it may be at its end"

#: The six patterns with a gap condition. The other nine are the same under both standards.
RELAXATIONS: dict[str, Relaxation] = {
    "shooting_star": Relaxation("bottom[t] > top[t-1]", "bottom[t] >= top[t-1]", _TOUCH),
    "morning_star": Relaxation("top[t-1] < bottom[t-2]", "top[t-1] <= bottom[t-2]", _TOUCH),
    "evening_star": Relaxation("bottom[t-1] > top[t-2]", "bottom[t-1] >= top[t-2]", _TOUCH),
    "three_black_crows": Relaxation(
        "open[t-1] > close[t-2] and open[t] > close[t-1]",
        "open[t-1] >= close[t-2] and open[t] >= close[t-1]",
        _FROM_CLOSE,
    ),
    "piercing_line": Relaxation("open[t] < low[t-1]", "open[t] <= close[t-1]", _PRIOR_CLOSE),
    "dark_cloud_cover": Relaxation("open[t] > high[t-1]", "open[t] >= close[t-1]", _PRIOR_CLOSE),
}

# A candle of the ring: its prices, its parts, and the means that were current when it opened. BODY_FROM_1 is
# the mean body of the 10 bars before it, by the total that starts at bar 1; FIVE_ the mean range of 5 bars.
_OPEN, _HIGH, _LOW, _CLOSE, _TOP, _BOTTOM, _COLOUR, _BODY, _UPPER, _LOWER, _RANGE = range(11)
_BODY_FROM_0, _BODY_FROM_1, _BODY_FROM_2 = range(11, 14)
_RANGE_FROM_0, _RANGE_FROM_1, _RANGE_FROM_2, _RANGE_FROM_3 = range(14, 18)
_FIVE_FROM_0, _FIVE_FROM_5, _FIVE_FROM_6 = range(18, 21)
_FIELDS = 21


class RuleState(NamedTuple, Generic[Part]):
    """Memory of the rules: views into one flat float64 vector, all zeros before the first bar."""

    seen: Part  # (1,) bars so far
    candles: Part  # (16 * 21,) ring of candles, bar t in slot t % 16
    totals: Part  # (10,) running totals, in the order of the means of a candle


RULE_SIZES: RuleState[int] = RuleState(1, 16 * _FIELDS, 10)
RULE_STATE_SIZE: int = sum(RULE_SIZES)


def rule_state(flat: Vector | None = None) -> RuleState[Vector]:
    """State of the rules as views into ``flat``, float64 (RULE_STATE_SIZE,); by default fresh zeros.

    The views are written to, bar by bar: a copy of ``flat`` saves the state, this function restores it.
    """
    if flat is None:
        flat = np.zeros(RULE_STATE_SIZE)
    if flat.shape != (RULE_STATE_SIZE,) or flat.dtype != np.float64:
        raise ConfigError(f"rule state must be float64 ({RULE_STATE_SIZE},), not {flat.dtype} {flat.shape}")
    seen, candles, totals = np.split(flat, np.cumsum(RULE_SIZES[:2]))  # views
    return RuleState(seen, candles, totals)


# The kernels neither loop nor branch (they choose values), so that, inlined into one another, they touch no
# reference count and mispredict nothing: several times faster than the same conditions joined by `and`.
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_kernel = njit(forceinline=True, no_cpython_wrapper=True, **_OPTIONS)  # compiled into the two cached below


@intrinsic
def _fused(_, a, b, c):  # type: ignore[no-untyped-def]
    """``a * b + c`` rounded once, as TA-Lib 0.8 computes the morning star's target on every machine."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), build


@_kernel
def _slot(bar: int) -> int:
    """Where the ring keeps a bar."""
    return (bar & 15) * _FIELDS


@_kernel
def _measure(open: float, high: float, low: float, close: float, x: Vector, now: int, totals: Vector) -> None:
    """Write a candle at ``x[now:]``: its parts, and the means of the bars before it."""
    white = close >= open
    top = close if white else open
    bottom = open if white else close
    x[now + _OPEN], x[now + _HIGH], x[now + _LOW], x[now + _CLOSE] = open, high, low, close
    x[now + _TOP], x[now + _BOTTOM] = top, bottom
    x[now + _COLOUR] = 1.0 if white else -1.0
    x[now + _BODY], x[now + _UPPER], x[now + _LOWER] = top - bottom, high - top, bottom - low
    x[now + _RANGE] = high - low
    x[now + _BODY_FROM_0] = totals[0] / 10.0
    x[now + _BODY_FROM_1] = totals[1] / 10.0
    x[now + _BODY_FROM_2] = totals[2] / 10.0
    x[now + _RANGE_FROM_0] = totals[3] / 10.0
    x[now + _RANGE_FROM_1] = totals[4] / 10.0
    x[now + _RANGE_FROM_2] = totals[5] / 10.0
    x[now + _RANGE_FROM_3] = totals[6] / 10.0
    x[now + _FIVE_FROM_0] = totals[7] / 5.0
    x[now + _FIVE_FROM_5] = totals[8] / 5.0
    x[now + _FIVE_FROM_6] = totals[9] / 5.0


@_kernel
def _moved(total: float, seen: int, start: int, period: int, newest: float, oldest: float) -> float:
    """A running total one bar on: it takes bars from its start on, and drops none from before it."""
    taken = newest if seen >= start else 0.0
    dropped = oldest if seen >= start + period else 0.0
    return total + (taken - dropped)


@_kernel
def _add(seen: int, x: Vector, now: int, five: int, ten: int, totals: Vector) -> None:
    """Move every total on by the bar just judged."""
    body, old = x[now + _BODY], x[ten + _BODY]
    totals[0] = _moved(totals[0], seen, 0, 10, body, old)
    totals[1] = _moved(totals[1], seen, 1, 10, body, old)
    totals[2] = _moved(totals[2], seen, 2, 10, body, old)
    span, old = x[now + _RANGE], x[ten + _RANGE]
    totals[3] = _moved(totals[3], seen, 0, 10, span, old)
    totals[4] = _moved(totals[4], seen, 1, 10, span, old)
    totals[5] = _moved(totals[5], seen, 2, 10, span, old)
    totals[6] = _moved(totals[6], seen, 3, 10, span, old)
    old = x[five + _RANGE]
    totals[7] = _moved(totals[7], seen, 0, 5, span, old)
    totals[8] = _moved(totals[8], seen, 5, 5, span, old)
    totals[9] = _moved(totals[9], seen, 6, 5, span, old)


@_kernel
def _flag(flags: Flags, seen: int, pattern: int, classic: bool, continuous: bool, direction: float) -> None:
    """Write what both standards say: the direction, 0, or NaN while too few bars are known."""
    known = seen >= _LOOKBACKS[pattern]
    strict = direction if classic else 0.0
    relaxed = direction if continuous else 0.0
    flags[0][pattern] = strict if known else np.nan
    flags[1][pattern] = relaxed if known else np.nan


@_kernel
def _one_candle(flags: Flags, seen: int, x: Vector, now: int, one: int) -> None:
    """Doji, hammer, shooting star, marubozu."""
    body, upper, lower, bottom = x[now + _BODY], x[now + _UPPER], x[now + _LOWER], x[now + _BOTTOM]
    doji = body <= 0.1 * x[now + _RANGE_FROM_0]
    _flag(flags, seen, _DOJI, doji, doji, 1.0)

    small = body < x[now + _BODY_FROM_1]
    shaven = 0.1 * x[now + _RANGE_FROM_1]  # a shadow below this is "very short"
    near_low = bottom <= x[one + _LOW] + 0.2 * x[one + _FIVE_FROM_5]
    hammer = small & (lower > body) & (upper < shaven) & near_low
    _flag(flags, seen, _HAMMER, hammer, hammer, 1.0)

    star, top_one = small & (upper > body) & (lower < shaven), x[one + _TOP]
    _flag(flags, seen, _SHOOTING_STAR, star & (bottom > top_one), star & (bottom >= top_one), -1.0)

    shaven = 0.1 * x[now + _RANGE_FROM_0]
    marubozu = (body > x[now + _BODY_FROM_0]) & (upper < shaven) & (lower < shaven)
    _flag(flags, seen, _MARUBOZU, marubozu, marubozu, x[now + _COLOUR])


@_kernel
def _two_candles(flags: Flags, seen: int, x: Vector, now: int, one: int) -> None:
    """Engulfing, harami, tweezers."""
    rise = (x[one + _COLOUR] < 0.0) & (x[now + _COLOUR] > 0.0)  # black, then white
    fall = (x[one + _COLOUR] > 0.0) & (x[now + _COLOUR] < 0.0)
    top, bottom, top_one, bottom_one = x[now + _TOP], x[now + _BOTTOM], x[one + _TOP], x[one + _BOTTOM]

    # The body covers the previous one; one end may match, not both.
    covers = ((top >= top_one) & (bottom < bottom_one)) | ((top > top_one) & (bottom <= bottom_one))
    _flag(flags, seen, _ENGULFING_BULLISH, covers & rise, covers & rise, 1.0)
    _flag(flags, seen, _ENGULFING_BEARISH, covers & fall, covers & fall, -1.0)

    inside = (top <= top_one) & (bottom >= bottom_one)
    sizes = (x[one + _BODY] > x[one + _BODY_FROM_0]) & (x[now + _BODY] <= x[now + _BODY_FROM_1])
    _flag(flags, seen, _HARAMI, sizes & inside, sizes & inside, -x[one + _COLOUR])

    equal = 0.05 * x[one + _FIVE_FROM_0]
    high, low, high_one, low_one = x[now + _HIGH], x[now + _LOW], x[one + _HIGH], x[one + _LOW]
    tops = fall & (high <= high_one + equal) & (high >= high_one - equal)
    bottoms = rise & (low <= low_one + equal) & (low >= low_one - equal)
    _flag(flags, seen, _TWEEZER_TOP, tops, tops, -1.0)
    _flag(flags, seen, _TWEEZER_BOTTOM, bottoms, bottoms, 1.0)


@_kernel
def _return_into(flags: Flags, seen: int, x: Vector, now: int, one: int) -> None:
    """Piercing line, dark cloud cover: an open beyond a long candle, a close past the middle of its body."""
    o, c, open_one, close_one = x[now + _OPEN], x[now + _CLOSE], x[one + _OPEN], x[one + _CLOSE]
    long_one = x[one + _BODY] > x[one + _BODY_FROM_0]
    half = x[one + _BODY] * 0.5

    rise = (x[one + _COLOUR] < 0.0) & (x[now + _COLOUR] > 0.0)
    long_now = x[now + _BODY] > x[now + _BODY_FROM_1]
    pierces = rise & long_one & long_now & (c < open_one) & (c > close_one + half)
    _flag(flags, seen, _PIERCING_LINE, pierces & (o < x[one + _LOW]), pierces & (o <= close_one), 1.0)

    fall = (x[one + _COLOUR] > 0.0) & (x[now + _COLOUR] < 0.0)
    covers = fall & long_one & (c > open_one) & (c < close_one - half)
    _flag(flags, seen, _DARK_CLOUD_COVER, covers & (o > x[one + _HIGH]), covers & (o >= close_one), -1.0)


@_kernel
def _stars(flags: Flags, seen: int, x: Vector, now: int, one: int, two: int) -> None:
    """Morning star, evening star: a long candle, a small one beyond it, a close back inside the first."""
    long_two = x[two + _BODY] > x[two + _BODY_FROM_0]
    small_one = x[one + _BODY] <= x[one + _BODY_FROM_1]
    sizes = long_two & small_one & (x[now + _BODY] > x[now + _BODY_FROM_2])
    c, body_two, close_two = x[now + _CLOSE], x[two + _BODY], x[two + _CLOSE]

    rise = (x[two + _COLOUR] < 0.0) & (x[now + _COLOUR] > 0.0)
    star = sizes & rise & (c > _fused(body_two, 0.3, close_two))
    top_one, bottom_two = x[one + _TOP], x[two + _BOTTOM]
    _flag(flags, seen, _MORNING_STAR, star & (top_one < bottom_two), star & (top_one <= bottom_two), 1.0)

    fall = (x[two + _COLOUR] > 0.0) & (x[now + _COLOUR] < 0.0)
    star = sizes & fall & (c < close_two - body_two * 0.3)
    bottom_one, top_two = x[one + _BOTTOM], x[two + _TOP]
    _flag(flags, seen, _EVENING_STAR, star & (bottom_one > top_two), star & (bottom_one >= top_two), -1.0)


@_kernel
def _white_soldiers(flags: Flags, seen: int, x: Vector, now: int, one: int, two: int) -> None:
    """Rising white closes, shaven heads, opens in or near the previous body."""
    white = (x[two + _COLOUR] > 0.0) & (x[one + _COLOUR] > 0.0) & (x[now + _COLOUR] > 0.0)
    close_one, close_two = x[one + _CLOSE], x[two + _CLOSE]
    rising = (x[now + _CLOSE] > close_one) & (close_one > close_two)
    shaven_two = x[two + _UPPER] < 0.1 * x[two + _RANGE_FROM_0]
    shaven_one = x[one + _UPPER] < 0.1 * x[one + _RANGE_FROM_1]
    shaven = shaven_two & shaven_one & (x[now + _UPPER] < 0.1 * x[now + _RANGE_FROM_2])
    o, open_one = x[now + _OPEN], x[one + _OPEN]
    near_two = close_two + 0.2 * x[two + _FIVE_FROM_5]
    near_one = close_one + 0.2 * x[one + _FIVE_FROM_6]
    opens = (open_one > x[two + _OPEN]) & (open_one <= near_two) & (o > open_one) & (o <= near_one)
    body, body_one = x[now + _BODY], x[one + _BODY]
    not_far_two = body_one > x[two + _BODY] - 0.6 * x[two + _FIVE_FROM_5]  # hardly shorter than the one before
    not_far_one = body > body_one - 0.6 * x[one + _FIVE_FROM_6]
    soldiers = white & rising & shaven & opens & not_far_two & not_far_one & (body > x[now + _BODY_FROM_2])
    _flag(flags, seen, _WHITE_SOLDIERS, soldiers, soldiers, 1.0)


@_kernel
def _black_crows(flags: Flags, seen: int, x: Vector, now: int, one: int, two: int, three: int) -> None:
    """After a white candle, falling black closes, shaven feet, opens in the previous body."""
    turn = (x[three + _COLOUR] > 0.0) & (x[two + _COLOUR] < 0.0)
    black = turn & (x[one + _COLOUR] < 0.0) & (x[now + _COLOUR] < 0.0)
    close_one, close_two = x[one + _CLOSE], x[two + _CLOSE]
    falling = (x[three + _HIGH] > close_two) & (close_two > close_one) & (close_one > x[now + _CLOSE])
    shaven_two = x[two + _LOWER] < 0.1 * x[two + _RANGE_FROM_1]
    shaven_one = x[one + _LOWER] < 0.1 * x[one + _RANGE_FROM_2]
    shaven = shaven_two & shaven_one & (x[now + _LOWER] < 0.1 * x[now + _RANGE_FROM_3])
    o, open_one = x[now + _OPEN], x[one + _OPEN]
    crows = black & falling & shaven & (open_one < x[two + _OPEN]) & (o < open_one)
    inside = (open_one > close_two) & (o > close_one)
    touching = (open_one >= close_two) & (o >= close_one)
    _flag(flags, seen, _BLACK_CROWS, crows & inside, crows & touching, -1.0)


@njit(cache=True, forceinline=True, **_OPTIONS)
def rules_step(open: float, high: float, low: float, close: float, state: RuleState[Vector], flags: Flags) -> None:
    """Judge the bar that just closed, by both standards, and remember it; nothing is allocated.

    Parameters
    ----------
    open, high, low, close : float
        Its prices.
    state : RuleState
        Updated in place.
    flags : two float arrays, (15,) or longer
        Written, (classic, continuous): per pattern the direction -1, 0 or +1, or NaN in its warm-up.
    """
    seen = int(state.seen[0])
    x, totals = state.candles, state.totals
    now, one, two, three = _slot(seen), _slot(seen - 1), _slot(seen - 2), _slot(seen - 3)
    _measure(open, high, low, close, x, now, totals)
    _one_candle(flags, seen, x, now, one)
    _two_candles(flags, seen, x, now, one)
    _return_into(flags, seen, x, now, one)
    _stars(flags, seen, x, now, one, two)
    _white_soldiers(flags, seen, x, now, one, two)
    _black_crows(flags, seen, x, now, one, two, three)
    _add(seen, x, now, _slot(seen - 5), _slot(seen - 10), totals)
    state.seen[0] = seen + 1


@njit(cache=True, **_OPTIONS)
def _every_bar(prices: Vector, state: RuleState[Vector], wanted: int, out: NDArray[np.int8]) -> None:
    """``rules_step`` over every bar; the wanted standard is kept, NaN as 0."""
    both = np.empty((2, N_PATTERNS))
    flags, kept = (both[0], both[1]), both[wanted]
    for t in range(prices.shape[1]):
        rules_step(prices[0, t], prices[1, t], prices[2, t], prices[3, t], state, flags)
        for k in range(N_PATTERNS):
            out[t, k] = 0 if np.isnan(kept[k]) else np.int8(kept[k])


def pattern_flags(
    open: Vector,
    high: Vector,
    low: Vector,
    close: Vector,
    standard: Standard = "classic",
    state: RuleState[Vector] | None = None,
) -> NDArray[np.int8]:
    """Direction of every pattern at every bar, known at the bar's close.

    Parameters
    ----------
    open, high, low, close : float64, (n_bars,)
        Valid prices, oldest first.
    standard : "classic" or "continuous"
        TA-Lib's definition, or the one for markets that never close (:data:`RELAXATIONS`).
    state : RuleState, optional
        Memory of the bars before these; updated. Default: there were none.

    Returns
    -------
    int8, (n_bars, 15)
        -1 bearish, 0 absent, +1 bullish; columns as ``PATTERNS``. Row ``t < WARM_UP[name]`` of a series is 0
        because nothing is known yet, not because the pattern is absent.

    ConfigError for an unknown standard, BarsError for arrays of unequal length.
    """
    if standard not in STANDARDS:
        raise ConfigError(f"standard {standard!r} is not accepted; use 'classic' or 'continuous'")
    shapes = {np.shape(price) for price in (open, high, low, close)}
    if shapes != {(np.size(close),)}:
        raise BarsError(f"prices must be four arrays of one length, not of shapes {sorted(shapes)}")
    prices = np.array([open, high, low, close], dtype=np.float64)
    flags = np.empty((prices.shape[1], N_PATTERNS), dtype=np.int8)
    _every_bar(prices, rule_state() if state is None else state, STANDARDS.index(standard), flags)
    return flags
