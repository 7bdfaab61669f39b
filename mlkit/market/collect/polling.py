"""Bars as they close: an exchange is polled and the lake kept up to date, for a live panel."""

from collections.abc import Callable, Iterator

import pandas as pd

from mlkit.config import Settings
from mlkit.errors import FetchError
from mlkit.market.collect.collector import Request, Time, lake_names
from mlkit.market.collect.exchange import SETTLE, Exchange
from mlkit.market.collect.fetch import ExchangeCollector, opened
from mlkit.market.lake.store import BarStore
from mlkit.market.times import moment, timeframe_delta

_LATE = 30.0  # the longest pause, in seconds, between two polls for a bar that is overdue


def follow(
    symbol: str,
    timeframe: str,
    *,
    since: Time | None = None,
    exchange: str | Exchange = "binance",
    name: str | None = None,
    notice: Callable[[str], None] = lambda text: None,
    settings: Settings | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield newly closed bars, each once and in order, after committing them to the lake.

    First comes what closed since the lake's last bar, in one frame; then each bar some two seconds after its close by
    the exchange's clock. When the network is lost, ``notice`` is called, and the bars missed come in one frame when
    it is back. A bar that the exchange revises later is replaced in the lake and not yielded again.

    Parameters
    ----------
    symbol, timeframe, exchange, name, settings: as in ``fetch_bars``.
    since: where to begin when the lake has no bars of the symbol; needed only then.
    notice: called with one line when the exchange cannot be reached.

    Yields valid bars (n_bars, 5), n_bars >= 1, without end.

    Raises ConfigError and DependencyError as ``fetch_bars``; BarsError or LakeError when bars cannot be kept.
    """
    exchange = opened(exchange, timeframe)
    ((kept, _),) = lake_names(symbol, name, timeframe).items()
    store = BarStore((settings or Settings()).lake)
    start, last = moment("since", since), store.last(kept, timeframe)
    pause = 0.0
    while True:
        request = Request(store, timeframe, start if last is None else None, None)
        seconds = 0.0
        try:
            ExchangeCollector(request, exchange, kept, symbol).collect()
            seconds = _until_closed(store.last(kept, timeframe), timeframe, exchange.now())
        except FetchError as error:
            notice(str(error))
        newest = store.last(kept, timeframe)
        if newest is not None and (last is None or newest > last):
            yield store.read(kept, timeframe, since=None if last is None else last + pd.Timedelta(1, "ns"))
            last, pause = newest, 0.0
        if seconds <= 0:  # overdue: an outage, or a market without trades
            seconds = pause = min(max(1.0, 2 * pause), _LATE)
        exchange.wait(seconds)


def _until_closed(last: pd.Timestamp | None, timeframe: str, now: int) -> float:
    """Seconds until the bar after ``last`` has closed and settled; 0 or less where it has, or ``last`` is not known."""
    if last is None:
        return 0.0
    return (last + 2 * timeframe_delta(timeframe)).value / 1e9 + SETTLE + 0.01 - now / 1e9
