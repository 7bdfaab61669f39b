"""Which bars the lake holds, how recent and how complete they are, from its manifests."""

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import MlkitError
from mlkit.market.calendar import get_calendar
from mlkit.market.lake.store import BarStore

_STATUS_COLUMNS = ("bars", "first", "last", "age", "of_the_grid", "revised", "source", "dataset", "problem")


def data_status(
    settings: Settings | None = None, *, now: pd.Timestamp | None = None, check: bool = False
) -> pd.DataFrame:
    """One row for each market of the lake, from its manifest alone.

    Parameters
    ----------
    settings: names the lake; ``Settings()`` by default.
    now: for the age; this machine's time by default.
    check: read every file and compare it with its digest.

    Returns a DataFrame, index symbol and timeframe: ``bars``; ``first`` and ``last`` open time, UTC; ``age``, from
    the close of the last bar to now; ``of_the_grid``, bars there as a share of those that the calendar of the market
    expects; ``revised``, bars that a later write changed; ``source``; ``dataset``, hash of the bars; ``problem``,
    text that is empty where all is well. A market that cannot be read has 0 bars and the reason in ``problem``.
    """
    store = BarStore((settings or Settings()).lake)
    now = pd.Timestamp.now("UTC") if now is None else now
    rows = {market: _row(store, *market, now, check) for market in store.markets()}
    frame = pd.DataFrame(list(rows.values()), columns=list(_STATUS_COLUMNS))
    symbols, timeframes = [market[0] for market in rows], [market[1] for market in rows]
    frame.index = pd.MultiIndex.from_arrays([symbols, timeframes], names=["symbol", "timeframe"])
    return frame.astype({"age": "timedelta64[ns]"})


def _row(store: BarStore, symbol: str, timeframe: str, now: pd.Timestamp, check: bool) -> dict[str, object]:
    try:
        manifest = store.manifest(symbol, timeframe)
        if manifest is None or check:
            store.read(symbol, timeframe)  # raises where a month is damaged, or all bars were removed meanwhile
        assert manifest is not None
    except MlkitError as error:
        none = pd.Timestamp("NaT")
        empty = {"bars": 0, "first": none, "last": none, "age": pd.Timedelta("NaT"), "of_the_grid": 0.0, "revised": 0}
        return {**empty, "source": "", "dataset": "", "problem": str(error)}
    first, last = manifest.first, manifest.last
    calendar, ends = get_calendar(manifest.calendar), np.array([first.value, last.value])
    share = manifest.rows / max(1, len(calendar.expected_opens(timeframe, *ends)))
    age = now - pd.Timestamp(int(calendar.bar_closes(ends[1:], timeframe)[0]), tz="UTC")
    known = (manifest.revised, manifest.source or "", manifest.dataset[:12])
    problem = "" if manifest.generation else "no manifest yet: the next write makes one"
    return dict(zip(_STATUS_COLUMNS, (manifest.rows, first, last, age, share, *known, problem), strict=True))
