"""The pattern family: candles in their rolling window, multi-candle sequences and the rule flags."""

from mlkit.features.kernel import inverses, kernel
from mlkit.features.rules import Flags
from mlkit.features.state import (
    ABS_BODY,
    BODY,
    HIGHER_HIGH,
    HIGHER_LOW,
    R_OPEN,
    RANGE,
    RING,
    RUN_LENGTH,
    W5,
    W10,
    X20,
    Bar,
    State,
)  # fmt: skip
from mlkit.features.technical import Columns, Shared


@kernel
def candle(s: State, b: Bar, x: Shared) -> Columns:
    """Place and proportions of the newest candle, and its sequence with the ones before."""
    span, body, body1 = b.high - b.low, abs(b.close - b.open), abs(b.close1 - b.open1)
    lowest, wide = s.lowest[X20], s.highest[X20] - s.lowest[X20]
    top, bottom = max(b.open, b.close), min(b.open, b.close)
    top1, bottom1 = max(b.open1, b.close1), min(b.open1, b.close1)
    per_wide, per_range, per_body, per_bodies, per_union, per_range5 = inverses((
        wide, s.total[W10, RANGE] * 0.1, s.total[W10, ABS_BODY], body + body1,
        max(top, top1) - min(bottom, bottom1), s.total[W5, RANGE],
    ))  # fmt: skip
    two, three = (b.t - 1) & (RING - 1), (b.t - 2) & (RING - 1)
    return (
        (b.open - lowest) * per_wide if wide > 0.0 else 0.5,
        (b.high - lowest) * per_wide if wide > 0.0 else 0.5,
        (b.low - lowest) * per_wide if wide > 0.0 else 0.5,
        (b.close - lowest) * per_wide if wide > 0.0 else 0.5,
        body * x.per_span,
        (b.high - top) * x.per_span,
        (bottom - b.low) * x.per_span,
        1.0 if b.close > b.open else (-1.0 if b.close < b.open else 0.0),
        s.clock[RUN_LENGTH],
        10.0 * body * per_body,
        span * per_range,
        (body - body1) * per_bodies,
        max(0.0, (min(top, top1) - max(bottom, bottom1)) * per_union),
        1.0 if (b.high <= b.high1) & (b.low >= b.low1) else 0.0,
        1.0 if (b.high >= b.high1) & (b.low <= b.low1) else 0.0,
        (b.open - b.close1) * per_range,
        (b.close - s.ring[two, R_OPEN]) * per_range,
        (b.close - s.ring[three, R_OPEN]) * per_range,
        s.total[W5, BODY] * per_range5,
        s.total[W5, HIGHER_HIGH] * 0.2,
        s.total[W5, HIGHER_LOW] * 0.2,
    )


@kernel
def rule(flags: Flags) -> Columns:
    """Flags of the fifteen classic rules, then of the continuous rules that differ: -1, 0 or 1."""
    x, y = flags
    return (
        x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14],
        y[2], y[5], y[6], y[8], y[10], y[11],
    )  # fmt: skip
