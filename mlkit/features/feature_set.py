"""The catalogue and a researcher's own features as one matrix, in batch and bar by bar."""

from collections import deque
from collections.abc import Iterable
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Self

import numpy as np

from mlkit.errors import ConfigError
from mlkit.features.custom import Feature
from mlkit.features.engine import (
    DEFAULT_GARCH,
    FEATURE_NAMES,
    WARM_UP,
    BarNumber,
    FeatureStream,
    Float32Matrix,
    build_features,
)
from mlkit.market import (
    ALWAYS_OPEN,
    bar_values,
    make_bars,
    memory_starts,
    open_times,
    time_after,
    timeframe_ns,
    validate_bars,
)

if TYPE_CHECKING:
    import pandas as pd


class FeatureSet:
    """Every feature of the catalogue, then a researcher's own ones, each of which passed the laws.

    Parameters
    ----------
    own : Features
        Made by `mlkit.feature` or `mlkit.features.pandas_ta`.
    bars : DataFrame (n_bars, 5), optional
        What the laws are run on, now; without them, they are run on the bars of the first `build`.

    Raises
    ------
    LawError for a feature that breaks a law: which law, which column, which bar changed. ConfigError for a
    name that is taken. BarsError when there are too few bars to check on.
    """

    def __init__(self, own: Iterable[Feature] = (), bars: "pd.DataFrame | None" = None) -> None:
        self._own: list[Feature] = []
        self._unchecked: list[Feature] = []
        for one in own:
            if bars is None:
                self._require_new(one)
                self._own.append(one)
                self._unchecked.append(one)
            else:
                self.add(one, bars)

    def add(self, feature: Feature, bars: "pd.DataFrame") -> Self:
        """Register one more own feature once it has passed the laws on ``bars``; errors as for the class."""
        self._require_new(feature)
        feature.check(bars).require()
        self._own.append(feature)
        return self

    def _require_new(self, feature: Feature) -> None:
        if not isinstance(feature, Feature):
            raise ConfigError(f"{feature!r} is no feature; decorate the function with @mlkit.feature(lookback=...)")
        taken = set(self.names)
        for name in feature.names:
            if name in taken:
                where = "the catalogue" if name in FEATURE_NAMES else "this set"
                raise ConfigError(f"feature {name!r} is in {where} already; give yours another with name=...")

    @property
    def own(self) -> tuple[Feature, ...]:
        """The own features in order."""
        return tuple(self._own)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns in order: the catalogue's, then the own ones."""
        return FEATURE_NAMES + tuple(name for one in self._own for name in one.names)

    @property
    def warm_up(self) -> int:
        """Rows at the start, and after an outage that features do not remember over, in which a column is NaN."""
        return max([WARM_UP, *(one.lookback for one in self._own)])

    def build(self, bars: "pd.DataFrame", *, garch: tuple[float, float, float] = DEFAULT_GARCH) -> "pd.DataFrame":
        """Every feature of every bar.

        Parameters
        ----------
        bars : DataFrame (n_bars, 5)
        garch : as in `mlkit.build_features`

        Returns
        -------
        DataFrame float32 (n_bars, n_features), index ``bars.index``, columns `names`. Row t is known at the
        close of bar t; the first rows of an own column are NaN, as many as its lookback. Own columns start anew where
        the catalogue's do, after an outage beyond `mlkit.market.outages.memory_gap`.

        Raises
        ------
        BarsError for bars that break the contract; ConfigError for infinite values; LawError, see the class.
        """
        import pandas as pd

        bars = validate_bars(bars)
        while self._unchecked:
            self._unchecked[0].check(bars).require()
            self._unchecked.pop(0)
        catalogue = build_features(bars, garch=garch)
        if not self._own:
            return catalogue
        own = [pd.DataFrame(_pieces(one, bars), index=bars.index, columns=list(one.names)) for one in self._own]
        frame = pd.concat([catalogue, *own], axis=1)
        frame.attrs.update(bars.attrs)
        return frame

    def stream(
        self,
        *,
        timeframe: str = "1m",
        symbol: str = "LIVE",
        garch: tuple[float, float, float] = DEFAULT_GARCH,
        calendar: str = ALWAYS_OPEN,
    ) -> "FeatureSetStream":
        """The same features bar by bar; own functions see timeframe, symbol and calendar in ``bars.attrs``.

        Raises ConfigError while an own feature is unchecked.
        """
        if self._unchecked:
            raise ConfigError(
                f"feature {self._unchecked[0].name} was never put through the laws; "
                "pass FeatureSet(..., bars=bars), or build once before streaming"
            )
        return FeatureSetStream(self.own, timeframe=timeframe, symbol=symbol, garch=garch, calendar=calendar)

    def __repr__(self) -> str:
        return f"FeatureSet(own={self.own}), {len(self.names)} columns, warm-up {self.warm_up} bars"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(', '.join(one.names))}</td><td>{one.lookback}</td><td>{one.tolerance}</td></tr>"
            for one in self._own
        )
        head = "<tr><th>own columns</th><th>lookback, bars</th><th>tolerance, std</th></tr>"
        return (
            f"<p>{len(FEATURE_NAMES)} catalogue columns + {len(self.names) - len(FEATURE_NAMES)} own, "
            f"warm-up {self.warm_up} bars</p><table>{head}{rows}</table>"
        )


def _pieces(one: Feature, bars: "pd.DataFrame") -> Float32Matrix:
    """An own feature of a history, computed apart on both sides of an outage that features do not remember over."""
    starts = memory_starts(bars).tolist()
    if len(starts) == 1:
        return _columns(one, bars)
    out = np.full((len(bars), len(one.names)), np.nan, dtype=np.float32)
    for first, last in zip(starts, [*starts[1:], len(bars)], strict=True):
        if last - first > one.lookback:
            out[first:last] = _columns(one, bars.iloc[first:last])
    return out


def _columns(one: Feature, bars: "pd.DataFrame") -> Float32Matrix:
    """An own feature as float32 (n_bars, n_columns), NaN in its lookback."""
    table = one.table(bars.copy())
    if tuple(table.columns) != one.names:
        raise ConfigError(f"feature {one.name} gave the columns {list(table.columns)}, before {list(one.names)}")
    with np.errstate(over="ignore"):
        values: Float32Matrix = table.to_numpy(dtype=np.float32, copy=True)
    values[: one.lookback] = np.nan
    odd = np.isinf(values)
    if odd.any():
        t, j = (int(at) for at in np.argwhere(odd)[0])
        raise ConfigError(f"feature {one.names[j]} is infinite, or beyond float32, at {bars.index[t]}; bound it there")
    return values


_MONDAY = 4 * 86_400_000_000_000  # ns from the epoch, the time of a first bar that is told none
_CHUNK = 4096  # bars whose features are held at a time while a history passes by


class FeatureSetStream:
    """A `FeatureSet` bar by bar: catalogue columns by their kernels, own ones recomputed on the newest bars.

    Catalogue columns have the bits of `FeatureSet.build`; own ones agree within their declared tolerance, for
    they see 2 x their lookback + 16 bars and not the whole history.
    """

    def __init__(
        self,
        own: tuple[Feature, ...],
        *,
        timeframe: str,
        symbol: str,
        garch: tuple[float, float, float],
        calendar: str = ALWAYS_OPEN,
    ) -> None:
        self._own, self._calendar = own, calendar
        self._symbol, self._timeframe, self._step = symbol, timeframe, timeframe_ns(timeframe)
        self._catalogue = FeatureStream(garch=garch, timeframe=timeframe)
        keep = max((_kept(one) for one in own), default=1)
        self._times: deque[int] = deque(maxlen=keep)  # ns
        self._bars: deque[tuple[float, ...]] = deque(maxlen=keep)

    @property
    def bars_seen(self) -> int:
        """Bars that the features remember: those pushed so far, or since the last outage."""
        return self._catalogue.bars_seen

    def push(
        self,
        open: BarNumber,
        high: BarNumber,
        low: BarNumber,
        close: BarNumber,
        volume: BarNumber,
        timestamp: "pd.Timestamp | datetime | str | int | None" = None,
    ) -> Float32Matrix:
        """Take one closed bar; returns its features, float32 (n_features,), NaN in the warm-up.

        Parameters
        ----------
        open, high, low, close, volume : numbers, or text of them
        timestamp : open time of the bar, see `FeatureStream.push`
            Own functions that read the clock need it; without one, bars follow each other without gaps.

        Raises
        ------
        BarsError, keeping the state as it was, when the bar is not a bar or not later than the last.
        """
        bar = bar_values((open, high, low, close, volume), f"bar {self.bars_seen}")
        time = self._time(timestamp)
        catalogue = self._catalogue._take(bar, time)
        self._keep([time], [bar])
        return np.concatenate([catalogue, *(self._own_row(one) for one in self._own)])

    def extend(self, bars: "pd.DataFrame") -> None:
        """Take many closed bars, valid ones, at once, as if each were pushed with its time."""
        for start in range(0, len(bars), _CHUNK):
            self._catalogue.extend(bars.iloc[start : start + _CHUNK])
        kept = bars.iloc[-(self._times.maxlen or 1) :]
        self._keep(open_times(kept).tolist(), kept.itertuples(index=False, name=None))

    def _keep(self, times: Iterable[int], bars: Iterable[tuple[float, ...]]) -> None:
        """Remember the newest bars, none from before an outage that the features do not remember over."""
        self._times.extend(times)
        self._bars.extend(bars)
        while len(self._times) > self.bars_seen:
            self._times.popleft()
            self._bars.popleft()

    def _time(self, timestamp: "pd.Timestamp | datetime | str | int | None") -> int:
        last = self._times[-1] if self._times else None
        if timestamp is not None:
            return time_after(timestamp, last, self.bars_seen, self._step)
        return _MONDAY if last is None else last + self._step

    def _own_row(self, one: Feature) -> Float32Matrix:
        import pandas as pd

        if self.bars_seen <= one.lookback:
            return np.full(len(one.names), np.nan, dtype=np.float32)
        n = _kept(one)
        index = pd.DatetimeIndex(list(self._times)[-n:], tz="UTC")
        data = np.array(list(self._bars)[-n:], dtype=np.float64).T
        bars = make_bars(index, data, symbol=self._symbol, timeframe=self._timeframe, calendar=self._calendar)
        row: Float32Matrix = _columns(one, bars)[-1]
        return row


def _kept(one: Feature) -> int:
    """Bars that a streamed own feature is computed on: its lookback, its own bar and a margin."""
    return 2 * one.lookback + 16
