"""An outage longer than every memory: features start anew on its far side, in batch and live, and nowhere else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.features.engine import WARM_UP
from mlkit.features.garch import fit_garch
from mlkit.features.laws import check_feature
from mlkit.features.saved import read_features, save_features
from mlkit.market.outages import MEMORY_BARS, memory_ages
from mlkit.market.simulate.markets import null_market

AT, N = 800, 2300  # first bar after the outage
TEN_YEARS = pd.Timedelta(days=3652)
LIMIT = pd.Timedelta(days=14)  # of minute bars


@mlkit.feature(lookback=30)
def drift(bars: pd.DataFrame) -> "pd.Series[float]":
    return np.log(bars["close"]).diff().rolling(30).mean()


def with_gap(missing: pd.Timedelta, jump: float = 3.0, n: int = N, timeframe: str = "1m") -> pd.DataFrame:
    """A market in which so much time is missing before bar ``AT``, and the price is another one then."""
    bars = null_market(n, seed=5, timeframe=timeframe)
    after = np.arange(n) >= AT
    bars.index = bars.index + pd.to_timedelta(np.where(after, missing.value, 0), unit="ns")
    bars.loc[after, ["open", "high", "low", "close"]] *= jump
    return mlkit.validate_bars(bars)


def bits(values: object) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).view(np.int32)


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    return with_gap(TEN_YEARS)


@pytest.fixture(scope="module")
def features(bars: pd.DataFrame) -> pd.DataFrame:
    return mlkit.build_features(bars)


def test_the_rule_knows_the_longest_memory() -> None:
    assert MEMORY_BARS == WARM_UP


def test_both_sides_are_histories_of_their_own(bars: pd.DataFrame, features: pd.DataFrame) -> None:
    apart = pd.concat([mlkit.build_features(part) for part in (bars.iloc[:AT], bars.iloc[AT:])])
    assert np.array_equal(bits(features), bits(apart))
    rows = np.flatnonzero(features.isna().any(axis=1))
    assert rows.tolist() == [*range(WARM_UP), *range(AT, AT + WARM_UP)]
    over = mlkit.build_features(bars, max_gap=None)
    assert np.array_equal(bits(over.iloc[:AT]), bits(features.iloc[:AT]))
    assert over["ewma_volatility"].iloc[AT] > 100 * features["ewma_volatility"].iloc[AT + 200]
    few = mlkit.build_features(bars, columns=["garch_volatility"])
    assert np.array_equal(bits(few), bits(features[["garch_volatility"]]))


def test_nothing_before_it_matters_after_it(bars: pd.DataFrame, features: pd.DataFrame) -> None:
    poisoned = bars.copy()
    poisoned.iloc[:AT] *= 1000.0
    assert np.array_equal(bits(mlkit.build_features(poisoned).iloc[AT:]), bits(features.iloc[AT:]))


def test_a_shorter_gap_changes_nothing() -> None:
    for missing in (LIMIT, pd.Timedelta(days=3)):
        bars = with_gap(missing)
        assert np.array_equal(bits(mlkit.build_features(bars)), bits(mlkit.build_features(bars, max_gap=None)))
    beyond = mlkit.build_features(with_gap(LIMIT + pd.Timedelta(minutes=1)))
    assert beyond.iloc[AT].isna().any()
    weekly = with_gap(pd.Timedelta(weeks=500), timeframe="1w")
    assert memory_ages(weekly)[-1] == N - 1  # 500 of a memory of 600 bars


@pytest.mark.parametrize("parts", [(1,), (AT - 3, 7, 700), (AT,)])
def test_a_stream_forgets_as_the_batch_does(bars: pd.DataFrame, features: pd.DataFrame, parts: tuple[int, ...]) -> None:
    stream, rows, at = mlkit.FeatureStream(timeframe="1m"), [], 0
    for count in parts:
        rows.append(stream.extend(bars.iloc[at : at + count]))
        at += count
    for bar in bars.iloc[at : max(at, AT) + 20].itertuples():
        rows.append(stream.push(*bar[1:], bar.Index)[None])
    done = np.concatenate(rows)
    assert np.array_equal(bits(done), bits(features.iloc[: len(done)]))


def test_a_saved_stream_knows_when_its_last_bar_was(bars: pd.DataFrame, features: pd.DataFrame) -> None:
    stream = mlkit.FeatureStream()
    stream.extend(bars.iloc[:AT])
    copy = mlkit.FeatureStream.from_state(stream.state)
    rows = [copy.push(*bar[1:], bar.Index) for bar in bars.iloc[AT : AT + 30].itertuples()]
    assert np.array_equal(bits(rows), bits(features.iloc[AT : AT + 30])) and copy.bars_seen == 30
    with pytest.raises(BarsError, match=r"bar 30: .* is not later than the bar before"):
        copy.push(*bars.iloc[AT + 29], bars.index[AT + 29])
    assert copy.bars_seen == 30
    with pytest.raises(ConfigError, match="timeframe"):
        mlkit.FeatureStream().push(*bars.iloc[0], bars.index[0])


def test_own_features_are_cut_at_the_same_bars(bars: pd.DataFrame, features: pd.DataFrame) -> None:
    own = mlkit.FeatureSet(own=[drift], bars=bars.iloc[:AT])
    table = own.build(bars)
    assert np.array_equal(bits(table.iloc[:, :-1]), bits(features))
    apart = np.concatenate([own.build(part)["drift"] for part in (bars.iloc[:AT], bars.iloc[AT:])])
    assert np.array_equal(table["drift"], apart, equal_nan=True)
    assert table["drift"].isna().sum() == 60
    short = own.build(bars.iloc[: AT + 20])["drift"]  # fewer bars than the feature looks back on
    assert short.iloc[AT:].isna().all() and short.iloc[AT - 1] == table["drift"].iloc[AT - 1]
    stream = own.stream(timeframe="1m")
    stream.extend(bars.iloc[: AT - 5])
    rows = [stream.push(*bar[1:], bar.Index) for bar in bars.iloc[AT - 5 : AT + 60].itertuples()]
    expected = table.iloc[AT - 5 : AT + 60]
    assert np.array_equal(bits(np.array(rows)[:, :-1]), bits(expected.iloc[:, :-1]))
    np.testing.assert_allclose(np.array(rows)[:, -1], expected["drift"], rtol=1e-4, atol=1e-9)
    stream = own.stream(timeframe="1m")
    stream.extend(bars.iloc[: AT + 40])
    assert stream.bars_seen == 40
    row = stream.push(*bars.iloc[AT + 40], bars.index[AT + 40])
    np.testing.assert_allclose(row[-1], table["drift"].iloc[AT + 40], rtol=1e-4)


def test_the_laws_know_of_the_second_warm_up(bars: pd.DataFrame) -> None:
    warm, hole = mlkit.feature_catalogue()["warm_up"][["ewma_volatility"]].to_dict(), bars.index[AT + 700]

    def holed(given: pd.DataFrame) -> pd.DataFrame:
        table = mlkit.build_features(given, columns=list(warm))
        table.loc[table.index == hole] = np.nan
        return table

    (breach,) = check_feature(holed, bars, warm_up=warm).breaches
    assert (breach.law, breach.bar) == ("finite", str(hole))


def test_garch_does_not_learn_the_return_across() -> None:
    fits = [fit_garch(with_gap(TEN_YEARS, jump, AT + 200)) for jump in (1.0, 4.0)]
    np.testing.assert_allclose(fits[0], fits[1], rtol=0.01)
    across = fit_garch(with_gap(pd.Timedelta(days=3), 4.0, AT + 200))
    assert not np.allclose(across[0], fits[0][0], rtol=0.5)


def test_saved_features_are_those_of_the_batch(bars: pd.DataFrame, features: pd.DataFrame, tmp_path: Path) -> None:
    part = bars.iloc[AT - 50 : AT + 300]
    save_features(part, tmp_path)
    saved = read_features(bars.attrs["symbol"], "1m", tmp_path)
    assert np.array_equal(bits(saved), bits(mlkit.build_features(part)))
    assert np.array_equal(bits(saved.iloc[50:]), bits(features.iloc[AT : AT + 300]))
