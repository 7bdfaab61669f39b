"""Own features: made from pandas functions, held to the laws, built and streamed beside the catalogue."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.features import LawError, pandas_ta
from mlkit.features.custom import Feature
from mlkit.features.engine import FEATURE_NAMES, WARM_UP


@mlkit.feature(lookback=20)
def overnight_share(bars: pd.DataFrame) -> pd.Series:
    """Share of the movement that happens between bars."""
    gap = np.log(bars["open"] / bars["close"].shift()).abs().rolling(20).sum()
    day = np.log(bars["close"] / bars["open"]).abs().rolling(20).sum()
    return gap / (gap + day)


@mlkit.feature(lookback=120, name="trend", tolerance=0.02)
def two_averages(bars: pd.DataFrame) -> pd.DataFrame:
    ratios = {f"ema_{n}": bars["close"] / bars["close"].ewm(span=n, adjust=False).mean() - 1 for n in (10, 25)}
    return pd.DataFrame(ratios)


@mlkit.feature(lookback=4)
def weekday(bars: pd.DataFrame) -> pd.Series:
    return pd.Series(np.asarray(bars.index.day_of_week, dtype=float), bars.index)


@mlkit.feature(lookback=20)
def tomorrow(bars: pd.DataFrame) -> pd.Series:
    return bars["close"].shift(-1) / bars["close"]


@pytest.fixture(scope="module")
def bars(sp500: pd.DataFrame) -> pd.DataFrame:
    return sp500.iloc[-1200:]


@pytest.fixture(scope="module")
def features(bars: pd.DataFrame) -> mlkit.FeatureSet:
    return mlkit.FeatureSet(own=(overnight_share, two_averages, weekday), bars=bars)


def test_a_feature_is_still_its_function(bars: pd.DataFrame) -> None:
    assert overnight_share.name == "overnight_share" and overnight_share.lookback == 20
    assert overnight_share.__doc__ == "Share of the movement that happens between bars."
    pd.testing.assert_series_equal(overnight_share(bars), overnight_share.function(bars))
    assert overnight_share.names == ("overnight_share",)
    assert two_averages.names == ("trend_ema_10", "trend_ema_25")
    assert overnight_share.check(bars).passed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lookback": -1, "name": "a"}, "a: lookback is -1"),
        ({"lookback": 2.5, "name": "a"}, "a: lookback is 2.5"),
        ({"lookback": 5, "name": "a b"}, "feature name 'a b'"),
        ({"lookback": 5}, "feature name '<lambda>'"),
        ({"lookback": 5, "name": "a", "tolerance": 1.0}, "tolerance is 1.0"),
    ],
)
def test_a_wrong_declaration_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mlkit.feature(**given)(lambda b: b["close"])
    with pytest.raises(ConfigError, match=r"write @mlkit.feature\(lookback=\.\.\.\)"):
        mlkit.feature(lookback=weekday)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda b: b["close"].to_numpy(), "gave ndarray"),
        (lambda b: b["close"].iloc[5:], "rows for"),
        (lambda b: b["close"].astype(str) + "x", "no numbers"),
        (lambda b: pd.concat([b["close"], b["close"]], axis=1), "each once"),
    ],
)
def test_what_is_no_column_of_numbers_is_refused(function: object, message: str, bars: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match=f"odd: the feature gave .*{message}|odd: .*{message}"):
        Feature(function, "odd", 5).check(bars)


def test_build_is_the_catalogue_then_the_own_columns(bars: pd.DataFrame, features: mlkit.FeatureSet) -> None:
    X = features.build(bars)
    assert tuple(X.columns) == features.names == (*FEATURE_NAMES, "overnight_share", *two_averages.names, "weekday")
    assert features.warm_up == WARM_UP
    assert (X.dtypes == np.float32).all() and X.index.equals(bars.index) and X.attrs == bars.attrs
    pd.testing.assert_frame_equal(X[list(FEATURE_NAMES)], mlkit.build_features(bars))
    assert X["overnight_share"].isna().sum() == 20 and X["trend_ema_10"].isna().sum() == 120
    expected = two_averages(bars)["ema_25"].iloc[120:].astype(np.float32)
    pd.testing.assert_series_equal(X["trend_ema_25"].iloc[120:], expected, check_names=False)


def test_the_stream_agrees_with_the_batch(bars: pd.DataFrame, features: mlkit.FeatureSet) -> None:
    part = bars.iloc[:300]
    X = features.build(part).to_numpy()
    stream = features.stream(timeframe="1d")
    rows = np.vstack([stream.push(*bar, time) for bar, time in zip(part.to_numpy(), part.index, strict=True)])
    n = len(FEATURE_NAMES)
    assert rows.dtype == np.float32 and stream.bars_seen == 300
    assert np.array_equal(rows[:, :n].view(np.uint32), X[:, :n].view(np.uint32))
    assert np.array_equal(np.isnan(rows[:, n:]), np.isnan(X[:, n:]))
    allowed = 0.02 * np.nanstd(X[:, n:], axis=0)
    assert (np.nan_to_num(np.abs(rows[:, n:] - X[:, n:])) <= allowed).all()
    assert np.array_equal(rows[5:, -1], X[5:, -1])  # the clock


def test_the_stream_refuses_what_is_no_next_bar(features: mlkit.FeatureSet) -> None:
    stream = features.stream()
    stream.push(1.0, 2.0, 0.5, 1.5, 10.0, "2024-01-01T00:00Z")
    with pytest.raises(BarsError, match="not later than the bar before"):
        stream.push(1.0, 2.0, 0.5, 1.5, 10.0, "2024-01-01T00:00Z")
    with pytest.raises(BarsError, match="has no time zone"):
        stream.push(1.0, 2.0, 0.5, 1.5, 10.0, "2024-01-02")
    with pytest.raises(BarsError, match="bar 1: open"):
        stream.push(1.0, 2.0, 3.0, 1.5, 10.0)
    assert stream.bars_seen == 1
    stream.push(1.0, 2.0, 0.5, 1.5, 10.0)
    assert stream.bars_seen == 2


def test_a_leak_is_refused_wherever_it_comes_in(bars: pd.DataFrame, features: mlkit.FeatureSet) -> None:
    message = r"prefix law: tomorrow at 2018-\d\d-\d\d .* when the bars after 2018-.* arrived"
    with pytest.raises(LawError, match=message):
        features.add(tomorrow, bars)
    assert "tomorrow" not in features.names
    with pytest.raises(LawError, match=message):
        mlkit.FeatureSet(own=[tomorrow], bars=bars)
    unchecked = mlkit.FeatureSet(own=[tomorrow])
    with pytest.raises(ConfigError, match="never put through the laws"):
        unchecked.stream()
    with pytest.raises(LawError, match=message):
        unchecked.build(bars)
    with pytest.raises(BarsError, match="need 340 bars"):
        unchecked.build(bars.iloc[:300])


def test_a_name_is_taken_once(bars: pd.DataFrame) -> None:
    clash = mlkit.feature(lookback=14, name="rsi_14")(lambda b: b["close"] / b["close"].shift(14))
    with pytest.raises(ConfigError, match="'rsi_14' is in the catalogue already"):
        mlkit.FeatureSet(own=[clash])
    with pytest.raises(ConfigError, match="'weekday' is in this set already"):
        mlkit.FeatureSet(own=[weekday, weekday])
    with pytest.raises(ConfigError, match=r"decorate the function with @mlkit.feature"):
        mlkit.FeatureSet(own=[lambda b: b["close"]])


def test_infinity_is_refused_with_its_bar(bars: pd.DataFrame) -> None:
    huge = mlkit.feature(lookback=0, name="huge")(lambda b: b["close"] * 1e38)
    with pytest.raises(ConfigError, match="huge is infinite, or beyond float32, at 2014-"):
        mlkit.FeatureSet(own=[huge]).build(bars)


def test_the_set_shows_itself(features: mlkit.FeatureSet) -> None:
    assert "own columns" in features._repr_html_() and "trend_ema_10, trend_ema_25" in features._repr_html_()
    assert "Feature('trend', lookback=120" in repr(features)


# --- pandas-ta-classic -----------------------------------------------------------------------------------


def test_an_indicator_becomes_a_feature(bars: pd.DataFrame) -> None:
    rsi = pandas_ta("rsi", length=14)
    assert (rsi.name, rsi.names) == ("rsi_14", ("rsi_14",))
    assert rsi.lookback == 6 * 15
    oracle = mlkit.build_features(bars)["rsi_14"]
    np.testing.assert_allclose(rsi(bars).iloc[300:], oracle.iloc[300:], atol=0.01)
    assert pandas_ta("macd").names == ("macd_line", "macd_histogram", "macd_signal")
    assert pandas_ta("bbands", length=20).names[-1] == "bbands_20_position"
    assert pandas_ta("mmar").names[:2] == ("mmar_10", "mmar_15")


def test_a_candlestick_pattern_is_an_indicator_too(bars: pd.DataFrame) -> None:
    hammer = pandas_ta("cdl_hammer")
    assert hammer.names == ("cdl_hammer",) and set(hammer(bars)) <= {-100.0, 0.0, 100.0}
    with pytest.raises(ConfigError, match="'cdl_nothing': gives no numbers"):
        pandas_ta("cdl_nothing")


def test_supertrend_enters_a_set(bars: pd.DataFrame) -> None:
    supertrend = pandas_ta("supertrend", length=10, lookback=250)
    parts = ("line", "direction", "long", "short")
    assert supertrend.names == tuple(f"supertrend_10_{part}" for part in parts)
    X = mlkit.FeatureSet(own=[supertrend], bars=bars).build(bars)
    assert set(X["supertrend_10_direction"].iloc[250:]) == {-1.0, 1.0}
    assert X[list(supertrend.names)].iloc[250:].notna().all(axis=None)
    few = supertrend.table(bars.iloc[:5])
    assert tuple(few.columns) == supertrend.names and few[["supertrend_10_long"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("indicator", "given", "column"),
    [
        ("dpo", {"centered": True}, "dpo_centered"),
        ("ichimoku", {}, "ichimoku_lagging_span"),
        ("tos_stdevall", {}, "tos_stdevall_lr"),
    ],
)
def test_known_leakers_are_refused_by_bar(
    indicator: str, given: dict[str, object], column: str, bars: pd.DataFrame
) -> None:
    leaker = pandas_ta(indicator, lookback=80, **given)
    with pytest.raises(LawError, match=rf"prefix law: {column} at 201\d-\d\d-\d\d .* and became"):
        mlkit.FeatureSet().add(leaker, bars)


def test_an_accumulating_indicator_is_refused(bars: pd.DataFrame) -> None:
    with pytest.raises(LawError, match=r"restart law: obv at .* when the history started at .*; declare a longer"):
        mlkit.FeatureSet().add(pandas_ta("obv"), bars)


@pytest.mark.parametrize(
    ("indicator", "given", "message"),
    [
        ("supertrnd", {}, "no indicator 'supertrnd'; near it: .*supertrend"),
        ("rsi", {"lenght": 3}, "has no parameter 'lenght'"),
        ("long_run", {}, "needs 'fast', which bars do not have"),
        ("vp", {}, "does not give one value a bar"),
        ("rsi", {"lookback": 3}, "shorter than its warm-up of 14 bars"),
    ],
)
def test_what_is_no_indicator_of_bars_is_refused(indicator: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pandas_ta(indicator, **given)


def test_importing_the_package_imports_no_numba() -> None:
    code = (
        "import sys, mlkit, mlkit.features\n"
        "mlkit.feature, mlkit.features.check_feature, mlkit.features.pandas_ta\n"
        "assert 'numba' not in sys.modules and 'pandas_ta_classic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
