"""The 15 candlestick patterns as rules over the newest candles, for both standards.

``classic`` is TA-Lib 0.8 bit for bit: the conditions of 12 ``CDL*`` functions with their default settings,
and their order of operations. A threshold is a factor times the mean body (or high-low range) of the 10 (or
5) bars *before* the candle it judges. TA-Lib keeps each mean as a running total that starts at the first bar
its function looks at; where a total rounds, a tie can depend on that start. Hence ten totals, one for each
start in use (three shared ones agree on all real bars tried, but not on every wild one).

TA-Lib has no tweezers. Here they are two adjacent bars of opposite colour whose highs (top: white, then
black) or lows (bottom: black, then white) agree within TA-Lib's ``Equal`` tolerance at the first of the two,
as in ``CDLMATCHINGLOW``: 0.05 x the mean high-low range of the 5 bars before that first bar.

``continuous`` relaxes the gap conditions only, for markets that never close, where a bar opens at the
previous close. Every classic hit is a continuous hit.

A bar that closes at its open is white, as in TA-Lib. Constant prices show a doji (0 <= 0) and nothing else.

To add a pattern, write one function under `rule`; `PATTERNS`, the features and the labels follow.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlkit.compiled import cached
from mlkit.errors import BarsError, ConfigError
from mlkit.features.candle_rows import (
    BODY,
    BODY_FROM_0,
    BODY_FROM_1,
    BODY_FROM_2,
    BOTTOM,
    COLOUR,
    FIVE_FROM_0,
    FIVE_FROM_5,
    FIVE_FROM_6,
    LOWER,
    PARTS,
    RANGE_FROM_0,
    RANGE_FROM_1,
    RANGE_FROM_2,
    RANGE_FROM_3,
    TOP,
    UPPER,
    body,
    colour,
    covers,
    falls,
    long_before,
    mean5,
    mean10,
    move_totals,
    rises,
)  # fmt: skip
from mlkit.features.kernel import OPTIONS, STAMP, formula, kernel
from mlkit.features.state_rows import (
    BLOCK_BARS,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    SEEN,
    Bars,
    Formula,
    Vector,
    ago,
    at,
    close,
    enter,
    high,
    keeper,
    low,
    new_row,
    open_,
    place,
    rows_by_formulas,
    rows_so_far,
)  # fmt: skip

Standard = Literal["classic", "continuous"]
#: Direction that a pattern claims: +1 bullish, -1 bearish, 0 none; or the colour of its candle, or the opposite of the
#: colour of the candle before it.
Claim = Literal[1, -1, 0, "colour", "against the colour before"]

STANDARDS: tuple[Standard, ...] = ("classic", "continuous")


class Relaxation(NamedTuple):
    """What ``continuous`` asks for in place of a classic gap; ``t`` is the bar of the flag."""

    classic: str
    continuous: str
    reason: str


class Rule(NamedTuple):
    """A pattern as a rule."""

    claim: Claim
    warm_up: int  # bars before the first verdict, TA-Lib's lookback: row t is known for t >= warm_up
    candles: int  # candles that make the shape
    relaxation: Relaxation | None  # where the standards differ
    flags: dict[Standard, np.int64]  # row of the flag: -1, 0 or +1, without meaning in the warm-up


#: Every pattern by name, in the order of all tables of patterns.
RULES: dict[str, Rule] = {}
#: Rows of the flags, with the formulas that fill them.
FLAGS: dict[np.int64, Formula] = {}


def rule(
    claim: Claim, warm_up: int, candles: int, *, gap: Relaxation | None = None
) -> Callable[[Callable[..., bool]], Any]:
    """Register a rule: a function of the bar, and with ``gap`` also of whether the classic gap is wanted.

    Parameters
    ----------
    claim, warm_up, candles, gap : fields of `Rule`; the name of the function is that of the pattern.
    """

    def register(function: Callable[..., bool]) -> Callable[..., bool]:
        flags = {}
        for standard in STANDARDS if gap else STANDARDS[:1]:
            row = flags[standard] = new_row()
            FLAGS[row] = _flag(formula(function), claim, None if gap is None else standard == "classic")
        name = function.__name__
        RULES[name] = Rule(claim, warm_up, candles, gap, {s: flags.get(s, flags["classic"]) for s in STANDARDS})
        return function

    return register


def _flag(holds: Any, claim: Claim, classic: bool | None) -> Formula:
    """Direction of a pattern where its rule holds, else 0; a doji is +1."""
    if claim == "colour":
        return formula(lambda b: colour(b) if holds(b) else 0.0)
    if claim == "against the colour before":
        return formula(lambda b: -ago(b, COLOUR, 1) if holds(b) else 0.0)
    side = float(claim or 1)
    if classic is None:
        return formula(lambda b: side if holds(b) else 0.0)
    return formula(lambda b: side if holds(b, classic) else 0.0)


@kernel
def fused(a: float, b: float, c: float) -> float:
    """``a * b + c`` rounded once, as in TA-Lib: product and sum with their rounding errors (Dekker 1971)."""
    split = 134217729.0  # 2^27 + 1: parts of 26 bits, whose products are exact
    a1, b1 = a * split - (a * split - a), b * split - (b * split - b)
    a2, b2 = a - a1, b - b1
    product = a * b
    lost = a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)
    rounded = product + c
    part = rounded - product
    return rounded + (((product - (rounded - part)) + (c - part)) + lost)


_TOUCH = "an open at the previous close leaves no gap between bodies, so they may touch"
_PRIOR_CLOSE = "an open at the previous close cannot pass the previous extreme, so it is held to the close"
_FROM_CLOSE = "an open at the previous close is not inside the previous body, so it may be at its end"


@rule(0, 10, 1)  # CDLDOJI
def doji(b: Bars) -> bool:
    """Hardly any body."""
    return body(b) <= 0.1 * mean10(b, RANGE_FROM_0, 0)


@rule(1, 11, 2)  # CDLHAMMER
def hammer(b: Bars) -> bool:
    """A small body near the previous low, a long lower shadow, hardly an upper one."""
    small, shaven = body(b) < mean10(b, BODY_FROM_1, 0), at(b, UPPER) < 0.1 * mean10(b, RANGE_FROM_1, 0)
    near_low = at(b, BOTTOM) <= ago(b, LOW, 1) + 0.2 * mean5(b, FIVE_FROM_5, 1)
    return small & (at(b, LOWER) > body(b)) & shaven & near_low


@rule(-1, 11, 2, gap=Relaxation("bottom[t] > top[t-1]", "bottom[t] >= top[t-1]", _TOUCH))  # CDLSHOOTINGSTAR
def shooting_star(b: Bars, classic: bool) -> bool:
    """A small body above the previous one, a long upper shadow, hardly a lower one."""
    small, shaven = body(b) < mean10(b, BODY_FROM_1, 0), at(b, LOWER) < 0.1 * mean10(b, RANGE_FROM_1, 0)
    bottom, top1 = at(b, BOTTOM), ago(b, TOP, 1)
    return small & (at(b, UPPER) > body(b)) & shaven & (bottom > top1 if classic else bottom >= top1)


@rule(1, 2, 2)  # CDLENGULFING > 0
def engulfing_bullish(b: Bars) -> bool:
    """A white body covers a black one."""
    return covers(b) & rises(b)


@rule(-1, 2, 2)  # CDLENGULFING < 0
def engulfing_bearish(b: Bars) -> bool:
    """A black body covers a white one."""
    return covers(b) & falls(b)


@kernel
def _star_sizes(b: Bars) -> bool:
    """A long candle, a small one, one that is not small."""
    first, small = ago(b, BODY, 2) > mean10(b, BODY_FROM_0, 2), ago(b, BODY, 1) <= mean10(b, BODY_FROM_1, 1)
    return first & small & (body(b) > mean10(b, BODY_FROM_2, 0))


@rule(1, 12, 3, gap=Relaxation("top[t-1] < bottom[t-2]", "top[t-1] <= bottom[t-2]", _TOUCH))
def morning_star(b: Bars, classic: bool) -> bool:
    """A long black candle, a small one below it, a white close 30 % back up. CDLMORNINGSTAR, penetration 0.3."""
    turns = (ago(b, COLOUR, 2) < 0.0) & (colour(b) > 0.0)
    top1, bottom2 = ago(b, TOP, 1), ago(b, BOTTOM, 2)
    back = close(b) > fused(ago(b, BODY, 2), 0.3, ago(b, CLOSE, 2))
    return _star_sizes(b) & turns & back & (top1 < bottom2 if classic else top1 <= bottom2)


@rule(-1, 12, 3, gap=Relaxation("bottom[t-1] > top[t-2]", "bottom[t-1] >= top[t-2]", _TOUCH))
def evening_star(b: Bars, classic: bool) -> bool:
    """A long white candle, a small one above it, a black close 30 % back down. CDLEVENINGSTAR, penetration 0.3."""
    turns = (ago(b, COLOUR, 2) > 0.0) & (colour(b) < 0.0)
    bottom1, top2 = ago(b, BOTTOM, 1), ago(b, TOP, 2)
    back = close(b) < ago(b, CLOSE, 2) - ago(b, BODY, 2) * 0.3
    return _star_sizes(b) & turns & back & (bottom1 > top2 if classic else bottom1 >= top2)


@rule(1, 12, 3)  # CDL3WHITESOLDIERS
def three_white_soldiers(b: Bars) -> bool:
    """Rising white closes, hardly an upper shadow, opens in or near the previous body."""
    white = (ago(b, COLOUR, 2) > 0.0) & (ago(b, COLOUR, 1) > 0.0) & (colour(b) > 0.0)
    open1, close1, close2, body1 = ago(b, OPEN, 1), ago(b, CLOSE, 1), ago(b, CLOSE, 2), ago(b, BODY, 1)
    shaven2 = ago(b, UPPER, 2) < 0.1 * mean10(b, RANGE_FROM_0, 2)
    shaven1 = ago(b, UPPER, 1) < 0.1 * mean10(b, RANGE_FROM_1, 1)
    shaven = shaven2 & shaven1 & (at(b, UPPER) < 0.1 * mean10(b, RANGE_FROM_2, 0))
    near2, near1 = close2 + 0.2 * mean5(b, FIVE_FROM_5, 2), close1 + 0.2 * mean5(b, FIVE_FROM_6, 1)
    opens = (open1 > ago(b, OPEN, 2)) & (open1 <= near2) & (open_(b) > open1) & (open_(b) <= near1)
    not_far2 = body1 > ago(b, BODY, 2) - 0.6 * mean5(b, FIVE_FROM_5, 2)  # hardly shorter than the one before
    not_far1 = body(b) > body1 - 0.6 * mean5(b, FIVE_FROM_6, 1)
    higher = (close(b) > close1) & (close1 > close2)
    return white & higher & shaven & opens & not_far2 & not_far1 & (body(b) > mean10(b, BODY_FROM_2, 0))


@rule(
    -1, 13, 4,
    gap=Relaxation(
        "open[t-1] > close[t-2] and open[t] > close[t-1]",
        "open[t-1] >= close[t-2] and open[t] >= close[t-1]",
        _FROM_CLOSE,
    ),
)  # CDL3BLACKCROWS  # fmt: skip
def three_black_crows(b: Bars, classic: bool) -> bool:
    """After a white candle, falling black closes, hardly a lower shadow, opens in the previous body."""
    black = (ago(b, COLOUR, 3) > 0.0) & (ago(b, COLOUR, 2) < 0.0) & (ago(b, COLOUR, 1) < 0.0) & (colour(b) < 0.0)
    open1, close1, close2 = ago(b, OPEN, 1), ago(b, CLOSE, 1), ago(b, CLOSE, 2)
    lower = (ago(b, HIGH, 3) > close2) & (close2 > close1) & (close1 > close(b))
    shaven2 = ago(b, LOWER, 2) < 0.1 * mean10(b, RANGE_FROM_1, 2)
    shaven1 = ago(b, LOWER, 1) < 0.1 * mean10(b, RANGE_FROM_2, 1)
    shaven = shaven2 & shaven1 & (at(b, LOWER) < 0.1 * mean10(b, RANGE_FROM_3, 0))
    crows = black & lower & shaven & (open1 < ago(b, OPEN, 2)) & (open_(b) < open1)
    inside, touching = (open1 > close2) & (open_(b) > close1), (open1 >= close2) & (open_(b) >= close1)
    return crows & (inside if classic else touching)


@rule("against the colour before", 11, 2)  # CDLHARAMI
def harami(b: Bars) -> bool:
    """A small body inside a long one."""
    inside = (at(b, TOP) <= ago(b, TOP, 1)) & (at(b, BOTTOM) >= ago(b, BOTTOM, 1))
    return long_before(b) & (body(b) <= mean10(b, BODY_FROM_1, 0)) & inside


@rule(1, 11, 2, gap=Relaxation("open[t] < low[t-1]", "open[t] <= close[t-1]", _PRIOR_CLOSE))  # CDLPIERCING
def piercing_line(b: Bars, classic: bool) -> bool:
    """After a long black candle an open below it, a white close above the middle of its body."""
    open1, close1, long_now = ago(b, OPEN, 1), ago(b, CLOSE, 1), body(b) > mean10(b, BODY_FROM_1, 0)
    back = (close(b) < open1) & (close(b) > close1 + ago(b, BODY, 1) * 0.5)
    return rises(b) & long_before(b) & long_now & back & (open_(b) < ago(b, LOW, 1) if classic else open_(b) <= close1)


@rule(-1, 11, 2, gap=Relaxation("open[t] > high[t-1]", "open[t] >= close[t-1]", _PRIOR_CLOSE))
def dark_cloud_cover(b: Bars, classic: bool) -> bool:
    """After a long white candle an open above it, a black close below its middle. CDLDARKCLOUDCOVER, 0.5."""
    open1, close1 = ago(b, OPEN, 1), ago(b, CLOSE, 1)
    back = (close(b) > open1) & (close(b) < close1 - ago(b, BODY, 1) * 0.5)
    return falls(b) & long_before(b) & back & (open_(b) > ago(b, HIGH, 1) if classic else open_(b) >= close1)


@rule(-1, 6, 2)  # lookback of CDLMATCHINGLOW
def tweezer_top(b: Bars) -> bool:
    """A white and a black candle of equal highs."""
    equal = 0.05 * mean5(b, FIVE_FROM_0, 1)
    return falls(b) & (high(b) <= ago(b, HIGH, 1) + equal) & (high(b) >= ago(b, HIGH, 1) - equal)


@rule(1, 6, 2)
def tweezer_bottom(b: Bars) -> bool:
    """A black and a white candle of equal lows."""
    equal = 0.05 * mean5(b, FIVE_FROM_0, 1)
    return rises(b) & (low(b) <= ago(b, LOW, 1) + equal) & (low(b) >= ago(b, LOW, 1) - equal)


@rule("colour", 10, 1)  # CDLMARUBOZU
def marubozu(b: Bars) -> bool:
    """A long body with hardly a shadow."""
    shaven = 0.1 * mean10(b, RANGE_FROM_0, 0)
    return (body(b) > mean10(b, BODY_FROM_0, 0)) & (at(b, UPPER) < shaven) & (at(b, LOWER) < shaven)


PATTERNS: tuple[str, ...] = tuple(RULES)
#: Bars that a pattern needs before its first verdict.
WARM_UP: dict[str, int] = {name: one.warm_up for name, one in RULES.items()}
#: The patterns with a gap condition. The others are the same under both standards.
RELAXATIONS: dict[str, Relaxation] = {name: one.relaxation for name, one in RULES.items() if one.relaxation}

_FLAG_PLACES = np.array([[place(int(one.flags[standard])) for one in RULES.values()] for standard in STANDARDS])
_LOOKBACKS = np.array(list(WARM_UP.values()))
fill_parts, fill_flags, _keep = rows_by_formulas(PARTS), rows_by_formulas(list(FLAGS.items())), keeper()
RULE_STATE_SIZE: int = place(rows_so_far())


def rule_state() -> Vector:
    """State of the rules before the first bar, float64 (RULE_STATE_SIZE,); a copy saves it."""
    return np.zeros(RULE_STATE_SIZE)


def _with_stamp(stamp: str) -> Any:
    @cached(**OPTIONS)
    def flags(prices: Vector, x: Vector, places: Any, out: NDArray[np.int8]) -> None:
        """Flags of every bar into ``out``, (n_bars, n_patterns); ``places`` are those of the flags of a standard."""
        _ = stamp
        start = 0
        while start < prices.shape[1]:
            t = int(x[SEEN])
            first = t % BLOCK_BARS
            end = min(BLOCK_BARS, first + prices.shape[1] - start)
            zero = t - first
            enter(prices[0], prices[1], prices[2], prices[3], x, first, end, start)
            fill_parts(x, first, end, zero, _NONE)
            move_totals(x, first, end, zero)
            fill_flags(x, first, end, zero, _NONE)
            for r in range(first, end):
                for k in range(len(places)):
                    out[start + r - first, k] = np.int8(x[places[k] + r]) if zero + r >= _LOOKBACKS[k] else 0
            if end == BLOCK_BARS:
                _keep(x)
            x[SEEN] = zero + end
            start += end - first

    return flags


_NONE = np.zeros(0, dtype=np.bool_)
flag_steps = _with_stamp(STAMP)


def pattern_flags(
    open: Vector,
    high: Vector,
    low: Vector,
    close: Vector,
    standard: Standard = "classic",
    state: Vector | None = None,
) -> NDArray[np.int8]:
    """Direction of every pattern at every bar, known at the bar's close.

    Parameters
    ----------
    open, high, low, close : float64, (n_bars,)
        Valid prices, oldest first.
    standard : "classic" or "continuous"
        TA-Lib's definition, or the one for markets that never close (:data:`RELAXATIONS`).
    state : float64 (RULE_STATE_SIZE,), optional
        Of `rule_state`, after the bars before these; updated. Default: there were none.

    Returns
    -------
    int8, (n_bars, 15)
        -1 bearish, 0 absent, +1 bullish; columns as ``PATTERNS``. Row ``t < WARM_UP[name]`` of a series is 0
        because nothing is known yet, not because the pattern is absent.

    ConfigError for an unknown standard or a state of another shape, BarsError for arrays of unequal length.
    """
    if standard not in STANDARDS:
        raise ConfigError(f"standard {standard!r} is not accepted; use 'classic' or 'continuous'")
    shapes = {np.shape(price) for price in (open, high, low, close)}
    if shapes != {(np.size(close),)}:
        raise BarsError(f"prices must be four arrays of one length, not of shapes {sorted(shapes)}")
    state = rule_state() if state is None else state
    if state.shape != (RULE_STATE_SIZE,) or state.dtype != np.float64:
        raise ConfigError(f"rule state must be float64 ({RULE_STATE_SIZE},), not {state.dtype} {state.shape}")
    prices = np.array([open, high, low, close], dtype=np.float64)
    flags = np.empty((prices.shape[1], len(PATTERNS)), dtype=np.int8)
    flag_steps(prices, state, _FLAG_PLACES[STANDARDS.index(standard)], flags)
    return flags
