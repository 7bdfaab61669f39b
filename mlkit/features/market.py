"""The market family: who pushes, how calm it is, and what trading costs."""

import math

from mlkit.features.kernel import inverses, kernel, roots
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
    W10,
    W20,
    W50,
    W100,
    ZERO_RETURN,
    Bar,
    State,
)  # fmt: skip
from mlkit.features.technical import Columns, Shared


@kernel
def market(s: State, b: Bar, x: Shared) -> Columns:
    """Volume imbalance, volatility regime, liquidity and pressure."""
    total, squares = s.total, s.total[W20, RETURN2]
    # Bipower variation ignores jumps, so what it misses of the variance is the jumps' share.
    continuous = total[W20, BIPOWER] * (math.pi / 2.0 * 20.0 / 19.0)
    covariance = total[W20, LAGGED_PRODUCT] * 0.05 - (total[W20, RETURN] * 0.05) ** 2
    forecast, bounce = roots((s.clock[GARCH_VARIANCE], max(-covariance, 0.0)))
    per_range10, per_range50, per_deviation20, per_deviation100, per_deviation200 = inverses(
        (total[W10, RANGE], total[W50, RANGE], x.deviation20, x.deviation100, x.deviation200)
    )
    return (
        total[W10, BULK_VOLUME] * x.per_volume10,
        total[W20, BULK_VOLUME] * x.per_volume20,
        total[W50, BULK_VOLUME] * x.per_volume50,
        x.deviation10 * per_deviation100,
        x.deviation20 * per_deviation200,
        forecast,
        forecast * per_deviation20,
        max(0.0, 1.0 - continuous * x.per_squares) if squares > 1e-24 else 0.0,
        total[W20, ILLIQUIDITY] * total[W100, CLOSE_VOLUME] * (1.0 / 2000.0),
        2.0 * bounce,
        total[W20, CORWIN_SCHULTZ] * 0.05,
        total[W20, ZERO_RETURN] * 0.05,
        total[W10, BODY] * per_range10,
        total[W50, BODY] * per_range50,
    )
