"""The pattern families: candles in their rolling window, multi-candle sequences and the rule flags."""

from mlkit.features.kernel import kernel
from mlkit.features.lanes import Shelf, choose
from mlkit.features.state import (
    ABS_BODY,
    BODY,
    HIGHER_HIGH,
    HIGHER_LOW,
    HIGHEST20,
    LOWEST20,
    R_OPEN,
    RANGE,
    RUN,
    W5,
    W10,
    Bar,
    Seen,
    inverse,
)  # fmt: skip
from mlkit.features.technical import Columns, Shared


@kernel
def candle(s: Seen, b: Bar, x: Shared) -> Columns:
    """Place and proportions of the newest candle, and its sequence with the ones before."""
    span, body, body1 = b.high - b.low, abs(b.close - b.open), abs(b.close1 - b.open1)
    lowest, wide = s.other[LOWEST20], s.other[HIGHEST20] - s.other[LOWEST20]
    top, bottom = max(b.open, b.close), min(b.open, b.close)
    top1, bottom1 = max(b.open1, b.close1), min(b.open1, b.close1)
    per_wide, per_range = inverse(wide), inverse(s.total[W10 + RANGE] * 0.1)
    return (
        choose(wide > 0.0, (b.open - lowest) * per_wide, 0.5),
        choose(wide > 0.0, (b.high - lowest) * per_wide, 0.5),
        choose(wide > 0.0, (b.low - lowest) * per_wide, 0.5),
        choose(wide > 0.0, (b.close - lowest) * per_wide, 0.5),
        body * x.per_span,
        (b.high - top) * x.per_span,
        (bottom - b.low) * x.per_span,
        choose(b.close > b.open, 1.0, choose(b.close < b.open, -1.0, 0.0)),
        s.other[RUN],
        10.0 * body * inverse(s.total[W10 + ABS_BODY]),
        span * per_range,
        (body - body1) * inverse(body + body1),
        max(0.0, (min(top, top1) - max(bottom, bottom1)) * inverse(max(top, top1) - min(bottom, bottom1))),
        choose((b.high <= b.high1) & (b.low >= b.low1), 1.0, 0.0),
        choose((b.high >= b.high1) & (b.low <= b.low1), 1.0, 0.0),
        (b.open - b.close1) * per_range,
        (b.close - s.ago1[R_OPEN]) * per_range,
        (b.close - s.ago2[R_OPEN]) * per_range,
        s.total[W5 + BODY] * inverse(s.total[W5 + RANGE]),
        s.total[W5 + HIGHER_HIGH] * 0.2,
        s.total[W5 + HIGHER_LOW] * 0.2,
    )


@kernel
def rule(flags: Shelf) -> Columns:
    """Flags of the fifteen classic rules, then of the continuous rules that differ: -1, 0 or 1."""
    x = flags
    return (
        x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13], x[14],
        x[15], x[16], x[17], x[18], x[19], x[20],
    )  # fmt: skip
