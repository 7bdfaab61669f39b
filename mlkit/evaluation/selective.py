"""Risk-coverage curve: skill on the most confident share of the rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from mlkit.errors import ConfigError
from mlkit.evaluation.metrics import aligned
from mlkit.evaluation.significance import metric_intervals

FloatArray = npt.NDArray[np.float64]
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def risk_coverage(
    gain: ArrayLike,
    confidence: ArrayLike,
    *,
    horizon: int,
    shares: Sequence[float] = SHARES,
    reps: int = 300,
    seed: int = 7,
) -> pd.DataFrame:
    """Mean gain of the most confident share of the rows, with 95 % block-bootstrap intervals.

    The curve of an informative confidence falls with the share. Rows tied at the threshold count with equal
    fractional weight, so a constant confidence gives a constant curve whatever the order of rows.

    The threshold is a quantile of the scored rows themselves; to trade on it, fix it beforehand.

    Parameters
    ----------
    gain : gain of acting on each row: a hit (1, 0, or 0.5 for a tie) or a net return, (n,).
    confidence : confidence of each forecast, (n,), such as ``|p_up - 0.5|``. Rows with NaN in either are left out.
    horizon : bars a label spans; the mean block of the bootstrap is ``max(10, 2 horizon)`` rows.
    shares : shares of the rows to act on, in (0, 1].

    Returns: DataFrame, index ``share``: ``value``, ``low``, ``high``, ``rows`` (share times n), ``threshold`` (least
    confidence).
    Source: El-Yaniv & Wiener (2010), *Journal of Machine Learning Research* 11.
    """
    if not shares or min(shares) <= 0 or max(shares) > 1:
        raise ConfigError(f"risk_coverage: shares must be above 0 and at most 1, got {tuple(shares)}")
    gain, confidence = aligned("risk_coverage", gain=gain, confidence=confidence)
    if gain.ndim != 1 or gain.shape != confidence.shape:
        raise ConfigError(f"risk_coverage: gain and confidence must be (n,), got {gain.shape} and {confidence.shape}")
    known = np.isfinite(gain) & np.isfinite(confidence)
    if not known.any():
        raise ConfigError("risk_coverage: no row has both a gain and a confidence")

    def curve(of: Mapping[str, FloatArray]) -> dict[str, float]:
        return {str(k): _confident_mean(of["gain"], of["confidence"], share) for k, share in enumerate(shares)}

    columns = {"gain": gain[known], "confidence": confidence[known]}
    table = metric_intervals(curve, columns, horizon=horizon, reps=reps, seed=seed)
    table.index = pd.Index(shares, name="share")
    table["rows"] = np.array(shares) * known.sum()
    table["threshold"] = [_threshold(columns["confidence"], share) for share in shares]
    return table


def _confident_mean(gain: FloatArray, confidence: FloatArray, share: float) -> float:
    """Mean gain of the ``share * n`` most confident rows; rows tied at the threshold share the remaining weight."""
    wanted, cut = share * len(gain), _threshold(confidence, share)
    above, at = confidence > cut, confidence == cut
    left = wanted - above.sum()
    return float((gain[above].sum() + left * gain[at].mean()) / wanted)


def _threshold(confidence: FloatArray, share: float) -> float:
    """Least confidence of the ``share * n`` most confident rows."""
    rank = min(int(np.ceil(share * len(confidence) - 1e-9)), len(confidence))
    return float(np.partition(confidence, len(confidence) - rank)[len(confidence) - rank])
