"""What a predictor keeps between closed bars, so that the next one needs no recomputation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.inference.insight import Insight
from mlkit.inference.recent_bars import ClosedBar, NewestRows, RecentBars
from mlkit.market import OUTAGE_NEVER_CLOSED, OUTAGE_SESSIONS, timeframe_ns

if TYPE_CHECKING:
    from mlkit.features import FeatureSetStream
    from mlkit.models.ensemble import Forecast


class LiveState:
    """The bars, the features' state, the forecasts and the newest insight of a followed market.

    Parameters
    ----------
    bars : the newest bars.
    stream : features after them; None without a price model.
    names : of the features that the stream returns.
    forecasts : of the newest bars, their intervals not adapted; None without a price model.
    latest : insight of the newest bar.
    keep : number of forecasts to keep.
    """

    def __init__(
        self,
        bars: RecentBars,
        stream: "FeatureSetStream | None",
        names: Sequence[str],
        forecasts: "Forecast | None",
        latest: Insight,
        keep: int,
    ) -> None:
        self.bars, self.stream = bars, stream
        self.columns = pd.Index(names)
        # None where the newest bar has no insight yet, because computing it failed.
        self.latest: Insight | None = latest
        # Features of the bars without a forecast: of the newest bar, and of those before it that failed.
        self.pending: list[npt.NDArray[np.float32]] = []
        self._newest = forecasts
        self._kept: dict[str, NewestRows[np.float64]] = {}
        if forecasts is not None:
            names_kept = ("log_return", "scale", "simple")
            self._kept = {name: NewestRows(getattr(forecasts, name), keep) for name in names_kept}

    def push(self, bar: ClosedBar) -> None:
        """Add an accepted bar to every state."""
        self.latest = None
        self.bars.push(bar)
        if self.stream is not None:
            self.pending.append(self.stream.push(*bar[1:], timestamp=pd.Timestamp(bar.opened, tz="UTC")))

    def add_forecasts(self, forecasts: "Forecast") -> None:
        """Keep the forecasts of the pending bars."""
        for name, kept in self._kept.items():
            for row in getattr(forecasts, name):
                kept.push(row)
        self._newest = forecasts
        self.pending.clear()

    def recent_forecasts(self, rows: int) -> "Forecast":
        """The newest ``rows`` forecasts as one: of the older ones only what adapts the intervals of the newest.

        Center and scales are of each bar, every other array repeats the newest row.
        """
        assert self._newest is not None
        kept = {name: newest.rows[-rows:] for name, newest in self._kept.items()}
        n = len(kept["scale"])

        def repeated(arrays: dict[str, Any]) -> dict[str, Any]:
            return {name: np.broadcast_to(array[-1], (n, *array.shape[1:])) for name, array in arrays.items()}

        return replace(self._newest, members=repeated(self._newest.members), **repeated(self._newest.columns()) | kept)


def realised_returns(
    times: npt.NDArray[np.int64],
    close: npt.NDArray[np.float64],
    horizons: Sequence[int],
    timeframe: str,
    never_closes: bool,
) -> npt.NDArray[np.float64]:
    """Log return of each bar over each horizon, (n, n_horizons), NaN where it is not known yet or crosses an outage.

    Equal to `mlkit.labels.forward_returns` of a history that ends with these bars, to the bit.

    Parameters
    ----------
    times, close : open times in ns since the epoch and closes of consecutive bars, (n,)
    horizons : bars ahead
    never_closes : of the market, judged from its whole history
    """
    tolerance = OUTAGE_NEVER_CLOSED if never_closes else OUTAGE_SESSIONS
    longest = timeframe_ns(timeframe) + tolerance.as_unit("ns").value
    runs = np.concatenate([[0], np.cumsum(np.diff(times) > longest)])
    returns = np.full((len(close), len(horizons)), np.nan)
    for j, h in enumerate(horizons):
        if h < len(close):
            returns[:-h, j] = np.where(runs[h:] == runs[:-h], np.log(close[h:] / close[:-h]), np.nan)
    return returns
