"""Every built-in feature: name, family, formula, range, warm-up and source, in column order.

Notation: C, O, H, L, V are close, open, high, low and volume of the bar; a number in brackets counts bars
back; r is the log return; mean_n, sum_n, std_n, max_n, min_n run over the last n bars, the newest included;
ema_n weighs by 2 / (n + 1) and wilder_n by 1 / n, both started as the plain mean of what they have seen.

Warm-up is the number of rows at the start that are NaN. A window of n bars needs n - 1 rows before it is full,
one more when it holds changes. An exponential average is called warm after 3 n bars (8 n for Wilder's, whose
weights fade half as fast), when its first value weighs less than 0.3 %.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mlkit.features.rules import PATTERNS, WARM_UP

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One column: what it is, what it can be, and when it is known."""

    name: str
    family: str
    formula: str
    range: str
    warm_up: int  # rows that are NaN at the start
    source: str


ANY, SHARE, SIGNED, PERCENT, POSITIVE = "any", "0 to 1", "-1 to 1", "0 to 100", ">= 0"
TRUE_FALSE, THREE_WAY = "0 or 1", "-1, 0 or 1"
LAGS = (1, 2, 3, 5, 10)
Row = tuple[str, str, str, int, str]  # name, formula, range, warm-up, source


def _price() -> list[Row]:
    return [
        ("log_return_1", "log(C / C[1])", ANY, 1, ""),
        ("return_1", "C / C[1] - 1", ANY, 1, "TA-Lib ROCP(1)"),
        ("gap", "O / C[1] - 1", ANY, 1, ""),
        ("range_ratio", "(H - L) / C", POSITIVE, 0, ""),
        ("body_ratio", "(C - O) / C", ANY, 0, ""),
        ("upper_shadow_ratio", "(H - max(O, C)) / C", POSITIVE, 0, ""),
        ("lower_shadow_ratio", "(min(O, C) - L) / C", POSITIVE, 0, ""),
        ("close_location", "(C - L) / (H - L); 0.5 without range", SHARE, 0, ""),
        ("typical_ratio", "(H + L + C) / 3 / C - 1", ANY, 0, "TA-Lib TYPPRICE"),
        *((f"log_return_{n}", f"log(C / C[{n}])", ANY, n, "") for n in (2, 3, 5, 10, 20, 60)),
    ]


def _moving_average() -> list[Row]:
    periods = (5, 10, 20, 50, 100, 200)
    return [
        *((f"sma_ratio_{n}", f"C / mean_{n}(C) - 1", ANY, n - 1, f"TA-Lib SMA({n})") for n in periods),
        *((f"ema_ratio_{n}", f"C / ema_{n}(C) - 1", ANY, 3 * n, f"TA-Lib EMA({n})") for n in periods),
        ("sma_cross_5_20", "mean_5(C) / mean_20(C) - 1", ANY, 19, ""),
        ("sma_cross_10_50", "mean_10(C) / mean_50(C) - 1", ANY, 49, ""),
        ("sma_cross_50_200", "mean_50(C) / mean_200(C) - 1", ANY, 199, "the golden cross, as a distance"),
        ("ema_cross_10_50", "ema_10(C) / ema_50(C) - 1", ANY, 150, ""),
        ("ema_cross_50_200", "ema_50(C) / ema_200(C) - 1", ANY, 600, ""),
        ("vwma_ratio_20", "C / (sum_20(C V) / sum_20(V)) - 1; 0 without volume", ANY, 19, "volume-weighted mean"),
    ]


def _volatility() -> list[Row]:
    return [
        ("true_range_ratio", "TR / C, TR = max(H, C[1]) - min(L, C[1])", POSITIVE, 1, "TA-Lib TRANGE"),
        *((f"atr_ratio_{n}", f"wilder_{n}(TR) / C", POSITIVE, 8 * n, f"TA-Lib ATR({n})") for n in (7, 14, 28)),
        *((f"rolling_std_{n}", f"std_{n}(r), ddof 1", POSITIVE, n, "pandas rolling.std") for n in (5, 10, 20, 50, 100)),
        ("high_low_ratio", "H / L - 1", POSITIVE, 0, ""),
        ("ewma_volatility", "sqrt of the average of r^2 with weight 0.06", POSITIVE, 100, "RiskMetrics 1996"),
        ("parkinson_20", "sqrt(mean_20(log(H / L)^2) / (4 log 2))", POSITIVE, 19, "Parkinson 1980"),
        (
            "garman_klass_20",
            "sqrt(mean_20(log(H / L)^2 / 2 - (2 log 2 - 1) log(C / O)^2)), floored at 0",
            POSITIVE,
            19,
            "Garman and Klass 1980",
        ),
        (
            "rogers_satchell_20",
            "sqrt(mean_20(log(H/C) log(H/O) + log(L/C) log(L/O)))",
            POSITIVE,
            19,
            "Rogers and Satchell 1991",
        ),
        ("bollinger_position_20", "(C - mean_20(C)) / (2 std_20(C)), ddof 0; 0 when flat", ANY, 19, "TA-Lib BBANDS"),
        ("bollinger_width_20", "4 std_20(C) / mean_20(C), ddof 0", POSITIVE, 19, "TA-Lib BBANDS"),
        ("keltner_position_20", "(C - ema_20(C)) / (2 wilder_14(TR)); 0 when flat", ANY, 112, "Keltner channels"),
        (
            "choppiness_14",
            "100 log10(sum_14(TR) / (max_14(H) - min_14(L))) / log10(14); 0 when flat",
            ANY,
            14,
            "Dreiss 1993",
        ),
    ]


def _volume() -> list[Row]:
    return [
        *((f"volume_ratio_{n}", f"V / mean_{n}(V); 0 without volume", POSITIVE, n - 1, "") for n in (5, 10, 20, 50)),
        ("volume_sma_ratio_5_20", "mean_5(V) / mean_20(V); 0 without volume", POSITIVE, 19, ""),
        ("volume_sma_ratio_20_100", "mean_20(V) / mean_100(V); 0 without volume", POSITIVE, 99, ""),
        ("volume_change", "(V - V[1]) / (V + V[1]); 0 without volume", SIGNED, 1, ""),
        *(
            (f"obv_{n}", f"sum_{n}(sign(r) V) / sum_{n}(V); 0 without volume", SIGNED, n, "on-balance volume, bounded")
            for n in (10, 20, 50)
        ),
        ("vwap_ratio_20", "C / (sum_20(TP V) / sum_20(V)) - 1, TP = (H + L + C) / 3; 0 without volume", ANY, 19, ""),
        ("money_flow_index_14", "100 up / (up + down) of TP V over 14; 50 without flow", PERCENT, 14, "TA-Lib MFI(14)"),
        (
            "chaikin_money_flow_20",
            "sum_20(V (2 C - H - L) / (H - L)) / sum_20(V); 0 without volume",
            SIGNED,
            19,
            "Chaikin",
        ),
        ("volume_variation_20", "std_20(V) / mean_20(V), ddof 1; 0 without volume", POSITIVE, 19, ""),
        ("return_volume_correlation_20", "correlation of r and V over 20; 0 when either is flat", SIGNED, 20, ""),
    ]


def _momentum() -> list[Row]:
    return [
        *(
            (
                f"rsi_{n}",
                f"100 g / (g + l), g and l wilder_{n} of rises and falls; 50 when flat",
                PERCENT,
                8 * n,
                f"TA-Lib RSI({n})",
            )
            for n in (7, 14, 21)
        ),
        ("macd_line", "(ema_12(C) - ema_26(C)) / C", ANY, 78, "Appel; TA-Lib MACDEXT"),
        ("macd_signal", "ema_9 of the line before division, / C", ANY, 105, "Appel; TA-Lib MACDEXT"),
        ("macd_histogram", "macd_line - macd_signal", ANY, 105, "Appel; TA-Lib MACDEXT"),
        (
            "stochastic_k_14",
            "100 (C - min_14(L)) / (max_14(H) - min_14(L)); 50 when flat",
            PERCENT,
            13,
            "TA-Lib STOCHF(14, 3)",
        ),
        ("stochastic_d_14", "mean_3 of stochastic_k_14", PERCENT, 15, "TA-Lib STOCHF(14, 3)"),
        ("williams_r_14", "stochastic_k_14 - 100", "-100 to 0", 13, "TA-Lib WILLR(14)"),
        *(
            (
                f"cci_{n}",
                f"(TP - mean_{n}(TP)) / (0.015 mean absolute deviation); 0 when flat",
                ANY,
                n - 1,
                f"TA-Lib CCI({n})",
            )
            for n in (14, 20)
        ),
        *((f"roc_{n}", f"C / C[{n}] - 1", "> -1", n, f"TA-Lib ROCP({n})") for n in (5, 10, 20, 60)),
        (
            "chande_momentum_14",
            "100 (rises - falls) / (rises + falls), sums over 14; 0 when flat",
            "-100 to 100",
            14,
            "Chande and Kroll 1994",
        ),
        ("balance_of_power", "(C - O) / (H - L); 0 without range", SIGNED, 0, "TA-Lib BOP"),
    ]


def _trend() -> list[Row]:
    return [
        ("adx_14", "wilder_14 of dx_14", PERCENT, 210, "Wilder 1978; TA-Lib ADX(14)"),
        ("plus_di_14", "100 wilder_14(+DM) / wilder_14(TR); 0 when flat", PERCENT, 112, "TA-Lib PLUS_DI(14)"),
        ("minus_di_14", "100 wilder_14(-DM) / wilder_14(TR); 0 when flat", PERCENT, 112, "TA-Lib MINUS_DI(14)"),
        ("dx_14", "100 |+DI - -DI| / (+DI + -DI); 0 when flat", PERCENT, 126, "TA-Lib DX(14)"),
        ("vortex_plus_14", "sum_14 |H - L[1]| / sum_14(TR); 0 when flat", POSITIVE, 14, "Botes and Siepman 2010"),
        ("vortex_minus_14", "sum_14 |L - H[1]| / sum_14(TR); 0 when flat", POSITIVE, 14, "Botes and Siepman 2010"),
        *(
            (f"donchian_position_{n}", f"(C - min_{n}(L)) / (max_{n}(H) - min_{n}(L)); 0.5 when flat", SHARE, n - 1, "")
            for n in (20, 50)
        ),
        ("drawdown_50", "C / max_50(H) - 1", "-1 to 0", 49, ""),
        ("rally_50", "C / min_50(L) - 1", POSITIVE, 49, ""),
        *(
            (f"efficiency_ratio_{n}", f"|C - C[{n}]| / sum_{n}|C - C[1]|; 0 when flat", SHARE, n, "Kaufman 1995")
            for n in (10, 20)
        ),
        *(
            (f"trend_slope_{n}", f"least-squares slope of C over {n} bars, per bar, / C", ANY, n - 1, "TA-Lib LINEARREG_SLOPE")
            for n in (20, 50)
        ),
        *(
            (f"trend_r2_{n}", f"r squared of that line over {n} bars; 0 when flat", SHARE, n - 1, "scipy linregress")
            for n in (20, 50)
        ),
    ]  # fmt: skip


def _lag() -> list[Row]:
    rows: list[Row] = []
    for k in LAGS:
        for letter, part in (("O", "open"), ("H", "high"), ("L", "low"), ("C", "close")):
            rows.append((f"lag_{k}_{part}", f"{letter}[{k}] / C - 1", "> -1", k, ""))
        rows.append((f"lag_{k}_volume", f"V[{k}] / mean_20(V); 0 without volume", POSITIVE, 19, ""))
    return rows


def _statistics() -> list[Row]:
    return [
        *((f"rolling_mean_{n}", f"mean_{n}(r)", ANY, n, "pandas rolling.mean") for n in (5, 10, 20, 50, 100)),
        *((f"rolling_skew_{n}", f"skew_{n}(r), unbiased; 0 when flat", ANY, n, "pandas rolling.skew") for n in (10, 20, 50, 100)),
        *((f"rolling_kurtosis_{n}", f"excess kurtosis_{n}(r), unbiased; 0 when flat", ANY, n, "pandas rolling.kurt") for n in (10, 20, 50, 100)),
        *((f"zscore_{n}", f"(C - mean_{n}(C)) / std_{n}(C), ddof 1; 0 when flat", ANY, n - 1, "") for n in (20, 50)),
        ("autocorrelation_20", "sum_20(r r[1]) / sum_20(r^2); 0 when flat", ANY, 21, ""),
        ("return_concentration_20", "mean_20|r| / sqrt(mean_20(r^2)); 0 when flat", SHARE, 20, "Geary 1935"),
    ]  # fmt: skip


def _candle() -> list[Row]:
    return [
        *((f"window_{part}_20", f"({letter} - min_20(L)) / (max_20(H) - min_20(L)); 0.5 when flat", SHARE, 19, "")
          for letter, part in (("O", "open"), ("H", "high"), ("L", "low"), ("C", "close"))),
        ("body_to_range", "|C - O| / (H - L); 0 without range", SHARE, 0, ""),
        ("upper_shadow_to_range", "(H - max(O, C)) / (H - L); 0 without range", SHARE, 0, ""),
        ("lower_shadow_to_range", "(min(O, C) - L) / (H - L); 0 without range", SHARE, 0, ""),
        ("direction", "sign(C - O)", THREE_WAY, 0, ""),
        ("run_length", "signed length of the run of candles of one direction, at most 10", "-10 to 10", 10, ""),
        ("body_to_average_10", "|C - O| / mean_10|C - O|; 0 when flat", "0 to 10", 9, ""),
        ("range_to_average_10", "(H - L) / mean_10(H - L); 0 when flat", "0 to 10", 9, ""),
        ("body_growth", "(|body| - |body[1]|) / (|body| + |body[1]|); 0 when both are flat", SIGNED, 1, ""),
        ("body_overlap", "overlap of this body and the last / their union; 0 when apart", SHARE, 1, ""),
        ("inside_bar", "H <= H[1] and L >= L[1]", TRUE_FALSE, 1, ""),
        ("outside_bar", "H >= H[1] and L <= L[1]", TRUE_FALSE, 1, ""),
        ("gap_to_range_10", "(O - C[1]) / mean_10(H - L); 0 when flat", ANY, 9, ""),
        ("two_bar_body", "(C - O[1]) / mean_10(H - L); 0 when flat", ANY, 9, ""),
        ("three_bar_body", "(C - O[2]) / mean_10(H - L); 0 when flat", ANY, 9, ""),
        ("body_balance_5", "sum_5(C - O) / sum_5(H - L); 0 when flat", SIGNED, 4, ""),
        ("higher_high_share_5", "share of the last 5 bars with H > H[1]", SHARE, 5, ""),
        ("higher_low_share_5", "share of the last 5 bars with L > L[1]", SHARE, 5, ""),
    ]  # fmt: skip


def _rule() -> list[Row]:
    gapped = ("shooting_star", "morning_star", "evening_star", "three_black_crows", "piercing_line", "dark_cloud_cover")
    return [
        *((f"rule_{p}", "classic rule, signed by direction", THREE_WAY, WARM_UP[p], "TA-Lib CDL*") for p in PATTERNS),
        *((f"rule_continuous_{p}", "the rule without its gap condition", THREE_WAY, WARM_UP[p], "mlkit.features.rules")
          for p in gapped),
    ]  # fmt: skip


def _market() -> list[Row]:
    return [
        *(
            (
                f"volume_imbalance_{n}",
                f"sum_{n}(V (2 Phi(r / ewma_volatility[1]) - 1)) / sum_{n}(V); 0 without volume",
                SIGNED,
                100 + n,
                "bulk volume classification, Easley et al. 2016",
            )
            for n in (10, 20, 50)
        ),
        ("volatility_regime_10_100", "std_10(r) / std_100(r); 0 when flat", POSITIVE, 100, ""),
        ("volatility_regime_20_200", "std_20(r) / std_200(r); 0 when flat", POSITIVE, 200, ""),
        ("garch_volatility", "sqrt of the GARCH(1,1) variance of the next bar", POSITIVE, 300, "Bollerslev 1986; arch"),
        ("garch_to_realised_20", "garch_volatility / std_20(r); 0 when flat", POSITIVE, 300, ""),
        (
            "jump_share_20",
            "1 - bipower variation / realised variance over 20, floored at 0",
            SHARE,
            21,
            "Barndorff-Nielsen and Shephard 2004",
        ),
        ("amihud_20", "mean_20(|r| / (C V)) x mean_100(C V); 0 without volume", POSITIVE, 100, "Amihud 2002"),
        ("roll_spread_20", "2 sqrt(-cov_20(r, r[1])), 0 when the covariance is positive", POSITIVE, 21, "Roll 1984"),
        ("corwin_schultz_20", "mean_20 of the two-bar high-low spread, floored at 0", POSITIVE, 20, "Corwin and Schultz 2012"),
        ("zero_return_share_20", "share of the last 20 bars with C = C[1]", SHARE, 20, "Lesmond et al. 1999"),
        *((f"market_pressure_{n}", f"sum_{n}(C - O) / sum_{n}(H - L); 0 when flat", SIGNED, n - 1, "") for n in (10, 50)),
    ]  # fmt: skip


FAMILIES = {
    "price": _price,
    "moving_average": _moving_average,
    "volatility": _volatility,
    "volume": _volume,
    "momentum": _momentum,
    "trend": _trend,
    "lag": _lag,
    "statistics": _statistics,
    "candle": _candle,
    "rule": _rule,
    "market": _market,
}
TECHNICAL = ("price", "moving_average", "volatility", "volume", "momentum", "trend", "lag", "statistics")


@cache
def feature_specs() -> tuple[FeatureSpec, ...]:
    """Every built-in feature in column order."""
    return tuple(
        FeatureSpec(name, family, formula, values, warm_up, source or "definition")
        for family, rows in FAMILIES.items()
        for name, formula, values, warm_up, source in rows()
    )


def feature_catalogue() -> "pd.DataFrame":
    """Table of every built-in feature.

    Returns
    -------
    DataFrame, one row a feature in the column order of `build_features`: name (index), family, kind
    (technical, pattern or market), formula, range, warm_up (rows that are NaN at the start), source.
    """
    import pandas as pd

    kinds = dict.fromkeys(TECHNICAL, "technical") | {"candle": "pattern", "rule": "pattern", "market": "market"}
    rows = [(s.name, s.family, kinds[s.family], s.formula, s.range, s.warm_up, s.source) for s in feature_specs()]
    columns = ["name", "family", "kind", "formula", "range", "warm_up", "source"]
    return pd.DataFrame(rows, columns=columns).set_index("name")
