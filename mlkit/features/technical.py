"""The technical families: each is one formula sheet over the causal state.

A family reads the state as it stands at the close of the newest bar and returns its columns, in the order of
`mlkit.features.catalogue`. Price levels enter as ratios; where a formula has no information (no range, no
volume, no variance) it gives the neutral value that the catalogue states, never inf.

Divisions and roots are the dearest thing here: a divisor of several columns is inverted once (``per_close``), and
the divisors of a sheet are inverted together, four in the time of one.
"""

import math
from typing import Any, NamedTuple

from mlkit.features.kernel import inverses, kernel, put_relative, quotients, roots, shares, sum_distances
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
)  # fmt: skip

Columns = tuple[float, ...]
LOG_2, LOG_14 = math.log(2.0), math.log(14.0)


class Shared(NamedTuple):
    """What several sheets need, worked out once: inverse divisors, and how far the log returns of a window spread."""

    per_close: float  # 1 / close, and so on; 0 where there is nothing to divide by
    per_span: float  # of the newest candle
    per_squares: float  # of the returns of 20 bars
    per_volume5: float
    per_volume10: float
    per_volume20: float
    per_volume50: float
    per_volume100: float
    variance10: float  # ddof 0
    variance20: float
    variance50: float
    variance100: float
    deviation5: float  # ddof 1
    deviation10: float
    deviation20: float
    deviation50: float
    deviation100: float
    deviation200: float


@kernel
def _variance(s: State, window: int, n: float) -> float:
    """Variance (ddof 0) of the log returns of one window; up to 1e-24 counts as none."""
    mean = s.total[window, RETURN] * (1.0 / n)
    variance = s.total[window, RETURN2] * (1.0 / n) - mean * mean
    return variance if variance > 1e-24 else 0.0


@kernel
def share(s: State, b: Bar) -> Shared:
    """What the sheets of the newest bar share."""
    total = s.total
    variance10, variance20 = _variance(s, W10, 10.0), _variance(s, W20, 20.0)
    variance50, variance100 = _variance(s, W50, 50.0), _variance(s, W100, 100.0)
    deviation5, deviation10, deviation20, deviation50, deviation100, deviation200 = roots((
        _variance(s, W5, 5.0) * (5.0 / 4.0), variance10 * (10.0 / 9.0), variance20 * (20.0 / 19.0),
        variance50 * (50.0 / 49.0), variance100 * (100.0 / 99.0), _variance(s, W200, 200.0) * (200.0 / 199.0),
    ))  # fmt: skip
    per_close, per_span, per_squares, per5, per10, per20, per50, per100 = inverses((
        b.close, b.high - b.low, total[W20, RETURN2],
        total[W5, VOLUME], total[W10, VOLUME], total[W20, VOLUME], total[W50, VOLUME], total[W100, VOLUME],
    ))  # fmt: skip
    return Shared(
        per_close, per_span, per_squares, per5, per10, per20, per50, per100,
        variance10, variance20, variance50, variance100,
        deviation5, deviation10, deviation20, deviation50, deviation100, deviation200,
    )  # fmt: skip


@kernel
def price(s: State, b: Bar, x: Shared) -> Columns:
    """Returns, ranges and shadows of the newest candle."""
    span, two = b.high - b.low, b.log_return + s.ring[(b.t - 1) & (RING - 1), R_RETURN]
    per_close, close60 = x.per_close, s.ring[(b.t - 60) & (RING - 1), R_CLOSE]
    per_close1, gain60 = quotients((1.0, b.close), (b.close1, close60))
    return (
        b.log_return,
        (b.close - b.close1) * per_close1,
        (b.open - b.close1) * per_close1,
        span * per_close,
        (b.close - b.open) * per_close,
        (b.high - max(b.open, b.close)) * per_close,
        (min(b.open, b.close) - b.low) * per_close,
        (b.close - b.low) * x.per_span if span > 0.0 else 0.5,
        (s.ring[b.t & (RING - 1), R_TYPICAL] - b.close) * per_close,
        two,
        two + s.ring[(b.t - 2) & (RING - 1), R_RETURN],
        s.total[W5, RETURN],
        s.total[W10, RETURN],
        s.total[W20, RETURN],
        math.log(gain60),
    )


@kernel
def moving_average(s: State, b: Bar) -> Columns:
    """The close against its simple and exponential means, and the means against each other."""
    a, total, c = s.average, s.total, b.close
    sma5, sma10, sma20 = total[W5, CLOSE] * 0.2, total[W10, CLOSE] * 0.1, total[W20, CLOSE] * 0.05
    sma50, sma100, sma200 = total[W50, CLOSE] * 0.02, total[W100, CLOSE] * 0.01, total[W200, CLOSE] * 0.005
    volume, turnover = total[W20, VOLUME], total[W20, CLOSE_VOLUME]
    return (
        *shares(
            (c, c, c, c, c, c, c, c, c, c, c, c, sma5, sma10, sma50, a[E10], a[E50]),
            (
                sma5, sma10, sma20, sma50, sma100, sma200, a[E5], a[E10], a[E20], a[E50], a[E100], a[E200],
                sma20, sma50, sma200, a[E50], a[E200],
            ),
        ),
        (c * volume - turnover) * inverse(turnover),
    )  # fmt: skip


@kernel
def volatility(s: State, b: Bar, x: Shared) -> Columns:
    """How far prices move: ranges, standard deviations and bands."""
    a, total, mean, per_close = s.average, s.total, s.trend[T20, MEAN], x.per_close
    garman_klass = 0.5 * total[W20, PARKINSON] - (2.0 * LOG_2 - 1.0) * total[W20, OPEN_CLOSE2]
    risk_metrics, parkinson, garman, rogers, width = roots((
        a[EWMA_VARIANCE],
        total[W20, PARKINSON] * (1.0 / (80.0 * LOG_2)),
        max(garman_klass, 0.0) * 0.05,
        max(total[W20, ROGERS_SATCHELL], 0.0) * 0.05,
        s.trend[T20, VARIANCE],
    ))  # fmt: skip
    band, span14 = 2.0 * width, s.highest[X14] - s.lowest[X14]
    per_low, per_band, per_mean, per_channel, per_span = inverses((b.low, band, mean, 2.0 * a[ATR14], span14))
    travel = total[W14, TRUE_RANGE] * per_span
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
        (b.high - b.low) * per_low,
        risk_metrics,
        parkinson,
        garman,
        rogers,
        (b.close - mean) * per_band,
        2.0 * band * per_mean,
        (b.close - a[E20]) * per_channel,
        math.log(travel) * (100.0 / LOG_14) if travel > 0.0 else 0.0,
    )


@kernel
def volume(s: State, b: Bar, x: Shared) -> Columns:
    """Activity, and which side of it moved the price."""
    total, v = s.total, b.volume
    traded, flow = total[W20, TYPICAL_VOLUME], total[W14, FLOW_UP] + total[W14, FLOW_DOWN]
    mean, squares = total[W20, VOLUME] * 0.05, total[W20, VOLUME2] * 0.05
    spread2 = squares - mean * mean
    spread = math.sqrt(spread2 if spread2 > 1e-14 * squares else 0.0)
    covariance = (total[W20, RETURN_VOLUME] - mean * total[W20, RETURN]) * 0.05
    per5, per10, per20, per50, per100 = x.per_volume5, x.per_volume10, x.per_volume20, x.per_volume50, x.per_volume100
    noise = spread * x.deviation20 * math.sqrt(19.0 / 20.0)
    per_pair, per_traded, per_flow, per_noise = inverses((v + b.volume1, traded, flow, noise))
    return (
        5.0 * v * per5,
        10.0 * v * per10,
        20.0 * v * per20,
        50.0 * v * per50,
        4.0 * total[W5, VOLUME] * per20,
        5.0 * total[W20, VOLUME] * per100,
        (v - b.volume1) * per_pair,
        total[W10, SIGNED_VOLUME] * per10,
        total[W20, SIGNED_VOLUME] * per20,
        total[W50, SIGNED_VOLUME] * per50,
        (b.close * total[W20, VOLUME] - traded) * per_traded,
        100.0 * total[W14, FLOW_UP] * per_flow if flow > 0.0 else 50.0,
        total[W20, FLOW_VOLUME] * per20,
        spread * (20.0 * math.sqrt(20.0 / 19.0)) * per20,
        max(-1.0, min(1.0, covariance * per_noise)),
    )


@kernel
def momentum(s: State, b: Bar, x: Shared) -> Columns:
    """Speed and exhaustion of a move."""
    a, total, c, ring, k = s.average, s.total, b.close, s.ring, s.stochastic[0]
    line, typical = a[E12] - a[E26], ring[b.t & (RING - 1), R_TYPICAL]
    up, down = total[W14, UP_MOVE], total[W14, DOWN_MOVE]
    moves7, moves14, moves21 = a[GAIN7] + a[LOSS7], a[GAIN14] + a[LOSS14], a[GAIN21] + a[LOSS21]
    mean14, mean20 = total[W14, TYPICAL] * (1.0 / 14), total[W20, TYPICAL] * (1.0 / 20)
    newest = (b.t & (RING - 1)) + RING
    spread14 = sum_distances(s.typical, newest - 13, 14, mean14) * (0.015 / 14)
    spread20 = sum_distances(s.typical, newest - 19, 20, mean20) * (0.015 / 20)
    per_close = x.per_close
    per7, per14, per21, per_deviation14, per_deviation20, per_move = inverses((
        moves7, moves14, moves21,
        spread14 if spread14 > 1.5e-15 * mean14 else 0.0, spread20 if spread20 > 1.5e-15 * mean20 else 0.0,
        up + down,
    ))  # fmt: skip
    t5, t10, t20, t60 = (
        (b.t - 5) & (RING - 1),
        (b.t - 10) & (RING - 1),
        (b.t - 20) & (RING - 1),
        (b.t - 60) & (RING - 1),
    )
    return (
        100.0 * a[GAIN7] * per7 if moves7 > 0.0 else 50.0,
        100.0 * a[GAIN14] * per14 if moves14 > 0.0 else 50.0,
        100.0 * a[GAIN21] * per21 if moves21 > 0.0 else 50.0,
        line * per_close,
        a[MACD_SIGNAL] * per_close,
        (line - a[MACD_SIGNAL]) * per_close,
        k,
        (k + s.stochastic[1] + s.stochastic[2]) * (1.0 / 3.0),
        k - 100.0,
        (typical - mean14) * per_deviation14,
        (typical - mean20) * per_deviation20,
        *shares((c, c, c, c), (ring[t5, R_CLOSE], ring[t10, R_CLOSE], ring[t20, R_CLOSE], ring[t60, R_CLOSE])),
        100.0 * ((up - down) * per_move),
        (c - b.open) * x.per_span,
    )


@kernel
def trend(s: State, b: Bar, x: Shared) -> Columns:
    """Direction and persistence of the price path."""
    a, total = s.average, s.total
    highest50, lowest50 = s.highest[X50], s.lowest[X50]
    span20, span50 = s.highest[X20] - s.lowest[X20], highest50 - lowest50
    move10 = abs(b.close - s.ring[(b.t - 10) & (RING - 1), R_CLOSE])
    move20 = abs(b.close - s.ring[(b.t - 20) & (RING - 1), R_CLOSE])
    per_close = x.per_close
    per_average, per_range, per_span20, per_span50, per_directed, per_path10, per_path20 = inverses((
        a[ATR14], total[W14, TRUE_RANGE], span20, span50, a[PLUS_DM] + a[MINUS_DM],
        total[W10, ABS_MOVE], total[W20, ABS_MOVE],
    ))  # fmt: skip
    above50, below50 = shares((b.close, b.close), (highest50, lowest50))
    return (
        a[ADX],
        min(100.0, 100.0 * a[PLUS_DM] * per_average),
        min(100.0, 100.0 * a[MINUS_DM] * per_average),
        100.0 * (abs(a[PLUS_DM] - a[MINUS_DM]) * per_directed),
        total[W14, VORTEX_UP] * per_range,
        total[W14, VORTEX_DOWN] * per_range,
        (b.close - s.lowest[X20]) * per_span20 if span20 > 0.0 else 0.5,
        (b.close - lowest50) * per_span50 if span50 > 0.0 else 0.5,
        above50,
        below50,
        move10 * per_path10,
        move20 * per_path20,
        s.trend[T20, SLOPE] * per_close,
        s.trend[T50, SLOPE] * per_close,
        s.trend[T20, R_SQUARED],
        s.trend[T50, R_SQUARED],
    )


@kernel
def lag(s: State, b: Bar, x: Shared, row: Any, start: int) -> None:
    """The candles 1, 2, 3, 5 and 10 bars ago, relative to the newest close and to mean volume, into ``row``."""
    per_volume = 20.0 * x.per_volume20
    for j, k in enumerate((1, 2, 3, 5, 10)):
        past = s.ring[(b.t - k) & (RING - 1)]
        put_relative(row, start + 5 * j, past, b.close, x.per_close)
        row[start + 5 * j + 4] = past[R_VOLUME] * per_volume


@kernel
def _skewness(s: State, window: int, n: float, per_variance: float, per_deviation: float) -> float:
    """Unbiased skewness of the log returns of one window; 0 where they do not vary."""
    m1, m2 = s.total[window, RETURN] * (1.0 / n), s.total[window, RETURN2] * (1.0 / n)
    m3 = s.total[window, RETURN3] * (1.0 / n)
    third = m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1
    skewness: float = third * per_variance * per_deviation * (math.sqrt(n * (n - 1.0)) / (n - 2.0))
    return skewness


@kernel
def _kurtosis(s: State, window: int, n: float, per_variance: float) -> float:
    """Unbiased excess kurtosis of the log returns of one window; 0 where they do not vary."""
    m1, m2 = s.total[window, RETURN] * (1.0 / n), s.total[window, RETURN2] * (1.0 / n)
    m3, m4 = s.total[window, RETURN3] * (1.0 / n), s.total[window, RETURN4] * (1.0 / n)
    fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1 * m1 * m1 * m1
    tails = (n + 1.0) * fourth * per_variance * per_variance - 3.0 * (n - 1.0)
    return tails * ((n - 1.0) / ((n - 2.0) * (n - 3.0))) if per_variance > 0.0 else 0.0


@kernel
def statistics(s: State, b: Bar, x: Shared) -> Columns:
    """Rolling moments of the log returns, and the close as a z-score."""
    total, squares = s.total, s.total[W20, RETURN2]
    p10, p20, p50, p100 = inverses((x.variance10, x.variance20, x.variance50, x.variance100))
    q10, q20, q50, q100, spread20, spread50, path = roots(
        (
            p10,
            p20,
            p50,
            p100,
            s.trend[T20, VARIANCE] * (20.0 / 19.0),
            s.trend[T50, VARIANCE] * (50.0 / 49.0),
            20.0 * squares,
        )
    )
    per20, per50, per_path = inverses((spread20, spread50, path))
    return (
        total[W5, RETURN] * 0.2, total[W10, RETURN] * 0.1, total[W20, RETURN] * 0.05,
        total[W50, RETURN] * 0.02, total[W100, RETURN] * 0.01,
        _skewness(s, W10, 10.0, p10, q10), _skewness(s, W20, 20.0, p20, q20),
        _skewness(s, W50, 50.0, p50, q50), _skewness(s, W100, 100.0, p100, q100),
        _kurtosis(s, W10, 10.0, p10), _kurtosis(s, W20, 20.0, p20),
        _kurtosis(s, W50, 50.0, p50), _kurtosis(s, W100, 100.0, p100),
        (b.close - s.trend[T20, MEAN]) * per20,
        (b.close - s.trend[T50, MEAN]) * per50,
        total[W20, LAGGED_PRODUCT] * x.per_squares,
        total[W20, ABS_RETURN] * per_path,
    )  # fmt: skip
