"""Batch and stream are one kernel: same bits, saved and restored; and every number is finite or warming up."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.features import engine
from mlkit.features.catalogue import TECHNICAL
from mlkit.market.simulate.markets import null_market

CATALOGUE = mlkit.feature_catalogue()


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)


@pytest.fixture(scope="module")
def features(sp500: pd.DataFrame) -> pd.DataFrame:
    return mlkit.build_features(sp500)


def test_the_catalogue_names_every_column_once(features: pd.DataFrame) -> None:
    assert list(features.columns) == list(CATALOGUE.index)
    assert CATALOGUE.index.is_unique
    assert len(CATALOGUE) >= 150
    assert (CATALOGUE["kind"] == "technical").sum() >= 100
    assert set(CATALOGUE["kind"]) == {"technical", "pattern", "market"}
    assert set(TECHNICAL) < set(CATALOGUE["family"])


def test_shape_dtype_and_no_copy(sp500: pd.DataFrame, features: pd.DataFrame) -> None:
    assert features.shape == (len(sp500), engine.N_FEATURES)
    assert (features.dtypes == np.float32).all()
    assert features.index.equals(sp500.index)
    assert features.attrs["symbol"] == "SP500"


def test_nan_is_the_warm_up_and_nothing_else(features: pd.DataFrame) -> None:
    rows = np.arange(len(features))[:, None]
    assert np.array_equal(np.isnan(features.to_numpy()), rows < CATALOGUE["warm_up"].to_numpy())
    assert not np.isinf(features.to_numpy()).any()


def test_values_stay_in_their_stated_range(features: pd.DataFrame) -> None:
    bounds = {
        "0 to 1": (0, 1), "-1 to 1": (-1, 1), "0 to 100": (0, 100), "-100 to 0": (-100, 0), "-100 to 100": (-100, 100),
        ">= 0": (0, np.inf), "> -1": (-1, np.inf), "0 or 1": (0, 1), "-1, 0 or 1": (-1, 1), "-10 to 10": (-10, 10),
        "0 to 10": (0, 10), "-1 to 0": (-1, 0), "any": (-np.inf, np.inf),
    }  # fmt: skip
    for name, stated in CATALOGUE["range"].items():
        low, high = bounds[stated]
        values = features[name].dropna()
        assert values.between(low - 1e-6, high + 1e-4).all(), (name, values.min(), values.max())


def test_stream_gives_the_bits_of_the_batch(sp500: pd.DataFrame, features: pd.DataFrame) -> None:
    stream = mlkit.FeatureStream()
    rows = np.vstack([stream.push(*bar) for bar in sp500.iloc[:1200].to_numpy()])
    assert np.array_equal(bits(rows), bits(features.to_numpy()[:1200]))


@pytest.mark.parametrize("names", [["log_return_1"], ["rsi_14", "sma_ratio_5", "market_pressure_50"], None])
@pytest.mark.parametrize("cut", [3, 5031])
def test_chosen_columns_have_the_bits_of_all(
    names: list[str] | None, cut: int, sp500: pd.DataFrame, features: pd.DataFrame
) -> None:
    chosen = names or [name for k, name in enumerate(features.columns) if k % 3 == 1]
    part = mlkit.build_features(sp500.iloc[:cut], columns=chosen)
    assert list(part.columns) == [name for name in features.columns if name in chosen]
    assert np.array_equal(bits(part.to_numpy()), bits(features[part.columns].to_numpy()[:cut]))


def test_unknown_and_repeated_columns_are_refused(sp500: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="no feature 'rsi_15'"):
        mlkit.build_features(sp500, columns=["rsi_14", "rsi_15"])
    for columns in ([], ["rsi_14", "rsi_14"]):
        with pytest.raises(ConfigError, match="at least one feature, and none twice"):
            mlkit.build_features(sp500, columns=columns)


def test_a_stream_may_stand_anywhere_in_a_block(sp500: pd.DataFrame, features: pd.DataFrame) -> None:
    stream, at = mlkit.FeatureStream(), 0
    for size in (1, 7, 8, 9, 3, 16, 15, 17, 64, 5, 300):
        rows = stream.extend(sp500.iloc[at : at + size])
        assert np.array_equal(bits(rows), bits(features.to_numpy()[at : at + size])), at
        at += size


def test_prefix_gives_the_bits_of_the_whole(sp500: pd.DataFrame, features: pd.DataFrame) -> None:
    for cut in (1, 2, 57, 601, 2500):
        part = mlkit.build_features(sp500.iloc[:cut]).to_numpy()
        assert np.array_equal(bits(part), bits(features.to_numpy()[:cut]))


def test_a_saved_state_goes_on_in_another_process(sp500: pd.DataFrame, features: pd.DataFrame, tmp_path: Path) -> None:
    stream = mlkit.FeatureStream()
    for bar in sp500.iloc[:700].to_numpy():
        stream.push(*bar)
    np.save(tmp_path / "state.npy", stream.state)
    np.save(tmp_path / "bars.npy", sp500.iloc[700:760].to_numpy())
    code = (
        "import numpy as np, mlkit, sys; folder = sys.argv[1]\n"
        "stream = mlkit.FeatureStream.from_state(np.load(folder + '/state.npy'))\n"
        "np.save(folder + '/rows.npy', np.vstack([stream.push(*bar) for bar in np.load(folder + '/bars.npy')]))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert np.array_equal(bits(np.load(tmp_path / "rows.npy")), bits(features.to_numpy()[700:760]))


def test_the_input_is_left_alone(sp500: pd.DataFrame) -> None:
    before = sp500.copy()
    mlkit.build_features(sp500)
    pd.testing.assert_frame_equal(sp500, before)


@pytest.mark.parametrize(
    "bar",
    [
        (1, 2, 3, 1, 0),
        (1, 1, 1, 1, -1),
        (np.nan, 1, 1, 1, 1),
        (1, 1, 1, np.nan, 1),
        (1, np.inf, 1, 1, 1),
        (0, 1, 0, 1, 1),
    ],
)
def test_a_bar_that_is_none_is_refused_and_forgotten(bar: tuple[float, ...]) -> None:
    stream = mlkit.FeatureStream()
    stream.push(1.0, 2.0, 0.5, 1.5, 10.0)
    before = stream.state
    with pytest.raises(BarsError, match="bar 1: open"):
        stream.push(*bar)
    assert np.array_equal(stream.state, before, equal_nan=True)


def test_many_bars_at_once_are_the_same_as_one_by_one(sp500: pd.DataFrame, features: pd.DataFrame) -> None:
    stream = mlkit.FeatureStream()
    parts = [stream.extend(sp500.iloc[a:b]) for a, b in ((0, 1), (1, 300), (300, 2000))]
    assert np.array_equal(np.concatenate(parts), features.iloc[:2000], equal_nan=True)
    assert np.array_equal(stream.push(*sp500.iloc[2000]), features.iloc[2000])


def test_wrong_state_and_wrong_garch_are_refused(sp500: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="state is float64"):
        mlkit.FeatureStream.from_state(np.zeros(3))
    with pytest.raises(ConfigError, match="alpha"):
        mlkit.build_features(sp500, garch=(0.0, 0.9, 0.2))


def flat_bars(price: float, volume: float, n: int = 900) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=n, freq="1min", tz="UTC", name="timestamp", unit="ns")
    frame = pd.DataFrame({k: np.full(n, price) for k in ("open", "high", "low", "close")}, index=index)
    return mlkit.validate_bars(frame.assign(volume=volume), symbol="FLAT", timeframe="1m")


@pytest.mark.parametrize("price", [1e-8, 1.0, 123456.789, 1e6])
@pytest.mark.parametrize("volume", [0.0, 3.0])
def test_constant_bars_give_neutral_numbers(price: float, volume: float) -> None:
    last = mlkit.build_features(flat_bars(price, volume)).iloc[-1]
    assert np.isfinite(last).all()
    assert (last.filter(regex="log_return|rolling_std|garch_vol|bollinger|zscore|cci|^sma_|^ema_").abs() < 1e-12).all()
    assert last["rsi_14"] == 50 and last["stochastic_k_14"] == 50
    assert last["volume_ratio_20"] == pytest.approx(1.0 if volume else 0.0)


def test_scale_of_prices_and_volumes_does_not_matter(sp500: pd.DataFrame, features: pd.DataFrame) -> None:
    scaled = sp500.copy()
    scaled[["open", "high", "low", "close"]] *= 2.0**-30
    scaled["volume"] *= 2.0**5
    other = mlkit.build_features(scaled)
    np.testing.assert_allclose(other.to_numpy(), features.to_numpy(), rtol=2e-5, atol=2e-6)


def test_moments_recover_once_a_jump_has_left(sp500: pd.DataFrame) -> None:
    jump = sp500.iloc[:1500].copy()
    jump.iloc[1000:, :4] *= 0.5
    returns = np.log(jump["close"]).diff()
    features = mlkit.build_features(jump)
    for n in (10, 20, 50, 100):
        rows = slice(1000 + n, 1400)
        for name, oracle in (
            ("rolling_std", [returns.iloc[t - n + 1 : t + 1].std() for t in range(1000 + n, 1400)]),
            (
                "rolling_skew",
                [returns.iloc[t - n + 1 : t + 1].skew() for t in range(1000 + n, 1400)] if n > 5 else None,
            ),
            ("rolling_kurtosis", [returns.iloc[t - n + 1 : t + 1].kurt() for t in range(1000 + n, 1400)]),
        ):
            np.testing.assert_allclose(features[f"{name}_{n}"].iloc[rows], oracle, rtol=1e-5, atol=1e-6)


def test_features_start_anew_after_an_outage_where_that_is_asked_for() -> None:
    bars = null_market(1500, seed=3, timeframe="1m")
    bars.index = bars.index + pd.to_timedelta(np.where(np.arange(1500) < 700, 0, 180), unit="m")
    pieces = mlkit.segments(bars, "1h")
    assert [len(piece) for piece in pieces] == [700, 800]
    apart = pd.concat([mlkit.build_features(piece) for piece in pieces])
    anew = mlkit.build_features(bars, max_gap="1h")
    pd.testing.assert_frame_equal(anew, apart, check_freq=False)
    over = mlkit.build_features(bars)
    pd.testing.assert_frame_equal(over.iloc[:700], anew.iloc[:700])
    assert anew["return_1"].isna().iloc[700] and not over["return_1"].isna().iloc[700]
    pd.testing.assert_frame_equal(mlkit.build_features({"A": bars}, max_gap="1h")["A"], anew)
