"""What a predictor keeps between closed bars, so that the next one costs no recomputation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BarsError
from mlkit.features import Standard, pattern_flags, rule_state
from mlkit.inference.insight import Insight
from mlkit.market import (
    COLUMNS,
    OUTAGE_NEVER_CLOSED,
    OUTAGE_SESSIONS,
    SATURDAY_SHARE,
    TIMES_SHARE,
    floor_times,
    forgotten,
    memory_starts,
    open_times,
    timeframe_ns,
)

if TYPE_CHECKING:
    from mlkit.features import FeatureSetStream
    from mlkit.models.ensemble import Forecast

Float64Array = npt.NDArray[np.float64]
BarLike = Mapping[str, Any] | Sequence[Any] | pd.Series
Number = TypeVar("Number", bound=np.generic)
DAY = 86_400_000_000_000  # ns


class Bar(NamedTuple):
    """One closed bar: its open time in ns since the epoch, UTC, and its values."""

    opened: int
    open: float
    high: float
    low: float
    close: float
    volume: float

    @classmethod
    def of(cls, bar: BarLike, where: str) -> "Bar":
        """Read and check a bar: a row of a bars frame (`Series` named by its time, or of ``itertuples``), a mapping
        with ``timestamp``, or ``(timestamp, open, high, low, close, volume)``; times have a zone.

        Raises BarsError, naming ``where``, for anything that is no bar.
        """
        time, values = _parts(bar, where)
        if isinstance(time, str):
            try:
                time = pd.Timestamp(time)
            except ValueError:
                raise BarsError(f"{where}: {time!r} is not a time; write ISO 8601, as 2024-01-31T00:00Z") from None
        if not isinstance(time, datetime) or pd.isna(time):
            raise BarsError(f"{where}: the bar's time is {time!r}; want a datetime or ISO 8601 text with a zone")
        if time.tzinfo is None:
            raise BarsError(f"{where}: {time} has no time zone; want UTC, as pd.Timestamp(..., tz='UTC')")
        try:
            o, h, low, c, v = (float(value) for value in values)
        except (TypeError, ValueError):
            raise BarsError(f"{where}: {list(values)} are not the five numbers {', '.join(COLUMNS)}") from None
        if not (0.0 < low <= o <= h < math.inf and low <= c <= h and 0.0 <= v < math.inf):
            raise BarsError(
                f"{where}: open {o}, high {h}, low {low}, close {c}, volume {v}; "
                "want 0 < low <= open, close <= high and volume >= 0, all finite"
            )
        return cls(int(pd.Timestamp(time).as_unit("ns").value), o, h, low, c, v)


def _parts(bar: BarLike, where: str) -> tuple[Any, Sequence[Any]]:
    """Open time and the five values of whatever shape a bar has."""
    if isinstance(bar, pd.Series):
        bar = {str(name): value for name, value in bar.items()} | {"timestamp": bar.name}
    if isinstance(bar, Mapping):
        missing = [name for name in ("timestamp", *COLUMNS) if name not in bar]
        if missing:
            raise BarsError(f"{where}: the bar has no {missing[0]}; got {', '.join(map(str, bar))}")
        return bar["timestamp"], [bar[name] for name in COLUMNS]
    if isinstance(bar, str | bytes) or not isinstance(bar, Sequence) or len(bar) != 6:
        raise BarsError(f"{where}: {bar!r} is no bar; want (timestamp, open, high, low, close, volume)")
    return bar[0], bar[1:]


class Hours:
    """`mlkit.market.outages.never_closes` of a growing history, one bar at a time."""

    def __init__(self, times: npt.NDArray[np.int64], timeframe: str) -> None:
        self._step = timeframe_ns(timeframe)
        self._first, self._last, self._n = int(times[0]), int(times[-1]), len(times)
        self._saturdays = int((_weekday(times) == 5).sum())
        self._unbroken = bool((np.diff(times) == self._step).all())
        self._times = set(np.unique(times % DAY).tolist())

    def push(self, time: int) -> None:
        """One more bar."""
        self._unbroken &= time - self._last == self._step
        self._last, self._n = time, self._n + 1
        self._saturdays += (time // DAY + 3) % 7 == 5
        self._times.add(time % DAY)

    @property
    def never_closes(self) -> bool:
        """Whether the market trades without closes, judged from the bars so far."""
        if self._step >= 7 * DAY:
            return False
        if self._n > 1 and self._unbroken:
            return True
        first = self._first - self._first % DAY
        saturday = first + (5 - (first // DAY + 3) % 7) % 7 * DAY
        if saturday <= self._last:
            return self._saturdays / self._n > SATURDAY_SHARE
        return len(self._times) > TIMES_SHARE * (DAY / self._step)

    @property
    def standard(self) -> Standard:
        """Definition of the patterns that fits the market."""
        return "continuous" if self.never_closes else "classic"


def _weekday(times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Monday 0 to Sunday 6; the epoch was a Thursday."""
    return np.asarray((times // DAY + 3) % 7)


class Memory(NamedTuple):
    """What the features of a bar remember: all bars of its history, or those since its last long outage."""

    bars: int  # its own included
    outage: int | None  # open time of the first bar after that outage, ns since the epoch; None without one

    @classmethod
    def of(cls, bars: pd.DataFrame) -> "Memory":
        """Of the last bar of a history."""
        first = int(memory_starts(bars)[-1])
        return cls(len(bars) - first, int(open_times(bars)[first]) if first else None)

    def after(self, before: int, opened: int, timeframe: str) -> "Memory":
        """Of the next bar; open times in ns since the epoch."""
        if forgotten(before, opened, timeframe_ns(timeframe)):
            return Memory(1, opened)
        return Memory(self.bars + 1, self.outage)

    def lacks(self, need: int) -> str | None:
        """Why there is no forecast yet after an outage; None where there is no outage or ``need`` bars since."""
        if self.outage is None or self.bars >= need:
            return None
        ended = pd.Timestamp(self.outage, tz="UTC")
        return (
            f"need {need} bars after the outage that ended on {ended:%Y-%m-%d %H:%M} for the price forecast, "
            f"have {self.bars}"
        )


class Tail(Generic[Number]):
    """The newest rows of a growing table, always in one contiguous stretch.

    Parameters
    ----------
    rows : (n, ...), the history; its last ``keep`` rows are kept.
    keep : rows to keep.
    """

    def __init__(self, rows: npt.NDArray[Number], keep: int) -> None:
        self._keep = keep
        self._table = np.empty((2 * keep, *rows.shape[1:]), dtype=rows.dtype)
        self._end = min(len(rows), keep)
        self._table[: self._end] = rows[-keep:]

    def push(self, row: Any) -> None:
        """One more row; every ``keep`` of them the newest move to the front."""
        if self._end == len(self._table):
            self._table[: self._keep - 1] = self._table[self._end - self._keep + 1 : self._end]
            self._end = self._keep - 1
        self._table[self._end] = row
        self._end += 1

    @property
    def rows(self) -> npt.NDArray[Number]:
        """A view of the newest rows, (at most keep, ...), valid until the next push."""
        return self._table[max(self._end - self._keep, 0) : self._end]


class LiveBars:
    """The newest bars of one market and all that is counted over the whole of its history.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), valid, at least 2
    keep : newest bars to keep
    """

    def __init__(self, bars: pd.DataFrame, keep: int) -> None:
        self.timeframe = str(bars.attrs["timeframe"])
        self.symbol: str = bars.attrs["symbol"]
        self.market = f"{self.symbol} {self.timeframe}"
        times, values = open_times(bars), bars[list(COLUMNS)].to_numpy()
        self.times, self.ohlcv = Tail(times, keep), Tail(values, keep)
        self.hours, self.seen = Hours(times, self.timeframe), len(bars)
        self.memory = Memory.of(bars)
        self._rules = rule_state()
        self.flags = pattern_flags(*prices_of(values), self.hours.standard, self._rules)[-1]

    def accept(self, bar: BarLike) -> Bar | None:
        """Check the next closed bar; None where it repeats the last one as it was.

        Raises BarsError, changing nothing, for a bar that is none, off the grid, older than the last, or the last
        with other values. A gap is no fault: the bar counts as the next one, as it does in a history, and after a long
        outage (`mlkit.market.outages.memory_gap`) as the first.
        """
        where = self.market
        found, opened = Bar.of(bar, where), int(self.times.rows[-1])
        time = pd.Timestamp(found.opened, tz="UTC")
        if floor_times(np.array([found.opened]), self.timeframe)[0] != found.opened:
            raise BarsError(f"{where}: bar {time} is off the {self.timeframe} grid; pass open times of whole bars")
        if found.opened < opened:
            raise BarsError(
                f"{where}: bar {time} is older than the last one, {pd.Timestamp(opened, tz='UTC')}; bars come in "
                "order, start(bars) again to change history"
            )
        known = self.ohlcv.rows[-1].tolist()
        if found.opened > opened:
            return found
        if list(found[1:]) == known:
            return None
        raise BarsError(
            f"{where}: bar {time} was taken as {known}, now it is {list(found[1:])}; only closed bars are taken "
            "and they do not change, start(bars) again to amend history"
        )

    def push(self, bar: Bar) -> None:
        """Take an accepted bar."""
        self.memory = self.memory.after(int(self.times.rows[-1]), bar.opened, self.timeframe)
        self.times.push(bar.opened)
        self.ohlcv.push(bar[1:])
        self.hours.push(bar.opened)
        self.seen += 1
        self.flags = pattern_flags(*prices_of(self.ohlcv.rows[-1:]), self.hours.standard, self._rules)[-1]


def realised_returns(
    times: npt.NDArray[np.int64], close: Float64Array, horizons: Sequence[int], timeframe: str, never_closes: bool
) -> Float64Array:
    """Log return of each bar over each horizon, (n, n_horizons), NaN where it is not known yet or crosses an outage.

    The bits of `mlkit.labels.forward_returns` of a history that ends with these bars.

    Parameters
    ----------
    times, close : of consecutive bars, (n,)
    horizons : bars ahead
    never_closes : whether the market does, judged from its whole history
    """
    tolerance = OUTAGE_NEVER_CLOSED if never_closes else OUTAGE_SESSIONS
    most = timeframe_ns(timeframe) + tolerance.as_unit("ns").value
    runs = np.concatenate([[0], np.cumsum(np.diff(times) > most)])
    out = np.full((len(close), len(horizons)), np.nan)
    for j, h in enumerate(horizons):
        if h < len(close):
            out[:-h, j] = np.where(runs[h:] == runs[:-h], np.log(close[h:] / close[:-h]), np.nan)
    return out


def calendar_blocks(times: npt.NDArray[np.int64], timeframe: str) -> npt.NDArray[np.int64]:
    """Block of the calendar in which each bar lies, from its open time, (n,): where intervals start anew."""
    from mlkit.models.ensemble import block_numbers

    return block_numbers(times, timeframe_ns(timeframe))


def prices_of(ohlcv: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Open, high, low and close of rows of bars, (n,) each."""
    return ohlcv[:, 0], ohlcv[:, 1], ohlcv[:, 2], ohlcv[:, 3]


class Live:
    """What a predictor keeps between bars: the bars, the features' state, the forecasts and the last answer.

    Parameters
    ----------
    bars : the newest ones
    stream : the features after them, None without a price model
    columns : names of the features
    past : forecasts of the newest bars, unadapted; None without a price model
    keep : how many of them to keep
    said : the insight of the newest bar
    """

    def __init__(
        self,
        bars: LiveBars,
        stream: "FeatureSetStream | None",
        columns: "pd.Index[str]",
        past: "Forecast | None",
        keep: int,
        said: Insight,
    ) -> None:
        self.bars, self.stream, self.columns = bars, stream, columns
        self.said: Insight | None = said  # None where the newest bar has no answer yet
        self.pending: list[npt.NDArray[np.float32]] = []  # features of bars without a forecast: the newest, mostly
        self.past = past
        self._kept = (
            None if past is None else (Tail(past.log_return, keep), Tail(past.scale, keep), Tail(past.plain, keep))
        )

    def push(self, bar: Bar) -> None:
        """Take an accepted bar into every state."""
        self.said = None
        self.bars.push(bar)
        if self.stream is not None:
            self.pending.append(self.stream.push(*bar[1:], timestamp=pd.Timestamp(bar.opened, tz="UTC")))

    def remember(self, forecast: "Forecast") -> None:
        """Keep the forecasts of the pending bars."""
        assert self._kept is not None
        for tail, values in zip(self._kept, (forecast.log_return, forecast.scale, forecast.plain), strict=True):
            for row in values:
                tail.push(row)
        self.past = forecast
        self.pending.clear()

    def recent(self, rows: int) -> "Forecast":
        """The newest ``rows`` forecasts as one: centre and scales of each, all else of the newest in every row."""
        assert self._kept is not None and self.past is not None
        centre, scale, plain = (tail.rows[-rows:] for tail in self._kept)

        def spread(values: Float64Array) -> Float64Array:
            return np.broadcast_to(values[-1], (len(centre), *values.shape[1:]))

        rest: dict[str, Any] = {name: spread(values) for name, values in self.past.columns().items()}
        members = {name: spread(values) for name, values in self.past.members.items()}
        return replace(self.past, members=members, **(rest | {"log_return": centre, "scale": scale, "plain": plain}))
