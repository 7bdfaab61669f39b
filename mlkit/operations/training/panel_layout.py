"""Several markets in one time order: rows of different markets are aligned by open time, never by row number.

A *pool* is several markets of one timeframe that are trained into one model.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from mlkit.errors import ConfigError
from mlkit.market import memory_ages, open_times, validate_bars
from mlkit.models.ensemble import IntVector

Bars: TypeAlias = pd.DataFrame | Mapping[str, pd.DataFrame] | Sequence[pd.DataFrame]

Garch: TypeAlias = tuple[float, float, float]


def markets_of(bars: Bars) -> tuple[pd.DataFrame, ...]:
    """The validated bars of each market of a training, ordered by symbol, whatever order they are given in.

    Raises ConfigError for no bars, a symbol that is given twice, a key that is not the symbol of its bars, or several
    timeframes; BarsError for bars that break the contract.
    """
    if isinstance(bars, pd.DataFrame):
        return (validate_bars(bars),)
    if isinstance(bars, Mapping):
        for symbol, one in bars.items():
            if one.attrs.get("symbol", symbol) != symbol:
                raise ConfigError(f"pool: {symbol!r} names bars of {one.attrs['symbol']}; name each by its own symbol")
        found = [validate_bars(one, symbol=symbol) for symbol, one in bars.items()]
    else:
        found = [validate_bars(one) for one in bars]
    if not found:
        raise ConfigError("pool: no bars; pass at least one history")
    symbols = [one.attrs["symbol"] for one in found]
    twice = next((symbol for symbol in symbols if symbols.count(symbol) > 1), None)
    if twice is not None:
        raise ConfigError(f"pool: {twice} is given twice; pass each symbol once")
    timeframes = sorted({one.attrs["timeframe"] for one in found})
    if len(timeframes) > 1:
        raise ConfigError(
            f"pool: bars of {' and '.join(timeframes)}; one model takes one timeframe, resample the others"
        )
    return tuple(sorted(found, key=lambda one: str(one.attrs["symbol"])))


def pool_name(symbols: Sequence[str]) -> str:
    """Default name of a pool: its symbols joined by ``+``; of many, the first and a digest of all."""
    ordered = sorted(symbols)
    name = "+".join(ordered)
    if len(name) <= 32:
        return name
    return f"{ordered[0][:16]}+{len(ordered) - 1}-{hashlib.sha256(' '.join(ordered).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, eq=False)
class Layout:
    """Rows of all markets, ordered by open time and, at one time, by symbol."""

    times: IntVector  # (T,) open times that any market has, ns since the epoch: the common time axis
    market: IntVector  # (n,) number of each row's market
    bar: IntVector  # (n,) its bar number in that market
    age: IntVector  # (n,) bars since the market's start or its last long outage, from which features start anew
    position: IntVector  # (n,) position of its open time on the common axis
    rows: tuple[IntVector, ...]  # by market, the rows of its bars

    def positions(self, market: int) -> IntVector:
        """Position of each bar of a market on the common axis."""
        return self.position[self.rows[market]]


def lay_out(markets: Sequence[pd.DataFrame]) -> Layout:
    """The common order of several markets; that of one market is its own."""
    opened = [open_times(bars) for bars in markets]
    times = np.unique(np.concatenate(opened)) if len(opened) > 1 else opened[0]
    market = np.repeat(np.arange(len(opened)), [len(one) for one in opened])
    bar = np.concatenate([np.arange(len(one)) for one in opened])
    age = np.concatenate([memory_ages(bars) for bars in markets])
    position = np.concatenate([np.searchsorted(times, one) for one in opened])
    order = np.lexsort((market, position))
    market = market[order]
    rows = tuple(np.flatnonzero(market == number) for number in range(len(opened)))
    return Layout(times, market, bar[order], age[order], position[order], rows)
