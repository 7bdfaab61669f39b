"""Labels of the price: log return to each horizon, with the time at which it is known."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError, ConfigError
from mlkit.market import MaxGap, open_times, unbroken_runs, validate_bars

HORIZONS = (1, 5, 15, 60)  # bars ahead


def forward_returns(
    bars: pd.DataFrame, horizons: Iterable[int] = HORIZONS, *, max_gap: MaxGap = "auto"
) -> pd.DataFrame:
    """Log return to each horizon, with the time at which it is known.

    Row ``t`` is about a decision taken at the close of bar ``t``; its label is known at the close of bar ``t + h``,
    so a training row whose ``end_time`` reaches into the test span must be purged (``WalkForward`` does). Horizons
    count bars: ``horizon`` 1 of a daily series is the next session. No label spans an outage.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), see ``validate_bars``.
    horizons : bars ahead, positive integers, no two alike.
    max_gap : most time that may be missing between the close of a bar and the open of the next for a label to span
        it, see `mlkit.market.segments`; None lets labels span any gap.

    Returns
    -------
    DataFrame (n_bars, 2 * n_horizons)
        Index of ``bars``; column levels ``label`` and ``horizon``:
        ``("log_return", h)`` float64, log(close[t+h] / close[t]), NaN without bar t+h or over an outage;
        ``("end_time", h)`` datetime64[ns, UTC], the open time of bar t+h, NaT where the return is NaN.
        ``Y["log_return"][5]`` is the series of 5-bar returns.

    Raises ConfigError for no horizon, one that is not a positive integer or repeated, or an invalid ``max_gap``;
    BarsError for bars that break the contract, or without a label at the longest horizon.
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
        returns["log_return", h] = _padded(gain, n_bars)
        end = _padded(np.where(same, opened[h:], np.datetime64("NaT")), n_bars)
        ends["end_time", h] = pd.DatetimeIndex(end, tz="UTC")
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


def _padded(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """``values`` followed by NaN (of times: NaT), ``size`` in all."""
    padded = np.full(size, np.nan).astype(values.dtype)
    padded[: values.size] = values
    return padded
