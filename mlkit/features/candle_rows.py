"""Rows that the pattern rules read: the parts of each candle, and running totals of bodies and ranges.

A candle that closes at its open is white, as in TA-Lib. Each total is kept as TA-Lib keeps it (`mlkit.features.rules`).
"""

import numpy as np

from mlkit.features.kernel import formula, kernel
from mlkit.features.state_rows import Bars, Formula, RowNumber, Vector, ago, at, close, high, low, new_row, open_, place

#: Rows of the parts, with the formulas that fill them.
PARTS: list[tuple[np.int64, Formula]] = []


def _part(past: int, function: Formula) -> np.int64:
    row = new_row(past)
    PARTS.append((row, formula(function)))
    return row


COLOUR = _part(3, lambda b: 1.0 if close(b) >= open_(b) else -1.0)
TOP = _part(2, lambda b: close(b) if close(b) >= open_(b) else open_(b))
BOTTOM = _part(2, lambda b: open_(b) if close(b) >= open_(b) else close(b))
BODY = _part(10, lambda b: at(b, TOP) - at(b, BOTTOM))
UPPER = _part(2, lambda b: high(b) - at(b, TOP))
LOWER = _part(2, lambda b: at(b, BOTTOM) - low(b))
RANGE = _part(10, lambda b: high(b) - low(b))

# Running totals of bodies and ranges. BODY_FROM_1 is over 10 bodies and starts at bar 1; FIVE_ is over 5 ranges.
BODY_FROM_0, BODY_FROM_1, BODY_FROM_2 = new_row(4), new_row(4), new_row(4)
RANGE_FROM_0, RANGE_FROM_1, RANGE_FROM_2, RANGE_FROM_3 = new_row(4), new_row(4), new_row(4), new_row(4)
FIVE_FROM_0, FIVE_FROM_5, FIVE_FROM_6 = new_row(4), new_row(4), new_row(4)
_TOTALS = np.array(  # place of a total, place of what it adds, first bar, bars
    [
        [place(row), place(source), start, period]
        for row, source, start, period in (
            (BODY_FROM_0, BODY, 0, 10), (BODY_FROM_1, BODY, 1, 10), (BODY_FROM_2, BODY, 2, 10),
            (RANGE_FROM_0, RANGE, 0, 10), (RANGE_FROM_1, RANGE, 1, 10), (RANGE_FROM_2, RANGE, 2, 10),
            (RANGE_FROM_3, RANGE, 3, 10),
            (FIVE_FROM_0, RANGE, 0, 5), (FIVE_FROM_5, RANGE, 5, 5), (FIVE_FROM_6, RANGE, 6, 5),
        )
    ]
)  # fmt: skip


@kernel
def move_totals(x: Vector, first: int, end: int, zero: int) -> None:
    """Move every running total on by the bars of a block: it takes bars from its start on and drops the oldest."""
    for r in range(first, end):
        for j in range(len(_TOTALS)):
            target, source, start, period = _TOTALS[j]
            taken = x[np.uintp(source + r)] if zero + r >= start else 0.0
            dropped = x[np.uintp(source + r - period)] if zero + r >= start + period else 0.0
            x[np.uintp(target + r)] = x[np.uintp(target + r - 1)] + (taken - dropped)


@kernel
def mean10(b: Bars, total: RowNumber, bars: int) -> float:
    """Mean of the 10 bars before the bar that lies ``bars`` ago, by a running total."""
    return ago(b, total, bars + 1) / 10.0


@kernel
def mean5(b: Bars, total: RowNumber, bars: int) -> float:
    """Mean of the 5 bars before the bar that lies ``bars`` ago, by a running total."""
    return ago(b, total, bars + 1) / 5.0


@kernel
def colour(b: Bars) -> float:
    """+1 of a white candle, which closes at or above its open, -1 of a black one."""
    return at(b, COLOUR)


@kernel
def body(b: Bars) -> float:
    """Distance of open and close."""
    return at(b, BODY)


@kernel
def rises(b: Bars) -> bool:
    """Whether a black candle is followed by a white one."""
    return (ago(b, COLOUR, 1) < 0.0) & (at(b, COLOUR) > 0.0)


@kernel
def falls(b: Bars) -> bool:
    """Whether a white candle is followed by a black one."""
    return (ago(b, COLOUR, 1) > 0.0) & (at(b, COLOUR) < 0.0)


@kernel
def long_before(b: Bars) -> bool:
    """Whether the candle before has a long body."""
    return ago(b, BODY, 1) > mean10(b, BODY_FROM_0, 1)


@kernel
def covers(b: Bars) -> bool:
    """Whether the body covers the previous one; one end may match, not both."""
    top, bottom, top1, bottom1 = at(b, TOP), at(b, BOTTOM), ago(b, TOP, 1), ago(b, BOTTOM, 1)
    return ((top >= top1) & (bottom < bottom1)) | ((top > top1) & (bottom <= bottom1))
