"""How closed bars enter the state: a block of up to eight at a time, into nothing but the state vector.

What a bar is by itself (returns, ranges, products) is worked out for the whole block in `Lanes`. What remembers
(sums, extremes, averages) then goes bar by bar, all quantities of a bar side by side, and is turned into lanes
again for the formula sheets.
"""

import math

from mlkit.features.functions import error_function, hyperbolic_tangent, logarithm
from mlkit.features.kernel import TINY, kernel, local
from mlkit.features.lanes import (
    WIDTH,
    Lanes,
    Shelf,
    behind,
    choose,
    fetch,
    rising,
    root,
    shelf,
    store,
    turn,
)
from mlkit.features.rolling import describe_trend, roll_extremes, roll_trend, window_sums
from mlkit.features.rules import rules_step
from mlkit.features.state import (
    ABS_BODY,
    ABS_MOVE,
    ABS_RETURN,
    ADX,
    ADX_STATE,
    ADX_WEIGHT,
    ALPHA,
    ATR7,
    BARS_SEEN,
    BETA,
    BIPOWER,
    BODY,
    BULK_VOLUME,
    CLOSE,
    CLOSE_VOLUME,
    CORWIN_SCHULTZ,
    DOWN_MOVE,
    E12,
    E26,
    EMA_WEIGHTS,
    EWMA_VARIANCE,
    F5,
    F10,
    F14,
    F20,
    F50,
    F100,
    F200,
    FLOW_DOWN,
    FLOW_UP,
    FLOW_VOLUME,
    GAIN7,
    GARCH,
    GARCH_VARIANCE,
    HALF_CORWIN,
    HIGHER_HIGH,
    HIGHER_LOW,
    HIGHEST14,
    ILLIQUIDITY,
    LAGGED_PRODUCT,
    LENGTH,
    LOWEST14,
    MACD_SIGNAL,
    MACD_STATE,
    MACD_WEIGHT,
    MEAN20,
    MEAN50,
    MINUS_DM,
    N_FIELDS,
    OMEGA,
    OPEN_CLOSE2,
    OTHERS,
    PARKINSON,
    PAST,
    PLUS_DM,
    QUANTITIES,
    R_CLOSE,
    R_HIGH,
    R_LOW,
    R_OPEN,
    R_RETURN,
    R_STOCHASTIC,
    R_TO_HIGH,
    R_TO_LOW,
    R_TYPICAL,
    R_VARIANCE,
    R_VOLUME,
    RANGE,
    RAW20,
    RAW50,
    RETURN,
    RETURN2,
    RETURN3,
    RETURN4,
    RETURN_VOLUME,
    ROGERS_SATCHELL,
    ROW,
    RUN,
    RUN_LENGTH,
    S5,
    S10,
    S14,
    S20,
    S50,
    S100,
    S200,
    SIGNED_VOLUME,
    SIZE_AVERAGES,
    SIZE_CHANGES,
    SIZE_LEVELS,
    SIZE_OTHERS,
    SIZE_QUANTITIES,
    SIZE_ROWS,
    SIZE_TOTALS,
    SLOWEST,
    STOCHASTIC_D,
    TILES,
    TRUE_RANGE,
    TYPICAL,
    TYPICAL_VOLUME,
    UP_MOVE,
    VOLUME,
    VOLUME2,
    VORTEX_DOWN,
    VORTEX_UP,
    W200,
    WIDTHS,
    WINDOWS,
    ZERO_RETURN,
    Bar,
    Seen,
    State,
    Vector,
    ratio,
)  # fmt: skip


@kernel
def advance(
    o: Vector, h: Vector, low: Vector, c: Vector, v: Vector, start: int, n: int, s: State, flags: Shelf
) -> tuple[Bar, Seen]:
    """Take ``n`` closed bars, from ``start`` on, into the state; returns them and what is seen at the close of each.

    ``flags`` receives the rules of the bars. A block may not cross a multiple of `AT_ONCE` bars. Where it has fewer
    than eight bars, the last is repeated in the lanes to spare, which leave no trace in the state.
    """
    t = int(s.clock[BARS_SEEN])
    at = PAST + (t & (PAST - 1))
    _enter(o, h, low, c, v, start, n, t, at, s.past)
    now, eight = shelf(s.past, at, LENGTH), shelf(s.past, at - WIDTH, LENGTH)
    quantities, rows = local(SIZE_QUANTITIES, o), local(SIZE_ROWS, o)
    totals, averages, others = local(SIZE_TOTALS, o), local(SIZE_AVERAGES, o), local(SIZE_OTHERS, o)
    q, average, other = shelf(quantities, 0, WIDTH), shelf(averages, 0, WIDTH), shelf(others, 0, WIDTH)
    bar = _measure(now, eight, q)
    _average(bar, t, n, s, q, averages, average)
    variance = average[EWMA_VARIANCE]
    q[BULK_VOLUME], now[R_VARIANCE] = _bulk_volume(bar, behind(eight[R_VARIANCE], variance)), variance
    total = shelf(totals, 0, WIDTH)
    _roll(t, n, s, quantities, rows)
    for j in range(TILES.shape[0]):
        turn(rows, j * WIDTH, ROW, totals, TILES[j] * WIDTH, WIDTH)
    turn(rows, OTHERS, ROW, others, 0, WIDTH)
    turn(rows, OTHERS + WIDTH, ROW, others, 8 * WIDTH, WIDTH)
    describe_trend(other, RAW20, bar.close, 20.0, MEAN20)
    describe_trend(other, RAW50, bar.close, 50.0, MEAN50)
    _count(bar, t, n, s, total, others, other, at)
    rules_step(t, n, bar.open, bar.high, bar.low, bar.close, s.rules, flags)
    s.clock[BARS_SEEN] = t + n
    seen = Seen(
        total, average, other, now, shelf(s.past, at - 1, LENGTH), shelf(s.past, at - 2, LENGTH),
        shelf(s.past, at - 3, LENGTH), shelf(s.past, at - 5, LENGTH), shelf(s.past, at - 10, LENGTH),
        shelf(s.past, at - 20, LENGTH), shelf(s.past, at - 60, LENGTH), s.past, at,
    )  # fmt: skip
    return bar, seen


@kernel
def _enter(
    o: Vector, h: Vector, low: Vector, c: Vector, v: Vector, start: int, n: int, t: int, at: int, past: Vector
) -> None:
    """Write the prices and volumes of a block into the recent bars, for which room is made first."""
    if (at == PAST) & (t > 0):
        for field in range(N_FIELDS):
            for k in range(0, PAST, WIDTH):
                store(past, field * LENGTH + k, fetch(past, field * LENGTH + PAST + k))
    if n == WIDTH:
        store(past, R_OPEN * LENGTH + at, fetch(o, start))
        store(past, R_HIGH * LENGTH + at, fetch(h, start))
        store(past, R_LOW * LENGTH + at, fetch(low, start))
        store(past, R_CLOSE * LENGTH + at, fetch(c, start))
        store(past, R_VOLUME * LENGTH + at, fetch(v, start))
    else:
        for r in range(WIDTH):
            k = start + min(r, n - 1)
            past[R_OPEN * LENGTH + at + r], past[R_HIGH * LENGTH + at + r] = o[k], h[k]
            past[R_LOW * LENGTH + at + r], past[R_CLOSE * LENGTH + at + r] = low[k], c[k]
            past[R_VOLUME * LENGTH + at + r] = v[k]
    if t == 0:
        for field in (R_OPEN, R_HIGH, R_LOW, R_CLOSE, R_TYPICAL):
            past[field * LENGTH + at - 1] = c[start]
        past[R_VOLUME * LENGTH + at - 1] = v[start]


@kernel
def _measure(now: Shelf, eight: Shelf, q: Shelf) -> Bar:
    """Everything that a bar and the one before it tell by themselves, but for `BULK_VOLUME`."""
    o, h, low, c, v = now[R_OPEN], now[R_HIGH], now[R_LOW], now[R_CLOSE], now[R_VOLUME]
    close1 = behind(eight[R_CLOSE], c)
    # The log of a quotient keeps the digits of a small move that a difference of logs would lose.
    to_high, to_low, to_open = logarithm(h / c), logarithm(low / c), logarithm(o / c)
    r, typical = 0.0 - logarithm(close1 / c), (h + low + c) * (1.0 / 3.0)
    bar = Bar(
        o, h, low, c, v,
        behind(eight[R_OPEN], o), behind(eight[R_HIGH], h), behind(eight[R_LOW], low), close1,
        behind(eight[R_VOLUME], v), r, max(h, close1) - min(low, close1),
    )  # fmt: skip
    now[R_RETURN], now[R_TYPICAL], now[R_TO_HIGH], now[R_TO_LOW] = r, typical, to_high, to_low
    _measure_price(bar, typical, behind(eight[R_RETURN], r), q)
    _measure_volume(bar, typical, behind(eight[R_TYPICAL], typical), q)
    to_high1, to_low1 = behind(eight[R_TO_HIGH], to_high), behind(eight[R_TO_LOW], to_low)
    q[CORWIN_SCHULTZ] = _corwin_schultz(to_high, to_low, to_high1 - r, to_low1 - r)
    log_range = to_high - to_low
    q[PARKINSON], q[OPEN_CLOSE2] = log_range * log_range, to_open * to_open
    q[ROGERS_SATCHELL] = to_high * (to_high - to_open) + to_low * (to_low - to_open)
    return bar


@kernel
def _measure_price(b: Bar, typical: Lanes, r1: Lanes, q: Shelf) -> None:
    """Summed quantities that are made of prices and returns."""
    r, change, body = b.log_return, b.close - b.close1, b.close - b.open
    q[HIGHER_HIGH] = choose(b.high > b.high1, 1.0, 0.0)
    q[HIGHER_LOW] = choose(b.low > b.low1, 1.0, 0.0)
    q[BODY], q[ABS_BODY], q[RANGE], q[TRUE_RANGE] = body, abs(body), b.high - b.low, b.true_range
    q[CLOSE], q[TYPICAL] = b.close, typical
    q[RETURN], q[RETURN2], q[RETURN3], q[RETURN4] = r, r * r, r * r * r, (r * r) * (r * r)
    q[ABS_RETURN], q[LAGGED_PRODUCT], q[BIPOWER] = abs(r), r * r1, abs(r * r1)
    q[ABS_MOVE], q[UP_MOVE], q[DOWN_MOVE] = abs(change), max(change, 0.0), max(-change, 0.0)
    q[ZERO_RETURN] = choose(change == 0.0, 1.0, 0.0)
    q[VORTEX_UP], q[VORTEX_DOWN] = abs(b.high - b.low1), abs(b.low - b.high1)


@kernel
def _measure_volume(b: Bar, typical: Lanes, typical1: Lanes, q: Shelf) -> None:
    """Summed quantities that weigh with the volume."""
    r, v = b.log_return, b.volume
    flow = typical * v
    q[VOLUME], q[VOLUME2], q[RETURN_VOLUME] = v, v * v, r * v
    q[TYPICAL_VOLUME], q[CLOSE_VOLUME] = flow, b.close * v
    q[SIGNED_VOLUME] = choose(r > 0.0, v, choose(r < 0.0, -v, 0.0))
    q[FLOW_VOLUME] = ratio((b.close - b.low) - (b.high - b.close), b.high - b.low) * v
    rise, tie = typical - typical1, 1e-14 * typical  # prices on a grid tie but for rounding; TA-Lib agrees
    q[FLOW_UP] = choose(rise > tie, flow, 0.0)
    q[FLOW_DOWN] = choose(rise < -tie, flow, 0.0)
    q[ILLIQUIDITY] = ratio(abs(r), b.close * v)


@kernel
def _bulk_volume(b: Bar, variance: Lanes) -> Lanes:
    """Volume by the side that the return suggests, given the variance as it stood before the bar."""
    known = variance > TINY
    side = error_function(b.log_return / root(choose(known, 2.0 * variance, 1.0)))
    bulk: Lanes = choose(known, b.volume * side, 0.0)
    return bulk


@kernel
def _corwin_schultz(high: Lanes, low: Lanes, high1: Lanes, low1: Lanes) -> Lanes:
    """Two-bar spread from logs of highs and lows, floored at 0 (Corwin and Schultz 2012)."""
    beta = (high - low) * (high - low) + (high1 - low1) * (high1 - low1)
    gamma = max(high, high1) - min(low, low1)
    half = HALF_CORWIN * (math.sqrt(2.0) - 1.0) * root(beta) - math.sqrt(0.5 * HALF_CORWIN) * gamma
    spread: Lanes = 2.0 * hyperbolic_tangent(choose(half > 0.0, half, 0.0))
    return spread


@kernel
def _average(b: Bar, t: int, n: int, s: State, q: Shelf, averages: Vector, average: Shelf) -> None:
    """Exponential averages. Each begins as the plain mean of what it has seen, as Wilder's do, until its own
    weight takes over."""
    columns, changes, rows = local(SIZE_CHANGES, averages), local(SIZE_CHANGES, averages), local(SIZE_LEVELS, averages)
    x, up, down = shelf(columns, 0, WIDTH), b.high - b.high1, b.low1 - b.low
    for k in range(0, 6, 2):
        x[k], x[k + 1], x[ATR7 - GAIN7 + k // 2] = q[UP_MOVE], q[DOWN_MOVE], b.true_range
    x[PLUS_DM - GAIN7] = choose((up > down) & (up > 0.0), up, 0.0)
    x[MINUS_DM - GAIN7] = choose((down > up) & (down > 0.0), down, 0.0)
    x[EWMA_VARIANCE - GAIN7] = q[RETURN2]
    for k in range(12, 16):
        x[k] = 0.0
    turn(columns, 0, WIDTH, changes, 0, 16)
    turn(columns, 8 * WIDTH, WIDTH, changes, 8, 16)
    first, second, third = fetch(s.average, 0), fetch(s.average, 8), fetch(s.average, 16)
    at = R_CLOSE * LENGTH + PAST + (t & (PAST - 1))
    for r in range(n):
        if t + r <= SLOWEST:
            for j in range(8):
                s.weight[j] = max(EMA_WEIGHTS[j], 1.0 / (t + r + 1.0))
            for j in range(8, 24):
                s.weight[j] = max(EMA_WEIGHTS[j], 1.0 / max(t + r, 1))  # the first bar has no change
        first = first + fetch(s.weight, 0) * (s.past[at + r] - first)
        second = second + fetch(s.weight, 8) * (fetch(changes, r * 16) - second)
        third = third + fetch(s.weight, 16) * (fetch(changes, r * 16 + 8) - third)
        store(rows, r * 24, first)
        store(rows, r * 24 + 8, second)
        store(rows, r * 24 + 16, third)
    store(s.average, 0, first)
    store(s.average, 8, second)
    store(s.average, 16, third)
    for j in range(3):
        turn(rows, 8 * j, 24, averages, 8 * j * WIDTH, WIDTH)
    _average_again(t, n, s, averages, average)


@kernel
def _average_again(t: int, n: int, s: State, averages: Vector, average: Shelf) -> None:
    """Averages of averages: the MACD signal and ADX."""
    spread, total = abs(average[PLUS_DM] - average[MINUS_DM]), average[PLUS_DM] + average[MINUS_DM]
    average[MACD_SIGNAL], average[ADX] = average[E12] - average[E26], 100.0 * ratio(spread, total)
    signal, directed = s.clock[MACD_STATE], s.clock[ADX_STATE]
    for r in range(n):
        young = 1.0 / max(t + r, 1) if t + r <= SLOWEST else 0.0
        signal += max(MACD_WEIGHT, young) * (averages[MACD_SIGNAL * WIDTH + r] - signal)
        directed += max(ADX_WEIGHT, young) * (averages[ADX * WIDTH + r] - directed)
        averages[MACD_SIGNAL * WIDTH + r], averages[ADX * WIDTH + r] = signal, directed
    s.clock[MACD_STATE], s.clock[ADX_STATE] = signal, directed


_sums5, _sums10, _sums14, _sums20, _sums50, _sums100, _sums200 = map(window_sums, WINDOWS, WIDTHS)


@kernel
def _roll(t: int, n: int, s: State, quantities: Vector, rows: Vector) -> None:
    """Move every window on by the bars of a block, one by one; ``rows`` takes what each holds after each bar."""
    bars = local(SIZE_QUANTITIES, quantities)
    for j in range(0, QUANTITIES, WIDTH):
        turn(quantities, j * WIDTH, WIDTH, bars, j, QUANTITIES)
    for r in range(n):
        k, q, row = t + r, r * QUANTITIES, r * ROW
        _sums5(s.sum5, k % 5, bars, q + F5, rows, row + S5)
        _sums10(s.sum10, k % 10, bars, q + F10, rows, row + S10)
        _sums14(s.sum14, k % 14, bars, q + F14, rows, row + S14)
        _sums20(s.sum20, k % 20, bars, q + F20, rows, row + S20)
        _sums50(s.sum50, k % 50, bars, q + F50, rows, row + S50)
        _sums100(s.sum100, k % 100, bars, q + F100, rows, row + S100)
        _sums200(s.sum200, k % 200, bars, q + F200, rows, row + S200)
        at = PAST + (t & (PAST - 1)) + r
        high, low, close = s.past[R_HIGH * LENGTH + at], s.past[R_LOW * LENGTH + at], s.past[R_CLOSE * LENGTH + at]
        other = row + OTHERS
        rows[other], rows[other + 1] = roll_extremes(s.extreme14, k % 14, high, low)
        rows[other + 2], rows[other + 3] = roll_extremes(s.extreme20, k % 20, high, low)
        rows[other + 4], rows[other + 5] = roll_extremes(s.extreme50, k % 50, high, low)
        roll_trend(s.trend20, k % 20, k == 0, close, rows, other + RAW20)
        roll_trend(s.trend50, k % 50, k == 0, close, rows, other + RAW50)


@kernel
def _count(b: Bar, t: int, n: int, s: State, total: Shelf, others: Vector, other: Shelf, at: int) -> None:
    """Run of same-coloured candles, place in the 14-bar range, GARCH(1,1) variance of the next bar."""
    now, one, two = shelf(s.past, at, LENGTH), shelf(s.past, at - 1, LENGTH), shelf(s.past, at - 2, LENGTH)
    lowest, span = other[LOWEST14], other[HIGHEST14] - other[LOWEST14]
    now[R_STOCHASTIC] = choose(span > 0.0, ratio(100.0 * (b.close - lowest), span), 50.0)
    other[STOCHASTIC_D] = (now[R_STOCHASTIC] + one[R_STOCHASTIC] + two[R_STOCHASTIC]) * (1.0 / 3.0)
    omega, alpha, beta, squared = s.garch[OMEGA], s.garch[ALPHA], s.garch[BETA], b.log_return * b.log_return
    other[GARCH] = omega + alpha * squared
    if omega < 0.0:
        target = (1.0 - alpha - beta) * total[W200 + RETURN2] * (1.0 / min(rising(t) + 1.0, 200.0))
        other[GARCH] = target + alpha * squared
    other[RUN] = choose(b.close > b.open, 1.0, choose(b.close < b.open, -1.0, 0.0))
    run, variance, garch, runs = s.clock[RUN_LENGTH], s.clock[GARCH_VARIANCE], GARCH * WIDTH, RUN * WIDTH
    for r in range(n):
        if t + r <= 1:
            variance = s.past[R_RETURN * LENGTH + at + r] * s.past[R_RETURN * LENGTH + at + r]
        variance = others[garch + r] + beta * variance
        others[garch + r] = variance
        side = others[runs + r]
        longer = min(10.0, max(run, 0.0) + 1.0) if side > 0.0 else max(-10.0, min(run, 0.0) - 1.0)
        run = longer if side != 0.0 else 0.0
        others[runs + r] = run
    s.clock[RUN_LENGTH], s.clock[GARCH_VARIANCE] = run, variance
