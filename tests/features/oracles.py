"""What every feature column should be, computed without mlkit: TA-Lib, pandas-ta-classic, scipy, pandas or plain numpy.

`references` gives one oracle a column; `compare` measures the distance. Windows are recomputed from scratch in two
passes, so an oracle has no memory of its own. The error of a value is relative to the larger of its size and the
column's standard deviation (columns cross zero); rounding to float32 alone is 6e-8.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import talib
from scipy import special, stats

import mlkit
from mlkit.features.rules import PATTERNS, pattern_flags

Array = np.ndarray
TOLERANCE = 1e-6
REAL = ("BTCUSDT_BYBIT-1m", "FXY-1m", "AAPL-1h", "BTCUSDT-1d", "EURUSD-1h")  # crypto, gaps, session, daily, no volume

CANDLES = {
    "doji": "DOJI", "hammer": "HAMMER", "shooting_star": "SHOOTINGSTAR", "engulfing_bullish": "ENGULFING",
    "engulfing_bearish": "ENGULFING", "morning_star": "MORNINGSTAR", "evening_star": "EVENINGSTAR",
    "three_white_soldiers": "3WHITESOLDIERS", "three_black_crows": "3BLACKCROWS", "harami": "HARAMI",
    "piercing_line": "PIERCING", "dark_cloud_cover": "DARKCLOUDCOVER", "marubozu": "MARUBOZU",
}  # fmt: skip
GAPPED = (
    "shooting_star", "morning_star", "evening_star", "three_black_crows", "piercing_line", "dark_cloud_cover",
)  # fmt: skip


class Oracle(NamedTuple):
    """A column by other means."""

    source: str
    values: Array
    settle: int = 0  # rows beyond the warm-up until a recursion has forgotten how it started


Table = dict[str, Oracle]


class Market:
    """Bars as the oracles read them."""

    def __init__(self, bars: pd.DataFrame) -> None:
        self.o, self.h, self.l, self.c, self.v = (bars[k].to_numpy(dtype=float) for k in bars)
        self.c1 = past(self.c, 1)
        self.r = np.concatenate([[np.nan], np.log1p((self.c[1:] - self.c[:-1]) / self.c[:-1])])
        self.r0 = np.nan_to_num(self.r)
        self.tp = (self.h + self.l + self.c) / 3
        self.span, self.body = self.h - self.l, self.c - self.o
        self.tr = np.fmax(self.h, self.c1) - np.fmin(self.l, self.c1)


def past(x: Array, n: int) -> Array:
    """``x`` of n bars ago, NaN where there is none."""
    return np.concatenate([np.full(n, np.nan), x[: len(x) - n]])


def windows(x: Array, n: int) -> Array:
    """The last n values at every bar, (n_bars, n), oldest first; NaN in front of the first."""
    padded = np.concatenate([np.full(n - 1, np.nan), x])
    return np.lib.stride_tricks.sliding_window_view(padded, n)


def total(x: Array, n: int) -> Array:
    return windows(x, n).sum(axis=1)


def mean(x: Array, n: int) -> Array:
    return windows(x, n).mean(axis=1)


def share(a: Array, b: Array, otherwise: float = 0.0) -> Array:
    """``a / b``, and the neutral value where b is 0."""
    out = np.full(np.broadcast(a, b).shape, float(otherwise))
    np.divide(a, b, out=out, where=~(np.asarray(b) == 0))
    return out


def spread(x: Array, n: int, ddof: int = 1) -> Array:
    """Standard deviation in two passes; rounding of a constant window counts as none."""
    w = windows(x, n)
    out = w.std(axis=1, ddof=ddof)
    return np.where(w.max(axis=1) == w.min(axis=1), 0.0, out)


def price(m: Market) -> Table:
    table = {
        "log_return_1": Oracle("numpy log1p", m.r),
        "return_1": Oracle("TA-Lib ROCP", talib.ROCP(m.c, 1)),
        "gap": Oracle("numpy", m.o / m.c1 - 1),
        "range_ratio": Oracle("numpy", m.span / m.c),
        "body_ratio": Oracle("numpy", m.body / m.c),
        "upper_shadow_ratio": Oracle("numpy", (m.h - np.maximum(m.o, m.c)) / m.c),
        "lower_shadow_ratio": Oracle("numpy", (np.minimum(m.o, m.c) - m.l) / m.c),
        "close_location": Oracle("numpy", share(m.c - m.l, m.span, 0.5)),
        "typical_ratio": Oracle("TA-Lib TYPPRICE", talib.TYPPRICE(m.h, m.l, m.c) / m.c - 1),
    }
    for n in (2, 3, 5, 10, 20, 60):
        table[f"log_return_{n}"] = Oracle("numpy log1p", np.log1p((m.c - past(m.c, n)) / past(m.c, n)))
    return table


def moving_average(m: Market) -> Table:
    sma = {n: mean(m.c, n) for n in (5, 10, 20, 50, 100, 200)}
    ema = {n: talib.EMA(m.c, n) for n in sma}
    table = {f"sma_ratio_{n}": Oracle("TA-Lib SMA", m.c / talib.SMA(m.c, n) - 1) for n in sma}
    table |= {f"ema_ratio_{n}": Oracle("TA-Lib EMA", m.c / ema[n] - 1, 10 * n) for n in sma}
    for a, b in ((5, 20), (10, 50), (50, 200)):
        table[f"sma_cross_{a}_{b}"] = Oracle("numpy", sma[a] / sma[b] - 1)
    for a, b in ((10, 50), (50, 200)):
        table[f"ema_cross_{a}_{b}"] = Oracle("TA-Lib EMA", ema[a] / ema[b] - 1, 10 * b)
    vwma = share(total(m.c * m.v, 20), total(m.v, 20), np.nan)
    table["vwma_ratio_20"] = Oracle("numpy", np.where(total(m.v, 20) == 0, 0.0, m.c / vwma - 1))
    return table


def volatility(m: Market) -> Table:
    log_range, deviation = np.log(m.h / m.l), spread(m.c, 20, 0)
    parkinson, log2 = log_range**2, math.log(2)
    gk = 0.5 * parkinson - (2 * log2 - 1) * np.log(m.c / m.o) ** 2
    rs = np.log(m.h / m.c) * np.log(m.h / m.o) + np.log(m.l / m.c) * np.log(m.l / m.o)
    ewma = pd.Series(m.r**2).ewm(alpha=0.06, adjust=False).mean().to_numpy()
    travel = share(total(m.tr, 14), windows(m.h, 14).max(1) - windows(m.l, 14).min(1))
    flat = travel == 0
    table = {
        "true_range_ratio": Oracle("TA-Lib TRANGE", talib.TRANGE(m.h, m.l, m.c) / m.c),
        "high_low_ratio": Oracle("numpy", m.h / m.l - 1),
        "ewma_volatility": Oracle("pandas ewm", np.sqrt(ewma), 400),
        "parkinson_20": Oracle("numpy", np.sqrt(mean(parkinson, 20) / (4 * log2))),
        "garman_klass_20": Oracle("numpy", np.sqrt(np.maximum(mean(gk, 20), 0))),
        "rogers_satchell_20": Oracle("numpy", np.sqrt(np.maximum(mean(rs, 20), 0))),
        "bollinger_position_20": Oracle("numpy", share(m.c - mean(m.c, 20), 2 * deviation)),
        "bollinger_width_20": Oracle("numpy", 4 * deviation / mean(m.c, 20)),
        "keltner_position_20": Oracle(
            "TA-Lib EMA, ATR", (m.c - talib.EMA(m.c, 20)) / (2 * talib.ATR(m.h, m.l, m.c, 14)), 400
        ),
        "choppiness_14": Oracle("numpy", np.where(flat, 0.0, 100 * np.log(travel + flat) / math.log(14))),
    }
    for n in (7, 14, 28):
        table[f"atr_ratio_{n}"] = Oracle("TA-Lib ATR", talib.ATR(m.h, m.l, m.c, n) / m.c, 20 * n)
    for n in (5, 10, 20, 50, 100):
        table[f"rolling_std_{n}"] = Oracle("numpy", spread(m.r, n))
    return table


def volume(m: Market) -> Table:
    v1, signed = past(m.v, 1), np.sign(m.r) * m.v
    flow = share((m.c - m.l) - (m.h - m.c), m.span) * m.v
    vwap = share(total(m.tp * m.v, 20), total(m.v, 20), np.nan)
    r, v = windows(m.r, 20), windows(m.v, 20)
    r, v = r - r.mean(1, keepdims=True), v - v.mean(1, keepdims=True)
    correlation = share((r * v).sum(1), np.sqrt((r**2).sum(1) * (v**2).sum(1)))
    rise, tie = m.tp - past(m.tp, 1), 1e-14 * m.tp
    up, down = total(m.tp * m.v * (rise > tie), 14), total(m.tp * m.v * (rise < -tie), 14)
    table = {
        "volume_sma_ratio_5_20": Oracle("numpy", share(mean(m.v, 5), mean(m.v, 20))),
        "volume_sma_ratio_20_100": Oracle("numpy", share(mean(m.v, 20), mean(m.v, 100))),
        "volume_change": Oracle("numpy", share(m.v - v1, m.v + v1)),
        "vwap_ratio_20": Oracle("numpy", np.where(total(m.v, 20) == 0, 0.0, m.c / vwap - 1)),
        "money_flow_index_14": Oracle("numpy", share(100 * up, up + down, 50)),
        "chaikin_money_flow_20": Oracle("numpy", share(total(flow, 20), total(m.v, 20))),
        "volume_variation_20": Oracle("numpy", share(spread(m.v, 20), mean(m.v, 20))),
        "return_volume_correlation_20": Oracle("numpy", correlation),
    }
    if (m.v > 0).all():  # where less than 1 has flowed TA-Lib gives 0
        flow_index = np.where(up + down < 1, np.nan, talib.MFI(m.h, m.l, m.c, m.v, 14))
        table["money_flow_index_14"] = Oracle("TA-Lib MFI", flow_index)
    for n in (5, 10, 20, 50):
        table[f"volume_ratio_{n}"] = Oracle("numpy", share(m.v, mean(m.v, n)))
    for n in (10, 20, 50):
        table[f"obv_{n}"] = Oracle("numpy", share(total(signed, n), total(m.v, n)))
    return table


def momentum(m: Market) -> Table:
    line, signal, histogram = talib.MACDEXT(m.c, 12, 1, 26, 1, 9, 1)
    low, high, change = windows(m.l, 14).min(1), windows(m.h, 14).max(1), m.c - m.c1
    k = share(100 * (m.c - low), high - low, 50)
    moved = total(np.abs(change), 14)
    table = {
        "macd_line": Oracle("TA-Lib MACDEXT", line / m.c, 400),
        "macd_signal": Oracle("TA-Lib MACDEXT", signal / m.c, 400),
        "macd_histogram": Oracle("TA-Lib MACDEXT", histogram / m.c, 400),
        "stochastic_k_14": Oracle("numpy", k),
        "stochastic_d_14": Oracle("numpy", mean(k, 3)),
        "williams_r_14": Oracle("numpy", k - 100),
        "chande_momentum_14": Oracle("numpy", share(100 * (m.c - past(m.c, 14)), moved)),
        "balance_of_power": Oracle("TA-Lib BOP", talib.BOP(m.o, m.h, m.l, m.c)),
    }
    if (high[13:] > low[13:]).all():  # TA-Lib has other neutral values than 50
        k, d = talib.STOCHF(m.h, m.l, m.c, 14, 3, 0)
        table["stochastic_k_14"] = Oracle("TA-Lib STOCHF", k)
        table["stochastic_d_14"] = Oracle("TA-Lib STOCHF", d)
        table["williams_r_14"] = Oracle("TA-Lib WILLR", talib.WILLR(m.h, m.l, m.c, 14))
    for n in (7, 14, 21):
        table[f"rsi_{n}"] = Oracle("TA-Lib RSI", talib.RSI(m.c, n), 20 * n)
    for n in (14, 20):
        middle = mean(m.tp, n)
        away = np.abs(windows(m.tp, n) - middle[:, None]).mean(1)
        away[away < 1e-13 * middle] = 0.0
        table[f"cci_{n}"] = Oracle("numpy", share(m.tp - middle, 0.015 * away))
    for n in (5, 10, 20, 60):
        table[f"roc_{n}"] = Oracle("TA-Lib ROCP", talib.ROCP(m.c, n))
    return table


def _vortex(m: Market) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it reads a deprecated attribute of pandas as it is imported
        import pandas_ta_classic as ta

        return ta.vortex(*(pd.Series(x) for x in (m.h, m.l, m.c)), length=14).to_numpy()


def trend(m: Market) -> Table:
    hl, settle, out = (m.h, m.l, m.c, 14), 400, {}
    out["adx_14"] = Oracle("TA-Lib ADX", talib.ADX(*hl), settle)
    out["plus_di_14"] = Oracle("TA-Lib PLUS_DI", talib.PLUS_DI(*hl), settle)
    out["minus_di_14"] = Oracle("TA-Lib MINUS_DI", talib.MINUS_DI(*hl), settle)
    out["dx_14"] = Oracle("TA-Lib DX", talib.DX(*hl), settle)
    ranges = total(m.tr, 14)
    out["vortex_plus_14"] = Oracle("numpy", share(total(np.abs(m.h - past(m.l, 1)), 14), ranges))
    out["vortex_minus_14"] = Oracle("numpy", share(total(np.abs(m.l - past(m.h, 1)), 14), ranges))
    if (ranges[14:] > 1e-6).all():  # where nothing moves pandas-ta divides an epsilon by another
        vortex = _vortex(m)
        out["vortex_plus_14"] = Oracle("pandas-ta-classic vortex", vortex[:, 0])
        out["vortex_minus_14"] = Oracle("pandas-ta-classic vortex", vortex[:, 1])
    for n in (20, 50):
        low, high, x = windows(m.l, n).min(1), windows(m.h, n).max(1), np.arange(n) - (n - 1) / 2
        out[f"donchian_position_{n}"] = Oracle("numpy", share(m.c - low, high - low, 0.5))
        w = windows(m.c, n)
        w = w - w.mean(1, keepdims=True)
        fit = share((w @ x) ** 2, (w**2).sum(1) * (x @ x))
        flat = w.max(1) - w.min(1) < 1e-13 * m.c
        out[f"trend_slope_{n}"] = Oracle("numpy", w @ x / (x @ x) / m.c)
        out[f"trend_r2_{n}"] = Oracle("numpy", np.where(flat, 0.0, fit))
    out["drawdown_50"], out["rally_50"] = Oracle("numpy", m.c / high - 1), Oracle("numpy", m.c / low - 1)
    for n in (10, 20):
        path = total(np.abs(m.c - m.c1), n)
        out[f"efficiency_ratio_{n}"] = Oracle("numpy", share(np.abs(m.c - past(m.c, n)), path))
    return out


def lag(m: Market) -> Table:
    out = {}
    for k in (1, 2, 3, 5, 10):
        for name, x in (("open", m.o), ("high", m.h), ("low", m.l), ("close", m.c)):
            out[f"lag_{k}_{name}"] = Oracle("numpy", past(x, k) / m.c - 1)
        out[f"lag_{k}_volume"] = Oracle("numpy", share(past(m.v, k), mean(m.v, 20)))
    return out


def statistics(m: Market) -> Table:
    out = {f"rolling_mean_{n}": Oracle("numpy", mean(m.r, n)) for n in (5, 10, 20, 50, 100)}
    for n in (10, 20, 50, 100):
        w = windows(m.r, n)[n:]
        moves, front = np.ptp(w, axis=1) > 0, np.full(n, np.nan)
        for name, moment in (("skew", stats.skew), ("kurtosis", stats.kurtosis)):
            values = np.zeros(len(w))
            values[moves] = moment(w[moves], axis=1, bias=False)
            out[f"rolling_{name}_{n}"] = Oracle(f"scipy {name}", np.concatenate([front, values]))
    for n in (20, 50):
        out[f"zscore_{n}"] = Oracle("numpy", share(m.c - mean(m.c, n), spread(m.c, n)))
    squares = total(m.r**2, 20)
    out["autocorrelation_20"] = Oracle("numpy", share(total(m.r * past(m.r, 1), 20), squares))
    out["return_concentration_20"] = Oracle("numpy", share(mean(np.abs(m.r), 20), np.sqrt(squares / 20)))
    return out


def candle(m: Market) -> Table:
    low, wide = windows(m.l, 20).min(1), windows(m.h, 20).max(1) - windows(m.l, 20).min(1)
    top, bottom, size = np.maximum(m.o, m.c), np.minimum(m.o, m.c), np.abs(m.body)
    union = np.maximum(top, past(top, 1)) - np.minimum(bottom, past(bottom, 1))
    common = np.minimum(top, past(top, 1)) - np.maximum(bottom, past(bottom, 1))
    h1, l1, range10, sign = past(m.h, 1), past(m.l, 1), mean(m.span, 10), np.sign(m.body)
    runs = pd.Series(sign).groupby((pd.Series(sign).diff() != 0).cumsum()).cumcount().to_numpy() + 1
    values = {
        "body_to_range": share(size, m.span), "upper_shadow_to_range": share(m.h - top, m.span),
        "lower_shadow_to_range": share(bottom - m.l, m.span), "direction": sign,
        "run_length": np.minimum(runs, 10) * sign, "body_to_average_10": share(size, mean(size, 10)),
        "range_to_average_10": share(m.span, range10),
        "body_growth": share(size - past(size, 1), size + past(size, 1)),
        "body_overlap": np.maximum(share(common, union), 0.0),
        "inside_bar": (m.h <= h1) & (m.l >= l1), "outside_bar": (m.h >= h1) & (m.l <= l1),
        "gap_to_range_10": share(m.o - m.c1, range10), "two_bar_body": share(m.c - past(m.o, 1), range10),
        "three_bar_body": share(m.c - past(m.o, 2), range10),
        "body_balance_5": share(total(m.body, 5), total(m.span, 5)),
        "higher_high_share_5": mean(m.h > h1, 5), "higher_low_share_5": mean(m.l > l1, 5),
    }  # fmt: skip
    for name, x in (("open", m.o), ("high", m.h), ("low", m.l), ("close", m.c)):
        values[f"window_{name}_20"] = share(x - low, wide, 0.5)
    return {name: Oracle("numpy", np.asarray(x, dtype=float)) for name, x in values.items()}


def rule(m: Market) -> Table:
    prices, out = (m.o, m.h, m.l, m.c), {}
    for name, function in CANDLES.items():
        flags = np.sign(getattr(talib, f"CDL{function}")(*prices)).astype(float)
        if name.startswith("engulfing"):
            flags = flags * (flags == (1 if name.endswith("bullish") else -1))
        out[f"rule_{name}"] = Oracle(f"TA-Lib CDL{function}", flags)
    white, equal = m.c >= m.o, past(0.05 * mean(m.span, 5), 2)
    for name, x, first in (("tweezer_top", m.h, white), ("tweezer_bottom", m.l, ~white)):
        apart, by_rounding = np.abs(x - past(x, 1)), np.zeros(len(x), dtype=bool)
        by_rounding[6:] = np.abs(apart - equal)[6:] < 1e-6 * equal[6:]  # such a tie is not compared
        pair = (past(first.astype(float), 1) == 1) & ~first & (apart <= equal)
        flags = pair * (-1.0 if name.endswith("top") else 1.0)
        out[f"rule_{name}"] = Oracle("numpy", np.where(by_rounding, np.nan, flags))
    flags = pattern_flags(*prices, standard="continuous").astype(float)
    for name in GAPPED:  # only that they arrive; their own oracle is in test_rules.py
        out[f"rule_continuous_{name}"] = Oracle("test_rules.py", flags[:, PATTERNS.index(name)])
    return out


def _garch(m: Market) -> Array:
    """The default filter: alpha 0.08, beta 0.90, aimed at the mean square of the last 200 returns."""
    long_run = pd.Series(m.r0**2).rolling(200, min_periods=1).mean().to_numpy()
    variance, out = m.r0[1] ** 2, np.zeros(len(m.c))
    for t in range(1, len(m.c)):
        variance = 0.02 * long_run[t] + 0.08 * m.r0[t] ** 2 + 0.90 * variance
        out[t] = variance
    return np.sqrt(out)


def market(m: Market) -> Table:
    r1, scale = past(m.r, 1), past(pd.Series(m.r**2).ewm(alpha=0.06, adjust=False).mean().to_numpy(), 1)
    bulk = m.v * special.erf(share(m.r, np.sqrt(2 * scale)))
    std = {n: spread(m.r, n) for n in (10, 20, 100, 200)}
    bipower = math.pi / 2 * 20 / 19 * total(np.abs(m.r * r1), 20)
    squares, cov = total(m.r**2, 20), mean(m.r * r1, 20) - mean(m.r, 20) ** 2
    jumps = np.maximum(0.0, 1 - share(bipower, squares, 1.0))
    illiquid = mean(share(np.abs(m.r), m.c * m.v), 20) * mean(m.c * m.v, 100)
    beta = np.log(m.h / m.l) ** 2 + past(np.log(m.h / m.l) ** 2, 1)
    gamma = np.log(np.maximum(m.h, past(m.h, 1)) / np.minimum(m.l, past(m.l, 1))) ** 2
    k = 3 - 2 * math.sqrt(2)
    alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / k - np.sqrt(gamma / k)
    corwin = np.maximum(0.0, 2 * np.expm1(alpha) / (1 + np.exp(alpha)))
    garch = _garch(m)
    out = {
        "volatility_regime_10_100": Oracle("numpy", share(std[10], std[100])),
        "volatility_regime_20_200": Oracle("numpy", share(std[20], std[200])),
        "garch_volatility": Oracle("numpy recursion", garch, 300),
        "garch_to_realised_20": Oracle("numpy recursion", share(garch, std[20]), 300),
        "jump_share_20": Oracle("numpy", np.where(squares == 0, 0.0, jumps)),
        "amihud_20": Oracle("numpy", illiquid),
        "roll_spread_20": Oracle("numpy", 2 * np.sqrt(np.maximum(-cov, 0))),
        "corwin_schultz_20": Oracle("numpy", mean(corwin, 20)),
        "zero_return_share_20": Oracle("numpy", mean((m.c == m.c1).astype(float), 20)),
    }
    for n in (10, 20, 50):
        out[f"volume_imbalance_{n}"] = Oracle("scipy erf", share(total(bulk, n), total(m.v, n)), 500)
    for n in (10, 50):
        out[f"market_pressure_{n}"] = Oracle("numpy", share(total(m.body, n), total(m.span, n)))
    return out


FAMILIES = (price, moving_average, volatility, volume, momentum, trend, lag, statistics, candle, rule, market)


def references(bars: pd.DataFrame) -> Table:
    """The oracle of every column."""
    m = Market(bars)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: oracle for family in FAMILIES for name, oracle in family(m).items()}


def compare(bars: pd.DataFrame, since: int = 0) -> pd.DataFrame:
    """Worst error of every column from row ``since`` on: index column name, columns source, rows (compared), error."""
    features, warm_up, rows = mlkit.build_features(bars), mlkit.feature_catalogue()["warm_up"], {}
    for name, oracle in references(bars).items():
        start = max(since, warm_up[name] + oracle.settle)
        ours = features[name].to_numpy(dtype=float)[start:]
        theirs = oracle.values[start:]
        known = np.isfinite(theirs)
        scale = np.maximum(np.abs(theirs), np.std(theirs[known]) if known.any() else 0.0)
        error = np.abs(ours - theirs)[known] / np.maximum(scale[known], 1e-12)
        rows[name] = (oracle.source, int(known.sum()), float(error.max(initial=0.0)))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["source", "rows", "error"])


def wrong(bars: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The columns of a kind (technical, pattern or market) that miss their oracle; every column has one."""
    table, catalogue = compare(bars), mlkit.feature_catalogue()
    assert set(table.index) == set(catalogue.index)
    return table[(table["error"] > TOLERANCE) & (catalogue["kind"][table.index] == kind)]
