"""The technical families: each is one formula sheet over the causal state.

A family reads the state as it stands at the close of the newest bar and returns its columns, in the order of
`mlkit.features.catalogue`. Price levels enter as ratios; where a formula has no information (no range, no
volume, no variance) it gives the neutral value that the catalogue states, never inf.

Divisions are the dearest thing here, so a divisor of several columns is inverted once (``per_close``).
"""

import math

from mlkit.features.kernel import kernel
from mlkit.features.rolling import MEAN, R_SQUARED, SLOPE, VARIANCE
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
    LAGGED_PRODUCT,
    LOSS7,
    LOSS14,
    LOSS21,
    MACD_SIGNAL,
    MINUS_DM,
    OPEN_CLOSE2,
    PARKINSON,
    PLUS_DM,
    R_CLOSE,
    R_HIGH,
    R_LOW,
    R_OPEN,
    R_RETURN,
    R_TYPICAL,
    R_VOLUME,
    RETURN,
    RETURN2,
    RETURN3,
    RETURN4,
    RETURN_VOLUME,
    RING,
    ROGERS_SATCHELL,
    SIGNED_VOLUME,
    T20,
    T50,
    TRUE_RANGE,
    TYPICAL,
    TYPICAL_VOLUME,
    UP_MOVE,
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
    X14,
    X20,
    X50,
    Bar,
    State,
    inverse,
    ratio,
)  # fmt: skip

Columns = tuple[float, ...]
LOG_2, LOG_14 = math.log(2.0), math.log(14.0)


@kernel
def price(s: State, b: Bar) -> Columns:
    """Returns, ranges and shadows of the newest candle."""
    per_close, per_close1 = 1.0 / b.close, 1.0 / b.close1
    span, two = b.high - b.low, b.log_return + s.ring[(b.t - 1) & (RING - 1), R_RETURN]
    return (
        b.log_return,
        (b.close - b.close1) * per_close1,
        (b.open - b.close1) * per_close1,
        span * per_close,
        (b.close - b.open) * per_close,
        (b.high - max(b.open, b.close)) * per_close,
        (min(b.open, b.close) - b.low) * per_close,
        (b.close - b.low) * inverse(span) if span > 0.0 else 0.5,
        (s.ring[b.t & (RING - 1), R_TYPICAL] - b.close) * per_close,
        two,
        two + s.ring[(b.t - 2) & (RING - 1), R_RETURN],
        s.total[W5, RETURN],
        s.total[W10, RETURN],
        s.total[W20, RETURN],
        math.log(b.close / s.ring[(b.t - 60) & (RING - 1), R_CLOSE]),
    )


@kernel
def _above(a: float, b: float) -> float:
    """How far ``a`` is above ``b``, as a share of ``b``."""
    return (a - b) / b


@kernel
def moving_average(s: State, b: Bar) -> Columns:
    """The close against its simple and exponential means, and the means against each other."""
    a, total, c = s.average, s.total, b.close
    sma5, sma10, sma20 = total[W5, CLOSE] * 0.2, total[W10, CLOSE] * 0.1, total[W20, CLOSE] * 0.05
    sma50, sma100, sma200 = total[W50, CLOSE] * 0.02, total[W100, CLOSE] * 0.01, total[W200, CLOSE] * 0.005
    volume, turnover = total[W20, VOLUME], total[W20, CLOSE_VOLUME]
    return (
        _above(c, sma5), _above(c, sma10), _above(c, sma20), _above(c, sma50), _above(c, sma100),
        _above(c, sma200),
        _above(c, a[E5]), _above(c, a[E10]), _above(c, a[E20]), _above(c, a[E50]), _above(c, a[E100]),
        _above(c, a[E200]),
        _above(sma5, sma20), _above(sma10, sma50), _above(sma50, sma200),
        _above(a[E10], a[E50]), _above(a[E50], a[E200]),
        (c * volume - turnover) * inverse(turnover),
    )  # fmt: skip


@kernel
def deviation(s: State, window: int, n: float) -> float:
    """Sample standard deviation (ddof 1) of the log returns of one window; under 1e-12 counts as none."""
    mean = s.total[window, RETURN] * (1.0 / n)
    variance = s.total[window, RETURN2] * (1.0 / n) - mean * mean
    return math.sqrt(variance * (n / (n - 1.0)) if variance > 1e-24 else 0.0)


@kernel
def volatility(s: State, b: Bar) -> Columns:
    """How far prices move: ranges, standard deviations and bands."""
    a, total, mean, per_close = s.average, s.total, s.trend[T20, MEAN], 1.0 / b.close
    garman_klass = 0.5 * total[W20, PARKINSON] - (2.0 * LOG_2 - 1.0) * total[W20, OPEN_CLOSE2]
    band = 2.0 * math.sqrt(s.trend[T20, VARIANCE])
    travel = ratio(total[W14, TRUE_RANGE], s.highest[X14] - s.lowest[X14])
    return (
        b.true_range * per_close,
        a[ATR7] * per_close,
        a[ATR14] * per_close,
        a[ATR28] * per_close,
        deviation(s, W5, 5.0),
        deviation(s, W10, 10.0),
        deviation(s, W20, 20.0),
        deviation(s, W50, 50.0),
        deviation(s, W100, 100.0),
        (b.high - b.low) / b.low,
        math.sqrt(a[EWMA_VARIANCE]),
        math.sqrt(total[W20, PARKINSON] * (1.0 / (80.0 * LOG_2))),
        math.sqrt(max(garman_klass, 0.0) * 0.05),
        math.sqrt(max(total[W20, ROGERS_SATCHELL], 0.0) * 0.05),
        ratio(b.close - mean, band),
        2.0 * band / mean,
        ratio(b.close - a[E20], 2.0 * a[ATR14]),
        math.log(travel) * (100.0 / LOG_14) if travel > 0.0 else 0.0,
    )


@kernel
def volume(s: State, b: Bar) -> Columns:
    """Activity, and which side of it moved the price."""
    total, v = s.total, b.volume
    per5, per10, per20 = inverse(total[W5, VOLUME]), inverse(total[W10, VOLUME]), inverse(total[W20, VOLUME])
    per50, per100 = inverse(total[W50, VOLUME]), inverse(total[W100, VOLUME])
    traded, flow = total[W20, TYPICAL_VOLUME], total[W14, FLOW_UP] + total[W14, FLOW_DOWN]
    mean, squares = total[W20, VOLUME] * 0.05, total[W20, VOLUME2] * 0.05
    variance = squares - mean * mean
    spread = math.sqrt(variance if variance > 1e-14 * squares else 0.0)
    covariance = (total[W20, RETURN_VOLUME] - mean * total[W20, RETURN]) * 0.05
    noise = spread * deviation(s, W20, 20.0) * math.sqrt(19.0 / 20.0)
    return (
        5.0 * v * per5,
        10.0 * v * per10,
        20.0 * v * per20,
        50.0 * v * per50,
        4.0 * total[W5, VOLUME] * per20,
        5.0 * total[W20, VOLUME] * per100,
        ratio(v - b.volume1, v + b.volume1),
        total[W10, SIGNED_VOLUME] * per10,
        total[W20, SIGNED_VOLUME] * per20,
        total[W50, SIGNED_VOLUME] * per50,
        (b.close * total[W20, VOLUME] - traded) * inverse(traded),
        ratio(100.0 * total[W14, FLOW_UP], flow) if flow > 0.0 else 50.0,
        total[W20, FLOW_VOLUME] * per20,
        spread * (20.0 * math.sqrt(20.0 / 19.0)) * per20,
        max(-1.0, min(1.0, ratio(covariance, noise))),
    )


@kernel
def _commodity_channel(s: State, b: Bar, window: int, n: int) -> float:
    """Typical price against its mean, in units of 0.015 mean absolute deviations (Lambert 1980)."""
    mean = s.total[window, TYPICAL] * (1.0 / n)
    spread = 0.0
    for k in range(n):
        spread += abs(s.ring[(b.t - k) & (RING - 1), R_TYPICAL] - mean)
    spread *= 1.0 / n
    distance = s.ring[b.t & (RING - 1), R_TYPICAL] - mean
    return distance * inverse(0.015 * spread) if spread > 1e-13 * mean else 0.0


@kernel
def _relative_strength(gain: float, loss: float) -> float:
    """Gains as a share of all moves, 0 to 100; 50 where nothing moved (Wilder 1978)."""
    moves = gain + loss
    return 100.0 * gain * inverse(moves) if moves > 0.0 else 50.0


@kernel
def _rate_of_change(s: State, b: Bar, n: int) -> float:
    """Change of the close over ``n`` bars, as a share."""
    return _above(b.close, s.ring[(b.t - n) & (RING - 1), R_CLOSE])


@kernel
def momentum(s: State, b: Bar) -> Columns:
    """Speed and exhaustion of a move."""
    a, total, per_close = s.average, s.total, 1.0 / b.close
    line, k = a[E12] - a[E26], s.stochastic[0]
    up, down = total[W14, UP_MOVE], total[W14, DOWN_MOVE]
    return (
        _relative_strength(a[GAIN7], a[LOSS7]),
        _relative_strength(a[GAIN14], a[LOSS14]),
        _relative_strength(a[GAIN21], a[LOSS21]),
        line * per_close,
        a[MACD_SIGNAL] * per_close,
        (line - a[MACD_SIGNAL]) * per_close,
        k,
        (k + s.stochastic[1] + s.stochastic[2]) * (1.0 / 3.0),
        k - 100.0,
        _commodity_channel(s, b, W14, 14),
        _commodity_channel(s, b, W20, 20),
        _rate_of_change(s, b, 5),
        _rate_of_change(s, b, 10),
        _rate_of_change(s, b, 20),
        _rate_of_change(s, b, 60),
        100.0 * ratio(up - down, up + down),
        (b.close - b.open) * inverse(b.high - b.low),
    )


@kernel
def trend(s: State, b: Bar) -> Columns:
    """Direction and persistence of the price path."""
    a, total, per_close = s.average, s.total, 1.0 / b.close
    per_average, per_range = inverse(a[ATR14]), inverse(total[W14, TRUE_RANGE])
    highest50, lowest50 = s.highest[X50], s.lowest[X50]
    span20, span50 = s.highest[X20] - s.lowest[X20], highest50 - lowest50
    move10 = abs(b.close - s.ring[(b.t - 10) & (RING - 1), R_CLOSE])
    move20 = abs(b.close - s.ring[(b.t - 20) & (RING - 1), R_CLOSE])
    return (
        a[ADX],
        min(100.0, 100.0 * a[PLUS_DM] * per_average),
        min(100.0, 100.0 * a[MINUS_DM] * per_average),
        100.0 * ratio(abs(a[PLUS_DM] - a[MINUS_DM]), a[PLUS_DM] + a[MINUS_DM]),
        total[W14, VORTEX_UP] * per_range,
        total[W14, VORTEX_DOWN] * per_range,
        (b.close - s.lowest[X20]) * inverse(span20) if span20 > 0.0 else 0.5,
        (b.close - lowest50) * inverse(span50) if span50 > 0.0 else 0.5,
        _above(b.close, highest50),
        _above(b.close, lowest50),
        ratio(move10, total[W10, ABS_MOVE]),
        ratio(move20, total[W20, ABS_MOVE]),
        s.trend[T20, SLOPE] * per_close,
        s.trend[T50, SLOPE] * per_close,
        s.trend[T20, R_SQUARED],
        s.trend[T50, R_SQUARED],
    )


@kernel
def _past(s: State, b: Bar, k: int, per_volume: float) -> Columns:
    """The candle ``k`` bars ago, relative to the newest close and to mean volume."""
    at, per_close = (b.t - k) & (RING - 1), 1.0 / b.close
    return (
        (s.ring[at, R_OPEN] - b.close) * per_close,
        (s.ring[at, R_HIGH] - b.close) * per_close,
        (s.ring[at, R_LOW] - b.close) * per_close,
        (s.ring[at, R_CLOSE] - b.close) * per_close,
        s.ring[at, R_VOLUME] * per_volume,
    )


@kernel
def lag(s: State, b: Bar) -> Columns:
    """The candles 1, 2, 3, 5 and 10 bars ago."""
    per = 20.0 * inverse(s.total[W20, VOLUME])
    return _past(s, b, 1, per) + _past(s, b, 2, per) + _past(s, b, 3, per) + _past(s, b, 5, per) + _past(s, b, 10, per)


@kernel
def _shape(s: State, window: int, n: float) -> tuple[float, float]:
    """Unbiased skewness and excess kurtosis of the log returns of one window; 0 where they do not vary."""
    m1, m2 = s.total[window, RETURN] * (1.0 / n), s.total[window, RETURN2] * (1.0 / n)
    m3, m4 = s.total[window, RETURN3] * (1.0 / n), s.total[window, RETURN4] * (1.0 / n)
    variance = m2 - m1 * m1
    varies = variance > 1e-24
    per_variance = (1.0 if varies else 0.0) / (variance if varies else 1.0)
    third = m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1
    fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1 * m1 * m1 * m1
    skew = third * per_variance * math.sqrt(per_variance) * (math.sqrt(n * (n - 1.0)) / (n - 2.0))
    tails = (n + 1.0) * fourth * per_variance * per_variance - 3.0 * (n - 1.0)
    return skew, tails * ((n - 1.0) / ((n - 2.0) * (n - 3.0))) if varies else 0.0


@kernel
def statistics(s: State, b: Bar) -> Columns:
    """Rolling moments of the log returns, and the close as a z-score."""
    total = s.total
    skew10, kurtosis10 = _shape(s, W10, 10.0)
    skew20, kurtosis20 = _shape(s, W20, 20.0)
    skew50, kurtosis50 = _shape(s, W50, 50.0)
    skew100, kurtosis100 = _shape(s, W100, 100.0)
    spread20, spread50 = s.trend[T20, VARIANCE] * (20.0 / 19.0), s.trend[T50, VARIANCE] * (50.0 / 49.0)
    squares = total[W20, RETURN2]
    return (
        total[W5, RETURN] * 0.2, total[W10, RETURN] * 0.1, total[W20, RETURN] * 0.05,
        total[W50, RETURN] * 0.02, total[W100, RETURN] * 0.01,
        skew10, skew20, skew50, skew100,
        kurtosis10, kurtosis20, kurtosis50, kurtosis100,
        ratio(b.close - s.trend[T20, MEAN], math.sqrt(spread20)),
        ratio(b.close - s.trend[T50, MEAN], math.sqrt(spread50)),
        ratio(total[W20, LAGGED_PRODUCT], squares),
        ratio(total[W20, ABS_RETURN], math.sqrt(20.0 * squares)),
    )  # fmt: skip
