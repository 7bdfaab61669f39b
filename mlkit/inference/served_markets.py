"""The markets of a server, each followed live: bars of the lake and the current bundle in, answers out."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlkit.config import Settings
from mlkit.inference.bundle_roots import Stamp, answering_root, current_bundle, current_stamp
from mlkit.inference.freshness import at_time
from mlkit.inference.insight import Insight
from mlkit.inference.predictor import Predictor
from mlkit.inference.show.chart_data import Candle
from mlkit.inference.show.marks import Mark, marks_of, recent_marks
from mlkit.market import BUILT_IN, available, load_bars
from mlkit.market.lake import BarStore

if TYPE_CHECKING:
    from mlkit.market.lake import Manifest

MarketKey = tuple[str, str]  # symbol, timeframe
MOST_NEW = 5000  # bars that are taken one by one; more of them and the market starts again


@dataclass(eq=False)
class Answer:
    """One insight, the candles up to its bar with their patterns, and the bodies made of them; all by one bundle."""

    insight: Insight
    candles: list[Candle]
    marks: list[Mark]
    bundle: Stamp | None
    bodies: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class _Feed:
    """A predictor that follows one market, and the state of the lake that it has seen."""

    predictor: Predictor
    bundle: Stamp | None
    generation: int | None
    revised: int
    marks: list[Mark]


class Markets:
    """Answers by market; safe to ask from several threads, but for one market in one thread at a time.

    Parameters
    ----------
    settings : names the lake and the bundles.
    size : markets followed at a time.
    clock : time with a zone, for the ages in an answer.
    """

    def __init__(self, settings: Settings, *, size: int, clock: Callable[[], datetime]) -> None:
        self._settings, self._size, self._clock = settings, size, clock
        self._store = BarStore(settings.lake)
        self._lock = threading.Lock()
        self._feeds: OrderedDict[MarketKey, _Feed] = OrderedDict()

    def names(self) -> frozenset[MarketKey]:
        """Every market that has bars."""
        return frozenset(available(self._settings))

    def bundle_stamp(self, key: MarketKey) -> Stamp | None:
        """Which bundle is current, from a look at one file, of a market without an own bundle at each pool's."""
        root = answering_root(*key, self._settings)
        return None if root is None else current_stamp(root)

    def answer(self, key: MarketKey) -> Answer:
        """What is to be said about the newest bar now."""
        stamp = self.bundle_stamp(key)  # before the bundle is opened: a later one is noticed at the next look
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
        seconds = (live.times.rows // 1_000_000_000).tolist()
        candles = [(t, *row) for t, row in zip(seconds, live.ohlcv.rows.tolist(), strict=True)]
        insight = at_time(latest, self._clock(), never_closes=live.hours.never_closes)
        marks = [mark for mark in feed.marks if mark[0] >= seconds[0]]
        return Answer(insight, candles, marks, feed.bundle)

    def _start(self, key: MarketKey, stamp: Stamp | None) -> _Feed:
        predictor = Predictor(current_bundle(*key, self._settings), self._settings)
        state = self._state(key)
        bars = load_bars(*key, settings=self._settings)
        predictor.start(bars)
        return _Feed(predictor, stamp, *_counted(state), recent_marks(predictor, bars))

    def _follow(self, key: MarketKey, feed: _Feed) -> _Feed:
        """Take the bars that are new; start again where history was changed."""
        state = self._state(key)
        generation, revised = _counted(state)
        live = feed.predictor.live_bars
        assert live is not None
        if generation == feed.generation and (generation is not None or _built_in(key)):
            return feed
        if state is None or revised != feed.revised or not 0 <= state.rows - live.seen <= MOST_NEW:
            return self._start(key, feed.bundle)
        last = pd.Timestamp(int(live.times.rows[-1]), tz="UTC")
        bars = load_bars(*key, since=last, settings=self._settings)
        known = bars.index[0] == last and bars.iloc[0].tolist() == live.ohlcv.rows[-1].tolist()
        if not known or live.seen + len(bars) - 1 < state.rows:
            return self._start(key, feed.bundle)  # something older came in
        fresh = [mark for bar in bars.iloc[1:].itertuples() for mark in marks_of(feed.predictor.update(bar))]
        return _Feed(feed.predictor, feed.bundle, generation, revised, [*feed.marks, *fresh][-MOST_NEW:])

    def _state(self, key: MarketKey) -> "Manifest | None":
        return None if _built_in(key) else self._store.manifest(*key)


def _built_in(key: MarketKey) -> bool:
    return key[0] in BUILT_IN and key[1] == "1d"


def _counted(state: "Manifest | None") -> tuple[int | None, int]:
    return (None, 0) if state is None else (state.generation, state.revised)
