"""Bars to features: one causal step, looped over a history or called once for a new bar."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

import numpy as np
import numpy.typing as npt

from mlkit.errors import BarsError, ConfigError
from mlkit.features.advance import advance
from mlkit.features.candles import candle, rule
from mlkit.features.catalogue import FAMILIES, feature_specs
from mlkit.features.kernel import (
    LINE,
    announce_compilation,
    copy,
    entry,
    kernel,
    local,
    place_in_line,
    settle,
    write_line,
)
from mlkit.features.lanes import WIDTH, Shelf, put, shelf, turn_columns
from mlkit.features.many import each_symbol
from mlkit.features.microstructure import market
from mlkit.features.rules import N_FLAGS
from mlkit.features.state import (
    AT_ONCE,
    BARS_SEEN,
    NEWEST,
    STATE_SIZE,
    STEP,
    Bar,
    Seen,
    Vector,
    new_state,
    start_anew,
    view_state,
)
from mlkit.features.technical import (
    lag,
    momentum,
    moving_average,
    price,
    share,
    statistics,
    trend,
    volatility,
    volume,
)
from mlkit.market import (
    MaxGap,
    forgotten,
    memory_starts,
    ohlcv_arrays,
    open_times,
    time_after,
    timeframe_ns,
    unbroken_runs,
    validate_bars,
)

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

Float32Matrix = npt.NDArray[np.float32]

#: GARCH(1,1) omega, alpha, beta until fitted ones are passed; omega -1 aims at the last 200 bars' variance.
DEFAULT_GARCH = (-1.0, 0.08, 0.90)

FEATURE_NAMES: tuple[str, ...] = tuple(spec.name for spec in feature_specs())
N_FEATURES = len(FEATURE_NAMES)
_PLACES = {name: place for place, name in enumerate(FEATURE_NAMES)}
_WARM_UPS = np.array([spec.warm_up for spec in feature_specs()], dtype=np.int64)
#: Rows at the start in which at least one feature is NaN.
WARM_UP = int(_WARM_UPS.max())
# First column of each family, in catalogue order.
_FIRST = np.cumsum([0] + [len(rows()) for rows in FAMILIES.values()])[:-1]
A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10 = (int(at) for at in _FIRST)


class Wanted(NamedTuple):
    """Which columns are asked for."""

    places: Any  # in the catalogue, int64 (n_columns,)
    families: Any  # whether any of a family is, bool (n_families,)


_ALL = Wanted(np.arange(N_FEATURES), np.ones(len(FAMILIES), dtype=np.bool_))


# Sizes of the arrays of a block: the columns in lanes, the rows of a block that is not full, the rules.
_COLUMNS, _ROWS, _FLAGS = N_FEATURES * WIDTH, WIDTH * N_FEATURES + LINE, N_FLAGS * WIDTH
MUCH = 4096  # bars of which the rows outgrow the processor's cache


@kernel
def _sheets(s: Seen, b: Bar, flags: Shelf, families: Any, columns: Any) -> None:
    """The wanted families of a block of bars, in the order of the catalogue."""
    x = share(s, b)
    if families[0]:
        put(columns, A0, price(s, b, x))
    if families[1]:
        put(columns, A1, moving_average(s, b))
    if families[2]:
        put(columns, A2, volatility(s, b, x))
    if families[3]:
        put(columns, A3, volume(s, b, x))
    if families[4]:
        put(columns, A4, momentum(s, b, x))
    if families[5]:
        put(columns, A5, trend(s, b, x))
    if families[6]:
        put(columns, A6, lag(s, b, x))
    if families[7]:
        put(columns, A7, statistics(s, b, x))
    if families[8]:
        put(columns, A8, candle(s, b, x))
    if families[9]:
        put(columns, A9, rule(flags))
    if families[10]:
        put(columns, A10, market(s, b, x))


@kernel
def _write(columns: Any, rows: Any, out: Any, first: int, n: int) -> None:
    """Columns in lanes into ``n`` rows of ``out``, by way of ``rows``, so that memory is written in order.

    Much is written past the processor's cache, a line at a time, as far as lines are whole.
    """
    width = out.shape[1]
    start, size = first * width, n * width
    before = place_in_line(out, start)
    for j in range(0, width - WIDTH, WIDTH):
        turn_columns(columns, j, rows, before + j, width)
    last = max(width - WIDTH, 0)  # some a second time, or some too many, which the next row overwrites
    turn_columns(columns, last, rows, before + last, width)
    if out.shape[0] >= MUCH:
        end = before + size
        whole = end - end % LINE
        copy(out, start, rows, before, min(LINE - before, size))
        for j in range(LINE, whole, LINE):
            write_line(out, start - before + j, rows, j)
        if whole >= LINE:
            copy(out, start - before + whole, rows, whole, end - whole)
    else:
        copy(out, start, rows, before, size)


@entry
def _steps(
    o: Vector, h: Vector, low: Vector, c: Vector, v: Vector, state: Vector, warm_ups: Any, wanted: Wanted, out: Any
) -> None:
    """Take closed bars into the state, eight at a time; the features of each go into its row of ``out``, float32.

    A history and a single new bar go through this one function: a new bar is a block of one.
    """
    s, i, every = view_state(state), 0, out.shape[1] == N_FEATURES
    found, columns, rows, picked = local(_FLAGS, o), local(_COLUMNS, out), local(_ROWS, out), local(_COLUMNS, out)
    flags = shelf(found, 0, WIDTH)
    while i < o.shape[0]:
        t = int(s.clock[BARS_SEEN])
        n = min(WIDTH, o.shape[0] - i, AT_ONCE - (t & (AT_ONCE - 1)))
        bars, seen = advance(o, h, low, c, v, i, n, s, flags)
        _sheets(seen, bars, flags, wanted.families, columns)
        if t < WARM_UP:
            for j in range(N_FEATURES):
                for r in range(n):
                    if t + r < warm_ups[j]:
                        columns[j * WIDTH + r] = np.nan
        if every:
            _write(columns, rows, out, i, n)
        else:
            for j in range(out.shape[1]):
                copy(picked, j * WIDTH, columns, wanted.places[j] * WIDTH, WIDTH)
            _write(picked, rows, out, i, n)
        i += n
    settle()


def _wanted(columns: Sequence[str] | None) -> tuple[list[str], Wanted]:
    """Names of the wanted columns in the order of the catalogue, and what the kernel is told of them."""
    if columns is None:
        return list(FEATURE_NAMES), _ALL
    if unknown := [name for name in columns if name not in _PLACES]:
        raise ConfigError(f"no feature {unknown[0]!r}; mlkit.feature_catalogue() lists them")
    if not columns or len(set(columns)) < len(columns):
        raise ConfigError("columns must name at least one feature, and none twice")
    places = np.array(sorted(_PLACES[name] for name in columns))
    families = np.isin(np.arange(len(FAMILIES)), np.searchsorted(_FIRST, places, side="right") - 1)
    return [FEATURE_NAMES[place] for place in places], Wanted(places, families)


@overload
def build_features(
    bars: "pd.DataFrame",
    *,
    columns: Sequence[str] | None = ...,
    garch: tuple[float, float, float] = ...,
    max_gap: MaxGap = ...,
    progress: bool | None = ...,
) -> "pd.DataFrame": ...
@overload
def build_features(
    bars: "Mapping[str, pd.DataFrame]",
    *,
    columns: Sequence[str] | None = ...,
    garch: tuple[float, float, float] = ...,
    max_gap: MaxGap = ...,
    progress: bool | None = ...,
) -> "dict[str, pd.DataFrame]": ...
def build_features(
    bars: "pd.DataFrame | Mapping[str, pd.DataFrame]",
    *,
    columns: Sequence[str] | None = None,
    garch: tuple[float, float, float] = DEFAULT_GARCH,
    max_gap: MaxGap = "memory",
    progress: bool | None = None,
) -> "pd.DataFrame | dict[str, pd.DataFrame]":
    """Every feature of every bar, or the features that are asked for.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), or {symbol: DataFrame}
        Valid bars; see `mlkit.validate_bars`. Those of many symbols are computed over all cores.
    columns : names of the catalogue
        Only these, the same numbers for less time and memory; in the catalogue's order. By default all.
    garch : (omega, alpha, beta)
        GARCH(1,1) parameters in squared log returns, fitted on training bars only.
    max_gap : "memory", "auto", length of time or None
        Where more than this is missing between two bars the features start anew, with their warm-up of up to 600
        bars; see `mlkit.segments`. "memory", the default, is 14 days, or 600 bars where that is longer: what every
        window would have forgotten. Over shorter gaps a window counts bars; "auto" starts anew there too, None
        nowhere. A model reads features of the default.
    progress : bool
        Of many symbols; by default a bar is shown for more than 4 where standard error is a terminal.

    Returns
    -------
    DataFrame float32 (n_bars, n_features), index ``bars.index``. Row t is known at the close of bar t and
    holds nothing later. The first rows of a column, and those after it starts anew, are NaN, as many as its
    warm-up; nowhere else is NaN, and nothing is inf.
    For many symbols: {symbol: such a DataFrame}.

    Raises
    ------
    BarsError
        When the bars break the contract.
    ConfigError
        When a column is none of the catalogue's, the GARCH parameters are not stationary, or max_gap is no length.
    """
    import pandas as pd

    if isinstance(bars, Mapping):
        return each_symbol(
            lambda one: build_features(one, columns=columns, garch=garch, max_gap=max_gap), bars, progress
        )
    bars = validate_bars(bars)
    names, wanted = _wanted(columns)
    out = np.empty((len(bars), len(names)), dtype=np.float32)
    announce_compilation(_steps)
    arrays, start = ohlcv_arrays(bars), new_state(_check_garch(garch))
    cuts = [0] if max_gap is None else np.flatnonzero(np.diff(unbroken_runs(bars, max_gap), prepend=-1)).tolist()
    for first, last in zip(cuts, [*cuts[1:], len(bars)], strict=True):
        _steps(*(array[first:last] for array in arrays), start.copy(), _WARM_UPS, wanted, out[first:last])
    frame = pd.DataFrame(out, index=bars.index, columns=names, copy=False)
    frame.attrs.update(bars.attrs)
    return frame


def _check_garch(garch: tuple[float, float, float]) -> tuple[float, float, float]:
    omega, alpha, beta = (float(x) for x in garch)
    if not (np.isfinite(omega) and alpha >= 0.0 and beta >= 0.0 and alpha + beta < 1.0 + 1e-12):
        raise ConfigError(f"garch is {garch}; want omega, alpha >= 0, beta >= 0 with alpha + beta <= 1")
    return omega, alpha, beta


class FeatureStream:
    """The features bar by bar: the same kernel as `build_features`, so the same bits.

    Parameters
    ----------
    garch : (omega, alpha, beta)
        As in `build_features`.
    timeframe : str
        Of the bars, where they are pushed with their times. `extend` reads it from its bars.
    """

    def __init__(self, *, garch: tuple[float, float, float] = DEFAULT_GARCH, timeframe: str | None = None) -> None:
        self._vector = new_state(_check_garch(garch))
        self._newest: int | None = None  # open time of the last bar, where it was told
        self._step = 0 if timeframe is None else timeframe_ns(timeframe)  # ns
        self._bar = np.empty(5)
        self._parts = tuple(self._bar[k : k + 1] for k in range(5))
        announce_compilation(_steps)

    def push(
        self,
        open: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        timestamp: "pd.Timestamp | datetime | str | int | None" = None,
    ) -> Float32Matrix:
        """Take one closed bar; returns its features, float32 (n_features,), NaN in the warm-up.

        ``timestamp`` is its open time, with a zone or in ns since the epoch: after an outage beyond
        `mlkit.market.outages.memory_gap` the features start anew. Without one the bar follows the last.

        Raises BarsError, and keeps the state as it was, when the bar is not a bar or not later than the last;
        ConfigError for a time where the stream was told no timeframe.
        """
        inside = 0.0 < low <= open <= high < np.inf and low <= close <= high
        if not (inside and 0.0 <= volume < np.inf):
            raise BarsError(
                f"bar {self.bars_seen}: open {open}, high {high}, low {low}, close {close}, volume {volume}; "
                "want 0 < low <= open, close <= high and volume >= 0, all finite"
            )
        if (opened := self._opened(timestamp)) is not None:
            self._meet(opened)
        self._bar[:] = open, high, low, close, volume
        row = np.empty((1, N_FEATURES), dtype=np.float32)
        _steps(*self._parts, self._vector, _WARM_UPS, _ALL, row)
        first: Float32Matrix = row[0]
        return first

    def extend(self, bars: "pd.DataFrame") -> Float32Matrix:
        """Take many closed bars, valid ones, at once; their features, float32 (n_bars, n_features), as of `push`."""
        out = np.empty((len(bars), N_FEATURES), dtype=np.float32)
        if not len(bars):
            return out
        self._step = timeframe_ns(bars.attrs["timeframe"])
        arrays, times, starts = ohlcv_arrays(bars), open_times(bars), memory_starts(bars).tolist()
        for first, last in zip(starts, [*starts[1:], len(bars)], strict=True):
            self._meet(int(times[first]))
            _steps(*(array[first:last] for array in arrays), self._vector, _WARM_UPS, _ALL, out[first:last])
            self._newest = int(times[last - 1])
        return out

    def _opened(self, timestamp: "pd.Timestamp | datetime | str | int | None") -> int | None:
        """Open time of the next bar in ns; None where no bar was told one."""
        if timestamp is None:
            return None if self._newest is None else self._newest + self._step
        if not self._step:
            raise ConfigError("a bar with a time needs FeatureStream(timeframe=...)")
        return time_after(timestamp, self._newest, self.bars_seen)

    def _meet(self, opened: int) -> None:
        """Forget all bars where the next one opens after an outage."""
        if self._newest is not None and forgotten(self._newest, opened, self._step):
            start_anew(self._vector)
        self._newest = opened

    @property
    def bars_seen(self) -> int:
        """Bars that the features remember: those pushed so far, or since the last outage."""
        return int(self._vector[BARS_SEEN])

    @property
    def state(self) -> Vector:
        """A copy of the whole state, float64 (`STATE_SIZE`,); save it with ``np.save``."""
        state = self._vector.copy()
        state[NEWEST], state[STEP] = np.nan if self._newest is None else self._newest, self._step
        return state

    @classmethod
    def from_state(cls, state: Vector) -> Self:
        """A stream that goes on where a saved one stood, in this process or another."""
        if state.shape != (STATE_SIZE,) or state.dtype != np.float64:
            raise ConfigError(f"state is {state.dtype} {state.shape}; want float64 ({STATE_SIZE},) of this version")
        stream = cls()
        stream._vector[:], stream._step = state, int(state[STEP])
        stream._newest = None if np.isnan(state[NEWEST]) else int(state[NEWEST])
        return stream


def volatility_scale(
    features: "pd.DataFrame", horizons: Sequence[int], garch: tuple[float, float, float]
) -> npt.NDArray[np.float64]:
    """Expected standard deviation of the log return over each horizon, known at the close of each bar.

    The variance of the next bar, ``garch_volatility`` squared, reverts to the long-run variance ``L`` at the rate
    ``p = alpha + beta``: over h bars it adds up to ``h L + (variance - L) (1 - p^h) / (1 - p)`` (Bollerslev 1986).
    Labels are divided by it in training, forecasts multiplied.

    Parameters
    ----------
    features : DataFrame (n_bars, n_features) of `build_features` with the same ``garch``
    horizons : bars ahead
    garch : (omega, alpha, beta); without a fitted omega the variance of the next bar is taken to last

    Returns
    -------
    float64 (n_bars, n_horizons), log-return units, at least 1e-6; NaN in the warm-up.
    """
    variance = np.maximum(features["garch_volatility"].to_numpy(dtype=np.float64), 1e-6)[:, None] ** 2
    h, (omega, alpha, beta) = np.array(horizons, dtype=np.float64), garch
    if omega < 0.0:
        return np.asarray(np.sqrt(variance * h))
    persistence = min(alpha + beta, 1.0 - 1e-9)
    long_run = omega / (1.0 - persistence)
    faded = (1.0 - persistence**h) / (1.0 - persistence)
    return np.asarray(np.sqrt(h * long_run + (variance - long_run) * faded))
