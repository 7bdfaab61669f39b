"""What a forecast of volatility can look at: estimates with short and long memories, and the clock."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlkit.market import timeframe_delta

if TYPE_CHECKING:
    import pandas as pd

#: Estimates set against the RiskMetrics average; all are per bar, known at its close.
ESTIMATES = (
    "rolling_std_100",
    "rolling_std_50",
    "rolling_std_20",
    "rolling_std_5",
    "garch_volatility",
    "parkinson_20",
    "rogers_satchell_20",
    "atr_ratio_28",
    "atr_ratio_7",
    "high_low_ratio",
)
FLOOR = 1e-7  # of a volatility per bar
DAILY, WEEKLY = 4, 3  # harmonics of the day and of the week
_DAY, _WEEK = 86_400 * 10**9, 7 * 86_400 * 10**9
_MONDAY = 4 * _DAY  # the epoch was a Thursday
_QUIET = 0.1  # a term counts at least this share of the 200-bar deviation: a bar without range is no forecast of none


def volatility_terms(features: "pd.DataFrame", timeframe: str) -> npt.NDArray[np.float64]:
    """Logarithms of causal volatility estimates, and the seasons of day and week, row by row.

    Row t is a function of feature row t and of the bar's open time alone, so a live row has the bits of the batch.

    Parameters
    ----------
    features : DataFrame (n_bars, n_features) of `build_features`, its index the bars' open times
    timeframe : of the bars; the season of the day needs bars shorter than a day, that of the week bars of at least
        15 minutes (shorter histories hold too few weeks to tell it from chance)

    Returns
    -------
    float64 (n_bars, 12 + seasons). Column 0 is the logarithm of `ewma_volatility`, the next ones are logarithms of
    another estimate over it, the last ones a quarter of a cosine or sine of the hour of the day (UTC) and of the week.
    NaN in the warm-up.

    References
    ----------
    Corsi (2009), *J. Financial Econometrics* 7: volatility as a cascade of memories. Andersen and Bollerslev (1997),
    *J. Empirical Finance* 4: the flexible Fourier form of intraday seasons.
    """
    import pandas as pd

    def column(name: str) -> npt.NDArray[np.float64]:
        return features[name].to_numpy(dtype=np.float64)

    regime = column("volatility_regime_20_200")
    moving = np.where(regime > 0.0, regime, 1.0)
    level = np.maximum(np.where(regime > 0.0, column("rolling_std_20") / moving, column("rolling_std_100")), FLOOR)

    def log(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.log(np.maximum(values, _QUIET * level)))

    ewma = log(column("ewma_volatility"))
    terms = [ewma, np.log(level) - ewma, *(log(column(name)) - ewma for name in ESTIMATES)]
    times = pd.DatetimeIndex(features.index).as_unit("ns").asi8
    step = timeframe_delta(timeframe)
    if step < pd.Timedelta(days=1):
        terms += _season(times % _DAY / _DAY, DAILY)
    if step >= pd.Timedelta(minutes=15):
        terms += _season((times - _MONDAY) % _WEEK / _WEEK, WEEKLY)
    return np.column_stack(terms)


def _season(share: npt.NDArray[np.float64], harmonics: int) -> list[npt.NDArray[np.float64]]:
    """A quarter of each harmonic's cosine and sine, so that a ridge holds seasons tighter than estimates."""
    angles = [2.0 * np.pi * k * share for k in range(1, harmonics + 1)]
    return [0.25 * wave(angle) for angle in angles for wave in (np.cos, np.sin)]
