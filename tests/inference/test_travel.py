"""Objects that are pickled, copied or sent to a worker process give the same bits afterwards, or refuse in one line."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import ConfigError
from mlkit.evaluation.splits import CombinatorialPurged, WalkForward
from mlkit.features.custom import feature
from mlkit.features.engine import FeatureStream
from mlkit.features.feature_set import FeatureSet
from mlkit.inference.predictor import Predictor
from mlkit.labels.returns import forward_returns

START, PUSHED = 1300, 40  # bars of the history, and bars after it


@feature(lookback=20)
def mean_body(bars: pd.DataFrame) -> Any:
    return ((bars["close"] - bars["open"]) / bars["open"]).rolling(20).mean()


def in_worker(call: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def pushed(stream: Any, rows: list[tuple[Any, ...]]) -> np.ndarray:
    return np.stack([stream.push(*row[1:], timestamp=row[0]) for row in rows])


def updated(predictor: Predictor, rows: list[tuple[Any, ...]]) -> list[str]:
    return [predictor.update(row).model_dump_json() for row in rows]


def split(splitter: Any, labels: pd.DataFrame) -> list[np.ndarray]:
    return [part for fold in splitter.split(labels) for part in fold]


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "deepcopy": copy.deepcopy,
}


@pytest.fixture
def history(sp500: pd.DataFrame) -> pd.DataFrame:
    return sp500.iloc[:START]


@pytest.fixture
def rows(sp500: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(sp500.iloc[START : START + PUSHED].itertuples(name=None))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["catalogue", "set"])
def test_a_stream_that_travelled_gives_the_same_bits(
    way: str, kind: str, history: pd.DataFrame, rows: list[tuple[Any, ...]]
) -> None:
    stream: Any = FeatureStream(timeframe="1d") if kind == "catalogue" else _own(history).stream(timeframe="1d")
    stream.extend(history)
    other = WAYS[way](stream)
    expected = pushed(stream, rows)
    assert pushed(other, rows).tobytes() == expected.tobytes()  # the original went on; the copy did not move with it
    assert other.bars_seen == stream.bars_seen


def test_a_shallow_copy_of_a_stream_is_its_own(history: pd.DataFrame, rows: list[tuple[Any, ...]]) -> None:
    stream = FeatureStream(timeframe="1d")
    stream.extend(history)
    other = copy.copy(stream)
    assert pushed(other, rows).tobytes() == pushed(stream, rows).tobytes()


def test_a_stream_goes_on_in_a_worker_process(history: pd.DataFrame, rows: list[tuple[Any, ...]]) -> None:
    stream = FeatureStream(timeframe="1d")
    stream.extend(history)
    assert in_worker(pushed, stream, rows).tobytes() == pushed(stream, rows).tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_a_started_predictor_travels(
    way: str, history: pd.DataFrame, rows: list[tuple[Any, ...]], small_bundle: Any
) -> None:
    predictor = Predictor(small_bundle(history))
    predictor.start(history)
    updated(predictor, rows[:5])
    other = WAYS[way](predictor)
    expected = updated(predictor, rows[5:])
    assert updated(other, rows[5:]) == expected


def test_a_predictor_travels_into_a_worker_process(
    history: pd.DataFrame, rows: list[tuple[Any, ...]], small_bundle: Any
) -> None:
    bundle = small_bundle(history)
    predictor = Predictor(bundle)
    first = predictor.start(history).model_dump_json()
    assert in_worker(updated, predictor, rows) == updated(predictor, rows)
    assert in_worker(Predictor(bundle).insight, history).model_dump_json() == first
    assert pickle.loads(pickle.dumps(bundle)).price.to_bytes() == bundle.price.to_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_splitters_and_feature_sets_travel(way: str, history: pd.DataFrame) -> None:
    labels = forward_returns(history, horizons=(1, 5))
    for splitter in (WalkForward(n_splits=3, embargo=2), CombinatorialPurged(n_groups=4, n_test_groups=2, embargo=2)):
        for ours, theirs in zip(split(splitter, labels), split(WAYS[way](splitter), labels), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    own = _own(history)
    pd.testing.assert_frame_equal(WAYS[way](own).build(history), own.build(history), check_exact=True)


def test_a_feature_that_cannot_travel_refuses_in_one_line(history: pd.DataFrame) -> None:
    local = feature(lookback=1, name="local")(lambda bars: bars["close"].pct_change())
    with pytest.raises(ConfigError, match=r"^feature local: .*module"):
        pickle.dumps(FeatureSet(own=[local], bars=history))


def _own(history: pd.DataFrame) -> FeatureSet:
    return FeatureSet(own=[mean_body], bars=history)
