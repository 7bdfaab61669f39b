"""What a model learns: forward returns with the time each is known, and the 15 patterns as rules see them."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError, ConfigError
from mlkit.features.rules import PATTERNS as PATTERNS
from mlkit.features.rules import STANDARDS, WARM_UP, Standard, pattern_flags
from mlkit.market.bars import ohlcv_arrays, open_times, timeframe_delta, validate_bars

HORIZONS = (1, 5, 15, 60)  # bars ahead
OUTAGE_NEVER_CLOSED = pd.Timedelta(hours=1)
OUTAGE_SESSIONS = pd.Timedelta(days=7)

MaxGap = pd.Timedelta | str | None
Rows = npt.NDArray[np.int64]


def forward_returns(
    bars: pd.DataFrame, horizons: Iterable[int] = HORIZONS, *, max_gap: MaxGap = "auto"
) -> pd.DataFrame:
    """Log return to each horizon, with the time at which it is known.

    A label looks ahead by definition: row ``t`` is about the future of a decision taken at the close of bar
    ``t``. It is known at the close of bar ``t + h``, so a training row whose ``end_time`` reaches into the
    test span must be purged (``WalkForward`` does). Horizons count bars, so they step over nights and
    weekends: ``horizon`` 1 of a daily series is the next session. They never step over an outage.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        See ``validate_bars``.
    horizons : integers
        Bars ahead, each positive, no two alike.
    max_gap : "auto", length of time or None
        Most time that may be missing between the close of a bar and the open of the next. Where more is
        missing, what lies between is unknown and no label crosses it. "auto" is ``gap_tolerance(bars)``;
        None lets labels cross any gap.

    Returns
    -------
    DataFrame (n_bars, 2 * n_horizons)
        Index of ``bars``; column levels ``label`` and ``horizon``:
        ``("log_return", h)`` float64, log(close[t+h] / close[t]), NaN where bar t+h does not exist or lies
        beyond an outage;
        ``("end_time", h)`` datetime64[ns, UTC], the open time of bar t+h, NaT where the return is NaN.
        ``Y["log_return"][5]`` is the series of 5-bar returns.

    Raises
    ------
    ConfigError
        For no horizon, one that is not a positive integer or is given twice, or a ``max_gap`` that is no
        length of time.
    BarsError
        For bars that break the contract, or with no label at the longest horizon.
    """
    steps = _check_horizons(horizons)
    bars = validate_bars(bars)
    n_bars, needed, runs = len(bars), max(steps) + 1, unbroken_runs(bars, max_gap)
    if n_bars < needed:
        raise BarsError(f"forward_returns: horizon {max(steps)} needs {needed} bars, have {n_bars}")
    longest = int(np.bincount(runs).max())
    if longest < needed:
        raise BarsError(
            f"forward_returns: horizon {max(steps)} needs {needed} bars without an outage, the longest such run has"
            f" {longest}; fetch what is missing, take shorter horizons, or pass a longer max_gap"
        )
    close, opened = bars["close"].to_numpy(), open_times(bars).view("datetime64[ns]")
    returns, ends = {}, {}
    for h in steps:
        same = runs[h:] == runs[:-h]
        gain = np.where(same, np.log(close[h:] / close[:-h]), np.nan)
        end = np.where(same, opened[h:], np.datetime64("NaT"))
        returns["log_return", h] = _padded(gain, n_bars)
        ends["end_time", h] = pd.DatetimeIndex(_padded(end, n_bars), tz="UTC")
    frame = pd.DataFrame({**returns, **ends}, index=bars.index)
    frame.columns = frame.columns.set_names(["label", "horizon"])
    frame.attrs = dict(bars.attrs)
    return frame


def earned_returns(bars: pd.DataFrame, horizons: Iterable[int] = HORIZONS, *, max_gap: MaxGap = "auto") -> pd.DataFrame:
    """What acting on a forecast earns: log return from the open of bar t + 1 to the open of bar t + 1 + h.

    The decision falls at the close of bar t, the first price that can be had is the next open. Parameters are
    those of ``forward_returns``.

    Returns a DataFrame (n_bars, n_horizons), index of ``bars``, columns ``horizon``; NaN where bar t + 1 + h
    does not exist or an outage lies between bar t and it. Raises as ``forward_returns`` does, except that a
    horizon without any return is all NaN.
    """
    steps = _check_horizons(horizons)
    bars = validate_bars(bars)
    runs, opens = unbroken_runs(bars, max_gap), np.log(bars["open"].to_numpy())
    table = np.full((len(bars), len(steps)), np.nan)
    for j, h in enumerate(steps):
        gain = opens[h + 1 :] - opens[1:-h]
        table[: len(gain), j] = np.where(runs[h + 1 :] == runs[: -h - 1], gain, np.nan)
    frame = pd.DataFrame(table, index=bars.index, columns=pd.Index(steps, name="horizon"))
    frame.attrs = dict(bars.attrs)
    return frame


def gap_tolerance(bars: pd.DataFrame) -> pd.Timedelta:
    """Most time that may be missing between two bars before it is an outage: 1 hour or 7 days.

    A market that never closes (``never_closes``) has no reason to pause: more than an hour without a bar is an
    exchange or a feed that was down, and a label over it would count bars but mean days. One hour lets pass the
    quiet minutes of a thin pair, and a single missing hourly bar.

    A session market pauses every night, weekend and holiday, and holding through these is what its returns are:
    up to 7 days, as New York from 11 to 16 September 2001 (6 days of daily bars). Pass ``max_gap`` for markets
    that close for longer (Shanghai's Golden Week).

    Raises BarsError for bars that break the contract.
    """
    return _tolerance(validate_bars(bars))


def never_closes(bars: pd.DataFrame) -> bool:
    """Whether a market trades without closes, from its open times alone; validated bars are expected.

    That is: no two bars are further apart than one timeframe, so that no close separates any of them; or more
    than one bar in twenty opens on a Saturday (UTC); or, in a history without a Saturday between its ends, bars
    open at more than four in five of the day's times. Weekly bars tell neither and count as sessions.
    """
    index, step = pd.DatetimeIndex(bars.index), timeframe_delta(bars.attrs["timeframe"])
    if step >= pd.Timedelta(weeks=1):
        return False
    if len(index) > 1 and bool((index[1:] - index[:-1] == step).all()):
        return True
    first = index[0].normalize()
    if first + pd.Timedelta(days=(5 - first.day_of_week) % 7) <= index[-1]:
        return float((index.day_of_week == 5).mean()) > 0.05
    return (index - index.normalize()).nunique() > 0.8 * (pd.Timedelta(days=1) / step)


def unbroken_runs(bars: pd.DataFrame, max_gap: MaxGap = "auto") -> Rows:
    """Number of the run without an outage that each bar belongs to, int64 (n_bars,), counted from 0.

    ``max_gap`` is that of ``forward_returns``; validated bars are expected. ConfigError for another ``max_gap``.
    """
    if max_gap is None:
        return np.zeros(len(bars), dtype=np.int64)
    tolerance = _tolerance(bars) if isinstance(max_gap, str) and max_gap == "auto" else _length(max_gap)
    step = timeframe_delta(bars.attrs["timeframe"])
    missing = np.diff(open_times(bars)) > (step + tolerance).as_unit("ns").value
    return np.concatenate([[0], np.cumsum(missing)]).astype(np.int64)


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


def _tolerance(bars: pd.DataFrame) -> pd.Timedelta:
    return OUTAGE_NEVER_CLOSED if never_closes(bars) else OUTAGE_SESSIONS


def _length(max_gap: pd.Timedelta | str) -> pd.Timedelta:
    try:
        length = pd.Timedelta(max_gap)
    except ValueError:
        length = pd.Timedelta(-1)
    if not length >= pd.Timedelta(0):  # NaT is not either
        raise ConfigError(f"max_gap must be 'auto', None or a length of time such as '2h', not {max_gap!r}")
    return length


def _padded(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """``values`` followed by NaN (of times: NaT), ``size`` in all."""
    padded = np.full(size, np.nan).astype(values.dtype)
    padded[: values.size] = values
    return padded
