"""Family volatility: ranges, standard deviations and bands."""

import math

from mlkit.features.columns import ANY, POSITIVE, family, per_close
from mlkit.features.kernel import kernel
from mlkit.features.state import (
    ATR7,
    ATR14,
    ATR28,
    E20,
    EWMA_VARIANCE,
    HIGHEST14,
    LOWEST14,
    MEAN20,
    RETURN,
    RETURN2,
    TO_HIGH,
    TO_LOW,
    TRUE_RANGE,
    VARIANCE20,
    quantity,
)
from mlkit.features.state_rows import Bars, Formula, at, close, high, inverse, low, open_, total

volatility = family("volatility")
LOG_2, LOG_14 = math.log(2.0), math.log(14.0)


@kernel
def variance(b: Bars, n: int) -> float:
    """Variance (ddof 0) of the last n log returns; up to 1e-24 counts as none."""
    mean = total(b, RETURN, n) * (1.0 / n)
    spread = total(b, RETURN2, n) * (1.0 / n) - mean * mean
    return spread if spread > 1e-24 else 0.0


@kernel
def deviation(b: Bars, n: int) -> float:
    """Standard deviation (ddof 1) of the last n log returns."""
    return math.sqrt(variance(b, n) * (n / (n - 1.0)))


volatility(
    "true_range_ratio", "TR / C, TR = max(H, C[1]) - min(L, C[1])", POSITIVE, 1, "TA-Lib TRANGE"
)(per_close(TRUE_RANGE))  # fmt: skip


def _deviation(n: int) -> Formula:
    return lambda b: deviation(b, n)


for n, row in ((7, ATR7), (14, ATR14), (28, ATR28)):
    volatility(f"atr_ratio_{n}", f"wilder_{n}(TR) / C", POSITIVE, 8 * n, f"TA-Lib ATR({n})")(per_close(row))
for n in (5, 10, 20, 50, 100):
    volatility(f"rolling_std_{n}", f"std_{n}(r), ddof 1", POSITIVE, n, "pandas rolling.std")(_deviation(n))


@volatility("high_low_ratio", "H / L - 1", POSITIVE, 0)
def _(b: Bars) -> float:
    return (high(b) - low(b)) * inverse(low(b))


@volatility("ewma_volatility", "sqrt of the average of r^2 with weight 0.06", POSITIVE, 100, "RiskMetrics 1996")
def _(b: Bars) -> float:
    return math.sqrt(at(b, EWMA_VARIANCE))


def _squared_range(b: Bars) -> float:
    log_range = at(b, TO_HIGH) - at(b, TO_LOW)
    return log_range * log_range


def _squared_body(b: Bars) -> float:
    to_open = math.log(open_(b) / close(b))
    return to_open * to_open


def _rogers_satchell(b: Bars) -> float:
    to_open = math.log(open_(b) / close(b))
    return at(b, TO_HIGH) * (at(b, TO_HIGH) - to_open) + at(b, TO_LOW) * (at(b, TO_LOW) - to_open)


SQUARED_RANGE, SQUARED_BODY = quantity(_squared_range, 20), quantity(_squared_body, 20)
ROGERS_SATCHELL = quantity(_rogers_satchell, 20)


@volatility("parkinson_20", "sqrt(mean_20(log(H / L)^2) / (4 log 2))", POSITIVE, 19, "Parkinson 1980")
def _(b: Bars) -> float:
    return math.sqrt(total(b, SQUARED_RANGE, 20) * (1.0 / (80.0 * LOG_2)))


@volatility(
    "garman_klass_20", "sqrt(mean_20(log(H / L)^2 / 2 - (2 log 2 - 1) log(C / O)^2)), floored at 0", POSITIVE, 19,
    "Garman and Klass 1980",
)  # fmt: skip
def _(b: Bars) -> float:
    squared = 0.5 * total(b, SQUARED_RANGE, 20) - (2.0 * LOG_2 - 1.0) * total(b, SQUARED_BODY, 20)
    return math.sqrt(max(squared, 0.0) * 0.05)


@volatility(
    "rogers_satchell_20", "sqrt(mean_20(log(H/C) log(H/O) + log(L/C) log(L/O)))", POSITIVE, 19,
    "Rogers and Satchell 1991",
)  # fmt: skip
def _(b: Bars) -> float:
    return math.sqrt(max(total(b, ROGERS_SATCHELL, 20), 0.0) * 0.05)


@volatility("bollinger_position_20", "(C - mean_20(C)) / (2 std_20(C)), ddof 0; 0 when flat", ANY, 19, "TA-Lib BBANDS")
def _(b: Bars) -> float:
    return (close(b) - at(b, MEAN20)) * inverse(2.0 * math.sqrt(at(b, VARIANCE20)))


@volatility("bollinger_width_20", "4 std_20(C) / mean_20(C), ddof 0", POSITIVE, 19, "TA-Lib BBANDS")
def _(b: Bars) -> float:
    return 2.0 * (2.0 * math.sqrt(at(b, VARIANCE20))) * inverse(at(b, MEAN20))


@volatility("keltner_position_20", "(C - ema_20(C)) / (2 wilder_14(TR)); 0 when flat", ANY, 112, "Keltner channels")
def _(b: Bars) -> float:
    return (close(b) - at(b, E20)) * inverse(2.0 * at(b, ATR14))


@volatility(
    "choppiness_14", "100 log10(sum_14(TR) / (max_14(H) - min_14(L))) / log10(14); 0 when flat", ANY, 14, "Dreiss 1993"
)
def _(b: Bars) -> float:
    travel = total(b, TRUE_RANGE, 14) * inverse(at(b, HIGHEST14) - at(b, LOWEST14))
    return math.log(travel if travel > 0.0 else 1.0) * (100.0 / LOG_14)
