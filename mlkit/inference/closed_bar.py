"""One closed bar that a caller passes to `Predictor.update`: read from any usual shape, and checked."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pandas as pd

from mlkit.errors import BarsError
from mlkit.market import COLUMNS

BarLike = Mapping[str, Any] | Sequence[Any] | pd.Series


class ClosedBar(NamedTuple):
    """Open time in ns since the epoch, UTC, and the values of one closed bar."""

    opened: int
    open: float
    high: float
    low: float
    close: float
    volume: float


def read_bar(bar: BarLike, market: str) -> ClosedBar:
    """Read and check a bar.

    Parameters
    ----------
    bar : a row of a bars frame (`Series` named by its time, or of ``itertuples``), a mapping with ``timestamp``, or
        ``(timestamp, open, high, low, close, volume)``; times have a zone.
    market : named in errors.

    Raises BarsError for a missing field, a time without a zone or values that are no bar.
    """
    time, values = _fields(bar, market)
    if isinstance(time, str):
        try:
            time = pd.Timestamp(time)
        except ValueError:
            raise BarsError(f"{market}: {time!r} is not a time; write ISO 8601, as 2024-01-31T00:00Z") from None
    if not isinstance(time, datetime) or pd.isna(time):
        raise BarsError(f"{market}: the bar's time is {time!r}; want a datetime or ISO 8601 text with a zone")
    if time.tzinfo is None:
        raise BarsError(f"{market}: {time} has no time zone; want UTC, as pd.Timestamp(..., tz='UTC')")
    try:
        o, h, low, c, v = (float(value) for value in values)
    except (TypeError, ValueError):
        raise BarsError(f"{market}: {list(values)} are not the five numbers {', '.join(COLUMNS)}") from None
    if not (0.0 < low <= o <= h < math.inf and low <= c <= h and 0.0 <= v < math.inf):
        raise BarsError(
            f"{market}: open {o}, high {h}, low {low}, close {c}, volume {v}; "
            "want 0 < low <= open, close <= high and volume >= 0, all finite"
        )
    return ClosedBar(int(pd.Timestamp(time).as_unit("ns").value), o, h, low, c, v)


def _fields(bar: BarLike, market: str) -> tuple[Any, Sequence[Any]]:
    """Open time and the five values."""
    if isinstance(bar, pd.Series):
        bar = {str(name): value for name, value in bar.items()} | {"timestamp": bar.name}
    if isinstance(bar, Mapping):
        missing = [name for name in ("timestamp", *COLUMNS) if name not in bar]
        if missing:
            raise BarsError(f"{market}: the bar has no {missing[0]}; got {', '.join(map(str, bar))}")
        return bar["timestamp"], [bar[name] for name in COLUMNS]
    if isinstance(bar, str | bytes) or not isinstance(bar, Sequence) or len(bar) != 6:
        raise BarsError(f"{market}: {bar!r} is no bar; want (timestamp, open, high, low, close, volume)")
    return bar[0], bar[1:]
