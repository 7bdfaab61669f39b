"""The rules against TA-Lib, and against the laws every feature obeys."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import talib
from talib import abstract

from mlkit.errors import BarsError, ConfigError
from mlkit.features.rules import (
    PATTERNS,
    RELAXATIONS,
    RULE_STATE_SIZE,
    STANDARDS,
    WARM_UP,
    pattern_flags,
    rule_state,
)

FILES = sorted(path.stem for path in (Path(__file__).parents[2] / "../shared/data/ohlcv").glob("*.parquet"))
CRYPTO_1M = [name for name in FILES if name.endswith("-1m") and ("_BYBIT" in name or "_PERP_" in name)]

TALIB = {
    "doji": "CDLDOJI",
    "hammer": "CDLHAMMER",
    "shooting_star": "CDLSHOOTINGSTAR",
    "engulfing_bullish": "CDLENGULFING",
    "engulfing_bearish": "CDLENGULFING",
    "morning_star": "CDLMORNINGSTAR",
    "evening_star": "CDLEVENINGSTAR",
    "three_white_soldiers": "CDL3WHITESOLDIERS",
    "three_black_crows": "CDL3BLACKCROWS",
    "harami": "CDLHARAMI",
    "piercing_line": "CDLPIERCING",
    "dark_cloud_cover": "CDLDARKCLOUDCOVER",
    "tweezer_top": "CDLMATCHINGLOW",  # two black candles whose closes match: it is given highs as closes
    "tweezer_bottom": "CDLMATCHINGLOW",  # lows as closes
    "marubozu": "CDLMARUBOZU",
}


def prices_of(bars: pd.DataFrame) -> list[np.ndarray]:
    return [bars[name].to_numpy(dtype=np.float64, copy=True) for name in ("open", "high", "low", "close")]


def tick_prices(rng: np.random.Generator, n_bars: int, *, tick: float = 0.01, width: int = 5) -> list[np.ndarray]:
    """A random walk on a price grid whose bars mostly open at the previous close: ties everywhere."""
    close = 20 * n_bars + rng.integers(-width, width + 1, n_bars).cumsum()
    open = np.r_[close[0], close[:-1]] + rng.choice([0, 0, 0, -1, 1], n_bars)
    high = np.maximum(open, close) + rng.integers(0, width, n_bars)
    low = np.minimum(open, close) - rng.integers(0, width, n_bars)
    return [column * tick for column in (open, high, low, close)]


def wild_prices(rng: np.random.Generator, n_bars: int) -> list[np.ndarray]:
    """Bars that jump between 0.01 and 10.00 on a grid: the running totals round, and ties still happen."""
    low, a, b, high = np.sort(rng.integers(1, 1000, (n_bars, 4)), axis=1).T * 0.01
    white = rng.random(n_bars) < 0.5
    return [np.where(white, a, b), high, low, np.where(white, b, a)]


def talib_directions(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray) -> np.ndarray:
    """Directions of the 15 patterns by TA-Lib alone, (n_bars, 15)."""
    turn = np.diff(np.where(close >= open, 1, -1), prepend=1)
    found = {name: np.sign(getattr(talib, TALIB[name])(open, high, low, close)) for name in TALIB}
    found["engulfing_bullish"] = np.maximum(found["engulfing_bullish"], 0)
    found["engulfing_bearish"] = np.minimum(found["engulfing_bearish"], 0)
    found["tweezer_top"] = -1 * ((turn == -2) & (talib.CDLMATCHINGLOW(high + 1, high, low, high) != 0))
    found["tweezer_bottom"] = 1 * ((turn == 2) & (talib.CDLMATCHINGLOW(low + 1, high, low, low) != 0))
    return np.column_stack([found[name] for name in PATTERNS])


def check_against_talib(prices: list[np.ndarray]) -> None:
    """Classic equals TA-Lib everywhere; continuous holds every classic hit, in its direction."""
    classic, continuous = (pattern_flags(*prices, standard) for standard in STANDARDS)
    differences = (classic != talib_directions(*prices)).sum(axis=0)
    assert not differences.any(), dict(zip(PATTERNS, differences.tolist(), strict=True))
    np.testing.assert_array_equal(continuous[classic != 0], classic[classic != 0])


def prefix_differences(rule: Callable[..., np.ndarray], prices: list[np.ndarray], cuts: list[int]) -> int:
    """Flags that change when the bars after a cut are taken away; a causal rule has none."""
    whole = rule(*prices)
    return sum(int((rule(*(column[:cut] for column in prices)) != whole[:cut]).sum()) for cut in cuts)


@pytest.mark.parametrize("name", ["sp500", "nasdaq"])
def test_classic_is_talib_on_built_in_bars(name: str, request: pytest.FixtureRequest) -> None:
    check_against_talib(prices_of(request.getfixturevalue(name)))


@pytest.mark.parametrize("name", FILES)
def test_classic_is_talib_on_real_bars(name: str, real_bars: Callable[[str], pd.DataFrame]) -> None:
    check_against_talib(prices_of(real_bars(name)))


@pytest.mark.parametrize("make", [tick_prices, wild_prices])
def test_classic_is_talib_where_ties_abound(make: Callable[..., list[np.ndarray]]) -> None:
    rng = np.random.default_rng(11)
    for _ in range(20):
        check_against_talib(make(rng, 4000))
    for _ in range(500):  # the first bars of a series, where TA-Lib's totals start
        check_against_talib(make(rng, 40))


def test_morning_star_target_is_rounded_once() -> None:
    """A third close exactly 30 % back up: TA-Lib 0.8 fuses the product and the sum, and so do the rules."""
    rounded_twice = 0
    for close in np.arange(2000, 2300) * 0.001:
        quiet = [(3.0, 3.002, 2.998, 3.001)] * 10
        fall = [(close + 0.02, close + 0.021, close - 0.001, close)]
        star = [(close - 0.002, close - 0.001, close - 0.004, close - 0.003)]
        target = round(close + 0.006, 3)
        prices = np.array(quiet + fall + star + [(close - 0.003, target, close - 0.004, target)]).T
        check_against_talib([*np.ascontiguousarray(prices)])
        found = pattern_flags(*prices)[-1, PATTERNS.index("morning_star")] == 1
        rounded_twice += int(found != (target > close + (close + 0.02 - close) * 0.3))
    assert rounded_twice > 0  # the case has teeth


def test_warm_up_is_talibs_lookback() -> None:
    assert {name: abstract.Function(function).lookback for name, function in TALIB.items()} == WARM_UP


@pytest.mark.parametrize("name", CRYPTO_1M)
def test_every_pattern_occurs_in_a_market_that_never_closes(
    name: str, real_bars: Callable[[str], pd.DataFrame]
) -> None:
    hits = (pattern_flags(*prices_of(real_bars(name)), "continuous") != 0).sum(axis=0)
    assert (hits > 0).all(), dict(zip(PATTERNS, hits.tolist(), strict=True))


def test_only_gap_patterns_are_lost_in_a_market_that_never_closes(
    real_bars: Callable[[str], pd.DataFrame],
) -> None:
    hits = (pattern_flags(*prices_of(real_bars("BTCUSDT_BYBIT-1m"))) != 0).sum(axis=0)
    assert {name for name, count in zip(PATTERNS, hits, strict=True) if count == 0} == set(RELAXATIONS)


def test_continuous_relaxes_the_published_conditions_and_nothing_else(sp500: pd.DataFrame) -> None:
    for prices in (tick_prices(np.random.default_rng(3), 20_000), prices_of(sp500)):
        open, high, low, close = (pd.Series(column) for column in prices)
        known = {"open": open, "high": high, "low": low, "close": close}
        known |= {"top": np.maximum(open, close), "bottom": np.minimum(open, close)}
        flags = {standard: pattern_flags(*prices, standard) for standard in STANDARDS}
        for k, name in enumerate(PATTERNS):
            classic, continuous = flags["classic"][:, k], flags["continuous"][:, k]
            if name not in RELAXATIONS:
                np.testing.assert_array_equal(classic, continuous)
                continue
            strict, relaxed = (condition_holds(RELAXATIONS[name][standard], known) for standard in (0, 1))
            assert relaxed[continuous != 0].all(), name
            np.testing.assert_array_equal(classic, np.where(strict, continuous, 0), err_msg=name)


def condition_holds(text: str, known: dict[str, pd.Series]) -> np.ndarray:
    """Evaluate a published condition such as ``open[t] < low[t-1] and ...`` at every bar."""
    holds = np.ones(len(known["open"]), dtype=bool)
    for clause in text.split(" and "):
        match = re.fullmatch(r"(\w+)\[t(-\d)?\] (<|<=|>|>=) (\w+)\[t(-\d)?\]", clause)
        assert match is not None, clause
        left, right = (known[match[i]].shift(-int(match[i + 1] or 0)) for i in (1, 4))
        holds &= {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[match[3]]
    return holds


@pytest.mark.parametrize("standard", STANDARDS)
def test_flags_go_on_from_a_saved_state(standard: str, nasdaq: pd.DataFrame) -> None:
    prices = [column[:1500] for column in prices_of(nasdaq)]
    whole = pattern_flags(*prices, standard)
    for cut in (1, 5, 12, 13, 14, 700):
        state = rule_state()
        first = pattern_flags(*(column[:cut] for column in prices), standard, state)
        restored = np.frombuffer(state.tobytes()).copy()
        second = pattern_flags(*(column[cut:] for column in prices), standard, restored)
        np.testing.assert_array_equal(np.concatenate([first, second]), whole)


def test_bars_one_by_one_give_the_flags_of_the_batch(sp500: pd.DataFrame) -> None:
    prices = [column[:60] for column in prices_of(sp500)]
    for standard in STANDARDS:
        batch, state = pattern_flags(*prices, standard), rule_state()
        for t in range(60):
            found = pattern_flags(*(column[t : t + 1] for column in prices), standard, state)[0]
            np.testing.assert_array_equal(found, batch[t])
            assert not found[[t < WARM_UP[name] for name in PATTERNS]].any()


def test_flags_of_a_prefix_are_a_prefix_of_the_flags(nasdaq: pd.DataFrame) -> None:
    prices, cuts = prices_of(nasdaq), [0, 1, 13, 14, 500, 2222, 5030]
    for standard in STANDARDS:
        assert prefix_differences(lambda *p, s=standard: pattern_flags(*p, s), prices, cuts) == 0


def test_prefix_check_catches_a_rule_that_sees_the_next_bar(nasdaq: pd.DataFrame) -> None:
    def peeking(*prices: np.ndarray) -> np.ndarray:
        return pattern_flags(*(np.r_[column[1:], column[-1:]] for column in prices))

    assert prefix_differences(peeking, prices_of(nasdaq), list(range(500, 540))) > 0


@pytest.mark.parametrize("exponent", [-30, -3, 1, 40])
def test_flags_do_not_depend_on_the_unit_of_price(exponent: int, sp500: pd.DataFrame) -> None:
    prices = prices_of(sp500)
    for standard in STANDARDS:
        scaled = pattern_flags(*(column * 2.0**exponent for column in prices), standard)
        np.testing.assert_array_equal(scaled, pattern_flags(*prices, standard))


@pytest.mark.parametrize("standard", STANDARDS)
def test_constant_prices_show_a_doji_and_nothing_else(standard: str) -> None:
    flags = pattern_flags(*[np.full(100, 3.7)] * 4, standard)
    expected = np.zeros_like(flags)
    expected[WARM_UP["doji"] :, PATTERNS.index("doji")] = 1
    np.testing.assert_array_equal(flags, expected)


def test_tweezers_by_hand() -> None:
    """Ranges of 2 before the pair, so highs and lows may differ by 0.1."""
    quiet = [(10.0, 11.0, 9.0, 10.0)] * 6
    pair = {
        "tweezer_top": [(10.0, 12.0, 9.5, 11.5), (11.5, 11.95, 10.0, 10.5)],
        "tweezer_bottom": [(11.0, 11.5, 8.0, 8.5), (8.5, 10.5, 8.05, 10.0)],
    }
    for name, (first, second) in pair.items():
        prices = np.array([*quiet, first, second]).T
        direction = -1 if name == "tweezer_top" else 1
        assert pattern_flags(*prices)[-1, PATTERNS.index(name)] == direction
        apart = prices.copy()
        apart[1 if name == "tweezer_top" else 2, -1] += -0.2 * -direction
        assert pattern_flags(*apart)[-1, PATTERNS.index(name)] == 0
        alike = prices.copy()
        alike[[0, 3], -2] = alike[[3, 0], -2]  # the first candle in the colour of the second
        assert pattern_flags(*alike)[-1, PATTERNS.index(name)] == 0


def test_refusals() -> None:
    price = np.full(20, 1.0)
    with pytest.raises(ConfigError, match="standard 'strict' is not accepted; use 'classic' or 'continuous'"):
        pattern_flags(price, price, price, price, "strict")
    with pytest.raises(BarsError, match="four arrays of one length"):
        pattern_flags(price, price, price, price[1:])
    with pytest.raises(ConfigError, match=rf"must be float64 \({RULE_STATE_SIZE},\), not float32"):
        pattern_flags(*[price] * 4, "classic", np.zeros(RULE_STATE_SIZE, dtype=np.float32))
    with pytest.raises(ConfigError, match=r"not float64 \(3,\)"):
        pattern_flags(*[price] * 4, "classic", np.zeros(3))


def test_no_bars_no_flags() -> None:
    assert pattern_flags(*[np.empty(0)] * 4).shape == (0, len(PATTERNS))
