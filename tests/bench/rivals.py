"""The same columns by other libraries, each handing over one float32 DataFrame; not mlkit's own code path.

Every function takes bars and returns the columns that the library has, raw indicators without our ratios, which
flatters the rival. Libraries that are not installed raise ImportError.
"""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

PERIODS = (5, 10, 20, 50, 100, 200)
CANDLES = (
    "DOJI", "HAMMER", "SHOOTINGSTAR", "ENGULFING", "MORNINGSTAR", "EVENINGSTAR", "3WHITESOLDIERS", "3BLACKCROWS",
    "HARAMI", "PIERCING", "DARKCLOUDCOVER", "MARUBOZU",
)  # fmt: skip


def _frame(columns: list[np.ndarray], index: pd.Index) -> pd.DataFrame:
    out = np.empty((len(index), len(columns)), dtype=np.float32)
    for j, column in enumerate(columns):
        out[:, j] = column
    return pd.DataFrame(out, index=index, copy=False)


def talib_and_pandas(bars: pd.DataFrame) -> pd.DataFrame:
    """TA-Lib, and pandas for lags and rolling moments."""
    import talib as t

    o, h, lo, c, v = (bars[k].to_numpy() for k in bars)
    r, close, volume = np.log(bars["close"]).diff(), bars["close"], bars["volume"]
    out = [t.SMA(c, n) for n in PERIODS] + [t.EMA(c, n) for n in PERIODS]
    out += [t.ATR(h, lo, c, n) for n in (7, 14, 28)] + [t.RSI(c, n) for n in (7, 14, 21)]
    out += [*t.BBANDS(c, 20, 2, 2), *t.MACDEXT(c, 12, 1, 26, 1, 9, 1), *t.STOCHF(h, lo, c, 14, 3, 0)]
    out += [t.WILLR(h, lo, c, 14), t.CCI(h, lo, c, 14), t.CCI(h, lo, c, 20), t.BOP(o, h, lo, c), t.CMO(c, 14)]
    out += [t.ROCP(c, n) for n in (1, 5, 10, 20, 60)]
    out += [t.ADX(h, lo, c, 14), t.PLUS_DI(h, lo, c, 14), t.MINUS_DI(h, lo, c, 14), t.DX(h, lo, c, 14)]
    out += [t.LINEARREG_SLOPE(c, n) for n in (20, 50)] + [t.MFI(h, lo, c, v, 14), t.OBV(c, v)]
    out += [t.SMA(v, n) for n in (5, 10, 20, 50)] + [t.TRANGE(h, lo, c), t.TYPPRICE(h, lo, c)]
    out += [f(x, n) for n in (20, 50) for f, x in ((t.MAX, h), (t.MIN, lo))]
    out += [getattr(t, f"CDL{name}")(o, h, lo, c) for name in CANDLES]
    for n in (5, 10, 20, 50, 100):
        out += [r.rolling(n).mean(), r.rolling(n).std()]
    for n in (10, 20, 50, 100):
        out += [r.rolling(n).skew(), r.rolling(n).kurt()]
    out += [bars[name].shift(k) / close for k in (1, 2, 3, 5, 10) for name in ("open", "high", "low", "close")]
    out += [r.rolling(20).corr(volume)]
    return _frame(out, bars.index)


def kand(bars: pd.DataFrame) -> pd.DataFrame:
    """kand (Rust)."""
    import kand as k

    o, h, lo, c, v = (np.ascontiguousarray(bars[name].to_numpy()) for name in bars)
    out = [k.sma(c, n) for n in PERIODS] + [k.ema(c, n) for n in PERIODS]
    out += [k.atr(h, lo, c, n) for n in (7, 14, 28)]
    out += [k.rocp(c, n) for n in (1, 5, 10, 20, 60)]
    out += [k.willr(h, lo, c, 14), k.cci(h, lo, c, 14), k.cci(h, lo, c, 20), k.bop(o, h, lo, c)]
    out += [k.plus_di(h, lo, c, 14), k.minus_di(h, lo, c, 14), k.obv(c, v)]
    out += [k.sma(v, n) for n in (5, 10, 20, 50)] + [k.trange(h, lo, c), k.typprice(h, lo, c)]
    out += [f(x, n) for n in (20, 50) for f, x in ((k.max, h), (k.min, lo))]
    columns: list[np.ndarray] = [part for item in out for part in (item if isinstance(item, tuple) else (item,))]
    return _frame([np.asarray(column) for column in columns], bars.index)


def polars_talib(bars: pd.DataFrame) -> pd.DataFrame:
    """polars with its TA-Lib plugin, on one thread when POLARS_MAX_THREADS=1 is set before the import."""
    import polars as pl
    import polars_talib as t

    table = pl.DataFrame({name: bars[name].to_numpy() for name in bars})
    c, v, hlc = pl.col("close"), pl.col("volume"), (pl.col("high"), pl.col("low"), pl.col("close"))
    out = [t.sma(c, timeperiod=n) for n in PERIODS] + [t.ema(c, timeperiod=n) for n in PERIODS]
    out += [t.atr(*hlc, timeperiod=n) for n in (7, 14, 28)] + [t.rsi(c, timeperiod=n) for n in (7, 14, 21)]
    out += [t.willr(*hlc, timeperiod=14), t.cci(*hlc, timeperiod=14), t.cci(*hlc, timeperiod=20)]
    out += [t.rocp(c, timeperiod=n) for n in (1, 5, 10, 20, 60)]
    out += [t.adx(*hlc, timeperiod=14), t.plus_di(*hlc, timeperiod=14), t.minus_di(*hlc, timeperiod=14)]
    out += [t.dx(*hlc, timeperiod=14), t.mfi(*hlc, v, timeperiod=14), t.obv(c, v)]
    out += [t.linearreg_slope(c, timeperiod=n) for n in (20, 50)]
    out += [t.sma(v, timeperiod=n) for n in (5, 10, 20, 50)]
    r = (c / c.shift(1)).log()
    out += [f for n in (5, 10, 20, 50, 100) for f in (r.rolling_mean(n), r.rolling_std(n))]
    out += [pl.col(name).shift(k) / c for k in (1, 2, 3, 5, 10) for name in ("open", "high", "low", "close")]
    named = [expression.cast(pl.Float32).alias(str(j)) for j, expression in enumerate(out)]
    return pd.DataFrame(table.select(named).to_numpy(), index=bars.index, copy=False)


def pandas_ta(bars: pd.DataFrame, talib: bool = False) -> pd.DataFrame:
    """pandas-ta-classic; ``talib`` lets it call TA-Lib where it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas_ta_classic as ta

        o, h, lo, c, v = (bars[name] for name in bars)
        r, x = ta.log_return(c), {"talib": talib}
        out = [ta.sma(c, n, **x) for n in PERIODS] + [ta.ema(c, n, **x) for n in PERIODS]
        out += [ta.atr(h, lo, c, n, **x) for n in (7, 14, 28)] + [ta.rsi(c, n, **x) for n in (7, 14, 21)]
        out += [ta.bbands(c, 20, **x), ta.macd(c, **x), ta.stoch(h, lo, c, 14, 3, 1, **x), ta.willr(h, lo, c, 14, **x)]
        out += [ta.cci(h, lo, c, n, **x) for n in (14, 20)] + [ta.roc(c, n, **x) for n in (1, 5, 10, 20, 60)]
        out += [ta.bop(o, h, lo, c, **x), ta.cmo(c, 14, **x), ta.adx(h, lo, c, 14, **x), ta.vortex(h, lo, c, 14)]
        out += [ta.er(c, n) for n in (10, 20)] + [ta.slope(c, n) for n in (20, 50)]
        out += [ta.mfi(h, lo, c, v, 14, **x), ta.obv(c, v, **x), ta.cmf(h, lo, c, v, length=20), ta.vwma(c, v, 20)]
        out += [ta.donchian(h, lo, n, n) for n in (20, 50)] + [ta.chop(h, lo, c, 14), ta.true_range(h, lo, c, **x)]
        out += [ta.sma(v, n, **x) for n in (5, 10, 20, 50)] + [ta.zscore(c, n) for n in (20, 50)]
        out += [ta.stdev(r, n, **x) for n in (5, 10, 20, 50, 100)]
        out += [f(r, n) for n in (10, 20, 50, 100) for f in (ta.skew, ta.kurtosis)]
        parts = [item for item in out if item is not None]
        return pd.concat(parts, axis=1).astype(np.float32)


#: Our columns that say what those of `pandas_ta` say, as ratios.
IN_PANDAS_TA = [
    *(f"{kind}_ratio_{n}" for kind in ("sma", "ema") for n in PERIODS),
    *(f"atr_ratio_{n}" for n in (7, 14, 28)), *(f"rsi_{n}" for n in (7, 14, 21)),
    "bollinger_position_20", "bollinger_width_20", "macd_line", "macd_signal", "macd_histogram",
    "stochastic_k_14", "stochastic_d_14", "williams_r_14", "cci_14", "cci_20", "return_1",
    *(f"roc_{n}" for n in (5, 10, 20, 60)), "balance_of_power", "chande_momentum_14",
    "adx_14", "plus_di_14", "minus_di_14", "vortex_plus_14", "vortex_minus_14",
    "efficiency_ratio_10", "efficiency_ratio_20", "trend_slope_20", "trend_slope_50", "money_flow_index_14", "obv_20",
    "chaikin_money_flow_20", "vwma_ratio_20", "donchian_position_20", "donchian_position_50", "drawdown_50", "rally_50",
    "choppiness_14", "true_range_ratio", *(f"volume_ratio_{n}" for n in (5, 10, 20, 50)), "zscore_20", "zscore_50",
    *(f"rolling_std_{n}" for n in (5, 10, 20, 50, 100)),
    *(f"rolling_{moment}_{n}" for moment in ("skew", "kurtosis") for n in (10, 20, 50, 100)),
]  # fmt: skip
RIVALS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "TA-Lib + pandas": talib_and_pandas,
    "polars-talib": polars_talib,
    "kand": kand,
}
