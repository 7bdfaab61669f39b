"""Families price, moving_average and lag: returns, the newest candle, means of the close, candles of before."""

import math

from mlkit.features.columns import ANY, POSITIVE, SHARE, family, value
from mlkit.features.kernel import kernel
from mlkit.features.state import (
    CLOSE_VOLUME,
    E5,
    E10,
    E20,
    E50,
    E100,
    E200,
    RETURN,
    TYPICAL,
    VOLUME,
)
from mlkit.features.state_rows import (
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    Bars,
    Formula,
    RowNumber,
    ago,
    at,
    close,
    high,
    inverse,
    low,
    open_,
    total,
)

price = family("price")


price("log_return_1", "log(C / C[1])", ANY, 1)(value(RETURN))


@price("return_1", "C / C[1] - 1", ANY, 1, "TA-Lib ROCP(1)")
def _(b: Bars) -> float:
    return (close(b) - ago(b, CLOSE, 1)) * (1.0 / ago(b, CLOSE, 1))


@price("gap", "O / C[1] - 1", ANY, 1)
def _(b: Bars) -> float:
    return (open_(b) - ago(b, CLOSE, 1)) * (1.0 / ago(b, CLOSE, 1))


@price("range_ratio", "(H - L) / C", POSITIVE, 0)
def _(b: Bars) -> float:
    return (high(b) - low(b)) * inverse(close(b))


@price("body_ratio", "(C - O) / C", ANY, 0)
def _(b: Bars) -> float:
    return (close(b) - open_(b)) * inverse(close(b))


@price("upper_shadow_ratio", "(H - max(O, C)) / C", POSITIVE, 0)
def _(b: Bars) -> float:
    return (high(b) - max(open_(b), close(b))) * inverse(close(b))


@price("lower_shadow_ratio", "(min(O, C) - L) / C", POSITIVE, 0)
def _(b: Bars) -> float:
    return (min(open_(b), close(b)) - low(b)) * inverse(close(b))


@price("close_location", "(C - L) / (H - L); 0.5 without range", SHARE, 0)
def _(b: Bars) -> float:
    return (close(b) - low(b)) * inverse(high(b) - low(b)) if high(b) - low(b) > 0.0 else 0.5


@price("typical_ratio", "(H + L + C) / 3 / C - 1", ANY, 0, "TA-Lib TYPPRICE")
def _(b: Bars) -> float:
    return (at(b, TYPICAL) - close(b)) * inverse(close(b))


@price("log_return_2", "log(C / C[2])", ANY, 2)
def _(b: Bars) -> float:
    return at(b, RETURN) + ago(b, RETURN, 1)


@price("log_return_3", "log(C / C[3])", ANY, 3)
def _(b: Bars) -> float:
    return at(b, RETURN) + ago(b, RETURN, 1) + ago(b, RETURN, 2)


def _log_return(n: int) -> Formula:
    return lambda b: total(b, RETURN, n)


for n in (5, 10, 20):
    price(f"log_return_{n}", f"log(C / C[{n}])", ANY, n)(_log_return(n))


@price("log_return_60", "log(C / C[60])", ANY, 60)
def _(b: Bars) -> float:
    return math.log(close(b) / ago(b, CLOSE, 60))


moving_average = family("moving_average")


@kernel
def mean(b: Bars, n: int) -> float:
    """Mean of the last n closes."""
    return total(b, CLOSE, n) * (1.0 / n)


def _from_mean(n: int) -> Formula:
    return lambda b: (close(b) - mean(b, n)) / mean(b, n)


def _from_average(row: RowNumber) -> Formula:
    return lambda b: (close(b) - at(b, row)) / at(b, row)


def _between_means(short: int, long: int) -> Formula:
    return lambda b: (mean(b, short) - mean(b, long)) / mean(b, long)


def _between_averages(short: RowNumber, long: RowNumber) -> Formula:
    return lambda b: (at(b, short) - at(b, long)) / at(b, long)


_AVERAGES = {5: E5, 10: E10, 20: E20, 50: E50, 100: E100, 200: E200}
for n in _AVERAGES:
    moving_average(f"sma_ratio_{n}", f"C / mean_{n}(C) - 1", ANY, n - 1, f"TA-Lib SMA({n})")(_from_mean(n))
for n, row in _AVERAGES.items():
    moving_average(f"ema_ratio_{n}", f"C / ema_{n}(C) - 1", ANY, 3 * n, f"TA-Lib EMA({n})")(_from_average(row))
moving_average("sma_cross_5_20", "mean_5(C) / mean_20(C) - 1", ANY, 19)(_between_means(5, 20))
moving_average("sma_cross_10_50", "mean_10(C) / mean_50(C) - 1", ANY, 49)(_between_means(10, 50))
moving_average(
    "sma_cross_50_200", "mean_50(C) / mean_200(C) - 1", ANY, 199, "the golden cross, as a distance"
)(_between_means(50, 200))  # fmt: skip
moving_average("ema_cross_10_50", "ema_10(C) / ema_50(C) - 1", ANY, 150)(_between_averages(E10, E50))
moving_average("ema_cross_50_200", "ema_50(C) / ema_200(C) - 1", ANY, 600)(_between_averages(E50, E200))


@moving_average("vwma_ratio_20", "C / (sum_20(C V) / sum_20(V)) - 1; 0 without volume", ANY, 19, "volume-weighted mean")
def _(b: Bars) -> float:
    turnover = total(b, CLOSE_VOLUME, 20)
    return (close(b) * total(b, VOLUME, 20) - turnover) * inverse(turnover)


lag = family("lag")


def _price_ago(row: RowNumber, bars: int) -> Formula:
    return lambda b: (ago(b, row, bars) - close(b)) * inverse(close(b))


def _volume_ago(bars: int) -> Formula:
    return lambda b: ago(b, VOLUME, bars) * (20.0 * inverse(total(b, VOLUME, 20)))


for k in (1, 2, 3, 5, 10):
    for letter, part, row in (("O", "open", OPEN), ("H", "high", HIGH), ("L", "low", LOW), ("C", "close", CLOSE)):
        lag(f"lag_{k}_{part}", f"{letter}[{k}] / C - 1", "> -1", k)(_price_ago(row, k))
    lag(f"lag_{k}_volume", f"V[{k}] / mean_20(V); 0 without volume", POSITIVE, 19)(_volume_ago(k))
