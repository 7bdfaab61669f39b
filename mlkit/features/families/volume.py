"""Family volume: activity, and which side of it moved the price."""

import math

from mlkit.features.columns import ANY, PERCENT, POSITIVE, SIGNED, family, quotient
from mlkit.features.families.dispersion import deviation
from mlkit.features.state import RETURN, ROLLED, TYPICAL, VOLUME, measure, quantity
from mlkit.features.state import volume as traded
from mlkit.features.state_rows import Bars, Formula, ago, at, close, high, inverse, low, ratio, total

volume = family("volume")


def _ratio(n: int) -> Formula:
    return lambda b: float(n) * traded(b) * inverse(total(b, VOLUME, n))


for n in (5, 10, 20, 50):
    volume(f"volume_ratio_{n}", f"V / mean_{n}(V); 0 without volume", POSITIVE, n - 1)(_ratio(n))


@volume("volume_sma_ratio_5_20", "mean_5(V) / mean_20(V); 0 without volume", POSITIVE, 19)
def _(b: Bars) -> float:
    return 4.0 * total(b, VOLUME, 5) * inverse(total(b, VOLUME, 20))


@volume("volume_sma_ratio_20_100", "mean_20(V) / mean_100(V); 0 without volume", POSITIVE, 99)
def _(b: Bars) -> float:
    return 5.0 * total(b, VOLUME, 20) * inverse(total(b, VOLUME, 100))


@volume("volume_change", "(V - V[1]) / (V + V[1]); 0 without volume", SIGNED, 1)
def _(b: Bars) -> float:
    return (traded(b) - ago(b, VOLUME, 1)) * inverse(traded(b) + ago(b, VOLUME, 1))


def _signed(b: Bars) -> float:
    return traded(b) if at(b, RETURN) > 0.0 else -traded(b) if at(b, RETURN) < 0.0 else 0.0


SIGNED_VOLUME = quantity(_signed, 10, 20, 50)


for n in (10, 20, 50):
    volume(
        f"obv_{n}", f"sum_{n}(sign(r) V) / sum_{n}(V); 0 without volume", SIGNED, n, "on-balance volume, bounded"
    )(quotient(SIGNED_VOLUME, VOLUME, n))  # fmt: skip

TYPICAL_VOLUME = quantity(lambda b: at(b, TYPICAL) * traded(b), 20)


@volume(
    "vwap_ratio_20", "C / (sum_20(TP V) / sum_20(V)) - 1, TP = (H + L + C) / 3; 0 without volume", ANY, 19
)  # fmt: skip
def _(b: Bars) -> float:
    turnover = total(b, TYPICAL_VOLUME, 20)
    return (close(b) * total(b, VOLUME, 20) - turnover) * inverse(turnover)


# Prices on a grid tie but for rounding; TA-Lib agrees.
FLOW_UP = quantity(
    lambda b: at(b, TYPICAL) * traded(b) if at(b, TYPICAL) - ago(b, TYPICAL, 1) > 1e-14 * at(b, TYPICAL) else 0.0, 14
)
FLOW_DOWN = quantity(
    lambda b: at(b, TYPICAL) * traded(b) if at(b, TYPICAL) - ago(b, TYPICAL, 1) < -(1e-14 * at(b, TYPICAL)) else 0.0, 14
)


@volume("money_flow_index_14", "100 up / (up + down) of TP V over 14; 50 without flow", PERCENT, 14, "TA-Lib MFI(14)")
def _(b: Bars) -> float:
    flow = total(b, FLOW_UP, 14) + total(b, FLOW_DOWN, 14)
    return 100.0 * total(b, FLOW_UP, 14) * inverse(flow) if flow > 0.0 else 50.0


def _accumulated(b: Bars) -> float:
    return ratio((close(b) - low(b)) - (high(b) - close(b)), high(b) - low(b)) * traded(b)


ACCUMULATED = quantity(_accumulated, 20)
volume(
    "chaikin_money_flow_20", "sum_20(V (2 C - H - L) / (H - L)) / sum_20(V); 0 without volume", SIGNED, 19, "Chaikin"
)(quotient(ACCUMULATED, VOLUME, 20))

VOLUME2 = quantity(lambda b: traded(b) * traded(b), 20)
RETURN_VOLUME = quantity(lambda b: at(b, RETURN) * traded(b), 20)


def _spread(b: Bars) -> float:
    """Standard deviation (ddof 0) of the last 20 volumes."""
    mean, squares = total(b, VOLUME, 20) * 0.05, total(b, VOLUME2, 20) * 0.05
    variance = squares - mean * mean
    return math.sqrt(variance if variance > 1e-14 * squares else 0.0)


_SPREAD = measure(_spread, stage=ROLLED)


@volume("volume_variation_20", "std_20(V) / mean_20(V), ddof 1; 0 without volume", POSITIVE, 19)
def _(b: Bars) -> float:
    return at(b, _SPREAD) * (20.0 * math.sqrt(20.0 / 19.0)) * inverse(total(b, VOLUME, 20))


@volume("return_volume_correlation_20", "correlation of r and V over 20; 0 when either is flat", SIGNED, 20)
def _(b: Bars) -> float:
    covariance = (total(b, RETURN_VOLUME, 20) - total(b, VOLUME, 20) * 0.05 * total(b, RETURN, 20)) * 0.05
    noise = at(b, _SPREAD) * deviation(b, 20) * math.sqrt(19.0 / 20.0)
    return max(-1.0, min(1.0, covariance * inverse(noise)))
