"""What a predictor keeps between closed bars, so that the next one needs no recomputation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.inference.insight import Insight
from mlkit.inference.recent_bars import ClosedBar, RecentBars
from mlkit.market import Calendar, outage_gaps

if TYPE_CHECKING:
    from mlkit.features import FeatureSetStream
    from mlkit.models.ensemble import Forecast


@dataclass(eq=False)
class LiveState:
    """The bars, the features' state, the forecasts and the newest insight of a followed market."""

    bars: RecentBars
    stream: "FeatureSetStream | None"  # features after these bars; None without a price model
    columns: "pd.Index[str]"  # names of these features
    forecasts: "Forecast | None"  # of the newest bars, interval bounds not adapted; None without a price model
    latest: Insight | None  # of the newest bar; None where computing it failed
    # Features of the bars without a forecast: of the newest bar, and of those before it that failed.
    pending: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def push(self, bar: ClosedBar) -> None:
        """Add an accepted bar to every state."""
        self.latest = None
        self.bars.push(bar)
        if self.stream is not None:
            opened, values = bar
            self.pending.append(self.stream.push(*values, timestamp=pd.Timestamp(opened, tz="UTC")))

    def add_forecasts(self, new: "Forecast", keep: int) -> None:
        """Append the forecasts of the pending bars and keep the newest ``keep``."""
        old = self.forecasts
        assert old is not None

        def joined(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
            return {name: np.concatenate([values, b[name]])[-keep:] for name, values in a.items()}

        members, columns = joined(old.members, new.members), joined(old.columns(), new.columns())
        self.forecasts = replace(old, members=members, **columns)
        self.pending.clear()


def realised_returns(
    times: npt.NDArray[np.int64],
    close: npt.NDArray[np.float64],
    horizons: Sequence[int],
    timeframe: str,
    calendar: Calendar,
) -> npt.NDArray[np.float64]:
    """Log return of each bar over each horizon, (n, n_horizons), NaN where it is not known yet or crosses an outage.

    Equal to `mlkit.labels.forward_returns` of a history that ends with these bars, to the bit.

    Parameters
    ----------
    times, close : open times in ns since the epoch and closes of consecutive bars, (n,)
    horizons : bars ahead
    calendar : of the market
    """
    runs = np.concatenate([[0], np.cumsum(outage_gaps(times, timeframe, calendar))])
    returns = np.full((len(close), len(horizons)), np.nan)
    for j, h in enumerate(horizons):
        if h < len(close):
            returns[:-h, j] = np.where(runs[h:] == runs[:-h], np.log(close[h:] / close[:-h]), np.nan)
    return returns
