"""Family statistics: rolling moments of the log returns, and the close as a z-score."""

import math

from mlkit.features.columns import ANY, SHARE, family, mean_of, quotient
from mlkit.features.families.dispersion import variance
from mlkit.features.state import (
    LAGGED_PRODUCT,
    MEAN20,
    MEAN50,
    RETURN,
    RETURN2,
    ROLLED,
    VARIANCE20,
    VARIANCE50,
    measure,
    quantity,
)
from mlkit.features.state_rows import Bars, Formula, RowNumber, at, close, inverse, total

statistics = family("statistics")


for n in (5, 10, 20, 50, 100):
    statistics(f"rolling_mean_{n}", f"mean_{n}(r)", ANY, n, "pandas rolling.mean")(mean_of(RETURN, n))

RETURN3 = quantity(lambda b: at(b, RETURN) * at(b, RETURN) * at(b, RETURN), 10, 20, 50, 100)
RETURN4 = quantity(lambda b: (at(b, RETURN) * at(b, RETURN)) * (at(b, RETURN) * at(b, RETURN)), 10, 20, 50, 100)


def _per_variance(n: int) -> Formula:
    return lambda b: inverse(variance(b, n))


_PER_VARIANCE = {n: measure(_per_variance(n), stage=ROLLED) for n in (10, 20, 50, 100)}


def _skewness(n: float, window: int) -> Formula:
    per, scale = _PER_VARIANCE[window], math.sqrt(n * (n - 1.0)) / (n - 2.0)

    def skewness(b: Bars) -> float:
        m1, m2 = total(b, RETURN, window) * (1.0 / n), total(b, RETURN2, window) * (1.0 / n)
        m3 = total(b, RETURN3, window) * (1.0 / n)
        third = m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1
        return third * at(b, per) * math.sqrt(at(b, per)) * scale

    return skewness


def _kurtosis(n: float, window: int) -> Formula:
    per, scale = _PER_VARIANCE[window], (n - 1.0) / ((n - 2.0) * (n - 3.0))

    def kurtosis(b: Bars) -> float:
        m1, m2 = total(b, RETURN, window) * (1.0 / n), total(b, RETURN2, window) * (1.0 / n)
        m3, m4 = total(b, RETURN3, window) * (1.0 / n), total(b, RETURN4, window) * (1.0 / n)
        fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1 * m1 * m1 * m1
        tails = (n + 1.0) * fourth * at(b, per) * at(b, per) - 3.0 * (n - 1.0)
        return tails * scale if at(b, per) > 0.0 else 0.0

    return kurtosis


for n in (10, 20, 50, 100):
    statistics(
        f"rolling_skew_{n}", f"skew_{n}(r), unbiased; 0 when flat", ANY, n, "pandas rolling.skew"
    )(_skewness(float(n), n))  # fmt: skip
for n in (10, 20, 50, 100):
    statistics(
        f"rolling_kurtosis_{n}", f"excess kurtosis_{n}(r), unbiased; 0 when flat", ANY, n, "pandas rolling.kurt"
    )(_kurtosis(float(n), n))  # fmt: skip


def _zscore(mean: RowNumber, spread: RowNumber, n: float) -> Formula:
    return lambda b: (close(b) - at(b, mean)) * inverse(math.sqrt(at(b, spread) * (n / (n - 1.0))))


for n, mean, spread in ((20, MEAN20, VARIANCE20), (50, MEAN50, VARIANCE50)):
    statistics(
        f"zscore_{n}", f"(C - mean_{n}(C)) / std_{n}(C), ddof 1; 0 when flat", ANY, n - 1
    )(_zscore(mean, spread, float(n)))  # fmt: skip


statistics(
    "autocorrelation_20", "sum_20(r r[1]) / sum_20(r^2); 0 when flat", ANY, 21
)(quotient(LAGGED_PRODUCT, RETURN2, 20))  # fmt: skip

ABS_RETURN = quantity(lambda b: abs(at(b, RETURN)), 20)


@statistics("return_concentration_20", "mean_20|r| / sqrt(mean_20(r^2)); 0 when flat", SHARE, 20, "Geary 1935")
def _(b: Bars) -> float:
    return total(b, ABS_RETURN, 20) * inverse(math.sqrt(20.0 * total(b, RETURN2, 20)))
