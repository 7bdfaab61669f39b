"""Family market: who pushes, how calm it is, and what trading costs."""

import math

from mlkit.features.columns import POSITIVE, SHARE, SIGNED, family, mean_of, quotient
from mlkit.features.families.dispersion import deviation
from mlkit.features.state import (
    AVERAGED,
    BODY,
    CLOSE_VOLUME,
    EWMA_VARIANCE,
    GARCH,
    LAGGED_PRODUCT,
    RANGE,
    RETURN,
    RETURN2,
    TO_HIGH,
    TO_LOW,
    VOLUME,
    quantity,
    volume,
)
from mlkit.features.state_rows import CLOSE, TINY, Bars, ago, at, close, inverse, ratio, total

market = family("market")


def _bulk_volume(b: Bars) -> float:
    """Volume by the side that the return suggests, given the variance as it stood before the bar."""
    variance = ago(b, EWMA_VARIANCE, 1)
    known = variance > TINY
    return volume(b) * math.erf(at(b, RETURN) / math.sqrt(2.0 * variance if known else 1.0)) if known else 0.0


BULK_VOLUME = quantity(_bulk_volume, 10, 20, 50, stage=AVERAGED)


for n in (10, 20, 50):
    market(
        f"volume_imbalance_{n}",
        f"sum_{n}(V (2 Phi(r / ewma_volatility[1]) - 1)) / sum_{n}(V); 0 without volume",
        SIGNED,
        100 + n,
        "bulk volume classification, Easley et al. 2016",
    )(quotient(BULK_VOLUME, VOLUME, n))


@market("volatility_regime_10_100", "std_10(r) / std_100(r); 0 when flat", POSITIVE, 100)
def _(b: Bars) -> float:
    return deviation(b, 10) * inverse(deviation(b, 100))


@market("volatility_regime_20_200", "std_20(r) / std_200(r); 0 when flat", POSITIVE, 200)
def _(b: Bars) -> float:
    return deviation(b, 20) * inverse(deviation(b, 200))


@market("garch_volatility", "sqrt of the GARCH(1,1) variance of the next bar", POSITIVE, 300, "Bollerslev 1986; arch")
def _(b: Bars) -> float:
    return math.sqrt(at(b, GARCH))


@market("garch_to_realised_20", "garch_volatility / std_20(r); 0 when flat", POSITIVE, 300)
def _(b: Bars) -> float:
    return math.sqrt(at(b, GARCH)) * inverse(deviation(b, 20))


BIPOWER = quantity(lambda b: abs(at(b, LAGGED_PRODUCT)), 20)


@market(
    "jump_share_20", "1 - bipower variation / realised variance over 20, floored at 0", SHARE, 21,
    "Barndorff-Nielsen and Shephard 2004",
)  # fmt: skip
def _(b: Bars) -> float:
    # Bipower variation ignores jumps, so what it misses of the variance is the jumps' share.
    continuous, squares = total(b, BIPOWER, 20) * (math.pi / 2.0 * 20.0 / 19.0), total(b, RETURN2, 20)
    return max(0.0, 1.0 - continuous * inverse(squares)) if squares > 1e-24 else 0.0


ILLIQUIDITY = quantity(lambda b: ratio(abs(at(b, RETURN)), close(b) * volume(b)), 20)


@market("amihud_20", "mean_20(|r| / (C V)) x mean_100(C V); 0 without volume", POSITIVE, 100, "Amihud 2002")
def _(b: Bars) -> float:
    return total(b, ILLIQUIDITY, 20) * total(b, CLOSE_VOLUME, 100) * (1.0 / 2000.0)


@market("roll_spread_20", "2 sqrt(-cov_20(r, r[1])), 0 when the covariance is positive", POSITIVE, 21, "Roll 1984")
def _(b: Bars) -> float:
    mean = total(b, RETURN, 20) * 0.05
    covariance = total(b, LAGGED_PRODUCT, 20) * 0.05 - mean * mean
    return 2.0 * math.sqrt(max(-covariance, 0.0))


HALF_CORWIN = 0.5 / (3.0 - 2.0 * math.sqrt(2.0))


def _corwin_schultz(b: Bars) -> float:
    """Two-bar spread from logs of highs and lows, floored at 0."""
    high, low = at(b, TO_HIGH), at(b, TO_LOW)
    high1, low1 = ago(b, TO_HIGH, 1) - at(b, RETURN), ago(b, TO_LOW, 1) - at(b, RETURN)
    beta = (high - low) * (high - low) + (high1 - low1) * (high1 - low1)
    gamma = max(high, high1) - min(low, low1)
    half = HALF_CORWIN * (math.sqrt(2.0) - 1.0) * math.sqrt(beta) - math.sqrt(0.5 * HALF_CORWIN) * gamma
    power = math.exp(2.0 * min(20.0, max(half, 0.0)))
    return 2.0 * ((power - 1.0) / (power + 1.0))


CORWIN_SCHULTZ = quantity(_corwin_schultz, 20)
market(
    "corwin_schultz_20", "mean_20 of the two-bar high-low spread, floored at 0", POSITIVE, 20, "Corwin and Schultz 2012"
)(mean_of(CORWIN_SCHULTZ, 20))

ZERO_RETURN = quantity(lambda b: 1.0 if close(b) - ago(b, CLOSE, 1) == 0.0 else 0.0, 20)
market(
    "zero_return_share_20", "share of the last 20 bars with C = C[1]", SHARE, 20, "Lesmond et al. 1999"
)(mean_of(ZERO_RETURN, 20))  # fmt: skip

for n in (10, 50):
    market(
        f"market_pressure_{n}", f"sum_{n}(C - O) / sum_{n}(H - L); 0 when flat", SIGNED, n - 1
    )(quotient(BODY, RANGE, n))  # fmt: skip
