"""One walk for all trees: the libraries' own bits, whatever the row's company, and arrays that are no trees refused."""

from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost

from mlkit.errors import BundleError
from mlkit.models.ensemble.learners.lightgbm import lightgbm_model
from mlkit.models.ensemble.learners.xgboost import xgboost_model
from mlkit.models.ensemble.trees import DEPTH_LIMIT, LEAF, TreeArrays, Trees, _evaluate

F = 12


def features(n: int, seed: int) -> np.ndarray:
    """Columns of many kinds: smooth, whole numbers, flags, constants, tiny and huge."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, F))
    X[:, 1] = np.round(3 * X[:, 1])
    X[:, 2] = X[:, 2] > 0
    X[:, 3] = 0.0
    X[:, 4] *= 1e-40  # denormal in float32
    X[:, 5] *= 1e30
    X[:, 6] = np.round(X[:, 6], 1)
    return X.astype(np.float32)


X = features(4000, 1)
rng = np.random.default_rng(2)
Z = np.column_stack(
    [X[:, 1] * X[:, 2] + np.sin(3 * X[:, 0]) + X[:, 6] + 1e40 * X[:, 4].astype(np.float64), X[:, 5] * 1e-30]
)
Z += 0.3 * rng.normal(size=Z.shape)
# Beside fresh rows, rows that sit on, just below and just above thresholds.
NEAR = np.concatenate([X, np.nextafter(X, np.float32(np.inf)), np.nextafter(X, np.float32(-np.inf))])
TINY = X[:2000].copy()  # LightGBM takes a feature within 1e-35 of 0 for 0
TINY[:, (2, 4, 6)] = np.random.default_rng(4).choice(
    [sign * np.nextafter(np.float32(1e-35), np.float32(end)) for sign in (-1, 1) for end in (0, 1e-35, 1)], (2000, 3)
)
ROWS = np.concatenate([features(20_000, 3), NEAR, TINY])


@pytest.fixture(scope="module")
def boosters() -> list[Any]:
    settings = {"max_depth": 6, "eta": 0.2, "base_score": 0.0, "min_child_weight": 3, "nthread": 1, "max_bin": 511}
    return [xgboost.train(settings, xgboost.QuantileDMatrix(X, z, max_bin=511), num_boost_round=60) for z in Z.T]


@pytest.fixture(scope="module")
def light() -> list[Any]:
    settings = {"objective": "regression", "boost_from_average": False, "num_leaves": 50, "verbosity": -1}
    return [lightgbm.train(settings | {"num_threads": 1}, lightgbm.Dataset(X, z), num_boost_round=60) for z in Z.T]


def ours(models: list[Any]) -> Trees:
    """The same trees, from the libraries' files."""
    if isinstance(models[0], xgboost.Booster):
        return Trees.join([xgboost_model(m).trees for m in models], float32_sums=True)
    return Trees.join([lightgbm_model(m).trees for m in models])


def test_xgboost_to_the_bit(boosters: list[Any]) -> None:
    theirs = np.column_stack([booster.inplace_predict(ROWS) for booster in boosters])
    assert theirs.dtype == np.float32 and theirs.std() > 0.1
    said = ours(boosters).predict(ROWS)
    assert np.array_equal(said, theirs)
    by_matrix = np.column_stack([booster.predict(xgboost.DMatrix(ROWS)) for booster in boosters])
    assert np.array_equal(said, by_matrix)


def test_lightgbm_to_the_bit(light: list[Any]) -> None:
    for threads in (1, 2):
        theirs = np.column_stack([booster.predict(ROWS, num_threads=threads) for booster in light])
        assert theirs.std() > 0.1
        assert np.array_equal(ours(light).predict(ROWS), theirs)


def test_rounding_to_float32_is_seen(boosters: list[Any]) -> None:
    """The planted fault: XGBoost's leaves added in float64 do not give XGBoost's bits."""
    sums = Trees.join([xgboost_model(b).trees for b in boosters]).predict(ROWS)
    theirs = np.column_stack([booster.inplace_predict(ROWS) for booster in boosters])
    assert np.isclose(sums, theirs, rtol=1e-3).all()
    assert not np.array_equal(sums.astype(np.float32), theirs)


@pytest.mark.parametrize("kind", ["boosters", "light"])
def test_a_row_never_depends_on_its_company(kind: str, request: pytest.FixtureRequest) -> None:
    trees = ours(request.getfixturevalue(kind))
    whole = trees.predict(ROWS[:1000])
    for size in (1, 2, 7, 8, 9, 127, 129):
        parts = [trees.predict(ROWS[:1000][start : start + size]) for start in range(0, 1000, size)]
        assert np.array_equal(np.concatenate(parts), whole)
    assert trees.predict(ROWS[:0]).shape == (0, 2)
    assert np.array_equal(trees.predict(np.asfortranarray(ROWS[:1000])), whole)
    locked = ROWS[:1000].copy()
    locked.flags.writeable = False
    assert np.array_equal(trees.predict(locked), whole)
    assert len(_evaluate.signatures) == 1  # a second one would be seconds of compilation at somebody's first forecast


def test_gain_is_what_the_libraries_report(boosters: list[Any], light: list[Any]) -> None:
    theirs = boosters[0].get_score(importance_type="total_gain")
    assert xgboost_model(boosters[0]).importance == pytest.approx(
        [theirs.get(f"f{k}", 0.0) for k in range(F)], rel=1e-5
    )
    assert lightgbm_model(light[0]).importance == pytest.approx(light[0].feature_importance("gain"), rel=1e-6)


def test_models_without_a_split_and_without_a_tree() -> None:
    constant = xgboost.train({"base_score": 0.0}, xgboost.DMatrix(X, np.full(len(X), 2.0)), num_boost_round=3)
    assert np.array_equal(ours([constant]).predict(X)[:, 0], constant.inplace_predict(X))
    flat = {"objective": "regression", "verbosity": -1, "min_data_in_leaf": 3000}
    stump = lightgbm.train(flat, lightgbm.Dataset(X, Z[:, 0]), num_boost_round=3)
    assert np.array_equal(ours([stump]).predict(X)[:, 0], stump.predict(X))
    none = TreeArrays(*(np.empty(0, dtype=k) for k in ("i4", "f8", "i4", "i4", "f8")), np.zeros(1, np.int64), F)
    assert Trees.join([none, none]).predict(X[:3]).tolist() == [[0.0, 0.0]] * 3


def tree(left: list[int], right: list[int], **changed: Any) -> TreeArrays:
    nodes = len(left)
    arrays: dict[str, Any] = {
        "feature": np.zeros(nodes, np.int32),
        "threshold": np.zeros(nodes),
        "left": np.array(left, np.int32),
        "right": np.array(right, np.int32),
        "value": np.arange(nodes, dtype=float),
        "offsets": np.array([0, nodes]),
        "n_features": 1,
    }
    return TreeArrays(**(arrays | changed))


def test_the_order_of_nodes_in_a_file_does_not_matter() -> None:
    x = np.array([[-1.0], [1.0]], dtype=np.float32)
    for left, right, expected in (([1, -1, -1], [2, -1, -1], [1.0, 2.0]), ([2, -1, -1], [1, -1, -1], [2.0, 1.0])):
        assert Trees.join([tree(left, right)]).predict(x)[:, 0].tolist() == expected
    assert Trees.join([tree([1, -1, -1], [2, -1, -1])]).predict(np.zeros((1, 1), np.float32)).item() == 1.0


@pytest.mark.parametrize("bound", [1e300, -1e300, 3.5e38, 1e-300, -1e-300, 0.1, 16777217.0, np.nextafter(1.0, 2.0)])
def test_thresholds_between_float32_numbers(bound: float) -> None:
    near = np.float32(np.clip(bound, -3e38, 3e38))
    x = np.array([[near], [np.nextafter(near, np.float32(np.inf))], [np.nextafter(near, np.float32(-np.inf))]])
    said = Trees.join([tree([1, -1, -1], [2, -1, -1], threshold=np.full(3, bound))]).predict(x)[:, 0]
    left = x[:, 0].astype(np.float64) <= bound
    assert said.tolist() == np.where(left, 1.0, 2.0).tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tree([1, -1, -1], [1, -1, -1]), "a node has two parents"),
        (lambda: tree([1, 2, 1], [2, 1, 2]), "a node has two parents"),  # a loop below the root
        (lambda: tree([1, -1, -1, 4, 3], [2, -1, -1, 4, 3]), "a node has no parent"),  # a loop apart
        (lambda: tree([0, -1, -1], [2, -1, -1]), "not a node of its own tree"),
        (lambda: tree([1, -1, -1], [3, -1, -1]), "not a node of its own tree"),
        (lambda: tree([1, -1, -1], [2, -1, -1], feature=np.array([1, 0, 0], np.int32)), "does not exist"),
        (lambda: tree([1, -1, -1], [2, -1, -1], value=np.array([0.0, np.nan, 0.0])), "not finite"),
        (lambda: tree([1, -1, -1], [2, -1, -1], offsets=np.array([0, 2])), "do not cover"),
        (lambda: tree([1, -1, -1], [2, -1, -1], value=np.zeros(2)), "differ in length"),
        (lambda: deep(DEPTH_LIMIT + 1), f"deeper than {DEPTH_LIMIT} levels"),
    ],
)
def test_arrays_that_are_no_trees(make: Callable[[], TreeArrays], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Trees.join([make()])


def deep(depth: int) -> TreeArrays:
    """A tree that goes down on the right only."""
    inner = np.arange(2 * depth + 1) % 2 == 0
    inner[-1] = False
    places = np.arange(2 * depth + 1)
    return tree(np.where(inner, places + 1, LEAF).tolist(), np.where(inner, places + 2, LEAF).tolist())


def test_the_deepest_tree() -> None:
    trees = Trees.join([deep(DEPTH_LIMIT)])
    assert trees.predict(np.array([[-1.0], [1.0]], np.float32))[:, 0].tolist() == [1.0, 2.0 * DEPTH_LIMIT]
