"""Do the forecasts still keep their word? Coverage of the intervals and calibration of the probabilities.

Both are means over outcomes that overlap, so their noise is that of dependent rows: of the two estimates, an oracle's
(``coverage_noise``) and the long-run variance, the larger counts, and the quantile is Student's with half a degree of
freedom a block, as in the verdict of a forecast (``mlkit.evaluation.significance``).
"""

from typing import TYPE_CHECKING

import numpy as np

from mlkit.evaluation import coverage_noise, default_block
from mlkit.models.ensemble import FloatVector
from mlkit.operations.drift.reference import Mean, brier_excess, long_run_mean

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.bundle import Manifest

LEVELS = {80: ("lo80", "hi80"), 90: ("lo90", "hi90")}


def coverage_table(monitored: "pd.DataFrame", manifest: "Manifest") -> "pd.DataFrame":
    """Realised coverage of every horizon and level against what was promised.

    Parameters
    ----------
    monitored : long, of ``DriftReport.monitored``: horizon, outcome (NaN where unknown) and the intervals
    manifest : whose metrics say how far the walk-forward itself was off; a miss counts from there

    Returns
    -------
    DataFrame, one row a horizon and level with enough outcomes: horizon, level, rows, realised, reference, noise
    (standard error), p (two-sided).
    """
    import pandas as pd

    found = []
    for horizon in _horizons(monitored):
        rows = monitored[monitored["horizon"] == horizon]
        y = rows["outcome"].to_numpy()
        for level, (low, high) in LEVELS.items():
            held = _held(y, rows[low].to_numpy(), rows[high].to_numpy())
            if len(held) < 4 * default_block(horizon):
                continue
            promised = level / 100.0
            reference = _measured(manifest, horizon, f"coverage_{level}", promised)
            realised, spread = long_run_mean(held, horizon)
            noise = max(coverage_noise(len(held), horizon, promised), spread)
            ends = sorted((promised, reference))
            miss = max(ends[0] - realised, realised - ends[1], 0.0)
            p = min(2.0 * _tail(miss / noise, len(held), horizon), 1.0)
            found.append((horizon, promised, len(held), realised, reference, noise, p))
    return pd.DataFrame(found, columns=["horizon", "level", "rows", "realised", "reference", "noise", "p"])


def calibration_table(monitored: "pd.DataFrame", excess: dict[int, Mean]) -> "pd.DataFrame":
    """Brier score of every horizon above what its probabilities promise, and above what the walk-forward had.

    Returns
    -------
    DataFrame, one row a horizon with enough outcomes: horizon, rows, brier, promised (mean ``p (1 - p)``), excess,
    reference (excess of the walk-forward, 0 where unknown or negative), noise, p (one-sided: worse).
    """
    import pandas as pd

    found = []
    for h in _horizons(monitored):
        rows = monitored[monitored["horizon"] == h]
        p_up = rows["p_up"].to_numpy()
        values = brier_excess(rows["outcome"].to_numpy(), p_up)
        known = np.isfinite(values)
        if known.sum() < 4 * default_block(h):
            continue
        mean, noise = long_run_mean(values, h)
        past, past_noise = excess.get(h, (0.0, 0.0))
        past, past_noise = (past, past_noise) if np.isfinite(past) and past > 0 else (0.0, 0.0)
        noise = float(np.hypot(noise, past_noise))
        promised = float((p_up * (1.0 - p_up))[known].mean())
        p = _tail((mean - past) / noise, int(known.sum()), h) if noise > 0 else 1.0
        found.append((h, int(known.sum()), promised + mean, promised, mean, past, noise, p))
    return pd.DataFrame(found, columns=["horizon", "rows", "brier", "promised", "excess", "reference", "noise", "p"])


def _horizons(monitored: "pd.DataFrame") -> list[int]:
    return [int(horizon) for horizon in monitored["horizon"].unique()]


def _held(outcome: FloatVector, low: FloatVector, high: FloatVector) -> FloatVector:
    """1 where a known outcome lies inside its interval, 0 where it does not."""
    known = np.isfinite(outcome) & np.isfinite(low) & np.isfinite(high)
    return np.asarray(((low <= outcome) & (outcome <= high))[known], dtype=np.float64)


def _measured(manifest: "Manifest", horizon: int, name: str, otherwise: float) -> float:
    """A metric of the walk-forward."""
    metrics = manifest.metrics.get(str(horizon))
    value = metrics.get(name) if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, int | float) else otherwise


def _tail(z: float, rows: int, horizon: int) -> float:
    from scipy.stats import t

    return float(t.sf(z, rows / (2.0 * default_block(horizon))))
