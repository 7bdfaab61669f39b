"""Family trend: direction and persistence of the price path."""

from mlkit.features.columns import ANY, PERCENT, POSITIVE, SHARE, family, per_close, quotient, value
from mlkit.features.state import (
    ADX,
    ATR14,
    HIGHEST20,
    HIGHEST50,
    LOWEST20,
    LOWEST50,
    MINUS_DM,
    PLUS_DM,
    R_SQUARED20,
    R_SQUARED50,
    SLOPE20,
    SLOPE50,
    TRUE_RANGE,
    quantity,
)
from mlkit.features.state_rows import (
    CLOSE,
    HIGH,
    LOW,
    Bars,
    Formula,
    RowNumber,
    ago,
    at,
    close,
    high,
    inverse,
    low,
    total,
)

trend = family("trend")

trend("adx_14", "wilder_14 of dx_14", PERCENT, 210, "Wilder 1978; TA-Lib ADX(14)")(value(ADX))


@trend("plus_di_14", "100 wilder_14(+DM) / wilder_14(TR); 0 when flat", PERCENT, 112, "TA-Lib PLUS_DI(14)")
def _(b: Bars) -> float:
    return min(100.0, 100.0 * at(b, PLUS_DM) * inverse(at(b, ATR14)))


@trend("minus_di_14", "100 wilder_14(-DM) / wilder_14(TR); 0 when flat", PERCENT, 112, "TA-Lib MINUS_DI(14)")
def _(b: Bars) -> float:
    return min(100.0, 100.0 * at(b, MINUS_DM) * inverse(at(b, ATR14)))


@trend("dx_14", "100 |+DI - -DI| / (+DI + -DI); 0 when flat", PERCENT, 126, "TA-Lib DX(14)")
def _(b: Bars) -> float:
    return 100.0 * (abs(at(b, PLUS_DM) - at(b, MINUS_DM)) * inverse(at(b, PLUS_DM) + at(b, MINUS_DM)))


VORTEX_UP = quantity(lambda b: abs(high(b) - ago(b, LOW, 1)), 14)
VORTEX_DOWN = quantity(lambda b: abs(low(b) - ago(b, HIGH, 1)), 14)
for name, words, row in (("plus", "|H - L[1]|", VORTEX_UP), ("minus", "|L - H[1]|", VORTEX_DOWN)):
    trend(
        f"vortex_{name}_14", f"sum_14 {words} / sum_14(TR); 0 when flat", POSITIVE, 14, "Botes and Siepman 2010"
    )(quotient(row, TRUE_RANGE, 14))  # fmt: skip


def _donchian(highest: RowNumber, lowest: RowNumber) -> Formula:
    def position(b: Bars) -> float:
        span = at(b, highest) - at(b, lowest)
        return (close(b) - at(b, lowest)) * inverse(span) if span > 0.0 else 0.5

    return position


for n, highest, lowest in ((20, HIGHEST20, LOWEST20), (50, HIGHEST50, LOWEST50)):
    trend(
        f"donchian_position_{n}", f"(C - min_{n}(L)) / (max_{n}(H) - min_{n}(L)); 0.5 when flat", SHARE, n - 1
    )(_donchian(highest, lowest))  # fmt: skip


@trend("drawdown_50", "C / max_50(H) - 1", "-1 to 0", 49)
def _(b: Bars) -> float:
    return (close(b) - at(b, HIGHEST50)) / at(b, HIGHEST50)


@trend("rally_50", "C / min_50(L) - 1", POSITIVE, 49)
def _(b: Bars) -> float:
    return (close(b) - at(b, LOWEST50)) / at(b, LOWEST50)


ABS_MOVE = quantity(lambda b: abs(close(b) - ago(b, CLOSE, 1)), 10, 20)


def _efficiency(n: int) -> Formula:
    return lambda b: abs(close(b) - ago(b, CLOSE, n)) * inverse(total(b, ABS_MOVE, n))


for n in (10, 20):
    trend(
        f"efficiency_ratio_{n}", f"|C - C[{n}]| / sum_{n}|C - C[1]|; 0 when flat", SHARE, n, "Kaufman 1995"
    )(_efficiency(n))  # fmt: skip
for n, row in ((20, SLOPE20), (50, SLOPE50)):
    trend(
        f"trend_slope_{n}", f"least-squares slope of C over {n} bars, per bar, / C", ANY, n - 1,
        "TA-Lib LINEARREG_SLOPE",
    )(per_close(row))  # fmt: skip
for n, row in ((20, R_SQUARED20), (50, R_SQUARED50)):
    trend(
        f"trend_r2_{n}", f"r squared of that line over {n} bars; 0 when flat", SHARE, n - 1, "scipy linregress"
    )(value(row))  # fmt: skip
