"""Seeded markets with a known truth: nothing to find, a planted edge, and a factory of candlestick shapes.

Each bar is a random walk of ``STEPS`` moves inside the bar, so open, high, low and close belong together.
Volatility follows GARCH(1,1) (Bollerslev 1986) and shocks are Student-t, as in real markets.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import ConfigError
from mlkit.market.bars import Float64Array, make_bars, validate_bars
from mlkit.market.calendar import ALWAYS_OPEN
from mlkit.market.simulate.shapes import Moves, plant_shapes
from mlkit.market.symbols import check_symbol
from mlkit.market.times import Int64Array, timeframe_delta, timeframe_ns

START = pd.Timestamp("2024-01-01", tz="UTC")  # a Monday, so weekly bars are on the grid
STEPS = 16  # moves inside one bar
TAILS = 6.0  # degrees of freedom of the Student-t shocks
_YEAR = pd.Timedelta(days=365)
_PATH_BLOCK = 1 << 16  # bars whose paths are held at once
_HALF_LIFE = 2_000.0  # bars; pulls the factory's price back to its first
Change = Literal["none", "volatility", "skill", "tails", "tick", "volume"]
CHANGES: tuple[Change, ...] = get_args(Change)


class MarketOptions(TypedDict, total=False):
    """Labels, moves and prices of a simulated market."""

    timeframe: str  # bars are 24/7 from 2024-01-01, each opening at the close before it
    symbol: str
    annual_volatility: float  # standard deviation of the log return over 365 days
    garch: bool  # volatility clusters and shocks are Student-t; else volatility is constant, shocks Gaussian
    tails: float  # degrees of freedom of the Student-t shocks, above 2; their variance stays
    price: float  # first open
    tick: float  # price step; 0 does not round


_DEFAULTS: MarketOptions = {
    "timeframe": "1m",
    "symbol": "EDGE",
    "annual_volatility": 0.6,
    "garch": True,
    "tails": TAILS,
    "price": 1_000.0,
    "tick": 0.01,
}


def null_market(n_bars: int, *, seed: int, **options: Unpack[MarketOptions]) -> pd.DataFrame:
    """A market without any edge: the log price is a martingale, so no direction can be predicted.

    Volatility is predictable (it clusters), direction is not: every honest test must find no edge here.
    Rounding to ticks adds a bounce with autocorrelation of about ``-(tick / bar move)**2 / 12``, below 0.001
    with the defaults.

    Returns valid bars (n_bars, 5); equal seeds give equal bars. ``options`` are `MarketOptions`, by default 1m bars of
    NULL with an annual volatility of 0.6, clustered, from a price of 1,000 in steps of 0.01. Raises ConfigError for a
    parameter out of range.
    """
    named: MarketOptions = {"symbol": "NULL", **options}
    return planted_edge(n_bars, seed=seed, strength=0.0, **named)


def planted_edge(
    n_bars: int, *, seed: int, strength: float = 0.1, persistence: float = 0.8, **options: Unpack[MarketOptions]
) -> pd.DataFrame:
    """The null market plus a momentum (``strength > 0``) or reversal (``< 0``) that past bars show.

    With ``x[t]`` the log return of bar t in units of its volatility, ``s = strength``, ``r = persistence``::

        x[t] = d[t-1] + sqrt(1 - s**2) * z[t]          z: white noise, variance 1
        d[t] = r * d[t-1] + s * sqrt(1 - r**2) * z[t]

    The driver ``d[t]`` is known at the close of bar t: it is an exponential average of past ``x``,
    ``d[t] = r*d[t-1] + k*(x[t] - d[t-1])`` with ``k = s*sqrt((1-r**2)/(1-s**2))``. It has variance ``s**2``
    and correlation ``|s|`` with ``x[t+1]``; no forecast of ``x`` can beat ``edge_r2``. (x is ARMA(1,1).)

    ``strength`` (-0.9 to 0.9) is the correlation of the best one-bar forecast with the outcome, ``persistence`` (0 to
    below 1) how slowly the driver fades; equal to the strength it is a plain AR(1). The rest is as in `null_market`;
    the symbol is EDGE by default.
    """
    _check_range("strength", strength, -0.9, 0.9)
    _check_range("persistence", persistence, 0.0, 0.999)
    market: MarketOptions = {**_DEFAULTS, **options}
    _check_range("annual_volatility", market["annual_volatility"], 1e-6, 10.0)
    _check_range("tails", market["tails"], 2.1, 1e6)
    _check_range("price", market["price"], 1e-6, 1e9)
    _check_range("tick", market["tick"], 0.0, market["price"] / 10)
    times = _open_times(n_bars, market["timeframe"])
    rng = np.random.default_rng(seed)
    paths = _unit_paths(rng, n_bars, STEPS)
    mixing = _heavy_tails(rng, n_bars, market["tails"]) if market["garch"] else np.ones(n_bars)
    shocks = paths[:, -1] * mixing
    bar_share = float(np.sqrt(timeframe_delta(market["timeframe"]) / _YEAR))
    volatility = market["annual_volatility"] * bar_share * np.ones(n_bars)
    if market["garch"]:
        volatility *= _garch(shocks, alpha=0.06, beta=0.92)
    kicks = strength * np.sqrt(1 - persistence**2) * shocks
    driver = np.fromiter(accumulate(kicks.tolist(), lambda d, kick: persistence * d + kick), float, n_bars)
    drift = np.concatenate(([0.0], driver[:-1]))
    moves = _moves(paths, volatility * mixing * np.sqrt(1 - strength**2), volatility * drift)
    return _assemble(moves, _volume(rng, moves), times, market)


def edge_r2(strength: float, *, persistence: float = 0.8, horizon: int = 1) -> float:
    """Share of the variance of the next ``horizon`` bars' ``x`` that the driver of ``planted_edge`` explains.

    The known truth: its square root is the information coefficient (correlation) of the best forecast.
    From the moving-average form of the model: the driver's part is ``s * (1 - r**h) / (1 - r)``, and the
    shock of bar i of h weighs ``sqrt(1 - s**2) + s * sqrt(1 - r**2) * (1 - r**(h - i)) / (1 - r)``.
    """
    s, r, h = strength, persistence, horizon
    left = h - np.arange(1, h + 1)
    weights = np.sqrt(1 - s**2) + s * np.sqrt(1 - r**2) * (1 - r**left) / (1 - r)
    known = (s * (1 - r**h) / (1 - r)) ** 2
    return float(known / (known + (weights**2).sum()))


@dataclass(frozen=True)
class Regime:
    """The character of one market of ``pattern_factory``, drawn from its seed."""

    volatility: float  # standard deviation of one bar's log return, 0.0002 to 0.02
    alpha: float  # GARCH reaction
    beta: float  # GARCH persistence
    steps: int  # moves inside a bar: few give long bodies and short shadows
    wicks: float  # stretch of the shadows
    ticks: float  # tick size in units of one bar's move, 0.005 to 1
    gaps: str  # "continuous" (open == previous close), "jitter" (at every bar), "session" (between days)
    gap_size: float  # standard deviation of a gap in units of one bar's (one session's) move, 0.05 to 1
    trend: float  # drift in a run, in units of one bar's move
    run: float  # mean length of a run, bars


GAPS = ("continuous", "jitter", "session")


def draw_regime(rng: np.random.Generator, gaps: str | None = None) -> Regime:
    """Draw a regime; ``gaps`` fixes its gap regime (40 % continuous, 40 % jitter, 20 % session otherwise)."""
    if gaps is not None and gaps not in GAPS:
        raise ConfigError(f"gaps {gaps!r} is unknown; use one of {', '.join(GAPS)}")

    def spread(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    alpha = rng.uniform(0.02, 0.15)
    kind = str(rng.choice(GAPS, p=(0.4, 0.4, 0.2)))
    return Regime(
        volatility=spread(2e-4, 2e-2),
        alpha=alpha,
        beta=rng.uniform(0.6, 0.98) * (1 - alpha),
        steps=int(rng.integers(4, 33)),
        wicks=spread(0.6, 1.8),
        ticks=spread(0.005, 1.0),
        gaps=gaps or kind,
        gap_size=spread(0.05, 1.0),
        trend=rng.uniform(0.0, 0.5),
        run=spread(5.0, 60.0),
    )


def pattern_factory(
    n_bars: int,
    *,
    seed: int,
    timeframe: str = "1m",
    symbol: str = "FACTORY",
    plant_rate: float = 0.3,
    gaps: str | None = None,
) -> pd.DataFrame:
    """One continuous series to learn candlestick patterns on, its regime drawn from the seed.

    Volatility and its clustering, shadows, tick size, gaps, trends and runs differ from seed to seed (``Regime``), so
    many short series cover more markets than one long one. A share of the bars is replaced by planted candidates for
    the 15 patterns (``mlkit.market.simulate.shapes``), drawn around the patterns' thresholds: true examples and near
    misses alike. They carry no labels; the pattern rules give these. Where the regime is continuous, planted shapes
    keep ``open == previous close`` as well. A slow pull (half-life 2,000 bars) keeps prices near the first.

    Parameters
    ----------
    n_bars, seed: length; equal seeds give equal bars.
    timeframe, symbol: labels; a session regime leaves gaps in the index.
    plant_rate: share of bars that belong to a planted shape, 0 (natural bars only) to 0.9.
    gaps: "continuous", "jitter" or "session" to fix the gap regime; None draws it.

    Returns valid bars (n_bars, 5). Raises ConfigError for a parameter out of range.
    """
    _check_range("plant_rate", plant_rate, 0.0, 0.9)
    rng = np.random.default_rng(seed)
    regime = draw_regime(rng, gaps)
    # Bars in a day of 6.5 hours, at least one.
    session = max(1, int(pd.Timedelta(hours=6.5) / timeframe_delta(timeframe))) if regime.gaps == "session" else 0
    times = _open_times(n_bars, timeframe, session)
    paths = _unit_paths(rng, n_bars, regime.steps)
    mixing = _heavy_tails(rng, n_bars)
    volatility = regime.volatility * _garch(paths[:, -1] * mixing, alpha=regime.alpha, beta=regime.beta)
    runs = np.cumsum(rng.random(n_bars) < 1 / regime.run)
    drift = regime.trend * rng.integers(-1, 2, size=n_bars)[runs - runs[0]]
    moves = _moves(paths, volatility * mixing, volatility * drift, regime.wicks)
    if regime.gaps != "continuous":
        moves.gap[:] = regime.gap_size * volatility * rng.standard_normal(n_bars) * _heavy_tails(rng, n_bars)
    if regime.gaps == "session":
        moves.gap[:] *= np.sqrt(session) * (np.arange(n_bars) % session == 0)
    if plant_rate:
        plant_shapes(moves, rng, plant_rate, with_gaps=regime.gaps != "continuous")
    level = pd.Series(np.cumsum(moves.gap + moves.body)).ewm(halflife=_HALF_LIFE, adjust=False).mean()
    moves.body[1:] -= np.diff(level.to_numpy())
    price = 0.01 / (regime.ticks * regime.volatility)
    market: MarketOptions = {"timeframe": timeframe, "symbol": symbol, "price": price, "tick": 0.01}
    return _assemble(moves, _volume(rng, moves), times, market)


def regime_change(
    n_bars: int, at: int, change: Change, *, seed: int, strength: float = 0.0, **market: Any
) -> pd.DataFrame:
    """A market (`planted_edge`) of n_bars whose character changes with bar ``at``.

    Parameters
    ----------
    at : first bar of the new regime, 1 to n_bars - 1.
    change : what happens there.
        ``none``: a new stretch of the same market; ``volatility``: twice the volatility; ``skill``: momentum turns into
        reversal, ``-strength``; ``tails``: shocks of 2.5 degrees of freedom instead of 6, of the same variance;
        ``tick``: prices move in steps of one bar's mean move; ``volume``: five times the volume, and its noise
        twice as wide.
    seed, strength, market : of `planted_edge`.

    Returns valid bars (n_bars, 5). Raises ConfigError for an unknown change or a parameter out of range.
    """
    if change not in CHANGES:
        raise ConfigError(f"change {change!r} is unknown; use one of {', '.join(CHANGES)}")
    if not 0 < at < n_bars:
        raise ConfigError(f"at={at!r} is out of range; use 1 to {n_bars - 1}")
    before = planted_edge(at, seed=seed, strength=strength, **market)
    last = float(before["close"].iloc[-1])
    moves = np.abs(np.diff(np.log(before["close"].to_numpy()))).mean() if at > 1 else 1e-3
    changed: dict[str, dict[str, Any]] = {
        "volatility": {"annual_volatility": 2.0 * market.get("annual_volatility", 0.6)},
        "skill": {"strength": -strength},
        "tails": {"tails": 2.5},
        "tick": {"tick": float(moves * last)},
    }
    options = {"strength": strength, **market, "price": last, **changed.get(change, {})}
    after = planted_edge(n_bars - at, seed=seed + 2**32, **options)
    if change == "volume":
        noise = np.exp(np.sqrt(0.75) * np.random.default_rng([seed, 1]).standard_normal(len(after)))
        after["volume"] *= 5.0 * noise
    step = before.index[1] - before.index[0] if at > 1 else after.index[-1] - after.index[-2]
    joined = pd.concat([before, after.set_axis(before.index[-1] + step * np.arange(1, len(after) + 1))])
    joined.index.name = before.index.name
    joined.attrs = dict(before.attrs)
    return validate_bars(joined)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}={value!r} is out of range; use {low:g} to {high:g}")


def _open_times(n_bars: int, timeframe: str, session: int = 0) -> pd.DatetimeIndex:
    """Open times: without end, or ``session`` bars from midnight UTC on each weekday."""
    step = timeframe_ns(timeframe)
    if n_bars < 1:
        raise ConfigError(f"n_bars={n_bars!r} is out of range; use 1 or more")
    bar: Int64Array = np.arange(n_bars, dtype=np.int64)
    days = np.zeros(1, dtype=np.int64)
    if session and timeframe != "1w":
        days, bar = np.divmod(bar, session)
        days = days // 5 * 7 + days % 5
    last = float(days[-1]) * 864e11 + float(bar.max()) * step
    if START.value + last > 2.0**63 - 1:
        raise ConfigError(f"n_bars={n_bars} of {timeframe} end after the year 2262; use fewer bars")
    return pd.DatetimeIndex(START.value + days * 86_400_000_000_000 + bar * step).tz_localize("UTC")


def _unit_paths(rng: np.random.Generator, n_bars: int, steps: int) -> npt.NDArray[np.float32]:
    """Random walks inside the bars, ending with variance 1, (n_bars, steps)."""
    paths = rng.standard_normal((n_bars, steps), dtype=np.float32)
    np.cumsum(paths, axis=1, out=paths)
    paths /= np.float32(np.sqrt(steps))
    return paths


def _heavy_tails(rng: np.random.Generator, n_bars: int, tails: float = TAILS) -> Float64Array:
    """Factors that make unit Gaussian shocks Student-t with variance 1."""
    return np.asarray(np.sqrt((tails - 2) / rng.chisquare(tails, n_bars)))


def _garch(shocks: Float64Array, *, alpha: float, beta: float) -> Float64Array:
    """Volatility relative to its long-run level, known before each bar: GARCH(1,1), from its mean."""
    rest = 1 - alpha - beta
    factors = (alpha * shocks[:-1] ** 2 + beta).tolist()
    variance = accumulate(factors, lambda v, factor: min(rest + v * factor, 100.0), initial=1.0)
    return np.asarray(np.sqrt(np.fromiter(variance, float, len(shocks))))


def _moves(paths: npt.NDArray[np.float32], amplitude: Float64Array, drift: Float64Array, wicks: float = 1.0) -> Moves:
    """Bars of the walks ``amplitude * path + drift * time``; ``wicks`` stretches the way, not the end."""
    n_bars, steps = paths.shape
    moves = Moves(*np.zeros((4, n_bars)))
    ramp = np.arange(1, steps + 1, dtype=np.float32) / np.float32(steps)
    amplitude, drift = amplitude.astype(np.float32), drift.astype(np.float32)  # 1e-7 of a move is nothing
    for start in range(0, n_bars, _PATH_BLOCK):
        part = slice(start, start + _PATH_BLOCK)
        walk = amplitude[part, None] * paths[part] + drift[part, None] * ramp
        end = walk[:, -1:]
        if wicks != 1.0:
            walk = end * ramp + np.float32(wicks) * (walk - end * ramp)
        body = end[:, 0]
        moves.body[part] = body
        moves.upper[part] = np.maximum(walk.max(axis=1), 0) - np.maximum(body, 0)
        moves.lower[part] = np.minimum(body, 0) - np.minimum(walk.min(axis=1), 0)
    return moves


def _volume(rng: np.random.Generator, moves: Moves) -> Float64Array:
    """Volume that rises with the bar's range, log-normal noise on top (Karpoff 1987), in thousandths."""
    size = moves.range()
    noise = np.exp(0.5 * rng.standard_normal(len(size)))
    return np.asarray(np.round(100.0 * (0.2 + size / size.mean()) * noise, 3))


def _assemble(moves: Moves, volume: Float64Array, times: pd.DatetimeIndex, market: MarketOptions) -> pd.DataFrame:
    """Bars of log moves: prices from the first open on, rounded to ticks (rounding keeps their order)."""
    tick = market["tick"]
    closes = np.cumsum(moves.gap + moves.body)
    opens = np.concatenate(([0.0], closes[:-1])) + moves.gap
    highs = np.maximum(opens, closes) + moves.upper
    lows = np.minimum(opens, closes) - moves.lower
    data = np.empty((5, len(times)))
    np.exp((opens, highs, lows, closes), out=data[:4])
    data[:4] *= market["price"]
    if tick:
        per_unit = 1 / tick
        whole = abs(per_unit - round(per_unit)) < 1e-9 * per_unit  # a division then gives the nearest decimal
        counts = np.maximum(np.rint(data[:4] * per_unit), 1.0)
        data[:4] = counts / round(per_unit) if whole else counts * tick
    data[4] = volume
    labels = {"symbol": check_symbol(market["symbol"]), "timeframe": market["timeframe"], "calendar": ALWAYS_OPEN}
    return validate_bars(make_bars(times, data, **labels))
