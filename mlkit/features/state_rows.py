"""The rows that feature formulas read: one row a quantity, one column a bar of the block that is computed.

All rows lie in one float64 vector, the state. A block is up to `BLOCK_BARS` closed bars. A row holds its values of the
block and, before them, those of up to `PAST` earlier bars as far as the row keeps them. A formula is a function of one
bar; a loop over the bars of a block applies it, and the compiler vectorises that loop because rows have fixed places.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlkit.features.kernel import formula, kernel

Vector = npt.NDArray[np.float64]
Formula = Callable[["Bars"], float]
RowNumber = int | np.int64

BLOCK_BARS = 32  # slots of a row; bar t is in slot t % BLOCK_BARS
TOGETHER = 16  # formulas that share a loop
PAST = 64  # earlier bars that a row can keep
_STRIDE = PAST + BLOCK_BARS + 8  # numbers from row to row; no multiple of 64, so that rows do not evict each other
# Before the first row: bars seen, GARCH(1,1) parameters, and two numbers of a saved stream that no kernel reads: open
# time of the newest bar (NaN: not known) and length of a bar (0: not known), in ns.
SEEN, OMEGA, ALPHA, BETA, NEWEST, STEP = range(6)
_HEAD = 16 + PAST
WINDOWS = (5, 10, 14, 20, 50, 100, 200)  # lengths of the rolling sums, bars
TINY = 1e-300  # a divisor up to here is none

_ROWS: list[int] = []  # earlier bars that each row keeps


def new_row(past: int = 0, rows: int = 1) -> np.int64:
    """Number of a new row that keeps ``past`` earlier bars, the first of ``rows``.

    It is an np.int64 and no int because numba compiles a function anew for every int that is passed as a constant.
    """
    row = np.int64(len(_ROWS))
    _ROWS.extend([past] + [0] * (rows - 1))
    return row


def rows_so_far() -> int:
    """Number of rows that exist."""
    return len(_ROWS)


def place(row: RowNumber) -> int:
    """Place in the vector of the first bar of a block in a row; of the end of all rows with the number of them."""
    return _HEAD + int(row) * _STRIDE


class Bars(NamedTuple):
    """One bar: what a formula is given."""

    x: Vector  # the state
    r: int  # slot of the bar
    zero: int  # number of the bar in slot 0


@kernel
def at(b: Bars, row: RowNumber) -> float:
    """Value of a row at the bar."""
    value: float = b.x[np.uintp(_HEAD + row * _STRIDE + b.r)]
    return value


@kernel
def ago(b: Bars, row: RowNumber, bars: int) -> float:
    """Value of a row some bars ago."""
    value: float = b.x[np.uintp(_HEAD + row * _STRIDE + b.r - bars)]
    return value


@kernel
def total(b: Bars, quantity: RowNumber, n: int) -> float:
    """Sum of a `quantity` over the last n bars; n is one of its windows."""
    which = (
        1 if n == 5 else 2 if n == 10 else 3 if n == 14 else 4 if n == 20 else 5 if n == 50 else 6 if n == 100 else 7
    )
    value: float = b.x[np.uintp(_HEAD + (quantity + which) * _STRIDE + b.r)]
    return value


@kernel
def inverse(b: float) -> float:
    """``1 / b``, and 0 where b is not positive: no information is zero, never inf."""
    return 1.0 / b if b > TINY else 0.0


@kernel
def ratio(a: float, b: float) -> float:
    """``a / b``, and 0 where b is not positive."""
    return a * inverse(b)


OPEN, HIGH, LOW = new_row(10), new_row(10), new_row(10)
CLOSE = new_row(60, rows=8)  # its sums over `WINDOWS` follow
_OPENS, _HIGHS, _LOWS, _CLOSES = (place(int(row)) for row in (OPEN, HIGH, LOW, CLOSE))


@kernel
def enter(o: Vector, h: Vector, low: Vector, c: Vector, x: Vector, first: int, end: int, start: int) -> None:
    """Copy the prices of bars, from ``start`` on, into the slots ``first`` to ``end`` of their rows."""
    for r in range(first, end):
        i = np.uintp(start + r - first)
        x[np.uintp(_OPENS + r)], x[np.uintp(_HIGHS + r)] = o[i], h[i]
        x[np.uintp(_LOWS + r)], x[np.uintp(_CLOSES + r)] = low[i], c[i]


@kernel
def open_(b: Bars) -> float:
    """Open of the bar."""
    return at(b, OPEN)


@kernel
def high(b: Bars) -> float:
    """High of the bar."""
    return at(b, HIGH)


@kernel
def low(b: Bars) -> float:
    """Low of the bar."""
    return at(b, LOW)


@kernel
def close(b: Bars) -> float:
    """Close of the bar."""
    return at(b, CLOSE)


@formula
def _nothing(b: Bars) -> float:
    return 0.0


@kernel
def _idle(x: Vector, first: int, end: int, zero: int, wanted: Any) -> None:
    pass


def rows_by_formulas(formulas: Sequence[tuple[np.int64, Formula]], *, optional: bool = False) -> Any:
    """The kernel ``(x, first, end, zero, wanted)`` that fills rows by their formulas for the slots of a block.

    Sixteen rows share a loop. With ``optional`` a loop runs only where ``wanted`` holds True for it, bool (n_loops,).
    """
    spare = new_row()
    loops = [
        _loop(
            [*formulas[k : k + TOGETHER], *[(spare, _nothing)] * TOGETHER][:TOGETHER], k // TOGETHER if optional else -1
        )
        for k in range(0, len(formulas), TOGETHER)
    ]
    return _in_turn([*loops, *[_idle] * TOGETHER][:TOGETHER]) if len(loops) > 1 else loops[0]


def _loop(pairs: Sequence[tuple[np.int64, Formula]], number: int) -> Any:
    f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15 = (one for _, one in pairs)
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p14, p15 = (
        np.int64(place(int(row))) for row, _ in pairs
    )

    @kernel
    def run(x: Vector, first: int, end: int, zero: int, wanted: Any) -> None:
        if number < 0 or wanted[number]:
            for r in range(first, end):
                b = Bars(x, r, zero)
                # An unsigned index spares numba's check for negative ones, which would keep the loop from vectorising.
                x[np.uintp(p0 + r)] = f0(b)
                x[np.uintp(p1 + r)] = f1(b)
                x[np.uintp(p2 + r)] = f2(b)
                x[np.uintp(p3 + r)] = f3(b)
                x[np.uintp(p4 + r)] = f4(b)
                x[np.uintp(p5 + r)] = f5(b)
                x[np.uintp(p6 + r)] = f6(b)
                x[np.uintp(p7 + r)] = f7(b)
                x[np.uintp(p8 + r)] = f8(b)
                x[np.uintp(p9 + r)] = f9(b)
                x[np.uintp(p10 + r)] = f10(b)
                x[np.uintp(p11 + r)] = f11(b)
                x[np.uintp(p12 + r)] = f12(b)
                x[np.uintp(p13 + r)] = f13(b)
                x[np.uintp(p14 + r)] = f14(b)
                x[np.uintp(p15 + r)] = f15(b)

    return run


def _in_turn(kernels: Sequence[Any]) -> Any:
    k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12, k13, k14, k15 = kernels

    @kernel
    def run(x: Vector, first: int, end: int, zero: int, wanted: Any) -> None:
        k0(x, first, end, zero, wanted)
        k1(x, first, end, zero, wanted)
        k2(x, first, end, zero, wanted)
        k3(x, first, end, zero, wanted)
        k4(x, first, end, zero, wanted)
        k5(x, first, end, zero, wanted)
        k6(x, first, end, zero, wanted)
        k7(x, first, end, zero, wanted)
        k8(x, first, end, zero, wanted)
        k9(x, first, end, zero, wanted)
        k10(x, first, end, zero, wanted)
        k11(x, first, end, zero, wanted)
        k12(x, first, end, zero, wanted)
        k13(x, first, end, zero, wanted)
        k14(x, first, end, zero, wanted)
        k15(x, first, end, zero, wanted)

    return run


def keeper() -> Any:
    """The kernel ``(x)`` that empties the slots once all are used: each row keeps its newest values."""
    places = np.array([place(row) for row, past in enumerate(_ROWS) if past])
    pasts = np.array([past for past in _ROWS if past])

    @kernel
    def keep(x: Vector) -> None:
        for j in range(len(places)):
            for k in range(places[j] - pasts[j], places[j]):
                x[k] = x[k + BLOCK_BARS]

    return keep
