"""Rolling sums, extremes and regressions that never subtract: the arithmetic under every feature.

A window of ``w`` bars is the prefix of the current block of ``w`` bars plus a suffix of the block before
it (the two-stack queue). Both only ever add, so a jump that has left the window leaves no rounding error
behind, nothing drifts over millions of bars, and a constant stretch gives exactly zero variance.
Amortised cost is three additions a bar for each quantity, whatever the window.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from mlkit.features.kernel import LANES, kernel
from mlkit.features.lanes import WIDTH, Lanes, Shelf, choose

Vector = npt.NDArray[np.float64]


def _chunks(n: int) -> list[tuple[int, Any]]:
    """Where each vector of a row of ``n`` numbers begins, and its type: eights, and a four where one is left."""
    eights = [(j, ir.VectorType(ir.DoubleType(), WIDTH)) for j in range(0, n - WIDTH + 1, WIDTH)]
    return eights + [(j, ir.VectorType(ir.DoubleType(), LANES)) for j in range(n // WIDTH * WIDTH, n, LANES)]


def _at(context: Any, builder: Any, kind: Any, array: Any, start: Any, vector: Any) -> Any:
    data = builder.gep(make_array(kind)(context, builder, array).data, [start], inbounds=True)
    return builder.bitcast(data, vector.as_pointer())


@intrinsic(prefer_literal=True)
def _push(_, block, k, quantity, first, total, to, w, n):  # type: ignore[no-untyped-def]
    """The quantities of a bar into their place ``k`` and the prefix; prefix plus suffix are the sums."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, k, _, first, _, to, *_ = arguments
        wide, number = ir.IntType(64)(n.literal_value), ir.IntType(64)
        fresh = builder.icmp_signed("==", k, number(0))
        row = builder.mul(k, wide)
        for j, vector in _chunks(n.literal_value):

            def at(which: int, start: Any, j: int = j, vector: Any = vector) -> Any:
                start = builder.add(start, number(j))
                return _at(context, builder, signature.args[which], arguments[which], start, vector)

            newest = builder.load(at(2, first), align=8)
            prefix = at(0, number((w.literal_value + 1) * n.literal_value))
            before = builder.select(fresh, ir.Constant(vector, [0.0] * vector.count), builder.load(prefix, align=8))
            grown = builder.fadd(before, newest)
            builder.store(grown, prefix, align=8)
            suffix = builder.load(at(0, builder.add(row, wide)), align=8)
            builder.store(builder.fadd(grown, suffix), at(4, to), align=8)
            builder.store(newest, at(0, row), align=8)
        return context.get_dummy_value()

    return types.void(block, types.intp, quantity, types.intp, total, types.intp, w, n), build


@intrinsic(prefer_literal=True)
def _fold(_, block, w, n):  # type: ignore[no-untyped-def]
    """Turn the finished block into suffix sums."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        number, last, wide = ir.IntType(64), w.literal_value - 1, n.literal_value
        sums = []
        for j, vector in _chunks(wide):
            newest = _at(context, builder, signature.args[0], arguments[0], number(last * wide + j), vector)
            sums.append(cgutils.alloca_once_value(builder, builder.load(newest, align=8)))
        with cgutils.for_range(builder, number(last)) as loop:
            row = builder.mul(builder.sub(number(last - 1), loop.index), number(wide))
            for total, (j, vector) in zip(sums, _chunks(wide), strict=True):
                place = _at(context, builder, signature.args[0], arguments[0], builder.add(row, number(j)), vector)
                grown = builder.fadd(builder.load(place, align=8), builder.load(total))
                builder.store(grown, place, align=8)
                builder.store(grown, total)
        return context.get_dummy_value()

    return types.void(block, w, n), build


def window_sums(w: int, n: int) -> Any:
    """The kernel ``(block, k, quantity, first, total, to)`` of the sums over the last ``w`` bars of ``n`` quantities.

    They are those of ``quantity`` from ``first`` on; the sums go into ``total`` from ``to`` on. ``block`` is
    [w + 2, n], n a multiple of `LANES`: rows 0 to w - 1 hold this block's bars up to position ``k`` and, after it,
    the suffix sums of the block before; row w is always zero; row w + 1 is the prefix sum of this block.
    """

    @kernel
    def roll(block: Vector, k: int, quantity: Vector, first: int, total: Vector, to: int) -> None:
        _push(block, k, quantity, first, total, to, w, n)
        if k == w - 1:
            _fold(block, w, n)

    return roll


@kernel
def roll_extremes(block: Vector, k: int, high: float, low: float) -> tuple[float, float]:
    """Highest high and lowest low of the last ``w`` bars; ``block`` is [w + 2, 2] as in `window_sums`."""
    w = block.shape[0] - 2
    if k == 0:
        block[w + 1, 0] = high
        block[w + 1, 1] = low
    high_so_far, low_so_far = max(block[w + 1, 0], high), min(block[w + 1, 1], low)
    highest, lowest = max(high_so_far, block[k + 1, 0]), min(low_so_far, block[k + 1, 1])
    block[k, 0], block[k, 1] = high, low
    block[w + 1, 0], block[w + 1, 1] = high_so_far, low_so_far
    if k == w - 1:
        for i in range(w - 2, -1, -1):
            high, low = max(block[i, 0], high), min(block[i, 1], low)
            block[i, 0], block[i, 1] = high, low
    return highest, lowest


@kernel
def roll_trend(block: Vector, k: int, first: bool, level: float, out: Vector, to: int) -> None:
    """Sums over the last ``w`` levels for `describe_trend`: of y, y squared, y times position; anchor; position.

    Levels are summed as differences from an anchor, the mean of the block before, so that a price of 1e6
    that moves by one tick keeps all its digits. ``block`` is [w + 3, 3]: sums of y, y squared and y times
    position; row w + 2 holds the anchor.
    """
    w = block.shape[0] - 3
    if first:
        block[w + 2, 0] = level
    if k == 0:
        block[w + 1, 0] = block[w + 1, 1] = block[w + 1, 2] = 0.0
    anchor = block[w + 2, 0]
    y = level - anchor
    p, pp, pk = block[w + 1, 0] + y, block[w + 1, 1] + y * y, block[w + 1, 2] + y * k
    s, ss, sk = p + block[k + 1, 0], pp + block[k + 1, 1], pk + block[k + 1, 2]
    block[k, 0], block[k, 1], block[k, 2] = y, y * y, y * k
    block[w + 1, 0], block[w + 1, 1], block[w + 1, 2] = p, pp, pk
    out[to], out[to + 1], out[to + 2], out[to + 3], out[to + 4] = s, ss, sk, anchor, k
    if k == w - 1:
        _anchor_anew(block, w, s * (1.0 / w))


@kernel
def _anchor_anew(block: Vector, w: int, shift: float) -> None:
    """Turn the finished block into suffix sums about its own mean, at positions -w to -1."""
    block[w + 2, 0] += shift
    s = ss = sk = 0.0
    for i in range(w - 1, -1, -1):
        y = block[i, 0] - shift
        s, ss, sk = y + s, y * y + ss, y * (i - w) + sk
        block[i, 0], block[i, 1], block[i, 2] = s, ss, sk


@kernel
def describe_trend(seen: Shelf, raw: int, level: Lanes, w: float, to: int) -> None:
    """Mean, variance (ddof 0), least-squares slope a bar and r squared of the last ``w`` levels, from ``to`` on.

    ``seen`` holds, from ``raw`` on, what `roll_trend` summed.
    """
    s, ss, sk, anchor, k = seen[raw], seen[raw + 1], seen[raw + 2], seen[raw + 3], seen[raw + 4]
    mean = s * (1.0 / w)
    variance = ss * (1.0 / w) - mean * mean
    floor = 1e-13 * level
    moves = variance > floor * floor
    time_variance = (w * w - 1.0) / 12.0
    covariance = sk * (1.0 / w) - mean * (k - (w - 1.0) / 2.0)  # positions run from k - w + 1 to k
    fit = covariance * covariance / (time_variance * choose(moves, variance, 1.0))
    seen[to] = anchor + mean
    seen[to + 1] = choose(moves, variance, 0.0)
    seen[to + 2] = choose(moves, covariance * (1.0 / time_variance), 0.0)
    seen[to + 3] = choose(moves, min(1.0, fit), 0.0)
