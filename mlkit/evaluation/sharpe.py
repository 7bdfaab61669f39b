"""Sharpe ratios corrected for sample length, fat tails and the number of trials.

All ratios are per bar, not annualised: mean over standard deviation of net bar returns. To show an annualised
ratio, multiply by ``sqrt(bars a year)``.
"""

import math

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from mlkit.errors import ConfigError


def sharpe_ratio(returns: ArrayLike) -> float:
    """Mean over standard deviation (n - 1) of net returns, NaN left out; NaN without variation."""
    r = _known(returns)
    spread = float(np.std(r, ddof=1)) if len(r) > 1 else 0.0
    return float(np.mean(r)) / spread if spread > 1e-15 else math.nan


def sharpe_error(sharpe: float, n: int, *, skew: float = 0.0, kurtosis: float = 3.0) -> float:
    """Standard error of a Sharpe ratio: ``sqrt((1 - γ3 SR + (γ4 - 1) / 4 SR²) / (n - 1))``.

    ``kurtosis`` is not in excess: 3 for a normal law. Returns must be close to independent: take those of single
    bars, not of overlapping positions.

    Sources: Mertens (2002); Bailey & López de Prado (2012), *Journal of Risk* 15, eq. 4.
    """
    return math.sqrt(max(1.0 - skew * sharpe + 0.25 * (kurtosis - 1.0) * sharpe**2, 0.0) / (n - 1))


def probabilistic_sharpe(returns: ArrayLike, benchmark: float = 0.0) -> float:
    """Probability that the true Sharpe ratio is above ``benchmark`` (per bar), given skewness and kurtosis.

    Parameters
    ----------
    returns : net returns of the bars, (n,), NaN left out.

    Returns: probability in [0, 1]; NaN for fewer than 3 returns or without variation.
    Source: Bailey & López de Prado (2012), *Journal of Risk* 15, eq. 9.
    """
    r = _known(returns)
    sharpe = sharpe_ratio(r)
    if len(r) < 3 or math.isnan(sharpe):
        return math.nan
    z = (r - r.mean()) / r.std()
    skew, kurtosis = float(np.mean(z**3)), float(np.mean(z**4))
    return sharpe_probability(sharpe, len(r), benchmark, skew=skew, kurtosis=kurtosis)


def sharpe_probability(
    sharpe: float, n: int, benchmark: float = 0.0, *, skew: float = 0.0, kurtosis: float = 3.0
) -> float:
    """``probabilistic_sharpe`` from the numbers that a paper reports: Φ((SR - SR*) / standard error)."""
    from scipy.stats import norm

    return float(norm.cdf((sharpe - benchmark) / sharpe_error(sharpe, n, skew=skew, kurtosis=kurtosis)))


def expected_best_sharpe(trials: int, variance: float) -> float:
    """Expected largest Sharpe ratio of ``trials`` independent strategies without skill, given their variance.

    ``sqrt(V) ((1 - γ) Φ⁻¹(1 - 1/N) + γ Φ⁻¹(1 - 1/(N e)))`` with Euler's γ; 0 for one trial.

    Source: Bailey & López de Prado (2014), *Journal of Portfolio Management* 40, eq. 1 (the False Strategy theorem).
    """
    from scipy.stats import norm

    if trials < 1 or variance < 0:
        raise ConfigError(f"expected_best_sharpe: needs trials >= 1 and variance >= 0, got {trials} and {variance}")
    if trials == 1:
        return 0.0
    tails = norm.ppf(1.0 - 1.0 / trials), norm.ppf(1.0 - 1.0 / (trials * math.e))
    return float(math.sqrt(variance) * ((1.0 - np.euler_gamma) * tails[0] + np.euler_gamma * tails[1]))


def deflated_sharpe(returns: ArrayLike, trials: int, *, variance: float | None = None) -> float:
    """Probability that the true Sharpe ratio is above the expected best of ``trials`` strategies without skill.

    Parameters
    ----------
    returns : net returns of the bars of the chosen strategy, (n,), NaN left out.
    trials : number of strategies tried: ``Ledger.trials``, times the strategies of one configuration.
    variance : of the Sharpe ratios across trials. Default: the sampling variance of a Sharpe ratio without skill,
        ``1 / (n - 1)``.

    Returns: probability in [0, 1]; NaN as for ``probabilistic_sharpe``.
    Source: Bailey & López de Prado (2014), *Journal of Portfolio Management* 40.
    """
    r = _known(returns)
    if len(r) < 3:
        return math.nan
    spread = 1.0 / (len(r) - 1) if variance is None else variance
    return probabilistic_sharpe(r, expected_best_sharpe(trials, spread))


def _known(returns: ArrayLike) -> npt.NDArray[np.float64]:
    r = np.asarray(returns, dtype=np.float64)
    return r[~np.isnan(r)]
