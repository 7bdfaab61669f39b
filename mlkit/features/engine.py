"""Bars to features: one causal step, looped over a history or called once for a new bar."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import numpy.typing as npt

from mlkit.errors import BarsError, ConfigError
from mlkit.features.catalogue import FAMILIES, feature_specs
from mlkit.features.kernel import announce_compilation, entry, kernel, local, put
from mlkit.features.many import each_symbol
from mlkit.features.market import market
from mlkit.features.pattern import candle, rule
from mlkit.features.rules import N_PATTERNS, Flags
from mlkit.features.state import STATE_SIZE, Bar, State, Vector, advance, new_state, view_state
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
from mlkit.market.bars import ohlcv_arrays, validate_bars

if TYPE_CHECKING:
    import pandas as pd

Float32Matrix = npt.NDArray[np.float32]

#: GARCH(1,1) omega, alpha, beta until fitted ones are passed; omega -1 aims at the last 200 bars' variance.
DEFAULT_GARCH = (-1.0, 0.08, 0.90)

FEATURE_NAMES: tuple[str, ...] = tuple(spec.name for spec in feature_specs())
N_FEATURES = len(FEATURE_NAMES)
_WARM_UPS = np.array([spec.warm_up for spec in feature_specs()], dtype=np.int64)
#: Rows at the start in which at least one feature is NaN.
WARM_UP = int(_WARM_UPS.max())
# First column of each family, in catalogue order.
(A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11) = (
    int(at) for at in np.cumsum([0] + [len(rows()) for rows in FAMILIES.values()])
)


@kernel
def _row(s: State, b: Bar, flags: Flags, row: Any) -> None:
    """Every family into the row of the newest bar, in the order of the catalogue."""
    x = share(s, b)
    put(row, A0, price(s, b, x))
    put(row, A1, moving_average(s, b))
    put(row, A2, volatility(s, b, x))
    put(row, A3, volume(s, b, x))
    put(row, A4, momentum(s, b, x))
    put(row, A5, trend(s, b, x))
    lag(s, b, x, row, A6)
    put(row, A7, statistics(s, b, x))
    put(row, A8, candle(s, b, x))
    put(row, A9, rule(flags))
    put(row, A10, market(s, b, x))


@entry
def _steps(o: Vector, h: Vector, low: Vector, c: Vector, v: Vector, state: Vector, warm_ups: Any, out: Any) -> None:
    """Take closed bars into the state one by one; the features of each go into its row of ``out``, float32.

    A history and a single new bar go through this one function. Each sheet goes straight to memory: gathered in a
    row first, all columns are kept at hand until the end and the code outgrows the processor's instruction cache.
    """
    s = view_state(state)
    flags = (local(N_PATTERNS, o), local(N_PATTERNS, o))
    for i in range(o.shape[0]):
        b = advance(o[i], h[i], low[i], c[i], v[i], s, flags)
        _row(s, b, flags, out[i])
        if b.t < WARM_UP:
            for j in range(N_FEATURES):
                if b.t < warm_ups[j]:
                    out[i, j] = np.nan


@overload
def build_features(
    bars: "pd.DataFrame", *, garch: tuple[float, float, float] = ..., progress: bool | None = ...
) -> "pd.DataFrame": ...
@overload
def build_features(
    bars: "Mapping[str, pd.DataFrame]",
    *,
    garch: tuple[float, float, float] = ...,
    progress: bool | None = ...,
) -> "dict[str, pd.DataFrame]": ...
def build_features(
    bars: "pd.DataFrame | Mapping[str, pd.DataFrame]",
    *,
    garch: tuple[float, float, float] = DEFAULT_GARCH,
    progress: bool | None = None,
) -> "pd.DataFrame | dict[str, pd.DataFrame]":
    """Every feature of every bar.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), or {symbol: DataFrame}
        Valid bars; see `mlkit.validate_bars`. Those of many symbols are computed over all cores.
    garch : (omega, alpha, beta)
        GARCH(1,1) parameters in squared log returns, fitted on training bars only.
    progress : bool
        Of many symbols; by default a bar is shown for more than 4 where standard error is a terminal.

    Returns
    -------
    DataFrame float32 (n_bars, n_features), index ``bars.index``. Row t is known at the close of bar t and
    holds nothing later. The first rows of a column are NaN, as many as its warm-up; nowhere else is NaN, and
    nothing is inf.
    For many symbols: {symbol: such a DataFrame}.

    Raises
    ------
    BarsError
        When the bars break the contract.
    """
    import pandas as pd

    if isinstance(bars, Mapping):
        return each_symbol(lambda one: build_features(one, garch=garch), bars, progress)
    bars = validate_bars(bars)
    out = np.empty((len(bars), N_FEATURES), dtype=np.float32)
    announce_compilation(_steps)
    _steps(*ohlcv_arrays(bars), new_state(_check_garch(garch)), _WARM_UPS, out)
    frame = pd.DataFrame(out, index=bars.index, columns=list(FEATURE_NAMES), copy=False)
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
    """

    def __init__(self, *, garch: tuple[float, float, float] = DEFAULT_GARCH) -> None:
        self._vector = new_state(_check_garch(garch))
        self._bar = np.empty(5)
        self._parts = tuple(self._bar[k : k + 1] for k in range(5))
        announce_compilation(_steps)

    def push(self, open: float, high: float, low: float, close: float, volume: float) -> Float32Matrix:
        """Take one closed bar; returns its features, float32 (n_features,), NaN in the warm-up.

        Raises BarsError, and keeps the state as it was, when the bar is not a bar.
        """
        inside = 0.0 < low <= open <= high < np.inf and low <= close <= high
        if not (inside and 0.0 <= volume < np.inf):
            raise BarsError(
                f"bar {self.bars_seen}: open {open}, high {high}, low {low}, close {close}, volume {volume}; "
                "want 0 < low <= open, close <= high and volume >= 0, all finite"
            )
        self._bar[:] = open, high, low, close, volume
        row = np.empty((1, N_FEATURES), dtype=np.float32)
        _steps(*self._parts, self._vector, _WARM_UPS, row)
        first: Float32Matrix = row[0]
        return first

    def extend(self, bars: "pd.DataFrame") -> Float32Matrix:
        """Take many closed bars, valid ones, at once; their features, float32 (n_bars, n_features), as of `push`."""
        out = np.empty((len(bars), N_FEATURES), dtype=np.float32)
        _steps(*ohlcv_arrays(bars), self._vector, _WARM_UPS, out)
        return out

    @property
    def bars_seen(self) -> int:
        """Bars pushed so far."""
        return int(self._vector[0])

    @property
    def state(self) -> Vector:
        """A copy of the whole state, float64 (`STATE_SIZE`,); save it with ``np.save``."""
        return self._vector.copy()

    @classmethod
    def from_state(cls, state: Vector) -> Self:
        """A stream that goes on where a saved one stood, in this process or another."""
        if state.shape != (STATE_SIZE,) or state.dtype != np.float64:
            raise ConfigError(f"state is {state.dtype} {state.shape}; want float64 ({STATE_SIZE},) of this version")
        stream = cls()
        stream._vector[:] = state
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
