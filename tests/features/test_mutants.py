"""Planted leaks and skews are all caught, by the laws that should; honest features raise no alarm.

``pytest tests/features/test_mutants.py -s -k table`` prints each mutant and the laws that caught it.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import signal

import mlkit
from mlkit.features.laws import check_feature
from mlkit.market.simulate.markets import null_market

BARS = null_market(900, seed=5, timeframe="15m")  # nine days of 96 bars
DAY = 96
Function = Callable[[pd.DataFrame], pd.Series]


def returns(b: pd.DataFrame) -> pd.Series:
    return np.log(b["close"]).diff().fillna(0.0)


def future(b: pd.DataFrame, h: int = 5) -> pd.Series:
    return np.log(b["close"].shift(-h) / b["close"])


def day(b: pd.DataFrame) -> pd.Index:
    return b.index.normalize()


def array(b: pd.DataFrame, values: np.ndarray) -> pd.Series:
    return pd.Series(values, b.index)


# --- leaks: a value changes when later bars arrive ----------------------------------------------------


def global_pca(b: pd.DataFrame) -> pd.Series:
    lags = np.column_stack([returns(b).shift(k).fillna(0.0) for k in range(4)])
    first = np.linalg.svd(lags - lags.mean(axis=0), full_matrices=False)[2][0]
    return array(b, lags @ (first * np.sign(first[np.argmax(np.abs(first))])))


def session_vwap(b: pd.DataFrame) -> pd.Series:
    value, volume = (b["close"] * b["volume"]).groupby(day(b)), b["volume"].groupby(day(b))
    return b["close"] / (value.transform("sum") / volume.transform("sum")) - 1


def hourly_at_open(b: pd.DataFrame) -> pd.Series:
    return b["close"].resample("1h").last().reindex(b.index, method="ffill") / b["close"]


def fitted_ewm(b: pd.DataFrame) -> pd.Series:
    r = returns(b)
    errors = {s: ((r**2).ewm(span=s).mean().shift() - r**2).pow(2).mean() for s in np.linspace(5, 60, 56)}
    best, second = sorted(errors, key=errors.__getitem__)[:2]
    return r.ewm(span=best + 0.01 * errors[second] / errors[best]).std().fillna(0.0)


def best_window(b: pd.DataFrame) -> pd.Series:
    ratios = {n: b["close"] / b["close"].rolling(n).mean() - 1 for n in range(5, 50)}
    return ratios[max(ratios, key=lambda n: abs(ratios[n].corr(future(b))))]


def signed_by_outcome(b: pd.DataFrame) -> pd.Series:
    momentum = b["close"].pct_change(10)
    return momentum * momentum.corr(future(b))


def target_encoding(b: pd.DataFrame) -> pd.Series:
    return future(b).groupby(b.index.hour).transform("mean")


def next_known_volume(b: pd.DataFrame) -> pd.Series:
    sparse = b["volume"].iloc[::7].rename("later")
    return pd.merge_asof(b[["volume"]], sparse, left_index=True, right_index=True, direction="forward")["later"]


def swing_high(b: pd.DataFrame) -> pd.Series:
    high = b["high"]
    return ((high > high.shift(1)) & (high > high.shift(-1))).astype(float)


LEAKS: dict[str, Function] = {
    "next return": lambda b: returns(b).shift(-1),
    "shifted mean": lambda b: b["close"].rolling(10).mean().shift(-5) / b["close"],
    "negative pct_change": lambda b: b["close"].pct_change(-3),
    "centred mean": lambda b: b["close"].rolling(21, center=True).mean() / b["close"],
    "centred std, min_periods": lambda b: returns(b).rolling(21, center=True, min_periods=1).std(),
    "forward window": lambda b: returns(b).rolling(pd.api.indexers.FixedForwardWindowIndexer(window_size=5)).sum(),
    "rolling on reversed rows": lambda b: b["high"][::-1].rolling(10).max()[::-1] / b["close"],
    "reversed ewm": lambda b: b["close"][::-1].ewm(span=10).mean()[::-1] / b["close"],
    "bfill": lambda b: b["close"].where(b["close"] > b["open"]).bfill() / b["close"],
    "interpolate": lambda b: b["close"].where(np.arange(len(b)) % 3 == 0).interpolate() / b["close"],
    "fill with overall mean": lambda b: returns(b).where(returns(b) > 0).fillna(returns(b).mean()),
    "global z-score": lambda b: (b["close"] - b["close"].mean()) / b["close"].std(),
    "global min-max": lambda b: (b["close"] - b["low"].min()) / (b["high"].max() - b["low"].min()),
    "global rank": lambda b: b["close"].rank(pct=True),
    "global qcut": lambda b: pd.qcut(returns(b), 50, labels=False, duplicates="drop").astype(float),
    "global quantile clip": lambda b: returns(b).clip(*returns(b).quantile([0.05, 0.95])),
    "global median split": lambda b: b["volume"] - b["volume"].median(),
    "global PCA": global_pca,
    "global detrend": lambda b: array(b, signal.detrend(b["close"].to_numpy())),
    "hour-of-day mean": lambda b: b["volume"] / b.groupby(b.index.hour)["volume"].transform("mean"),
    "GARCH variance of all": lambda b: mlkit.build_features(b, garch=(0.02 * returns(b).var(), 0.08, 0.90))[
        "garch_volatility"
    ],
    "EWM span fitted on all": fitted_ewm,
    "best window on all": best_window,
    "sign learned on all": signed_by_outcome,
    "target encoding": target_encoding,
    "label": lambda b: np.sign(future(b)),
    "last price as anchor": lambda b: b["close"] / b["close"].iloc[-1],
    "day's high": lambda b: b["high"].groupby(day(b)).transform("max") / b["close"],
    "day's VWAP": session_vwap,
    "resample transform last": lambda b: b["close"].resample("4h").transform("last") / b["close"],
    "hourly close at the hour's open": hourly_at_open,
    "merge_asof forward": next_known_volume,
    "swing high at its bar": swing_high,
    "future low": lambda b: b["low"][::-1].cummin()[::-1] / b["close"],
    "savgol": lambda b: array(b, signal.savgol_filter(b["close"], 11, 2)) / b["close"],
    "filtfilt": lambda b: array(b, signal.filtfilt(*signal.butter(2, 0.1), b["close"])) / b["close"],
    "FFT low-pass": lambda b: array(
        b, np.fft.irfft(np.where(np.arange(len(b) // 2 + 1) < 20, np.fft.rfft(b["close"]), 0), len(b))
    ),
    "Hilbert envelope": lambda b: array(b, np.abs(signal.hilbert(returns(b)))),
    "central gradient": lambda b: array(b, np.gradient(b["close"].to_numpy())) / b["close"],
    "convolve same": lambda b: array(b, np.convolve(returns(b), np.ones(9) / 9, mode="same")),
}

# --- skews: nothing looks ahead, and yet the live number differs from the one in training --------------


def wilder(x: pd.Series, n: int) -> pd.Series:
    return x.ewm(alpha=1 / n, adjust=False).mean()


def rsi(b: pd.DataFrame, n: int = 14) -> pd.Series:
    rise = wilder(returns(b).clip(lower=0), n)
    return 100 * rise / (rise + wilder((-returns(b)).clip(lower=0), n) + 1e-12)


SKEWS: dict[str, tuple[Function, int]] = {  # function, declared lookback
    "cumulative OBV": (lambda b: (np.sign(returns(b)) * b["volume"]).cumsum(), 20),
    "cumulative return": (lambda b: returns(b).cumsum(), 20),
    "cumulative VWAP": (lambda b: (b["close"] * b["volume"]).cumsum() / b["volume"].cumsum(), 50),
    "bars since start": (lambda b: array(b, np.arange(len(b), dtype=float)), 5),
    "even bars": (lambda b: array(b, np.arange(len(b)) % 2.0), 5),
    "first price anchor": (lambda b: b["close"] / b["close"].iloc[0], 5),
    "first 50 bars as scale": (lambda b: b["volume"] / b["volume"].iloc[:50].mean(), 60),
    "expanding mean": (lambda b: b["close"] / b["close"].expanding().mean(), 50),
    "expanding z-score": (lambda b: returns(b) / returns(b).expanding(2).std(), 50),
    "drawdown since start": (lambda b: b["close"] / b["high"].cummax() - 1, 50),
    "ema200 after 50 bars": (lambda b: b["close"] / b["close"].ewm(span=200, adjust=False).mean() - 1, 50),
    "rsi14 after 5 bars": (rsi, 5),
    "day so far after 20 bars": (lambda b: b["high"].groupby(day(b)).cummax() / b["close"], 20),
    "rolling 100, min_periods 1": (lambda b: b["volume"].rolling(99, min_periods=1).mean() / b["volume"], 9),
}  # fmt: skip

# --- impurities: the same bars give other numbers, or other bars ----------------------------------------

NOISE = np.random.default_rng(0)
SEEN: list[float] = [0.0]


def noisy(b: pd.DataFrame) -> pd.Series:
    return returns(b) + NOISE.normal(0, 1e-3, len(b))


def remembering(b: pd.DataFrame) -> pd.Series:
    SEEN[0] = 0.9 * SEEN[0] + 0.1 * float(b["close"].iloc[-1])
    return b["close"] / SEEN[0]


def writing(b: pd.DataFrame) -> pd.Series:
    b["close"] = b["close"].rolling(3, min_periods=1).mean()
    return returns(b)


def adding(b: pd.DataFrame) -> pd.Series:
    b["return"] = returns(b)
    return b["return"].rolling(5).mean()


IMPURE: dict[str, tuple[Function, set[str]]] = {
    "random noise": (noisy, {"purity", "prefix", "scramble", "restart"}),
    "remembers earlier calls": (remembering, {"purity", "prefix", "scramble"}),
    "writes into the bars": (writing, {"purity"}),
    "adds a column to the bars": (adding, {"purity"}),
    "infinite now and then": (lambda b: 1 / ((b["close"] * 100).round() % 10), {"finite"}),
    "gaps after the warm-up": (lambda b: returns(b).where(b["close"] > b["open"]), {"finite"}),
}

# --- honest features -------------------------------------------------------------------------------------


def hourly_at_close(b: pd.DataFrame) -> pd.Series:
    hours = b["close"].resample("1h").last().shift(1)  # an hour's close is known when the next hour opens
    return hours.reindex(b.index, method="ffill") / b["close"]


HONEST: dict[str, tuple[Function, int]] = {  # function, declared lookback
    "mean ratio": (lambda b: b["close"] / b["close"].rolling(20).mean() - 1, 19),
    "lag": (lambda b: returns(b).shift(3), 4),
    "ewm": (lambda b: b["close"] / b["close"].ewm(span=20, adjust=False).mean() - 1, 80),
    "Wilder RSI": (rsi, 112),
    "rolling z-score": (lambda b: returns(b) / returns(b).rolling(50).std(), 50),
    "rolling rank": (lambda b: b["close"].rolling(30).rank(pct=True), 29),
    "rolling clip": (lambda b: returns(b).clip(upper=returns(b).abs().rolling(50).quantile(0.9)), 50),
    "rolling correlation": (lambda b: returns(b).rolling(40).corr(b["volume"]), 40),
    "day so far": (lambda b: b["high"].groupby(day(b)).cummax() / b["close"], DAY),
    "day's open": (lambda b: b["close"] / b["open"].groupby(day(b)).transform("first"), DAY),
    "hour of the day": (lambda b: array(b, np.sin(2 * np.pi * np.asarray(b.index.hour) / 24)), 0),
    "hourly close at its close": (hourly_at_close, 8),
    "causal filter": (lambda b: array(b, signal.lfilter([0.2], [1, -0.8], returns(b))), 60),
}  # fmt: skip


@cache
def caught_by(name: str) -> frozenset[str]:
    """The laws that a mutant or an honest feature breaks."""
    if name in LEAKS:
        function, lookback = LEAKS[name], 60
    elif name in IMPURE:
        function, lookback = IMPURE[name][0], 60
    else:
        function, lookback = {**SKEWS, **HONEST}[name]
    return frozenset(breach.law for breach in check_feature(function, BARS, warm_up=lookback).breaches)


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_caught_by_prefix_and_scramble(name: str) -> None:
    assert {"prefix", "scramble"} <= caught_by(name)


@pytest.mark.parametrize("name", SKEWS)
def test_a_skew_is_caught_by_restart_alone(name: str) -> None:
    assert caught_by(name) == {"restart"}


@pytest.mark.parametrize("name", IMPURE)
def test_an_impure_function_is_caught(name: str) -> None:
    assert IMPURE[name][1] <= caught_by(name)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_feature_raises_no_alarm(name: str) -> None:
    assert not caught_by(name)


@pytest.mark.parametrize("name", ["BTCUSDT_BYBIT-1m", "SPY-1h"])
def test_the_catalogue_raises_no_alarm(name: str, real_bars: Callable[[str], pd.DataFrame]) -> None:
    warm_up = mlkit.feature_catalogue()["warm_up"].to_dict()
    report = check_feature(mlkit.build_features, real_bars(name).iloc[-1510:], warm_up=warm_up)
    assert report.passed, report.breaches[0]


def test_table_of_mutants_and_laws() -> None:
    laws = ("prefix", "scramble", "restart", "purity", "finite")
    names = [*LEAKS, *SKEWS, *IMPURE]
    print(f"\n{'mutant':34}" + "".join(f"{law:>10}" for law in laws))
    for name in names:
        print(f"{name:34}" + "".join(f"{'caught' if law in caught_by(name) else '.':>10}" for law in laws))
    print(f"{len(names)} mutants, {sum(bool(caught_by(name)) for name in names)} caught;", end=" ")
    print(f"{len(HONEST)} honest features, {sum(bool(caught_by(name)) for name in HONEST)} alarms")
    assert len(names) >= 30
    assert all(caught_by(name) for name in names)
