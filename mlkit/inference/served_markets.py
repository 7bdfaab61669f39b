"""The markets of a server or panel, each followed live: bars of the lake and the current bundle in, insights out."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlkit.config import Settings
from mlkit.errors import DependencyError
from mlkit.inference.bundle_roots import Stamp, answering_root, current_bundle, current_stamp
from mlkit.inference.freshness import at_time
from mlkit.inference.insight import Insight
from mlkit.inference.predictor import Predictor
from mlkit.inference.show.chart_data import CandleRow, PatternMark, marks_of
from mlkit.labels import pattern_direction
from mlkit.market import BUILT_IN, load_bars, open_times
from mlkit.market.lake import BarStore

if TYPE_CHECKING:
    from mlkit.market.lake import LakeManifest

MarketKey = tuple[str, str]  # symbol, timeframe
MAX_UPDATES = 5000  # with more new bars than this the predictor is started again instead of updated bar by bar
MARKED_BARS = 250  # newest bars of a history whose patterns are marked in the chart


@dataclass(eq=False)
class ServedInsight:
    """An insight, the candles up to its bar with their detected patterns, and the response bodies made of them."""

    insight: Insight
    candles: list[CandleRow]
    marks: list[PatternMark]
    bundle: Stamp | None
    bodies: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class _Feed:
    """A predictor that follows one market, and the state of bundle and lake at its last update."""

    predictor: Predictor
    bundle: Stamp | None
    state: "LakeManifest | None"
    marks: list[PatternMark]


class Markets:
    """Newest insight by market. Several threads may ask, but only one at a time for the same market.

    ``size`` markets are followed at a time; the one unused for longest is dropped. ``clock`` returns the current time
    with a zone, for the ages in an insight.
    """

    def __init__(self, settings: Settings, *, size: int, clock: Callable[[], datetime]) -> None:
        self._settings, self._size, self._clock = settings, size, clock
        self._store = BarStore(settings.lake)
        self._lock = threading.Lock()
        self._feeds: OrderedDict[MarketKey, _Feed] = OrderedDict()

    def bundle_stamp(self, key: MarketKey) -> Stamp | None:
        """Identity of the market's current bundle: one file read, or one for each pool without a bundle of its own."""
        root = answering_root(*key, self._settings)
        return None if root is None else current_stamp(root)

    def answer(self, key: MarketKey) -> ServedInsight:
        """The insight of the newest bar, with its ages at the current time."""
        # Read before the bundle is opened, so that a bundle published meanwhile is noticed at the next call.
        stamp = self.bundle_stamp(key)
        with self._lock:
            feed = self._feeds.get(key)
        feed = self._follow(key, feed) if feed is not None and feed.bundle == stamp else self._start(key, stamp)
        with self._lock:
            self._feeds[key] = feed
            self._feeds.move_to_end(key)
            while len(self._feeds) > self._size:
                self._feeds.popitem(last=False)
        live, latest = feed.predictor.live_bars, feed.predictor.latest
        assert live is not None and latest is not None
        seconds = (live.times // 1_000_000_000).tolist()
        candles = [(t, *row) for t, row in zip(seconds, live.ohlcv.tolist(), strict=True)]
        insight = at_time(latest, self._clock(), live.calendar)
        marks = [mark for mark in feed.marks if mark[0] >= seconds[0]]
        return ServedInsight(insight, candles, marks, feed.bundle)

    def _start(self, key: MarketKey, stamp: Stamp | None) -> _Feed:
        predictor = Predictor(current_bundle(*key, self._settings), self._settings)
        state = self._state(key)
        bars = load_bars(*key, settings=self._settings)
        predictor.start(bars)
        return _Feed(predictor, stamp, state, _recent_marks(predictor, bars))

    def _follow(self, key: MarketKey, feed: _Feed) -> _Feed:
        """Update with the new bars; start again where history was changed."""
        state, before, live = self._state(key), feed.state, feed.predictor.live_bars
        assert live is not None
        if state is None and before is None:  # built in
            return feed
        if state and before and state.generation == before.generation:
            return feed
        if not (state and before) or state.revised != before.revised or not 0 <= state.rows - live.seen <= MAX_UPDATES:
            return self._start(key, feed.bundle)
        last = pd.Timestamp(live.opened, tz="UTC")
        bars = load_bars(*key, since=last, settings=self._settings)
        known = bars.index[0] == last and bars.iloc[0].tolist() == live.ohlcv[-1].tolist()
        if not known or live.seen + len(bars) - 1 < state.rows:
            return self._start(key, feed.bundle)  # an older bar was added
        fresh = [mark for bar in bars.iloc[1:].itertuples() for mark in marks_of(feed.predictor.update(bar))]
        return _Feed(feed.predictor, feed.bundle, state, [*feed.marks, *fresh][-MAX_UPDATES:])

    def _state(self, key: MarketKey) -> "LakeManifest | None":
        """State of a market in the lake; None for a built-in one."""
        return None if key[0] in BUILT_IN and key[1] == "1d" else self._store.manifest(*key)


def _recent_marks(predictor: Predictor, bars: pd.DataFrame) -> list[PatternMark]:
    """Patterns detected at the newest of the bars that a predictor started with, each known at its bar's close."""
    insight = predictor.latest
    if insight is None or not insight.patterns.thresholds:
        return []
    tail = bars.iloc[-2 * MARKED_BARS :]
    try:
        probabilities = predictor.pattern_probabilities(tail)
    except DependencyError:  # the insight itself reports the missing package
        return []
    thresholds = pd.Series(insight.patterns.thresholds)
    found = (probabilities[thresholds.index] >= thresholds).iloc[-MARKED_BARS:].stack()
    seconds = dict(zip(tail.index, (open_times(tail) // 1_000_000_000).tolist(), strict=True))
    colours = (tail["close"] >= tail["open"]).astype(int) * 2 - 1
    before = colours.shift(fill_value=1)
    return [
        (seconds[time], str(name), pattern_direction(str(name), int(colours[time]), int(before[time])))
        for time, name in found.index[found.to_numpy()]
    ]
