"""Simulated markets hold the truth that they promise."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import ConfigError
from mlkit.market.bars import fingerprint, ohlcv_arrays, validate_bars
from mlkit.market.simulate.markets import GAPS, draw_regime, edge_r2, null_market, pattern_factory, planted_edge
from mlkit.market.times import TIMEFRAMES

MARKETS = [null_market, planted_edge, pattern_factory]
Market = Callable[..., pd.DataFrame]
MINUTE = 0.6 * np.sqrt(1 / (365 * 24 * 60))  # volatility of a 1m bar at 60 % a year


def log_returns(bars: pd.DataFrame) -> np.ndarray:
    return np.diff(np.log(bars["close"].to_numpy()), prepend=np.log(bars["open"].iloc[0]))


def driver(x: np.ndarray, strength: float, persistence: float) -> np.ndarray:
    """d[t] of the docstring of planted_edge, from returns in units of volatility, known at the close of t."""
    pull = strength * np.sqrt((1 - persistence**2) / (1 - strength**2))
    out, d = np.empty(len(x)), 0.0
    for t, value in enumerate(x):
        d = persistence * d + pull * (value - d)
        out[t] = d
    return out


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_markets_are_valid_bars_on_every_timeframe(market: Market, timeframe: str) -> None:
    for seed in range(4):
        bars = market(400, seed=seed, timeframe=timeframe)
        pd.testing.assert_frame_equal(validate_bars(bars), bars)
        assert len(bars) == 400
        assert bars.attrs["timeframe"] == timeframe


@pytest.mark.parametrize("market", MARKETS)
def test_the_seed_decides_everything(market: Market) -> None:
    assert fingerprint(market(300, seed=5)) == fingerprint(market(300, seed=5))
    assert fingerprint(market(300, seed=5)) != fingerprint(market(300, seed=6))


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("n_bars", [1, 2, 12])
def test_short_markets(market: Market, n_bars: int) -> None:
    assert len(market(n_bars, seed=0)) == n_bars


@pytest.mark.parametrize("market", [null_market, planted_edge])
def test_prices_are_on_the_tick_and_open_at_the_close_before(market: Market) -> None:
    bars = market(5_000, seed=1, tick=0.05)
    ticks = bars[["open", "high", "low", "close"]].to_numpy() / 0.05
    np.testing.assert_allclose(ticks, np.rint(ticks), atol=1e-6)
    np.testing.assert_array_equal(bars["open"].to_numpy()[1:], bars["close"].to_numpy()[:-1])


def test_the_null_market_cannot_be_predicted() -> None:
    """Twenty seeds: direction and autocorrelation stay within the noise of a coin, 4 standard errors."""
    n_bars, seeds = 20_000, range(20)
    momentum, hits = [], []
    for seed in seeds:
        signs = np.sign(log_returns(null_market(n_bars, seed=seed)))
        for lag in (1, 2, 5, 20):
            momentum.append((signs[lag:] * signs[:-lag]).mean())
        hits.append(signs.mean())
    assert np.abs(momentum).max() < 4 / np.sqrt(n_bars)
    assert abs(np.mean(momentum)) < 4 / np.sqrt(n_bars * len(momentum))
    assert abs(np.mean(hits)) < 4 / np.sqrt(n_bars * len(hits))


def test_the_null_market_hides_no_edge_in_its_bars() -> None:
    """Nothing in a bar (shadows, body, range, volume) says where the next one goes."""
    correlations = []
    for seed in range(20):
        o, h, lo, c, v = ohlcv_arrays(null_market(20_000, seed=seed))
        clues = (
            (c - o),
            (h - np.maximum(o, c)) - (np.minimum(o, c) - lo),
            (c - lo) / (h - lo + 1e-9),
            h - lo,
            v,
        )
        ahead = np.sign(c[1:] - c[:-1])
        correlations.append([np.corrcoef(clue[:-1], ahead)[0, 1] for clue in clues])
    assert np.abs(np.mean(correlations, axis=0)).max() < 4 / np.sqrt(20 * 20_000)


def test_volatility_clusters_with_heavy_tails_and_volume_follows() -> None:
    bars = null_market(100_000, seed=3)
    r, size = log_returns(bars), np.abs(log_returns(bars))
    assert r.std() == pytest.approx(MINUTE, rel=0.1)
    assert np.mean((r / r.std()) ** 4) > 4.5  # kurtosis; 3 is Gaussian
    assert np.corrcoef(size[1:], size[:-1])[0, 1] > 0.05
    assert np.corrcoef(bars["volume"], bars["high"] - bars["low"])[0, 1] > 0.5


def test_without_garch_the_market_is_gaussian() -> None:
    r = log_returns(null_market(100_000, seed=3, garch=False))
    assert r.std() == pytest.approx(MINUTE, rel=0.01)
    assert np.mean((r / r.std()) ** 4) == pytest.approx(3.0, abs=0.1)


def test_ranges_are_those_of_a_random_walk() -> None:
    """Feller (1951): a Brownian bar has a mean range of sqrt(8 / pi) moves; 16 steps lose a part."""
    bars = null_market(50_000, seed=3, garch=False, tick=0.0)
    spread = np.log(bars["high"] / bars["low"]).mean() / MINUTE
    assert 0.75 * np.sqrt(8 / np.pi) < spread < np.sqrt(8 / np.pi)


@pytest.mark.parametrize(("strength", "persistence"), [(0.1, 0.8), (0.3, 0.5), (-0.2, 0.9), (0.25, 0.25)])
def test_the_planted_edge_is_as_strong_as_promised(strength: float, persistence: float) -> None:
    n_bars = 200_000
    bars = planted_edge(
        n_bars,
        seed=1,
        strength=strength,
        persistence=persistence,
        garch=False,
        tick=0.0,
        annual_volatility=0.1,
    )
    x = log_returns(bars) / (MINUTE / 6)
    assert x.std() == pytest.approx(1.0, abs=0.02)
    signal = driver(x, strength, persistence)
    sums = np.concatenate(([0.0], np.cumsum(x)))
    for horizon in (1, 5, 15):
        ahead = sums[horizon + 1 :] - sums[1:-horizon]
        measured = np.corrcoef(signal[:-horizon], ahead)[0, 1]
        expected = np.sqrt(edge_r2(strength, persistence=persistence, horizon=horizon))
        assert measured == pytest.approx(expected, abs=5 * np.sqrt(horizon / n_bars))
    assert edge_r2(strength, persistence=persistence) == pytest.approx(strength**2)


def test_the_edge_survives_clustered_volatility_and_ticks() -> None:
    bars = planted_edge(200_000, seed=2, strength=0.2)
    r = log_returns(bars)
    x = r / np.sqrt(pd.Series(r**2).ewm(halflife=10).mean().shift(1).bfill().to_numpy())
    signal = driver(x, 0.2, 0.8)
    assert 0.17 < np.corrcoef(signal[50:-1], x[51:])[0, 1] < 0.21
    hits = np.mean(np.sign(signal[:-1]) == np.sign(r[1:]))
    assert 0.55 < hits < 0.5 + np.arcsin(0.2) / np.pi + 0.01  # the Gaussian hit rate is 0.564


def test_without_strength_the_planted_edge_is_the_null_market() -> None:
    edge = planted_edge(500, seed=4, strength=0.0, symbol="NULL")
    pd.testing.assert_frame_equal(edge, null_market(500, seed=4))


def test_an_ar1_is_the_case_of_equal_strength_and_persistence() -> None:
    for horizon in (1, 4):
        ahead = np.arange(horizon)
        variance = sum(0.3 ** abs(i - j) for i in ahead for j in ahead)  # of a sum of AR(1) values
        known = (0.3 * (1 - 0.3**horizon) / 0.7) ** 2
        assert edge_r2(0.3, persistence=0.3, horizon=horizon) == pytest.approx(known / variance)


@pytest.mark.parametrize("gaps", GAPS)
def test_gap_regimes(gaps: str) -> None:
    for seed in range(5):
        bars = pattern_factory(2_000, seed=seed, gaps=gaps)
        o, _, _, c, _ = ohlcv_arrays(bars)
        jumps = o[1:] != c[:-1]
        days = np.diff(bars.index.as_unit("ns").asi8) != 60_000_000_000
        assert jumps.any() == (gaps != "continuous")
        assert days.any() == (gaps == "session")
        if gaps == "session":
            assert (bars.index.day_of_week < 5).all()
    assert draw_regime(np.random.default_rng(0), gaps).gaps == gaps


def test_regimes_differ_from_seed_to_seed() -> None:
    regimes = [draw_regime(np.random.default_rng(seed)) for seed in range(50)]
    assert {regime.gaps for regime in regimes} == set(GAPS)
    volatility = np.array([regime.volatility for regime in regimes])
    assert volatility.max() / volatility.min() > 20


def test_the_factory_stays_within_sight_of_its_first_price() -> None:
    for seed in range(5):
        bars = pattern_factory(50_000, seed=seed)
        assert np.abs(np.log(bars["close"] / bars["close"].iloc[0])).max() < 6


GAPPED = ["SHOOTINGSTAR", "MORNINGSTAR", "EVENINGSTAR", "3BLACKCROWS", "PIERCING", "DARKCLOUDCOVER"]
PATTERNS = [*GAPPED, "DOJI", "HAMMER", "3WHITESOLDIERS", "HARAMI", "MARUBOZU", "ENGULFING"]


def rates(gaps: str | None, plant_rate: float, seeds: int = 40, n_bars: int = 5_000) -> dict[str, float]:
    """TA-Lib's hits per 10,000 bars, averaged over seeds."""
    talib = pytest.importorskip("talib")
    hits = dict.fromkeys((*PATTERNS, "ENGULFING-", "TWEEZERTOP", "TWEEZERBOTTOM"), 0)
    for seed in range(seeds):
        o, h, lo, c, _ = ohlcv_arrays(pattern_factory(n_bars, seed=seed, gaps=gaps, plant_rate=plant_rate))
        for name in PATTERNS:
            found = getattr(talib, f"CDL{name}")(o, h, lo, c)
            hits[name] += int((found > 0).sum() if name == "ENGULFING" else (found != 0).sum())
            hits["ENGULFING-"] += int((found < 0).sum()) if name == "ENGULFING" else 0
        near = 0.05 * pd.Series(h - lo).rolling(5).mean().shift(2).to_numpy()
        up = np.sign(c - o)
        turns = np.concatenate(([0.0], up[:-1] - up[1:]))
        hits["TWEEZERTOP"] += int(((np.abs(np.diff(h, prepend=np.nan)) <= near) & (turns > 0)).sum())
        hits["TWEEZERBOTTOM"] += int(((np.abs(np.diff(lo, prepend=np.nan)) <= near) & (turns < 0)).sum())
    return {name: count / (seeds * n_bars) * 1e4 for name, count in hits.items()}


def test_every_pattern_occurs_often_enough_to_learn() -> None:
    found = rates(None, 0.3)
    assert len(found) == 15
    assert min(found.values()) >= 20, found


def test_planting_is_what_makes_the_rare_patterns_frequent() -> None:
    planted, natural = rates("jitter", 0.3, seeds=15), rates("jitter", 0.0, seeds=15)
    for name in GAPPED[1:]:
        assert planted[name] > 1.5 * natural[name]


def test_patterns_that_need_a_gap_cannot_occur_where_there_is_none() -> None:
    found = rates("continuous", 0.3, seeds=8)
    for name in GAPPED:
        assert found[name] == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: null_market(0, seed=1), "n_bars=0"),
        (lambda: null_market(10**6, seed=1, timeframe="1w"), "after the year 2262"),
        (lambda: null_market(9, seed=1, timeframe="9m"), "timeframe '9m'"),
        (lambda: null_market(9, seed=1, symbol="a b"), "symbol 'a b'"),
        (lambda: null_market(9, seed=1, annual_volatility=-1), "annual_volatility=-1"),
        (lambda: null_market(9, seed=1, price=np.nan), "price=nan"),
        (lambda: null_market(9, seed=1, tick=1e6), "tick=1000000.0"),
        (lambda: planted_edge(9, seed=1, strength=1.5), "strength=1.5 is out of range; use -0.9 to 0.9"),
        (lambda: planted_edge(9, seed=1, persistence=1.0), "persistence=1.0"),
        (lambda: pattern_factory(9, seed=1, plant_rate=1.0), "plant_rate=1.0"),
        (lambda: pattern_factory(9, seed=1, gaps="none"), "gaps 'none' is unknown; use one of continuous"),
    ],
)
def test_parameters_out_of_range_are_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()
