"""The market family: who pushes, how calm it is, and what trading costs."""

import math

from mlkit.features.kernel import kernel
from mlkit.features.lanes import choose, root
from mlkit.features.state import (
    BIPOWER,
    BODY,
    BULK_VOLUME,
    CLOSE_VOLUME,
    CORWIN_SCHULTZ,
    GARCH,
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
    Seen,
    inverse,
)  # fmt: skip
from mlkit.features.technical import Columns, Shared


@kernel
def market(s: Seen, b: Bar, x: Shared) -> Columns:
    """Volume imbalance, volatility regime, liquidity and pressure."""
    total, squares = s.total, s.total[W20 + RETURN2]
    # Bipower variation ignores jumps, so what it misses of the variance is the jumps' share.
    continuous = total[W20 + BIPOWER] * (math.pi / 2.0 * 20.0 / 19.0)
    covariance = total[W20 + LAGGED_PRODUCT] * 0.05 - (total[W20 + RETURN] * 0.05) * (total[W20 + RETURN] * 0.05)
    forecast, bounce = root(s.other[GARCH]), root(max(-covariance, 0.0))
    return (
        total[W10 + BULK_VOLUME] * x.per_volume10,
        total[W20 + BULK_VOLUME] * x.per_volume20,
        total[W50 + BULK_VOLUME] * x.per_volume50,
        x.deviation10 * inverse(x.deviation100),
        x.deviation20 * inverse(x.deviation200),
        forecast,
        forecast * inverse(x.deviation20),
        choose(squares > 1e-24, max(0.0, 1.0 - continuous * x.per_squares), 0.0),
        total[W20 + ILLIQUIDITY] * total[W100 + CLOSE_VOLUME] * (1.0 / 2000.0),
        2.0 * bounce,
        total[W20 + CORWIN_SCHULTZ] * 0.05,
        total[W20 + ZERO_RETURN] * 0.05,
        total[W10 + BODY] * inverse(total[W10 + RANGE]),
        total[W50 + BODY] * inverse(total[W50 + RANGE]),
    )
