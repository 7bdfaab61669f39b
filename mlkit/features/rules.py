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

from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import BarsError, ConfigError
from mlkit.features.kernel import entry, kernel, local
from mlkit.features.lanes import WIDTH, Lanes, Shelf, choose, fetch, fused, rising, shelf, store, turn

Standard = Literal["classic", "continuous"]
Vector = NDArray[np.float64]
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
# Flags are judged together: the classic ones, then the six continuous ones that differ.
_SHOOTING_STAR_2, _MORNING_STAR_2, _EVENING_STAR_2, _BLACK_CROWS_2, _PIERCING_LINE_2, _DARK_CLOUD_2 = range(15, 21)
N_FLAGS = N_PATTERNS + len(RELAXATIONS)
_CONTINUOUS = [N_PATTERNS + list(RELAXATIONS).index(p) if p in RELAXATIONS else k for k, p in enumerate(PATTERNS)]
_COLUMNS = np.array([list(range(N_PATTERNS)), _CONTINUOUS])  # by standard, the flag of each pattern
_LOOKBACKS = np.array(list(WARM_UP.values()))


# The history of a candle: its prices, its parts, and the means that were current when it opened. BODY_FROM_1 is
# the mean body of the 10 bars before it, by the total that starts at bar 1; FIVE_ the mean range of 5 bars.
_OPEN, _HIGH, _LOW, _CLOSE, _TOP, _BOTTOM, _COLOUR, _BODY, _UPPER, _LOWER, _RANGE = range(11)
_BODY_FROM_0, _BODY_FROM_1, _BODY_FROM_2 = range(11, 14)
_RANGE_FROM_0, _RANGE_FROM_1, _RANGE_FROM_2, _RANGE_FROM_3 = range(14, 18)
_FIVE_FROM_0, _FIVE_FROM_5, _FIVE_FROM_6 = range(18, 21)
_PARTS, _TOTALS = 11, 16  # ten totals, and six places that are there to make it twice eight
_FIELDS = _PARTS + _TOTALS
_PAST = 16  # bars kept; a block of bars may not cross a multiple of it
_LENGTH = 2 * _PAST + WIDTH
_PRICES, _FLAGS, _MOVES = 4 * WIDTH, N_FLAGS * WIDTH, _TOTALS * WIDTH  # sizes of a block's arrays


class RuleState(NamedTuple, Generic[Part]):
    """Memory of the rules: views into one flat float64 vector, all zeros before the first bar."""

    seen: Part  # (1,) bars so far
    history: Part  # (27 * 40,) every field in time order, bar t at 16 + t % 16
    totals: Part  # (16,) running totals, in the order of the means of a candle


RULE_SIZES: RuleState[int] = RuleState(1, _FIELDS * _LENGTH, _TOTALS)
RULE_STATE_SIZE: int = sum(RULE_SIZES)


def rule_state(flat: Vector | None = None) -> RuleState[Vector]:
    """State of the rules as views into ``flat``, float64 (RULE_STATE_SIZE,); by default fresh zeros.

    The views are written to, bar by bar: a copy of ``flat`` saves the state, this function restores it.
    """
    if flat is None:
        flat = np.zeros(RULE_STATE_SIZE)
    if flat.shape != (RULE_STATE_SIZE,) or flat.dtype != np.float64:
        raise ConfigError(f"rule state must be float64 ({RULE_STATE_SIZE},), not {flat.dtype} {flat.shape}")
    seen, history, totals = np.split(flat, np.cumsum(RULE_SIZES[:2]))  # views
    return RuleState(seen, history, totals)


@kernel
def _measure(open: Lanes, high: Lanes, low: Lanes, close: Lanes, now: Shelf) -> None:
    """Write the parts of the candles of a block."""
    white = close >= open
    top, bottom = choose(white, close, open), choose(white, open, close)
    now[_OPEN], now[_HIGH], now[_LOW], now[_CLOSE] = open, high, low, close
    now[_TOP], now[_BOTTOM], now[_COLOUR] = top, bottom, choose(white, 1.0, -1.0)
    now[_BODY], now[_UPPER], now[_LOWER], now[_RANGE] = top - bottom, high - top, bottom - low, high - low


@kernel
def _moved(seen: Lanes, start: float, period: float, newest: Lanes, oldest: Lanes) -> Lanes:
    """How far each bar moves a total: it takes bars from its start on, and drops none from before it."""
    taken, dropped = choose(seen >= start, newest, 0.0), choose(seen >= start + period, oldest, 0.0)
    move: Lanes = taken - dropped
    return move


@kernel
def _move(seen: Lanes, now: Shelf, five: Shelf, ten: Shelf, moves: Shelf) -> None:
    """How far each bar of a block moves each total."""
    body, span, old_body, old_span, five_span = now[_BODY], now[_RANGE], ten[_BODY], ten[_RANGE], five[_RANGE]
    moves[0] = _moved(seen, 0.0, 10.0, body, old_body)
    moves[1] = _moved(seen, 1.0, 10.0, body, old_body)
    moves[2] = _moved(seen, 2.0, 10.0, body, old_body)
    moves[3] = _moved(seen, 0.0, 10.0, span, old_span)
    moves[4] = _moved(seen, 1.0, 10.0, span, old_span)
    moves[5] = _moved(seen, 2.0, 10.0, span, old_span)
    moves[6] = _moved(seen, 3.0, 10.0, span, old_span)
    moves[7] = _moved(seen, 0.0, 5.0, span, five_span)
    moves[8] = _moved(seen, 5.0, 5.0, span, five_span)
    moves[9] = _moved(seen, 6.0, 5.0, span, five_span)
    for k in range(10, _TOTALS):
        moves[k] = 0.0


@kernel
def _add(seen: Lanes, n: int, totals: Vector, now: Shelf, five: Shelf, ten: Shelf) -> None:
    """Write the means that were current when each bar of a block opened; move every total on by its bars."""
    columns, rows = local(_MOVES, totals), local(_MOVES, totals)
    moved = shelf(columns, 0, WIDTH)
    _move(seen, now, five, ten, moved)
    turn(columns, 0, WIDTH, rows, 0, _TOTALS)
    turn(columns, 8 * WIDTH, WIDTH, rows, 8, _TOTALS)
    first, last = fetch(totals, 0), fetch(totals, 8)
    for r in range(n):
        first_move, last_move = fetch(rows, r * _TOTALS), fetch(rows, r * _TOTALS + 8)
        store(rows, r * _TOTALS, first)
        store(rows, r * _TOTALS + 8, last)
        first, last = first + first_move, last + last_move
    store(totals, 0, first)
    store(totals, 8, last)
    turn(rows, 0, _TOTALS, columns, 0, WIDTH)
    turn(rows, 8, _TOTALS, columns, 8 * WIDTH, WIDTH)
    for k in range(10):
        now[_PARTS + k] = moved[k] / (10.0 if k < 7 else 5.0)


@kernel
def _one_candle(flags: Shelf, now: Shelf, one: Shelf) -> None:
    """Doji, hammer, shooting star, marubozu."""
    body, upper, lower, bottom = now[_BODY], now[_UPPER], now[_LOWER], now[_BOTTOM]
    doji = body <= 0.1 * now[_RANGE_FROM_0]
    flags[_DOJI] = choose(doji, 1.0, 0.0)

    small = body < now[_BODY_FROM_1]
    shaven = 0.1 * now[_RANGE_FROM_1]  # a shadow below this is "very short"
    near_low = bottom <= one[_LOW] + 0.2 * one[_FIVE_FROM_5]
    hammer = small & (lower > body) & (upper < shaven) & near_low
    flags[_HAMMER] = choose(hammer, 1.0, 0.0)

    star, top_one = small & (upper > body) & (lower < shaven), one[_TOP]
    flags[_SHOOTING_STAR] = choose(star & (bottom > top_one), -1.0, 0.0)
    flags[_SHOOTING_STAR_2] = choose(star & (bottom >= top_one), -1.0, 0.0)

    shaven = 0.1 * now[_RANGE_FROM_0]
    marubozu = (body > now[_BODY_FROM_0]) & (upper < shaven) & (lower < shaven)
    flags[_MARUBOZU] = choose(marubozu, now[_COLOUR], 0.0)


@kernel
def _two_candles(flags: Shelf, now: Shelf, one: Shelf) -> None:
    """Engulfing, harami, tweezers."""
    rise = (one[_COLOUR] < 0.0) & (now[_COLOUR] > 0.0)  # black, then white
    fall = (one[_COLOUR] > 0.0) & (now[_COLOUR] < 0.0)
    top, bottom, top_one, bottom_one = now[_TOP], now[_BOTTOM], one[_TOP], one[_BOTTOM]

    # The body covers the previous one; one end may match, not both.
    covers = ((top >= top_one) & (bottom < bottom_one)) | ((top > top_one) & (bottom <= bottom_one))
    flags[_ENGULFING_BULLISH] = choose(covers & rise, 1.0, 0.0)
    flags[_ENGULFING_BEARISH] = choose(covers & fall, -1.0, 0.0)

    inside = (top <= top_one) & (bottom >= bottom_one)
    sizes = (one[_BODY] > one[_BODY_FROM_0]) & (now[_BODY] <= now[_BODY_FROM_1])
    flags[_HARAMI] = choose(sizes & inside, -one[_COLOUR], 0.0)

    equal = 0.05 * one[_FIVE_FROM_0]
    high, low, high_one, low_one = now[_HIGH], now[_LOW], one[_HIGH], one[_LOW]
    tops = fall & (high <= high_one + equal) & (high >= high_one - equal)
    bottoms = rise & (low <= low_one + equal) & (low >= low_one - equal)
    flags[_TWEEZER_TOP] = choose(tops, -1.0, 0.0)
    flags[_TWEEZER_BOTTOM] = choose(bottoms, 1.0, 0.0)


@kernel
def _return_into(flags: Shelf, now: Shelf, one: Shelf) -> None:
    """Piercing line, dark cloud cover: an open beyond a long candle, a close past the middle of its body."""
    o, c, open_one, close_one = now[_OPEN], now[_CLOSE], one[_OPEN], one[_CLOSE]
    long_one = one[_BODY] > one[_BODY_FROM_0]
    half = one[_BODY] * 0.5

    rise = (one[_COLOUR] < 0.0) & (now[_COLOUR] > 0.0)
    long_now = now[_BODY] > now[_BODY_FROM_1]
    pierces = rise & long_one & long_now & (c < open_one) & (c > close_one + half)
    flags[_PIERCING_LINE] = choose(pierces & (o < one[_LOW]), 1.0, 0.0)
    flags[_PIERCING_LINE_2] = choose(pierces & (o <= close_one), 1.0, 0.0)

    fall = (one[_COLOUR] > 0.0) & (now[_COLOUR] < 0.0)
    covers = fall & long_one & (c > open_one) & (c < close_one - half)
    flags[_DARK_CLOUD_COVER] = choose(covers & (o > one[_HIGH]), -1.0, 0.0)
    flags[_DARK_CLOUD_2] = choose(covers & (o >= close_one), -1.0, 0.0)


@kernel
def _stars(flags: Shelf, now: Shelf, one: Shelf, two: Shelf) -> None:
    """Morning star, evening star: a long candle, a small one beyond it, a close back inside the first."""
    long_two = two[_BODY] > two[_BODY_FROM_0]
    small_one = one[_BODY] <= one[_BODY_FROM_1]
    sizes = long_two & small_one & (now[_BODY] > now[_BODY_FROM_2])
    c, body_two, close_two = now[_CLOSE], two[_BODY], two[_CLOSE]

    rise = (two[_COLOUR] < 0.0) & (now[_COLOUR] > 0.0)
    star = sizes & rise & (c > fused(body_two, 0.3, close_two))
    top_one, bottom_two = one[_TOP], two[_BOTTOM]
    flags[_MORNING_STAR] = choose(star & (top_one < bottom_two), 1.0, 0.0)
    flags[_MORNING_STAR_2] = choose(star & (top_one <= bottom_two), 1.0, 0.0)

    fall = (two[_COLOUR] > 0.0) & (now[_COLOUR] < 0.0)
    star = sizes & fall & (c < close_two - body_two * 0.3)
    bottom_one, top_two = one[_BOTTOM], two[_TOP]
    flags[_EVENING_STAR] = choose(star & (bottom_one > top_two), -1.0, 0.0)
    flags[_EVENING_STAR_2] = choose(star & (bottom_one >= top_two), -1.0, 0.0)


@kernel
def _white_soldiers(flags: Shelf, now: Shelf, one: Shelf, two: Shelf) -> None:
    """Rising white closes, shaven heads, opens in or near the previous body."""
    white = (two[_COLOUR] > 0.0) & (one[_COLOUR] > 0.0) & (now[_COLOUR] > 0.0)
    close_one, close_two = one[_CLOSE], two[_CLOSE]
    rises = (now[_CLOSE] > close_one) & (close_one > close_two)
    shaven_two = two[_UPPER] < 0.1 * two[_RANGE_FROM_0]
    shaven_one = one[_UPPER] < 0.1 * one[_RANGE_FROM_1]
    shaven = shaven_two & shaven_one & (now[_UPPER] < 0.1 * now[_RANGE_FROM_2])
    o, open_one = now[_OPEN], one[_OPEN]
    near_two = close_two + 0.2 * two[_FIVE_FROM_5]
    near_one = close_one + 0.2 * one[_FIVE_FROM_6]
    opens = (open_one > two[_OPEN]) & (open_one <= near_two) & (o > open_one) & (o <= near_one)
    body, body_one = now[_BODY], one[_BODY]
    not_far_two = body_one > two[_BODY] - 0.6 * two[_FIVE_FROM_5]  # hardly shorter than the one before
    not_far_one = body > body_one - 0.6 * one[_FIVE_FROM_6]
    soldiers = white & rises & shaven & opens & not_far_two & not_far_one & (body > now[_BODY_FROM_2])
    flags[_WHITE_SOLDIERS] = choose(soldiers, 1.0, 0.0)


@kernel
def _black_crows(flags: Shelf, now: Shelf, one: Shelf, two: Shelf, three: Shelf) -> None:
    """After a white candle, falling black closes, shaven feet, opens in the previous body."""
    turned = (three[_COLOUR] > 0.0) & (two[_COLOUR] < 0.0)
    black = turned & (one[_COLOUR] < 0.0) & (now[_COLOUR] < 0.0)
    close_one, close_two = one[_CLOSE], two[_CLOSE]
    falling = (three[_HIGH] > close_two) & (close_two > close_one) & (close_one > now[_CLOSE])
    shaven_two = two[_LOWER] < 0.1 * two[_RANGE_FROM_1]
    shaven_one = one[_LOWER] < 0.1 * one[_RANGE_FROM_2]
    shaven = shaven_two & shaven_one & (now[_LOWER] < 0.1 * now[_RANGE_FROM_3])
    o, open_one = now[_OPEN], one[_OPEN]
    crows = black & falling & shaven & (open_one < two[_OPEN]) & (o < open_one)
    inside = (open_one > close_two) & (o > close_one)
    touching = (open_one >= close_two) & (o >= close_one)
    flags[_BLACK_CROWS] = choose(crows & inside, -1.0, 0.0)
    flags[_BLACK_CROWS_2] = choose(crows & touching, -1.0, 0.0)


@kernel
def rules_step(t: int, n: int, open: Lanes, high: Lanes, low: Lanes, close: Lanes, state: Any, flags: Shelf) -> None:
    """Judge a block of bars that just closed, by both standards, and remember it; nothing is allocated.

    Parameters
    ----------
    t, n : int
        Bars before the block, and bars in it, 1 to 8; a block may not cross a multiple of 16 bars.
    open, high, low, close : Lanes
        Their prices, one bar a lane.
    state : RuleState
        Updated in place.
    flags : Shelf
        Written: of each of `N_FLAGS` the directions -1, 0 or +1, without meaning in the warm-up.
    """
    x, at = state.history, _PAST + (t & (_PAST - 1))
    if (at == _PAST) & (t > 0):
        for field in range(_FIELDS):
            for k in range(0, _PAST, WIDTH):
                store(x, field * _LENGTH + k, fetch(x, field * _LENGTH + _PAST + k))
    now, one = shelf(x, at, _LENGTH), shelf(x, at - 1, _LENGTH)
    two, three = shelf(x, at - 2, _LENGTH), shelf(x, at - 3, _LENGTH)
    _measure(open, high, low, close, now)
    _add(rising(t), n, state.totals, now, shelf(x, at - 5, _LENGTH), shelf(x, at - 10, _LENGTH))
    _one_candle(flags, now, one)
    _two_candles(flags, now, one)
    _return_into(flags, now, one)
    _stars(flags, now, one, two)
    _white_soldiers(flags, now, one, two)
    _black_crows(flags, now, one, two, three)


@entry
def _every_bar(prices: Vector, state: RuleState[Vector], columns: Any, lookbacks: Any, out: NDArray[np.int8]) -> None:
    """``rules_step`` over every bar; the wanted standard is kept."""
    block, found = local(_PRICES, prices), local(_FLAGS, prices)
    given, flags = shelf(block, 0, WIDTH), shelf(found, 0, WIDTH)
    start, t = 0, int(state.seen[0])
    while start < prices.shape[1]:
        n = min(WIDTH, prices.shape[1] - start, _PAST - (t & (_PAST - 1)))
        for r in range(WIDTH):
            for k in range(4):
                block[k * WIDTH + r] = prices[k, start + min(r, n - 1)]
        rules_step(t, n, given[0], given[1], given[2], given[3], state, flags)
        for r in range(n):
            for k in range(N_PATTERNS):
                out[start + r, k] = np.int8(found[columns[k] * WIDTH + r]) if t + r >= lookbacks[k] else 0
        start, t = start + n, t + n
    state.seen[0] = t


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
    columns = _COLUMNS[STANDARDS.index(standard)]
    _every_bar(prices, rule_state() if state is None else state, columns, _LOOKBACKS, flags)
    return flags
