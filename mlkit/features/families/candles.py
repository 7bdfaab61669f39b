"""Families candle and rule: the newest candle, its sequence with the ones before, and the rules of the patterns."""

from mlkit.features import rules
from mlkit.features.columns import ANY, SHARE, SIGNED, THREE_WAY, TRUE_FALSE, family, mean_of, quotient, value
from mlkit.features.state import BODY, HIGHEST20, LOWEST20, RANGE, RUN, quantity
from mlkit.features.state_rows import (
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    Bars,
    Formula,
    RowNumber,
    ago,
    at,
    close,
    high,
    inverse,
    low,
    open_,
    total,
)

candle = family("candle")


def _in_window(row: RowNumber) -> Formula:
    def position(b: Bars) -> float:
        span = at(b, HIGHEST20) - at(b, LOWEST20)
        return (at(b, row) - at(b, LOWEST20)) * inverse(span) if span > 0.0 else 0.5

    return position


for letter, part, row in (("O", "open", OPEN), ("H", "high", HIGH), ("L", "low", LOW), ("C", "close", CLOSE)):
    candle(
        f"window_{part}_20", f"({letter} - min_20(L)) / (max_20(H) - min_20(L)); 0.5 when flat", SHARE, 19
    )(_in_window(row))  # fmt: skip


@candle("body_to_range", "|C - O| / (H - L); 0 without range", SHARE, 0)
def _(b: Bars) -> float:
    return abs(close(b) - open_(b)) * inverse(high(b) - low(b))


@candle("upper_shadow_to_range", "(H - max(O, C)) / (H - L); 0 without range", SHARE, 0)
def _(b: Bars) -> float:
    return (high(b) - max(open_(b), close(b))) * inverse(high(b) - low(b))


@candle("lower_shadow_to_range", "(min(O, C) - L) / (H - L); 0 without range", SHARE, 0)
def _(b: Bars) -> float:
    return (min(open_(b), close(b)) - low(b)) * inverse(high(b) - low(b))


@candle("direction", "sign(C - O)", THREE_WAY, 0)
def _(b: Bars) -> float:
    return 1.0 if close(b) > open_(b) else -1.0 if close(b) < open_(b) else 0.0


candle(
    "run_length", "signed length of the run of candles of one direction, at most 10", "-10 to 10", 10
)(value(RUN))  # fmt: skip
ABS_BODY = quantity(lambda b: abs(at(b, BODY)), 10)


@candle("body_to_average_10", "|C - O| / mean_10|C - O|; 0 when flat", "0 to 10", 9)
def _(b: Bars) -> float:
    return 10.0 * abs(close(b) - open_(b)) * inverse(total(b, ABS_BODY, 10))


@candle("range_to_average_10", "(H - L) / mean_10(H - L); 0 when flat", "0 to 10", 9)
def _(b: Bars) -> float:
    return (high(b) - low(b)) * inverse(total(b, RANGE, 10) * 0.1)


@candle("body_growth", "(|body| - |body[1]|) / (|body| + |body[1]|); 0 when both are flat", SIGNED, 1)
def _(b: Bars) -> float:
    body, body1 = abs(close(b) - open_(b)), abs(ago(b, CLOSE, 1) - ago(b, OPEN, 1))
    return (body - body1) * inverse(body + body1)


@candle("body_overlap", "overlap of this body and the last / their union; 0 when apart", SHARE, 1)
def _(b: Bars) -> float:
    top, bottom = max(open_(b), close(b)), min(open_(b), close(b))
    top1, bottom1 = max(ago(b, OPEN, 1), ago(b, CLOSE, 1)), min(ago(b, OPEN, 1), ago(b, CLOSE, 1))
    return max(0.0, (min(top, top1) - max(bottom, bottom1)) * inverse(max(top, top1) - min(bottom, bottom1)))


@candle("inside_bar", "H <= H[1] and L >= L[1]", TRUE_FALSE, 1)
def _(b: Bars) -> float:
    return 1.0 if (high(b) <= ago(b, HIGH, 1)) & (low(b) >= ago(b, LOW, 1)) else 0.0


@candle("outside_bar", "H >= H[1] and L <= L[1]", TRUE_FALSE, 1)
def _(b: Bars) -> float:
    return 1.0 if (high(b) >= ago(b, HIGH, 1)) & (low(b) <= ago(b, LOW, 1)) else 0.0


@candle("gap_to_range_10", "(O - C[1]) / mean_10(H - L); 0 when flat", ANY, 9)
def _(b: Bars) -> float:
    return (open_(b) - ago(b, CLOSE, 1)) * inverse(total(b, RANGE, 10) * 0.1)


@candle("two_bar_body", "(C - O[1]) / mean_10(H - L); 0 when flat", ANY, 9)
def _(b: Bars) -> float:
    return (close(b) - ago(b, OPEN, 1)) * inverse(total(b, RANGE, 10) * 0.1)


@candle("three_bar_body", "(C - O[2]) / mean_10(H - L); 0 when flat", ANY, 9)
def _(b: Bars) -> float:
    return (close(b) - ago(b, OPEN, 2)) * inverse(total(b, RANGE, 10) * 0.1)


candle("body_balance_5", "sum_5(C - O) / sum_5(H - L); 0 when flat", SIGNED, 4)(quotient(BODY, RANGE, 5))
HIGHER_HIGH = quantity(lambda b: 1.0 if high(b) > ago(b, HIGH, 1) else 0.0, 5)
HIGHER_LOW = quantity(lambda b: 1.0 if low(b) > ago(b, LOW, 1) else 0.0, 5)
candle("higher_high_share_5", "share of the last 5 bars with H > H[1]", SHARE, 5)(mean_of(HIGHER_HIGH, 5))
candle("higher_low_share_5", "share of the last 5 bars with L > L[1]", SHARE, 5)(mean_of(HIGHER_LOW, 5))

rule = family("rule")
for name, one in rules.RULES.items():
    rule(f"rule_{name}", "classic rule, signed by direction", THREE_WAY, one.warm_up, "TA-Lib CDL*")(
        rules.FLAGS[one.flags["classic"]]
    )
for name, one in rules.RULES.items():
    if one.relaxation:
        rule(
            f"rule_continuous_{name}", "the rule without its gap condition", THREE_WAY, one.warm_up,
            "mlkit.features.rules",
        )(rules.FLAGS[one.flags["continuous"]])  # fmt: skip
