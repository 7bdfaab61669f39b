"""Bars of a larger timeframe from those of a smaller one, each only when it is complete."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError
from mlkit.market.bar_columns import BAR_COLUMNS
from mlkit.market.bars import Float64Array, bars_of, open_times, validate_bars
from mlkit.market.times import Int64Array, floor_times, moment, timeframe_ns

# How a larger bar takes a column from smaller ones: values (n,), row of the first smaller bar of each larger one.
_REDUCE: dict[str, Callable[[Float64Array, Int64Array], Float64Array]] = {
    "first": lambda values, starts: values[starts],
    "max": np.maximum.reduceat,
    "min": np.minimum.reduceat,
    "last": lambda values, starts: values[np.append(starts[1:], len(values)) - 1],
    "sum": np.add.reduceat,
}


def resample(bars: pd.DataFrame, timeframe: str, *, known_at: pd.Timestamp | None = None) -> pd.DataFrame:
    """Bars of a larger timeframe: first open, highest high, lowest low, last close, summed volume.

    A bar is labelled by its open time and holds the bars that open in ``[open, open + timeframe)``; its row is
    known when it closes. Intraday bars count from midnight UTC, weekly bars from Monday. A bar of which some
    smaller bars are missing (no trade, an outage) is made of the others.

    At the end, a bar is left out until it is closed: its close must not lie after ``known_at``. At the start it is
    left out unless its own first bar is there. So the result for a prefix of the bars is a prefix of the result.

    Parameters
    ----------
    bars: valid bars (n_bars, 5).
    timeframe: a multiple of that of the bars.
    known_at: the moment up to which the bars are complete; the close of the last of them by default. A session
        market's last day closes before midnight: pass the midnight after it to keep that day.

    Returns valid bars (n, 5) with open times of the larger timeframe.

    Raises ConfigError for a timeframe that is no multiple, BarsError for bars that break the contract or are too
    few for one complete bar.
    """
    bars = validate_bars(bars)
    small, large = timeframe_ns(bars.attrs["timeframe"]), timeframe_ns(timeframe)
    if large % small:
        raise ConfigError(f"{timeframe} bars cannot be made of {bars.attrs['timeframe']} bars: not a multiple")
    times = open_times(bars)
    opens = floor_times(times, timeframe)
    known = moment("known_at", known_at)
    end = int(times[-1]) + small if known is None else known.as_unit("ns").value
    starts = np.flatnonzero(np.diff(opens, prepend=opens[0] - 1))
    data = np.stack([_REDUCE[column.resample](bars[column.name].to_numpy(), starts) for column in BAR_COLUMNS])
    keep = opens[starts] + large <= end
    keep[0] &= times[0] == opens[0]
    if not keep.any():
        market = f"{bars.attrs['symbol']} {bars.attrs['timeframe']}"
        raise BarsError(f"{market}: {len(bars)} bars are too few for one whole {timeframe} bar")
    values = opens[starts][keep], np.ascontiguousarray(data[:, keep])
    return bars_of(values, symbol=bars.attrs["symbol"], timeframe=timeframe, calendar=bars.attrs["calendar"])
