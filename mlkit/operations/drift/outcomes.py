"""Calibration of the probabilities and coverage of the intervals over the newest known outcomes.

Both are means over outcomes that overlap, so their standard error is that of dependent rows: the larger one of two
estimates, that of an oracle (``coverage_noise``) and the long-run variance. The quantile is Student's with half a
degree of freedom a block, as in the verdict of a forecast (``mlkit.evaluation.significance``).
"""

import numpy as np
import pandas as pd

from mlkit.evaluation import coverage_noise, default_block
from mlkit.models.bundle import Manifest
from mlkit.operations.training.drift_reference import MeanError, brier_excess, long_run_mean


def coverage_table(monitored: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """Realised coverage of every horizon and level against the nominal one.

    ``monitored`` is `DriftReport.monitored`. The manifest's metrics hold the coverage of the walk-forward; a realised
    coverage between that and the nominal one is no miss. Returns a DataFrame, one row a horizon and level with enough
    outcomes: horizon, level, rows, realised, reference, noise (standard error), p (two-sided).
    """
    found = []
    for horizon in map(int, monitored["horizon"].unique()):
        part, metrics = monitored[monitored["horizon"] == horizon], manifest.metrics.get(str(horizon), {})
        for level in (80, 90):
            known = part[["outcome", f"lo{level}", f"hi{level}"]].to_numpy()
            y, low, high = known[np.isfinite(known).all(axis=1)].T
            if len(y) < 4 * default_block(horizon):
                continue
            nominal = level / 100.0
            measured = metrics.get(f"coverage_{level}")
            reference = float(measured) if isinstance(measured, int | float) else nominal
            realised, error = long_run_mean(((low <= y) & (y <= high)).astype(np.float64), horizon)
            noise = max(coverage_noise(len(y), horizon, nominal), error)
            miss = max(min(nominal, reference) - realised, realised - max(nominal, reference), 0.0)
            p = min(2.0 * _tail(miss / noise, len(y), horizon), 1.0)
            found.append((horizon, nominal, len(y), realised, reference, noise, p))
    return pd.DataFrame(found, columns=["horizon", "level", "rows", "realised", "reference", "noise", "p"])


def calibration_table(monitored: pd.DataFrame, excess: dict[int, MeanError]) -> pd.DataFrame:
    """Brier score of every horizon above what its probabilities promise, and above the excess of the walk-forward.

    Returns a DataFrame, one row a horizon with enough outcomes: horizon, rows, brier, promised (mean ``p (1 - p)``),
    excess, reference (excess of the walk-forward, 0 where unknown or negative), noise, p (one-sided: worse).
    """
    found = []
    for h in map(int, monitored["horizon"].unique()):
        part = monitored[monitored["horizon"] == h]
        p_up = part["p_up"].to_numpy()
        values = brier_excess(part["outcome"].to_numpy(), p_up)
        known = np.isfinite(values)
        rows = int(known.sum())
        if rows < 4 * default_block(h):
            continue
        mean, noise = long_run_mean(values, h)
        past, past_noise = excess.get(h, (0.0, 0.0))
        if not (np.isfinite(past) and past > 0):
            past, past_noise = 0.0, 0.0
        noise = float(np.hypot(noise, past_noise))
        promised = float((p_up * (1.0 - p_up))[known].mean())
        p = _tail((mean - past) / noise, rows, h) if noise > 0 else 1.0
        found.append((h, rows, promised + mean, promised, mean, past, noise, p))
    return pd.DataFrame(found, columns=["horizon", "rows", "brier", "promised", "excess", "reference", "noise", "p"])


def _tail(z: float, rows: int, horizon: int) -> float:
    from scipy.stats import t

    return float(t.sf(z, rows / (2.0 * default_block(horizon))))
