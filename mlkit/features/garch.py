"""GARCH(1,1) parameters, fitted by ``arch`` on training bars; the features then filter them causally."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from mlkit.errors import BarsError, DependencyError
from mlkit.features.engine import DEFAULT_GARCH
from mlkit.market import memory_starts, validate_bars
from mlkit.threads import one_blas_thread

if TYPE_CHECKING:
    import pandas as pd

MIN_BARS = 500
PERCENT = 100.0  # arch converges best on returns in percent


@one_blas_thread
def fit_garch(bars: "pd.DataFrame") -> tuple[float, float, float]:
    """Maximum-likelihood GARCH(1,1) of the log returns, zero mean, normal errors (Bollerslev 1986).

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        Training bars only: the fit sees all of them, but no return over an outage beyond
        `mlkit.market.outages.memory_gap`.

    Returns
    -------
    (omega, alpha, beta) in squared log returns, the same bits for any number of threads; `DEFAULT_GARCH`
    when the fit does not converge to a stationary model, which flat or near-integrated series do.

    Raises
    ------
    BarsError when there are fewer than 500 bars; DependencyError when ``arch`` is missing.
    """
    try:
        from arch import arch_model
    except ImportError as error:
        raise DependencyError('fit_garch needs arch; install it with: pip install "mlkit[train]"') from error
    bars = validate_bars(bars)
    if len(bars) < MIN_BARS:
        raise BarsError(f"fit_garch: need {MIN_BARS} bars, have {len(bars)}; train on a longer span")
    across = memory_starts(bars)[1:] - 1  # no return over an outage that the filter does not remember over
    returns = np.delete(np.diff(np.log(bars["close"].to_numpy())) * PERCENT, across)
    if np.count_nonzero(returns) < MIN_BARS // 2:
        return DEFAULT_GARCH
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is judged below, by the result itself
        fit = arch_model(returns, mean="Zero", vol="GARCH", p=1, q=1, rescale=False).fit(disp="off", show_warning=False)
    omega, alpha, beta = (float(fit.params[name]) for name in ("omega", "alpha[1]", "beta[1]"))
    if fit.convergence_flag != 0 or not 0.0 < alpha + beta < 0.9999 or omega <= 0.0:
        return DEFAULT_GARCH
    return omega / PERCENT**2, alpha, beta
