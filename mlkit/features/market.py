"""The market family: who pushes, how calm it is, and what trading costs."""

import math

from mlkit.features.kernel import kernel
from mlkit.features.state import (
    BIPOWER,
    BODY,
    BULK_VOLUME,
    CLOSE_VOLUME,
    CORWIN_SCHULTZ,
    GARCH_VARIANCE,
    ILLIQUIDITY,
    LAGGED_PRODUCT,
    RANGE,
    RETURN,
    RETURN2,
    VOLUME,
    W10,
    W20,
    W50,
    W100,
    W200,
    ZERO_RETURN,
    Bar,
    State,
    inverse,
    ratio,
)  # fmt: skip
from mlkit.features.technical import Columns, deviation


@kernel
def market(s: State, b: Bar) -> Columns:
    """Volume imbalance, volatility regime, liquidity and pressure."""
    total, squares = s.total, s.total[W20, RETURN2]
    deviation20, forecast = deviation(s, W20, 20.0), math.sqrt(s.clock[GARCH_VARIANCE])
    # Bipower variation ignores jumps, so what it misses of the variance is the jumps' share.
    continuous = total[W20, BIPOWER] * (math.pi / 2.0 * 20.0 / 19.0)
    covariance = total[W20, LAGGED_PRODUCT] * 0.05 - (total[W20, RETURN] * 0.05) ** 2
    return (
        total[W10, BULK_VOLUME] * inverse(total[W10, VOLUME]),
        total[W20, BULK_VOLUME] * inverse(total[W20, VOLUME]),
        total[W50, BULK_VOLUME] * inverse(total[W50, VOLUME]),
        ratio(deviation(s, W10, 10.0), deviation(s, W100, 100.0)),
        ratio(deviation20, deviation(s, W200, 200.0)),
        forecast,
        ratio(forecast, deviation20),
        max(0.0, 1.0 - ratio(continuous, squares)) if squares > 1e-24 else 0.0,
        total[W20, ILLIQUIDITY] * total[W100, CLOSE_VOLUME] * (1.0 / 2000.0),
        2.0 * math.sqrt(max(-covariance, 0.0)),
        total[W20, CORWIN_SCHULTZ] * 0.05,
        total[W20, ZERO_RETURN] * 0.05,
        total[W10, BODY] * inverse(total[W10, RANGE]),
        total[W50, BODY] * inverse(total[W50, RANGE]),
    )
