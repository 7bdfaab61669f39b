"""What a model learns: forward returns with the time each is known, and the 15 patterns as rules see them."""

from collections.abc import Iterable
from numbers import Integral

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError
from mlkit.features.rules import PATTERNS as PATTERNS
from mlkit.features.rules import STANDARDS, WARM_UP, Standard, Vector, pattern_flags
from mlkit.market.bars import ohlcv_arrays, open_times, validate_bars

HORIZONS = (1, 5, 15, 60)  # bars ahead


def forward_returns(bars: pd.DataFrame, horizons: Iterable[int] = HORIZONS) -> pd.DataFrame:
    """Log return to each horizon, with the time at which it is known.

    A label looks ahead by definition: row ``t`` is about the future of a decision taken at the close of bar
    ``t``. It is known at the close of bar ``t + h``, so a training row whose ``end_time`` reaches into the
    test span must be purged (``WalkForward`` does). Horizons count bars, so they step over nights and
    weekends: ``horizon`` 1 of a daily series is the next session.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        See ``validate_bars``.
    horizons : integers
        Bars ahead, each positive, no two alike.

    Returns
    -------
    DataFrame (n_bars, 2 * n_horizons)
        Index of ``bars``; column levels ``label`` and ``horizon``:
        ``("log_return", h)`` float64, log(close[t+h] / close[t]), NaN where bar t+h does not exist;
        ``("end_time", h)`` datetime64[ns, UTC], the open time of bar t+h, NaT where it does not exist.
        ``Y["log_return"][5]`` is the series of 5-bar returns.

    Raises
    ------
    ConfigError
        For no horizon, or one that is not a positive integer or is given twice.
    BarsError
        For bars that break the contract, or with no label at the longest horizon.
    """
    steps = _check_horizons(horizons)
    bars = validate_bars(bars)
    n_bars, needed = len(bars), max(steps) + 1
    if n_bars < needed:
        raise BarsError(f"forward_returns: horizon {max(steps)} needs {needed} bars, have {n_bars}")
    close, opened = bars["close"].to_numpy(), open_times(bars).view("datetime64[ns]")
    returns = {("log_return", h): _padded(np.log(close[h:] / close[:-h]), n_bars) for h in steps}
    ends = {("end_time", h): pd.DatetimeIndex(_padded(opened[h:], n_bars), tz="UTC") for h in steps}
    frame = pd.DataFrame({**returns, **ends}, index=bars.index)
    frame.columns = frame.columns.set_names(["label", "horizon"])
    frame.attrs = dict(bars.attrs)
    return frame


def pattern_labels(bars: pd.DataFrame, standard: Standard = "classic") -> pd.DataFrame:
    """Which of the 15 patterns each bar completes, known at its close; several may hold at once.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        See ``validate_bars``.
    standard : "classic" or "continuous"
        TA-Lib's definition, or the one for markets that never close (``mlkit.features.rules``).

    Returns
    -------
    DataFrame of bool (n_bars, 15)
        Index of ``bars``, columns ``PATTERNS``. ``attrs["warm_up"]`` maps a pattern to the number of first
        rows in which it is not known; those rows are False and should be left out of training and rates.

    ConfigError for an unknown standard, BarsError for bars that break the contract.
    """
    directions = pattern_directions(bars, standard)
    labels = directions != 0
    labels.attrs = dict(directions.attrs)
    return labels


def pattern_directions(bars: pd.DataFrame, standard: Standard = "classic") -> pd.DataFrame:
    """Direction of each pattern at each bar: int8 (n_bars, 15), -1 bearish, 0 absent, +1 bullish.

    Harami and marubozu take both signs, a doji is +1. Parameters, ``attrs`` and errors are those of
    ``pattern_labels``.
    """
    bars = validate_bars(bars)
    open, high, low, close, _ = ohlcv_arrays(bars)
    flags = pattern_flags(open, high, low, close, standard)
    frame = pd.DataFrame(flags, index=bars.index, columns=pd.Index(PATTERNS, name="pattern"))
    frame.attrs = {**bars.attrs, "standard": standard, "warm_up": dict(WARM_UP)}
    return frame


def base_rates(bars: pd.DataFrame) -> pd.DataFrame:
    """How often each pattern occurs, per 10,000 bars whose pattern is known, by both standards.

    Returns a DataFrame (15, 2): index ``pattern``, columns "classic" and "continuous"; NaN for a pattern
    that the bars are too few to know. BarsError for bars that break the contract.
    """
    labels = {standard: pattern_labels(bars, standard) for standard in STANDARDS}
    known = (len(bars) - pd.Series(WARM_UP, dtype=float)).clip(lower=0.0).replace(0.0, np.nan)
    return pd.DataFrame({standard: 10_000 * found.sum() / known for standard, found in labels.items()})


def _check_horizons(horizons: Iterable[int]) -> tuple[int, ...]:
    try:
        steps = tuple(horizons)
    except TypeError:
        raise ConfigError(f"horizons must be several bars ahead such as (1, 5), not {horizons!r}") from None
    for step in steps:
        if not isinstance(step, Integral) or isinstance(step, bool) or step < 1:
            raise ConfigError(f"horizons must be positive integers, bars ahead, not {step!r}")
    if not steps or len(set(steps)) < len(steps):
        raise ConfigError(f"horizons must be at least one and all different, not {steps}")
    return tuple(int(step) for step in steps)


def _padded(values: Vector, size: int) -> Vector:
    """``values`` followed by NaN (of times: NaT), ``size`` in all."""
    padded = np.full(size, np.nan).astype(values.dtype)
    padded[: values.size] = values
    return padded
