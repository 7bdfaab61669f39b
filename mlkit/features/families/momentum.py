"""Family momentum: speed and exhaustion of a move."""

from mlkit.features.columns import ANY, PERCENT, SIGNED, family, per_close, value
from mlkit.features.state import (
    DOWN_MOVE,
    E12,
    E26,
    GAIN7,
    GAIN14,
    GAIN21,
    LOSS7,
    LOSS14,
    LOSS21,
    MACD_SIGNAL,
    STOCHASTIC,
    TYPICAL,
    UP_MOVE,
)
from mlkit.features.state_rows import CLOSE, Bars, Formula, RowNumber, ago, at, close, high, inverse, low, open_, total

momentum = family("momentum")


def _rsi(gain: RowNumber, loss: RowNumber) -> Formula:
    def rsi(b: Bars) -> float:
        moves = at(b, gain) + at(b, loss)
        return 100.0 * at(b, gain) * inverse(moves) if moves > 0.0 else 50.0

    return rsi


for n, gain, loss in ((7, GAIN7, LOSS7), (14, GAIN14, LOSS14), (21, GAIN21, LOSS21)):
    momentum(
        f"rsi_{n}", f"100 g / (g + l), g and l wilder_{n} of rises and falls; 50 when flat", PERCENT, 8 * n,
        f"TA-Lib RSI({n})",
    )(_rsi(gain, loss))  # fmt: skip


@momentum("macd_line", "(ema_12(C) - ema_26(C)) / C", ANY, 78, "Appel; TA-Lib MACDEXT")
def _(b: Bars) -> float:
    return (at(b, E12) - at(b, E26)) * inverse(close(b))


momentum(
    "macd_signal", "ema_9 of the line before division, / C", ANY, 105, "Appel; TA-Lib MACDEXT"
)(per_close(MACD_SIGNAL))  # fmt: skip


@momentum("macd_histogram", "macd_line - macd_signal", ANY, 105, "Appel; TA-Lib MACDEXT")
def _(b: Bars) -> float:
    return (at(b, E12) - at(b, E26) - at(b, MACD_SIGNAL)) * inverse(close(b))


momentum(
    "stochastic_k_14", "100 (C - min_14(L)) / (max_14(H) - min_14(L)); 50 when flat", PERCENT, 13,
    "TA-Lib STOCHF(14, 3)",
)(value(STOCHASTIC))  # fmt: skip


@momentum("stochastic_d_14", "mean_3 of stochastic_k_14", PERCENT, 15, "TA-Lib STOCHF(14, 3)")
def _(b: Bars) -> float:
    return (at(b, STOCHASTIC) + ago(b, STOCHASTIC, 1) + ago(b, STOCHASTIC, 2)) * (1.0 / 3.0)


@momentum("williams_r_14", "stochastic_k_14 - 100", "-100 to 0", 13, "TA-Lib WILLR(14)")
def _(b: Bars) -> float:
    return at(b, STOCHASTIC) - 100.0


def _cci(n: int) -> Formula:
    def cci(b: Bars) -> float:
        mean, distances = total(b, TYPICAL, n) * (1.0 / n), 0.0
        for k in range(n):
            distances += abs(ago(b, TYPICAL, k) - mean)
        spread = distances * (0.015 / n)
        return (at(b, TYPICAL) - mean) * inverse(spread if spread > 1.5e-15 * mean else 0.0)

    return cci


for n in (14, 20):
    momentum(
        f"cci_{n}", f"(TP - mean_{n}(TP)) / (0.015 mean absolute deviation); 0 when flat", ANY, n - 1,
        f"TA-Lib CCI({n})",
    )(_cci(n))  # fmt: skip


def _rate_of_change(n: int) -> Formula:
    return lambda b: (close(b) - ago(b, CLOSE, n)) / ago(b, CLOSE, n)


for n in (5, 10, 20, 60):
    momentum(f"roc_{n}", f"C / C[{n}] - 1", "> -1", n, f"TA-Lib ROCP({n})")(_rate_of_change(n))


@momentum(
    "chande_momentum_14", "100 (rises - falls) / (rises + falls), sums over 14; 0 when flat", "-100 to 100", 14,
    "Chande and Kroll 1994",
)  # fmt: skip
def _(b: Bars) -> float:
    up, down = total(b, UP_MOVE, 14), total(b, DOWN_MOVE, 14)
    return 100.0 * ((up - down) * inverse(up + down))


@momentum("balance_of_power", "(C - O) / (H - L); 0 without range", SIGNED, 0, "TA-Lib BOP")
def _(b: Bars) -> float:
    return (close(b) - open_(b)) * inverse(high(b) - low(b))
