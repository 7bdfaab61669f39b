"""The causal state behind the features: recent bars, rolling sums, extremes, regressions and averages.

`advance` takes a block of closed bars into the state, which is one float64 vector, and fills the rows that the families
of features read (`state_rows.py`). It reads nothing else, so a feature cannot see a later bar. Rows are computed
in this order: `CANDLE` formulas, averages, `AVERAGED` formulas, averages of those, rolling windows, `ROLLED` formulas.

A file of features declares what it needs beyond what stands here with `measure`, `quantity` or `average`.
"""

import math
from typing import Any

import numpy as np

from mlkit.features import rules
from mlkit.features.candle_rows import move_totals
from mlkit.features.kernel import formula, kernel
from mlkit.features.state_rows import (
    ALPHA,
    BETA,
    CLOSE,
    HIGH,
    LOW,
    NEWEST,
    OMEGA,
    OPEN,
    SEEN,
    WINDOWS,
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
    ratio,
    rows_by_formulas,
    rows_so_far,
    total,
)  # fmt: skip

CANDLE, AVERAGED, ROLLED = range(3)  # stages of formulas: after the prices, the averages, the rolling windows
_MEASURES: list[list[tuple[np.int64, Formula]]] = [[], [], []]
_AVERAGES: list[list[tuple[np.int64, np.int64, float, int]]] = [[], []]
_SUMS: list[tuple[int, int, int]] = []  # place of the quantity, place of its sum, bars


def measure(function: Formula, *, past: int = 0, stage: int = CANDLE) -> np.int64:
    """A row that is filled by a formula; ``past`` earlier bars of it can be read with `ago`."""
    row = new_row(past)
    _MEASURES[stage].append((row, formula(function)))
    return row


def quantity(function: Formula, *windows: int, past: int = 0, stage: int = CANDLE) -> np.int64:
    """A `measure` that is also summed over each of ``windows`` bars (`WINDOWS`); read the sums with `total`."""
    row = new_row(past, rows=1 + len(WINDOWS))
    _MEASURES[stage].append((row, formula(function)))
    return _summed(row, windows)


def average(source: np.int64, weight: float, *, first: int = 0, stage: int = CANDLE) -> np.int64:
    """A row with the exponential average of another row.

    It begins as the plain mean of what it has seen, until ``weight`` of the newest value takes over. ``first`` is 1
    where the first bar has no value, as of a change. ``stage`` is that of the other row.
    """
    row = new_row(1)
    _AVERAGES[stage].append((row, source, weight, first))
    return row


def _summed(row: np.int64, windows: tuple[int, ...]) -> np.int64:
    _SUMS.extend((place(row), place(int(row) + 1 + WINDOWS.index(n)), n) for n in windows)
    return row


_summed(CLOSE, (5, 10, 20, 50, 100, 200))
VOLUME = _summed(new_row(10, rows=1 + len(WINDOWS)), (5, 10, 20, 50, 100))


@kernel
def volume(b: Bars) -> float:
    """Volume of the bar."""
    return at(b, VOLUME)


# The log of a quotient keeps the digits of a small move that a difference of logs would lose.
RETURN = quantity(lambda b: 0.0 - math.log(ago(b, CLOSE, 1) / close(b)), 5, 10, 20, 50, 100, 200, past=2)
RETURN2 = quantity(lambda b: at(b, RETURN) * at(b, RETURN), 5, 10, 20, 50, 100, 200)
TYPICAL = quantity(lambda b: (high(b) + low(b) + close(b)) * (1.0 / 3.0), 14, 20, past=20)
TRUE_RANGE = quantity(lambda b: max(high(b), ago(b, CLOSE, 1)) - min(low(b), ago(b, CLOSE, 1)), 14)
UP_MOVE = quantity(lambda b: max(close(b) - ago(b, CLOSE, 1), 0.0), 14)
DOWN_MOVE = quantity(lambda b: max(-(close(b) - ago(b, CLOSE, 1)), 0.0), 14)
BODY = quantity(lambda b: close(b) - open_(b), 5, 10, 50)
RANGE = quantity(lambda b: high(b) - low(b), 5, 10, 50)
CLOSE_VOLUME = quantity(lambda b: close(b) * volume(b), 20, 100)
LAGGED_PRODUCT = quantity(lambda b: at(b, RETURN) * ago(b, RETURN, 1), 20)
TO_HIGH, TO_LOW = (
    measure(one, past=1) for one in (lambda b: math.log(high(b) / close(b)), lambda b: math.log(low(b) / close(b)))
)
PLUS_MOVE = measure(
    lambda b: (
        high(b) - ago(b, HIGH, 1)
        if (high(b) - ago(b, HIGH, 1) > ago(b, LOW, 1) - low(b)) & (high(b) - ago(b, HIGH, 1) > 0.0)
        else 0.0
    )
)
MINUS_MOVE = measure(
    lambda b: (
        ago(b, LOW, 1) - low(b)
        if (ago(b, LOW, 1) - low(b) > high(b) - ago(b, HIGH, 1)) & (ago(b, LOW, 1) - low(b) > 0.0)
        else 0.0
    )
)

E5, E10, E20, E50, E100, E200, E12, E26 = (average(CLOSE, 2 / (n + 1)) for n in (5, 10, 20, 50, 100, 200, 12, 26))
GAIN7, GAIN14, GAIN21 = (average(UP_MOVE, 1 / n, first=1) for n in (7, 14, 21))
LOSS7, LOSS14, LOSS21 = (average(DOWN_MOVE, 1 / n, first=1) for n in (7, 14, 21))
ATR7, ATR14, ATR28 = (average(TRUE_RANGE, 1 / n, first=1) for n in (7, 14, 28))
PLUS_DM, MINUS_DM = average(PLUS_MOVE, 1 / 14, first=1), average(MINUS_MOVE, 1 / 14, first=1)
EWMA_VARIANCE = average(RETURN2, 0.06, first=1)  # RiskMetrics

MACD = measure(lambda b: at(b, E12) - at(b, E26), stage=AVERAGED)
MACD_SIGNAL = average(MACD, 2 / 10, first=1, stage=AVERAGED)
DX = measure(
    lambda b: 100.0 * ratio(abs(at(b, PLUS_DM) - at(b, MINUS_DM)), at(b, PLUS_DM) + at(b, MINUS_DM)), stage=AVERAGED
)
ADX = average(DX, 1 / 14, first=1, stage=AVERAGED)

_EXTREMES = {n: (new_row(), new_row()) for n in (14, 20, 50)}
(HIGHEST14, LOWEST14), (HIGHEST20, LOWEST20), (HIGHEST50, LOWEST50) = _EXTREMES.values()

# Of the regressions of the close on time: sums of y, y squared, y times position; anchor; position.
_TRENDS = {n: new_row(rows=5) for n in (20, 50)}


def _trend(n: int) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    """Mean, variance (ddof 0), least-squares slope a bar and r squared of the last n closes."""
    raw, per, time_variance = _TRENDS[n], 1.0 / n, (n * n - 1.0) / 12.0
    sums, squares, products, anchors, positions = (np.int64(raw + k) for k in range(5))
    middle = (n - 1.0) / 2.0  # positions run from k - n + 1 to k

    def variance(b: Bars) -> float:
        mean = at(b, sums) * per
        spread = at(b, squares) * per - mean * mean
        floor = 1e-13 * close(b)
        return spread if spread > floor * floor else 0.0

    variances = measure(variance, stage=ROLLED)

    def covariance(b: Bars) -> float:
        return at(b, products) * per - at(b, sums) * per * (at(b, positions) - middle)

    covariances = measure(covariance, stage=ROLLED)

    def slope(b: Bars) -> float:
        return at(b, covariances) * (1.0 / time_variance) if at(b, variances) > 0.0 else 0.0

    def r_squared(b: Bars) -> float:
        moves = at(b, variances) > 0.0
        fit = at(b, covariances) * at(b, covariances) / (time_variance * (at(b, variances) if moves else 1.0))
        return min(1.0, fit) if moves else 0.0

    mean = measure(lambda b: at(b, anchors) + at(b, sums) * per, stage=ROLLED)
    return mean, variances, measure(slope, stage=ROLLED), measure(r_squared, stage=ROLLED)


MEAN20, VARIANCE20, SLOPE20, R_SQUARED20 = _trend(20)
MEAN50, VARIANCE50, SLOPE50, R_SQUARED50 = _trend(50)


def _stochastic(b: Bars) -> float:
    span = at(b, HIGHEST14) - at(b, LOWEST14)
    return ratio(100.0 * (close(b) - at(b, LOWEST14)), span) if span > 0.0 else 50.0


STOCHASTIC = measure(_stochastic, past=2, stage=ROLLED)


def _garch_input(b: Bars) -> float:
    """Next variance of a GARCH(1,1) but for the part of the last; a negative omega aims at the 200-bar variance."""
    omega, alpha, beta, squared = b.x[OMEGA], b.x[ALPHA], b.x[BETA], at(b, RETURN) * at(b, RETURN)
    bars = min(float(b.zero + b.r) + 1.0, 200.0)
    target = (1.0 - alpha - beta) * total(b, RETURN2, 200) * (1.0 / bars)
    variance: float = (target if omega < 0.0 else omega) + alpha * squared
    return variance


_GARCH_INPUT = measure(_garch_input, stage=ROLLED)
GARCH, RUN = new_row(1), new_row(1)  # variance of the next bar; signed length of the run of candles of one direction
_GARCHES, _GARCH_INPUTS, _RETURNS, _RUNS = (place(row) for row in (GARCH, _GARCH_INPUT, RETURN, RUN))
_BODIES, _CLOSES, _HIGHS = (place(row) for row in (BODY, CLOSE, HIGH))


@kernel
def _recur(x: Vector, first: int, end: int, zero: int) -> None:
    """GARCH variances and runs of candles, each from the bar before."""
    variance, run = x[_GARCHES + first - 1], x[_RUNS + first - 1]
    for r in range(first, end):
        if zero + r <= 1:
            variance = x[_RETURNS + r] * x[_RETURNS + r]
        variance = x[_GARCH_INPUTS + r] + x[BETA] * variance
        x[_GARCHES + r] = variance
        longer = min(10.0, max(run, 0.0) + 1.0) if x[_BODIES + r] > 0.0 else max(-10.0, min(run, 0.0) - 1.0)
        run = longer if x[_BODIES + r] != 0.0 else 0.0
        x[_RUNS + r] = run


def _roll_averages(entries: list[tuple[np.int64, np.int64, float, int]]) -> Any:
    places = np.array([[place(row), place(source), first] for row, source, _, first in entries])
    weights = np.array([weight for *_, weight, _ in entries])

    @kernel
    def roll(x: Vector, first: int, end: int, zero: int) -> None:
        for r in range(first, end):
            young0, young1 = 1.0 / (zero + r + 1.0), 1.0 / max(zero + r, 1)
            for j in range(len(weights)):
                level = places[j, 0] + r
                before = x[np.uintp(level - 1)]
                weight = max(weights[j], young1 if places[j, 2] else young0)
                x[np.uintp(level)] = before + weight * (x[np.uintp(places[j, 1] + r)] - before)

    return roll


@kernel
def _roll_sums(x: Vector, first: int, end: int, zero: int, windows: Any, sums: Any) -> None:
    """Sums over the last w bars that never subtract, so that nothing is left of a jump that has left the window.

    A window of w bars is the prefix of the current stretch of w bars and a suffix of the stretch before it (a queue of
    two stacks). The ring of a window is [w + 2, its quantities]: this stretch's values up to position k and after it
    the suffix sums of the stretch before, w rows; zeros; the prefix sums.
    """
    for i in range(len(windows)):
        w, ring, start, quantities = windows[i]
        prefix, k = ring + (w + 1) * quantities, (zero + first) % w
        for r in range(first, end):
            here = ring + k * quantities
            for j in range(quantities):
                value = x[np.uintp(sums[start + j, 0] + r)]
                grown = (0.0 if k == 0 else x[np.uintp(prefix + j)]) + value
                x[np.uintp(prefix + j)] = grown
                x[np.uintp(sums[start + j, 1] + r)] = grown + x[np.uintp(here + quantities + j)]
                x[np.uintp(here + j)] = value
            k += 1
            if k == w:
                k = 0
                for at in range(ring + (w - 1) * quantities - 1, ring - 1, -1):
                    x[np.uintp(at)] += x[np.uintp(at + quantities)]


@kernel
def _roll_extremes(x: Vector, first: int, end: int, zero: int, extremes: Any) -> None:
    """Highest highs and lowest lows of the last w bars, as in `_roll_sums`: a ring of highs, then one of lows."""
    for j in range(len(extremes)):
        highs, lows, highest, lowest, ring, w = extremes[j]
        other, k = ring + w + 2, (zero + first) % w
        for r in range(first, end):
            high, low = x[highs + r], x[lows + r]
            top, bottom = x[ring + w + 1], x[other + w + 1]
            top, bottom = (high, low) if k == 0 else (max(top, high), min(bottom, low))
            x[highest + r], x[lowest + r] = max(top, x[ring + k + 1]), min(bottom, x[other + k + 1])
            x[ring + k], x[other + k], x[ring + w + 1], x[other + w + 1] = high, low, top, bottom
            k += 1
            if k == w:
                k = 0
                for i in range(w - 2, -1, -1):
                    x[ring + i] = max(x[ring + i], x[ring + i + 1])
                    x[other + i] = min(x[other + i], x[other + i + 1])


@kernel
def _roll_trends(x: Vector, first: int, end: int, zero: int, trends: Any) -> None:
    """Sums of the regressions of the close on its position over the last w bars, as in `_roll_sums`.

    Closes are summed as differences from an anchor, the mean of the stretch before, so that a price of 1e6 that moves
    by one tick keeps all its digits. A ring is [w + 3, 3]: sums of y, y squared and y times position; the last row
    holds the anchor.
    """
    for j in range(len(trends)):
        row, stride, ring, w = trends[j]
        k, last, anchor = (zero + first) % w, ring + 3 * (w + 1), ring + 3 * (w + 2)
        for r in range(first, end):
            if zero + r == 0:
                x[anchor] = x[_CLOSES + r]
            if k == 0:
                x[last] = x[last + 1] = x[last + 2] = 0.0
            y, here = x[_CLOSES + r] - x[anchor], ring + 3 * k
            added = (y, y * y, y * k)
            for m in range(3):
                x[last + m] += added[m]
                x[row + m * stride + r] = x[last + m] + x[here + 3 + m]
                x[here + m] = added[m]
            x[row + 3 * stride + r], x[row + 4 * stride + r] = x[anchor], k
            k += 1
            if k == w:
                k = 0
                _anchor_anew(x, ring, w, x[row + r] * (1.0 / w))


@kernel
def _anchor_anew(x: Vector, ring: int, w: int, shift: float) -> None:
    """Turn a finished stretch into suffix sums about its own mean, at positions -w to -1."""
    x[ring + 3 * (w + 2)] += shift
    s = ss = sk = 0.0
    for i in range(w - 1, -1, -1):
        y = x[ring + 3 * i] - shift
        s, ss, sk = y + s, y * y + ss, y * (i - w) + sk
        x[ring + 3 * i], x[ring + 3 * i + 1], x[ring + 3 * i + 2] = s, ss, sk


def advancer() -> tuple[Any, Any, int]:
    """The kernel ``(o, h, low, c, v, x, start, first, end)``, the one that empties the slots, and the size of a state.

    Called once, when every file of features has declared its rows. The kernel takes bars, from ``start`` on, into the
    slots ``first`` to ``end``.
    """
    candle, averaged, rolled = (rows_by_formulas(formulas) for formulas in _MEASURES)
    first_averages, second_averages = map(_roll_averages, _AVERAGES)
    windows, sums, extremes, trends, size = _rings()
    none, volumes, typicals, opens, lows = np.zeros(0, np.bool_), *(place(k) for k in (VOLUME, TYPICAL, OPEN, LOW))

    @kernel
    def advance(
        o: Vector, h: Vector, low: Vector, c: Vector, v: Vector, x: Vector, start: int, first: int, end: int
    ) -> None:
        zero = int(x[SEEN]) - first
        enter(o, h, low, c, x, first, end, start)
        for r in range(first, end):
            x[np.uintp(volumes + r)] = v[np.uintp(start + r - first)]
        if zero + first == 0:  # the bar before the first is flat at its close
            x[opens - 1] = x[_HIGHS - 1] = x[lows - 1] = x[_CLOSES - 1] = x[typicals - 1] = c[start]
            x[volumes - 1] = v[start]
        rules.fill_parts(x, first, end, zero, none)
        move_totals(x, first, end, zero)
        candle(x, first, end, zero, none)
        first_averages(x, first, end, zero)
        averaged(x, first, end, zero, none)
        second_averages(x, first, end, zero)
        _roll_sums(x, first, end, zero, windows, sums)
        _roll_extremes(x, first, end, zero, extremes)
        _roll_trends(x, first, end, zero, trends)
        rolled(x, first, end, zero, none)
        _recur(x, first, end, zero)

    return advance, keeper(), size


def _rings() -> tuple[Any, Any, Any, Any, int]:
    """Tables of the rolling windows, with the places of their rings behind the rows; and the size of a state."""
    end, stride = place(rows_so_far()), place(1) - place(0)
    windows, extremes, trends = [], [], []
    sums = sorted(_SUMS, key=lambda one: one[2])
    for w in WINDOWS:
        quantities = [k for k, (*_, n) in enumerate(sums) if n == w]
        windows.append((w, end, quantities[0], len(quantities)))
        end += (w + 2) * len(quantities)
    for w, (highest, lowest) in _EXTREMES.items():
        extremes.append((_HIGHS, place(LOW), place(highest), place(lowest), end, w))
        end += 2 * (w + 2)
    for w, row in _TRENDS.items():
        trends.append((place(row), stride, end, w))
        end += 3 * (w + 3)
    return np.array(windows), np.array(sums), np.array(extremes), np.array(trends), end


def new_state(garch: tuple[float, float, float], size: int) -> Vector:
    """State before the first bar, float64 (size,); ``garch`` is omega, alpha, beta."""
    x = np.zeros(size)
    x[[OMEGA, ALPHA, BETA]], x[NEWEST] = garch, np.nan
    for *_, ring, w in _rings()[2]:
        x[ring : ring + w + 2], x[ring + w + 2 : ring + 2 * (w + 2)] = -np.inf, np.inf
    return x
