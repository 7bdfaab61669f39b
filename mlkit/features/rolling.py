"""Rolling sums, extremes and regressions that never subtract: the arithmetic under every feature.

A window of ``w`` bars is the prefix of the current block of ``w`` bars plus a suffix of the block before
it (the two-stack queue). Both only ever add, so a jump that has left the window leaves no rounding error
behind, nothing drifts over millions of bars, and a constant stretch gives exactly zero variance.
Amortised cost is three additions a bar for each quantity, whatever the window.
"""

import numpy as np
import numpy.typing as npt

from mlkit.features.kernel import LANES, add_four, kernel

Vector = npt.NDArray[np.float64]

MEAN, VARIANCE, SLOPE, R_SQUARED = range(4)  # what `roll_trend` tells of a window


@kernel
def roll_sums(block: Vector, k: int, first: int, quantity: Vector, total: Vector) -> None:
    """Sums over the last ``w`` bars of the quantities from ``first`` on, into their places in ``total``.

    ``block`` is [w + 2, n], n a multiple of `LANES`: rows 0 to w - 1 hold this block's bars up to position
    ``k`` and, after it, the suffix sums of the block before; row w is always zero; row w + 1 is the prefix
    sum of this block.
    """
    w, n = block.shape[0] - 2, block.shape[1]
    prefix, newest, suffix = block[w + 1], block[k], block[k + 1]
    if k == 0:
        for j in range(n):
            prefix[j] = 0.0
    for j in range(0, n, LANES):
        add_four(prefix, j, prefix, j, quantity, first + j)
        add_four(total, first + j, prefix, j, suffix, j)
    for j in range(n):  # last, for what was just written is slow to read
        newest[j] = quantity[first + j]
    if k == w - 1:
        for i in range(w - 2, -1, -1):
            for j in range(0, n, LANES):
                add_four(block[i], j, block[i], j, block[i + 1], j)


@kernel
def roll_extremes(block: Vector, k: int, high: float, low: float) -> tuple[float, float]:
    """Highest high and lowest low of the last ``w`` bars; ``block`` is [w + 2, 2] as in `roll_sums`."""
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
def roll_trend(block: Vector, k: int, first: bool, level: float, out: Vector) -> None:
    """Mean, variance (ddof 0), least-squares slope a bar and r squared of the last ``w`` levels.

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
    mean = s * (1.0 / w)
    variance = ss * (1.0 / w) - mean * mean
    floor = 1e-13 * level
    moves = variance > floor * floor
    time_variance = (w * w - 1.0) / 12.0
    covariance = sk * (1.0 / w) - mean * (k - (w - 1) / 2.0)  # positions run from k - w + 1 to k
    fit = covariance * covariance / (time_variance * (variance if moves else 1.0))
    out[MEAN] = anchor + mean
    out[VARIANCE] = variance if moves else 0.0
    out[SLOPE] = covariance * (1.0 / time_variance) if moves else 0.0
    out[R_SQUARED] = min(1.0, fit) if moves else 0.0
    if k == w - 1:
        _anchor_anew(block, w, mean)


@kernel
def _anchor_anew(block: Vector, w: int, shift: float) -> None:
    """Turn the finished block into suffix sums about its own mean, at positions -w to -1."""
    block[w + 2, 0] += shift
    s = ss = sk = 0.0
    for i in range(w - 1, -1, -1):
        y = block[i, 0] - shift
        s, ss, sk = y + s, y * y + ss, y * (i - w) + sk
        block[i, 0], block[i, 1], block[i, 2] = s, ss, sk
