"""The technical families: each is one formula sheet over the causal state.

A family reads what is seen at the close of a bar, of eight bars at a time (`mlkit.features.lanes`), and returns its
columns in the order of `mlkit.features.catalogue`. Price levels enter as ratios; where a formula has no information
(no range, no volume, no variance) it gives the neutral value that the catalogue states, never inf.

Divisions and roots are the dearest thing here: a divisor of several columns is inverted once (``per_close``).
"""

import math
from typing import NamedTuple

from mlkit.features.functions import logarithm
from mlkit.features.kernel import kernel
from mlkit.features.lanes import Lanes, Shelf, choose, fetch, root
from mlkit.features.state import (
    ABS_MOVE,
    ABS_RETURN,
    ADX,
    ATR7,
    ATR14,
    ATR28,
    CLOSE,
    CLOSE_VOLUME,
    DOWN_MOVE,
    E5,
    E10,
    E12,
    E20,
    E26,
    E50,
    E100,
    E200,
    EWMA_VARIANCE,
    FLOW_DOWN,
    FLOW_UP,
    FLOW_VOLUME,
    GAIN7,
    GAIN14,
    GAIN21,
    HIGHEST14,
    HIGHEST20,
    HIGHEST50,
    LAGGED_PRODUCT,
    LENGTH,
    LOSS7,
    LOSS14,
    LOSS21,
    LOWEST14,
    LOWEST20,
    LOWEST50,
    MACD_SIGNAL,
    MEAN20,
    MEAN50,
    MINUS_DM,
    OPEN_CLOSE2,
    PARKINSON,
    PLUS_DM,
    R_CLOSE,
    R_HIGH,
    R_LOW,
    R_OPEN,
    R_RETURN,
    R_SQUARED20,
    R_SQUARED50,
    R_STOCHASTIC,
    R_TYPICAL,
    R_VOLUME,
    RETURN,
    RETURN2,
    RETURN3,
    RETURN4,
    RETURN_VOLUME,
    ROGERS_SATCHELL,
    SIGNED_VOLUME,
    SLOPE20,
    SLOPE50,
    STOCHASTIC_D,
    TRUE_RANGE,
    TYPICAL,
    TYPICAL_VOLUME,
    UP_MOVE,
    VARIANCE20,
    VARIANCE50,
    VOLUME,
    VOLUME2,
    VORTEX_DOWN,
    VORTEX_UP,
    W5,
    W10,
    W14,
    W20,
    W50,
    W100,
    W200,
    Bar,
    Seen,
    inverse,
)  # fmt: skip

Columns = tuple[Lanes, ...]
LOG_2, LOG_14 = math.log(2.0), math.log(14.0)


class Shared(NamedTuple):
    """What several sheets need, worked out once: inverse divisors, and how far the log returns of a window spread."""

    per_close: Lanes  # 1 / close, and so on; 0 where there is nothing to divide by
    per_span: Lanes  # of the newest candle
    per_squares: Lanes  # of the returns of 20 bars
    per_volume5: Lanes
    per_volume10: Lanes
    per_volume20: Lanes
    per_volume50: Lanes
    per_volume100: Lanes
    variance10: Lanes  # ddof 0
    variance20: Lanes
    variance50: Lanes
    variance100: Lanes
    deviation5: Lanes  # ddof 1
    deviation10: Lanes
    deviation20: Lanes
    deviation50: Lanes
    deviation100: Lanes
    deviation200: Lanes


@kernel
def _variance(s: Seen, window: int, n: float) -> Lanes:
    """Variance (ddof 0) of the log returns of one window; up to 1e-24 counts as none."""
    mean = s.total[window + RETURN] * (1.0 / n)
    variance = s.total[window + RETURN2] * (1.0 / n) - mean * mean
    spread: Lanes = choose(variance > 1e-24, variance, 0.0)
    return spread


@kernel
def share(s: Seen, b: Bar) -> Shared:
    """What the sheets of the newest bar share."""
    total = s.total
    variance10, variance20 = _variance(s, W10, 10.0), _variance(s, W20, 20.0)
    variance50, variance100 = _variance(s, W50, 50.0), _variance(s, W100, 100.0)
    return Shared(
        inverse(b.close), inverse(b.high - b.low), inverse(total[W20 + RETURN2]),
        inverse(total[W5 + VOLUME]), inverse(total[W10 + VOLUME]), inverse(total[W20 + VOLUME]),
        inverse(total[W50 + VOLUME]), inverse(total[W100 + VOLUME]),
        variance10, variance20, variance50, variance100,
        root(_variance(s, W5, 5.0) * (5.0 / 4.0)), root(variance10 * (10.0 / 9.0)), root(variance20 * (20.0 / 19.0)),
        root(variance50 * (50.0 / 49.0)), root(variance100 * (100.0 / 99.0)),
        root(_variance(s, W200, 200.0) * (200.0 / 199.0)),
    )  # fmt: skip


@kernel
def price(s: Seen, b: Bar, x: Shared) -> Columns:
    """Returns, ranges and shadows of the newest candle."""
    span, two, per_close = b.high - b.low, b.log_return + s.ago1[R_RETURN], x.per_close
    per_close1 = 1.0 / b.close1
    return (
        b.log_return,
        (b.close - b.close1) * per_close1,
        (b.open - b.close1) * per_close1,
        span * per_close,
        (b.close - b.open) * per_close,
        (b.high - max(b.open, b.close)) * per_close,
        (min(b.open, b.close) - b.low) * per_close,
        choose(span > 0.0, (b.close - b.low) * x.per_span, 0.5),
        (s.now[R_TYPICAL] - b.close) * per_close,
        two,
        two + s.ago2[R_RETURN],
        s.total[W5 + RETURN],
        s.total[W10 + RETURN],
        s.total[W20 + RETURN],
        logarithm(b.close / s.ago60[R_CLOSE]),
    )


@kernel
def moving_average(s: Seen, b: Bar) -> Columns:
    """The close against its simple and exponential means, and the means against each other."""
    a, total, c = s.average, s.total, b.close
    sma5, sma10, sma20 = total[W5 + CLOSE] * 0.2, total[W10 + CLOSE] * 0.1, total[W20 + CLOSE] * 0.05
    sma50, sma100, sma200 = total[W50 + CLOSE] * 0.02, total[W100 + CLOSE] * 0.01, total[W200 + CLOSE] * 0.005
    volume, turnover = total[W20 + VOLUME], total[W20 + CLOSE_VOLUME]
    return (
        (c - sma5) / sma5, (c - sma10) / sma10, (c - sma20) / sma20,
        (c - sma50) / sma50, (c - sma100) / sma100, (c - sma200) / sma200,
        (c - a[E5]) / a[E5], (c - a[E10]) / a[E10], (c - a[E20]) / a[E20],
        (c - a[E50]) / a[E50], (c - a[E100]) / a[E100], (c - a[E200]) / a[E200],
        (sma5 - sma20) / sma20, (sma10 - sma50) / sma50, (sma50 - sma200) / sma200,
        (a[E10] - a[E50]) / a[E50], (a[E50] - a[E200]) / a[E200],
        (c * volume - turnover) * inverse(turnover),
    )  # fmt: skip


@kernel
def volatility(s: Seen, b: Bar, x: Shared) -> Columns:
    """How far prices move: ranges, standard deviations and bands."""
    a, total, mean, per_close = s.average, s.total, s.other[MEAN20], x.per_close
    garman_klass = 0.5 * total[W20 + PARKINSON] - (2.0 * LOG_2 - 1.0) * total[W20 + OPEN_CLOSE2]
    band, span14 = 2.0 * root(s.other[VARIANCE20]), s.other[HIGHEST14] - s.other[LOWEST14]
    travel = total[W14 + TRUE_RANGE] * inverse(span14)
    return (
        b.true_range * per_close,
        a[ATR7] * per_close,
        a[ATR14] * per_close,
        a[ATR28] * per_close,
        x.deviation5,
        x.deviation10,
        x.deviation20,
        x.deviation50,
        x.deviation100,
        (b.high - b.low) * inverse(b.low),
        root(a[EWMA_VARIANCE]),
        root(total[W20 + PARKINSON] * (1.0 / (80.0 * LOG_2))),
        root(max(garman_klass, 0.0) * 0.05),
        root(max(total[W20 + ROGERS_SATCHELL], 0.0) * 0.05),
        (b.close - mean) * inverse(band),
        2.0 * band * inverse(mean),
        (b.close - a[E20]) * inverse(2.0 * a[ATR14]),
        logarithm(choose(travel > 0.0, travel, 1.0)) * (100.0 / LOG_14),
    )


@kernel
def volume(s: Seen, b: Bar, x: Shared) -> Columns:
    """Activity, and which side of it moved the price."""
    total, v = s.total, b.volume
    traded, flow = total[W20 + TYPICAL_VOLUME], total[W14 + FLOW_UP] + total[W14 + FLOW_DOWN]
    mean, squares = total[W20 + VOLUME] * 0.05, total[W20 + VOLUME2] * 0.05
    spread2 = squares - mean * mean
    spread = root(choose(spread2 > 1e-14 * squares, spread2, 0.0))
    covariance = (total[W20 + RETURN_VOLUME] - mean * total[W20 + RETURN]) * 0.05
    per5, per10, per20, per50, per100 = x.per_volume5, x.per_volume10, x.per_volume20, x.per_volume50, x.per_volume100
    noise = spread * x.deviation20 * math.sqrt(19.0 / 20.0)
    return (
        5.0 * v * per5,
        10.0 * v * per10,
        20.0 * v * per20,
        50.0 * v * per50,
        4.0 * total[W5 + VOLUME] * per20,
        5.0 * total[W20 + VOLUME] * per100,
        (v - b.volume1) * inverse(v + b.volume1),
        total[W10 + SIGNED_VOLUME] * per10,
        total[W20 + SIGNED_VOLUME] * per20,
        total[W50 + SIGNED_VOLUME] * per50,
        (b.close * total[W20 + VOLUME] - traded) * inverse(traded),
        choose(flow > 0.0, 100.0 * total[W14 + FLOW_UP] * inverse(flow), 50.0),
        total[W20 + FLOW_VOLUME] * per20,
        spread * (20.0 * math.sqrt(20.0 / 19.0)) * per20,
        max(-1.0, min(1.0, covariance * inverse(noise))),
    )


@kernel
def momentum(s: Seen, b: Bar, x: Shared) -> Columns:
    """Speed and exhaustion of a move."""
    a, total, c, k = s.average, s.total, b.close, s.now[R_STOCHASTIC]
    line, typical = a[E12] - a[E26], s.now[R_TYPICAL]
    up, down = total[W14 + UP_MOVE], total[W14 + DOWN_MOVE]
    moves7, moves14, moves21 = a[GAIN7] + a[LOSS7], a[GAIN14] + a[LOSS14], a[GAIN21] + a[LOSS21]
    mean14, mean20 = total[W14 + TYPICAL] * (1.0 / 14), total[W20 + TYPICAL] * (1.0 / 20)
    spread14 = _distances(s, 14, mean14) * (0.015 / 14)
    spread20 = _distances(s, 20, mean20) * (0.015 / 20)
    per_close, some14, some20 = x.per_close, spread14 > 1.5e-15 * mean14, spread20 > 1.5e-15 * mean20
    return (
        choose(moves7 > 0.0, 100.0 * a[GAIN7] * inverse(moves7), 50.0),
        choose(moves14 > 0.0, 100.0 * a[GAIN14] * inverse(moves14), 50.0),
        choose(moves21 > 0.0, 100.0 * a[GAIN21] * inverse(moves21), 50.0),
        line * per_close,
        a[MACD_SIGNAL] * per_close,
        (line - a[MACD_SIGNAL]) * per_close,
        k,
        s.other[STOCHASTIC_D],
        k - 100.0,
        (typical - mean14) * inverse(choose(some14, spread14, 0.0)),
        (typical - mean20) * inverse(choose(some20, spread20, 0.0)),
        (c - s.ago5[R_CLOSE]) / s.ago5[R_CLOSE],
        (c - s.ago10[R_CLOSE]) / s.ago10[R_CLOSE],
        (c - s.ago20[R_CLOSE]) / s.ago20[R_CLOSE],
        (c - s.ago60[R_CLOSE]) / s.ago60[R_CLOSE],
        100.0 * ((up - down) * inverse(up + down)),
        (c - b.open) * x.per_span,
    )


@kernel
def trend(s: Seen, b: Bar, x: Shared) -> Columns:
    """Direction and persistence of the price path."""
    a, total = s.average, s.total
    highest50, lowest50 = s.other[HIGHEST50], s.other[LOWEST50]
    span20, span50 = s.other[HIGHEST20] - s.other[LOWEST20], highest50 - lowest50
    move10 = abs(b.close - s.ago10[R_CLOSE])
    move20 = abs(b.close - s.ago20[R_CLOSE])
    per_close = x.per_close
    per_average, per_range = inverse(a[ATR14]), inverse(total[W14 + TRUE_RANGE])
    return (
        a[ADX],
        min(100.0, 100.0 * a[PLUS_DM] * per_average),
        min(100.0, 100.0 * a[MINUS_DM] * per_average),
        100.0 * (abs(a[PLUS_DM] - a[MINUS_DM]) * inverse(a[PLUS_DM] + a[MINUS_DM])),
        total[W14 + VORTEX_UP] * per_range,
        total[W14 + VORTEX_DOWN] * per_range,
        choose(span20 > 0.0, (b.close - s.other[LOWEST20]) * inverse(span20), 0.5),
        choose(span50 > 0.0, (b.close - lowest50) * inverse(span50), 0.5),
        (b.close - highest50) / highest50,
        (b.close - lowest50) / lowest50,
        move10 * inverse(total[W10 + ABS_MOVE]),
        move20 * inverse(total[W20 + ABS_MOVE]),
        s.other[SLOPE20] * per_close,
        s.other[SLOPE50] * per_close,
        s.other[R_SQUARED20],
        s.other[R_SQUARED50],
    )


@kernel
def lag(s: Seen, b: Bar, x: Shared) -> Columns:
    """The candles 1, 2, 3, 5 and 10 bars ago, relative to the newest close and to mean volume."""
    return (
        *_candle_ago(s.ago1, b, x),
        *_candle_ago(s.ago2, b, x),
        *_candle_ago(s.ago3, b, x),
        *_candle_ago(s.ago5, b, x),
        *_candle_ago(s.ago10, b, x),
    )


@kernel
def _candle_ago(ago: Shelf, b: Bar, x: Shared) -> Columns:
    """A candle of before as the newest bar sees it."""
    return (
        (ago[R_OPEN] - b.close) * x.per_close,
        (ago[R_HIGH] - b.close) * x.per_close,
        (ago[R_LOW] - b.close) * x.per_close,
        (ago[R_CLOSE] - b.close) * x.per_close,
        ago[R_VOLUME] * (20.0 * x.per_volume20),
    )


@kernel
def _distances(s: Seen, n: int, centre: Lanes) -> Lanes:
    """Sum of the distances of the last ``n`` typical prices from ``centre``, as four sums that wait for none."""
    first, zero = R_TYPICAL * LENGTH + s.at - n + 1, centre - centre
    a, b, c, d = zero, zero, zero, zero
    for k in range(first, first + n - 3, 4):
        a = a + abs(fetch(s.past, k) - centre)
        b = b + abs(fetch(s.past, k + 1) - centre)
        c = c + abs(fetch(s.past, k + 2) - centre)
        d = d + abs(fetch(s.past, k + 3) - centre)
    if n % 4 == 2:
        c = c + abs(fetch(s.past, first + n - 2) - centre)
        d = d + abs(fetch(s.past, first + n - 1) - centre)
    total: Lanes = (a + b) + (c + d)
    return total


@kernel
def _skewness(s: Seen, window: int, n: float, per_variance: Lanes, per_deviation: Lanes) -> Lanes:
    """Unbiased skewness of the log returns of one window; 0 where they do not vary."""
    m1, m2 = s.total[window + RETURN] * (1.0 / n), s.total[window + RETURN2] * (1.0 / n)
    m3 = s.total[window + RETURN3] * (1.0 / n)
    third = m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1
    skewness: Lanes = third * per_variance * per_deviation * (math.sqrt(n * (n - 1.0)) / (n - 2.0))
    return skewness


@kernel
def _kurtosis(s: Seen, window: int, n: float, per_variance: Lanes) -> Lanes:
    """Unbiased excess kurtosis of the log returns of one window; 0 where they do not vary."""
    m1, m2 = s.total[window + RETURN] * (1.0 / n), s.total[window + RETURN2] * (1.0 / n)
    m3, m4 = s.total[window + RETURN3] * (1.0 / n), s.total[window + RETURN4] * (1.0 / n)
    fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1 * m1 * m1 * m1
    tails = (n + 1.0) * fourth * per_variance * per_variance - 3.0 * (n - 1.0)
    kurtosis: Lanes = choose(per_variance > 0.0, tails * ((n - 1.0) / ((n - 2.0) * (n - 3.0))), 0.0)
    return kurtosis


@kernel
def statistics(s: Seen, b: Bar, x: Shared) -> Columns:
    """Rolling moments of the log returns, and the close as a z-score."""
    total, squares = s.total, s.total[W20 + RETURN2]
    p10, p20, p50, p100 = inverse(x.variance10), inverse(x.variance20), inverse(x.variance50), inverse(x.variance100)
    return (
        total[W5 + RETURN] * 0.2, total[W10 + RETURN] * 0.1, total[W20 + RETURN] * 0.05,
        total[W50 + RETURN] * 0.02, total[W100 + RETURN] * 0.01,
        _skewness(s, W10, 10.0, p10, root(p10)), _skewness(s, W20, 20.0, p20, root(p20)),
        _skewness(s, W50, 50.0, p50, root(p50)), _skewness(s, W100, 100.0, p100, root(p100)),
        _kurtosis(s, W10, 10.0, p10), _kurtosis(s, W20, 20.0, p20),
        _kurtosis(s, W50, 50.0, p50), _kurtosis(s, W100, 100.0, p100),
        (b.close - s.other[MEAN20]) * inverse(root(s.other[VARIANCE20] * (20.0 / 19.0))),
        (b.close - s.other[MEAN50]) * inverse(root(s.other[VARIANCE50] * (50.0 / 49.0))),
        total[W20 + LAGGED_PRODUCT] * x.per_squares,
        total[W20 + ABS_RETURN] * inverse(root(20.0 * squares)),
    )  # fmt: skip
