"""Bars to features: one causal step, looped over a history or called once for a new bar."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

import numpy as np
import numpy.typing as npt

from mlkit.compiled import cached
from mlkit.errors import ConfigError, DependencyError, MlkitError
from mlkit.features.catalogue import ROWS, SPECS
from mlkit.features.columns import FORMULAS
from mlkit.features.kernel import OPTIONS, STAMP, announce_compilation
from mlkit.features.state import advancer, new_state
from mlkit.features.state_rows import (
    ALPHA,
    BETA,
    BLOCK_BARS,
    NEWEST,
    OMEGA,
    SEEN,
    STEP,
    TOGETHER,
    Vector,
    place,
    rows_by_formulas,
)
from mlkit.market import (
    MaxGap,
    bar_values,
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
BarNumber = float | str | Decimal  # of one bar, as a feed delivers it

#: GARCH(1,1) omega, alpha, beta until fitted ones are passed; omega -1 aims at the last 200 bars' variance.
DEFAULT_GARCH = (-1.0, 0.08, 0.90)

FEATURE_NAMES: tuple[str, ...] = tuple(spec.name for spec in SPECS)
N_FEATURES = len(SPECS)
_POSITIONS = {name: position for position, name in enumerate(FEATURE_NAMES)}
_WARM_UPS = np.array([spec.warm_up for spec in SPECS], dtype=np.int64)
#: Rows at the start in which at least one feature is NaN.
WARM_UP = int(_WARM_UPS.max())

fill = rows_by_formulas([(row, FORMULAS[row]) for row in ROWS], optional=True)
advance, keep, STATE_SIZE = advancer()
_PLACES = np.array([place(int(row)) for row in ROWS])


class Wanted(NamedTuple):
    """Which columns are asked for."""

    places: npt.NDArray[np.int64]  # of the columns in the state
    warm_ups: npt.NDArray[np.int64]  # rows of each that are NaN
    loops: npt.NDArray[np.bool_]  # of formulas: whether any is asked for


def _with_stamp(stamp: str) -> Any:
    """The compiled entry. Numba keys its cache by the values that a function closes over, so a new stamp recompiles."""

    @cached(**OPTIONS)
    def steps(o: Vector, h: Vector, low: Vector, c: Vector, v: Vector, x: Vector, wanted: Wanted, out: Any) -> None:
        """Take closed bars into the state x, a block at a time; the features of each go into its row of ``out``.

        A history and a single new bar go through this one function: a new bar is a block of one.
        """
        _ = stamp
        i = 0
        while i < o.shape[0]:
            t = int(x[SEEN])
            first = t % BLOCK_BARS
            end, zero = min(BLOCK_BARS, first + o.shape[0] - i), t - first
            advance(o, h, low, c, v, x, i, first, end)
            fill(x, first, end, zero, wanted.loops)
            for r in range(first, end):
                for j in range(out.shape[1]):
                    out[np.uintp(i + r - first), np.uintp(j)] = np.float32(x[np.uintp(wanted.places[j] + r)])
            if t < WARM_UP:
                for r in range(first, end):
                    for j in range(out.shape[1]):
                        if zero + r < wanted.warm_ups[j]:
                            out[i + r - first, j] = np.nan
            if end == BLOCK_BARS:
                keep(x)
            x[SEEN] = zero + end
            i += end - first

    return steps


steps = _with_stamp(STAMP)


def _wanted(columns: Sequence[str] | None) -> tuple[list[str], Wanted]:
    """Names of the wanted columns in the order of the catalogue, and what the kernel needs of them."""
    names = FEATURE_NAMES if columns is None else columns
    if unknown := [name for name in names if name not in _POSITIONS]:
        raise ConfigError(f"no feature {unknown[0]!r}; mlkit.feature_catalogue() lists them")
    if not names or len(set(names)) < len(names):
        raise ConfigError("columns must name at least one feature, and none twice")
    at = np.array(sorted(_POSITIONS[name] for name in names))
    loops = np.isin(np.arange(-(-N_FEATURES // TOGETHER)), at // TOGETHER)
    return [FEATURE_NAMES[position] for position in at], Wanted(_PLACES[at], _WARM_UPS[at], loops)


ALL_COLUMNS = _wanted(None)[1]
_FEW = 4  # symbols that need no progress bar


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
        return _each_symbol(
            lambda one: build_features(one, columns=columns, garch=garch, max_gap=max_gap), bars, progress
        )
    bars = validate_bars(bars)
    names, wanted = _wanted(columns)
    out = np.empty((len(bars), len(names)), dtype=np.float32)
    announce_compilation(steps)
    arrays, start = ohlcv_arrays(bars), new_state(_check_garch(garch), STATE_SIZE)
    cuts = [0] if max_gap is None else np.flatnonzero(np.diff(unbroken_runs(bars, max_gap), prepend=-1)).tolist()
    for first, last in zip(cuts, [*cuts[1:], len(bars)], strict=True):
        steps(*(array[first:last] for array in arrays), start.copy(), wanted, out[first:last])
    frame = pd.DataFrame(out, index=bars.index, columns=names, copy=False)
    frame.attrs.update(bars.attrs)
    return frame


def _each_symbol(
    build: Callable[["pd.DataFrame"], "pd.DataFrame"], bars: Mapping[str, "pd.DataFrame"], progress: bool | None
) -> dict[str, "pd.DataFrame"]:
    """``build`` of every symbol's bars in threads over all cores, in the order of ``bars``: kernels release the GIL.

    Raises what ``build`` raises, naming the symbol; DependencyError for ``progress=True`` without tqdm.
    """
    if not bars:
        return {}
    build(next(iter(bars.values())).iloc[:1])  # compiles, where that is still to do, once and not in each thread
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(len(bars), cores)) as pool:
        jobs = {pool.submit(build, frame): symbol for symbol, frame in bars.items()}
        try:
            for job in _watched(as_completed(jobs), len(jobs), progress):
                job.result()
        except MlkitError as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if str(error).startswith(f"{jobs[job]} "):
                raise
            raise type(error)(f"{jobs[job]}: {error}") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {symbol: job.result() for job, symbol in jobs.items()}


def _watched(jobs: Iterable[Any], total: int, progress: bool | None) -> Iterable[Any]:
    """``jobs`` under a progress bar; by default for more than 4 where standard error is a terminal."""
    if not (total > _FEW and sys.stderr.isatty() if progress is None else progress):
        return jobs
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise DependencyError("a progress bar needs tqdm: pip install 'mlkit[lab]', or progress=False") from error
    watched: Iterable[Any] = tqdm(jobs, total=total, desc="features", unit="symbol")
    return watched


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
        self._vector = new_state(_check_garch(garch), STATE_SIZE)
        self._newest: int | None = None  # open time of the last bar, where it was told
        self._step = 0 if timeframe is None else timeframe_ns(timeframe)  # ns
        self._bar = np.empty(5)
        self._parts = tuple(self._bar[k : k + 1] for k in range(5))
        announce_compilation(steps)

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

        ``timestamp`` is its open time: a datetime or ISO 8601 text with a zone, or an epoch number in s, ms, us or ns,
        read by its magnitude. After an outage beyond `mlkit.market.memory_gap` the features start anew. Without one the
        bar follows the last.

        Raises BarsError, and keeps the state as it was, when the bar is not a bar or not later than the last;
        ConfigError for a time where the stream was told no timeframe.
        """
        bar = bar_values((open, high, low, close, volume), f"bar {self.bars_seen}")
        return self._take(bar, self._opened(timestamp))

    def _take(self, bar: tuple[float, ...], opened: int | None) -> Float32Matrix:
        """The features after a bar that was checked, and its open time in ns, None where no bar has one."""
        if opened is not None:
            self._meet(opened)
        self._bar[:] = bar
        row = np.empty((1, N_FEATURES), dtype=np.float32)
        steps(*self._parts, self._vector, ALL_COLUMNS, row)
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
            steps(*(array[first:last] for array in arrays), self._vector, ALL_COLUMNS, out[first:last])
            self._newest = int(times[last - 1])
        return out

    def _opened(self, timestamp: "pd.Timestamp | datetime | str | int | None") -> int | None:
        """Open time of the next bar in ns; None where no bar was told one."""
        if timestamp is None:
            return None if self._newest is None else self._newest + self._step
        if not self._step:
            raise ConfigError("a bar with a time needs FeatureStream(timeframe=...)")
        return time_after(timestamp, self._newest, self.bars_seen, self._step)

    def _meet(self, opened: int) -> None:
        """Forget all bars where the next one opens after an outage."""
        if self._newest is not None and forgotten(self._newest, opened, self._step):
            self._vector = new_state(tuple(self._vector[[OMEGA, ALPHA, BETA]]), STATE_SIZE)
        self._newest = opened

    @property
    def bars_seen(self) -> int:
        """Bars that the features remember: those pushed so far, or since the last outage."""
        return int(self._vector[SEEN])

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as its state: the arrays of one bar are views, which pickle would separate."""
        return type(self).from_state, (self.state,)


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
