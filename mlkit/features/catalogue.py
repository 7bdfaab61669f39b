"""Every built-in feature: name, family, formula, range, warm-up and source, in column order.

Notation: C, O, H, L, V are close, open, high, low and volume of the bar; a number in brackets counts bars
back; r is the log return; mean_n, sum_n, std_n, max_n, min_n run over the last n bars, the newest included;
ema_n weighs by 2 / (n + 1) and wilder_n by 1 / n, both started as the plain mean of what they have seen.

Warm-up is the number of rows at the start that are NaN. A window of n bars needs n - 1 rows before it is full,
one more when it holds changes. An exponential average is called warm after 3 n bars (8 n for Wilder's, whose
weights fade half as fast), when its first value weighs less than 0.3 %.
"""

from typing import TYPE_CHECKING

import numpy as np

from mlkit.features.columns import FAMILIES, FeatureSpec
from mlkit.features.families import (  # noqa: F401  (each registers its features)
    candles,
    dispersion,
    microstructure,
    momentum,
    price,
    statistics,
    trend,
    volume,
)

if TYPE_CHECKING:
    import pandas as pd

TECHNICAL = ("price", "moving_average", "volatility", "volume", "momentum", "trend", "lag", "statistics")
_KINDS = dict.fromkeys(TECHNICAL, "technical") | {"candle": "pattern", "rule": "pattern", "market": "market"}
_COLUMNS = [column for name in _KINDS for column in FAMILIES[name]]
#: Every built-in feature in column order, and the row that holds it.
SPECS: tuple[FeatureSpec, ...] = tuple(spec for spec, _ in _COLUMNS)
ROWS: tuple[np.int64, ...] = tuple(row for _, row in _COLUMNS)


def feature_catalogue() -> "pd.DataFrame":
    """Table of every built-in feature.

    Returns
    -------
    DataFrame, one row a feature in the column order of `build_features`: name (index), family, kind
    (technical, pattern or market), formula, range, warm_up (rows that are NaN at the start), source.
    """
    import pandas as pd

    rows = [(s.name, s.family, _KINDS[s.family], s.formula, s.range, s.warm_up, s.source) for s in SPECS]
    columns = ["name", "family", "kind", "formula", "range", "warm_up", "source"]
    return pd.DataFrame(rows, columns=columns).set_index("name")
