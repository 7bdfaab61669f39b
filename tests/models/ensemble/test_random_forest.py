"""The array forest: scikit-learn's answers, and damaged arrays refused."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from mlkit.errors import BundleError
from mlkit.models.ensemble.learners.learner import FittedLearner, TrainedModel
from mlkit.models.ensemble.learners.random_forest import RandomForest, forest_model
from mlkit.models.ensemble.trees import Trees

rng = np.random.default_rng(5)
X = rng.normal(size=(800, 12)).astype(np.float32)
Y = np.sin(X[:, 0]) + 0.5 * X[:, 3] + rng.normal(0, 0.5, 800)


def predict(model: TrainedModel, X: np.ndarray) -> np.ndarray:
    return Trees.join([model.trees], mean=True).predict(X)[:, 0]


def read(data: bytes) -> TrainedModel:
    """Read a file as a bundle of 12 features does."""
    return FittedLearner.from_bytes(RandomForest(), {"rf_5.npz": data}, (5,), 12).models[0]


@pytest.fixture(scope="module")
def model() -> RandomForestRegressor:
    return RandomForestRegressor(n_estimators=20, max_depth=7, random_state=1, max_features=0.5).fit(X[:600], Y[:600])


@pytest.fixture(scope="module")
def forest(model: RandomForestRegressor) -> TrainedModel:
    return forest_model(model)


def test_predicts_what_sklearn_predicts(model: RandomForestRegressor, forest: TrainedModel) -> None:
    ours, theirs = predict(forest, X), model.predict(X)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert ours.std() > 0.1


def test_compares_float32_features_with_float64_thresholds() -> None:
    """A threshold is a midpoint: between neighbouring floats, rounding it would send one the wrong way."""
    for start in (1000.0, np.nextafter(np.float32(1000), np.float32(1001))):
        x = np.array([[start], [np.nextafter(np.float32(start), np.float32(1001))]], dtype=np.float32)
        oracle = RandomForestRegressor(n_estimators=1, bootstrap=False).fit(x, [0.0, 1.0])
        assert predict(forest_model(oracle), x).tolist() == oracle.predict(x).tolist() == [0.0, 1.0]


def test_a_row_never_depends_on_its_company(forest: TrainedModel) -> None:
    whole = predict(forest, X)
    assert np.array_equal(predict(forest, X[17:18]), whole[17:18])
    assert np.array_equal(predict(forest, X[::3]), whole[::3])
    assert predict(forest, X[:0]).shape == (0,)


def test_round_trip_is_bit_equal_and_bytes_are_reproducible(forest: TrainedModel) -> None:
    data = forest.to_bytes()
    again = read(data)
    assert np.array_equal(predict(again, X), predict(forest, X))
    assert again.to_bytes() == data
    assert len(again.importance) == 12
    assert again.importance.sum() == pytest.approx(1.0)


def test_a_tree_of_one_leaf() -> None:
    oracle = RandomForestRegressor(n_estimators=3, random_state=0).fit(X[:50], np.full(50, 2.5))
    forest = read(forest_model(oracle).to_bytes())
    assert predict(forest, X[:4]).tolist() == [2.5] * 4


def packed(forest: TrainedModel, **changed: Any) -> bytes:
    with np.load(io.BytesIO(forest.to_bytes())) as stored:
        arrays = {name: stored[name].copy() for name in stored.files}
    for name, change in changed.items():
        arrays[name] = change(arrays[name])
    buffer = io.BytesIO()
    np.savez(buffer, **{name: a for name, a in arrays.items() if a is not None})
    return buffer.getvalue()


def put(index: int, value: float) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"left": put(0, 0)}, "a child is not a node of its own tree"),  # a loop: the walk would never end
        ({"right": put(0, 10**6)}, "a child is not a node of its own tree"),
        ({"left": put(0, -7)}, "a child is not a node of its own tree"),
        ({"right": put(0, -1)}, "a child is not a node of its own tree"),  # half a leaf
        ({"right": lambda a: np.where(np.arange(len(a)) == 1, 1, a)}, "a node has two parents"),  # its own
        ({"left": put(0, 2)}, "a node has no parent"),
        ({"left": put(1, -1), "right": put(1, -1)}, "a node has no parent"),
        ({"feature": put(0, 12)}, "a feature that does not exist"),
        ({"feature": put(0, -2)}, "a feature that does not exist"),
        ({"threshold": put(0, np.nan)}, "not finite"),
        ({"value": put(3, np.inf)}, "not finite"),
        ({"importance": put(0, -1.0)}, "finite and not negative"),
        ({"importance": lambda a: a[:0]}, "finite and not negative"),
        ({"offsets": put(0, 1)}, "offsets do not cover"),
        ({"offsets": put(-1, 9)}, "offsets do not cover"),
        ({"offsets": put(1, 0)}, "offsets do not cover"),
        ({"offsets": lambda a: a[:1]}, "offsets do not cover"),
        ({"value": lambda a: a[:-1]}, "differ in length"),
        ({"value": lambda a: a.astype(np.float32)}, "array value must be a vector of float64"),
        ({"value": lambda a: a.astype(">f8")}, "array value must be a vector of float64"),
        ({"feature": lambda a: a[:, None]}, "array feature must be a vector of int32"),
        ({"left": lambda a: None}, "expected the arrays"),
        ({"extra": lambda a: a}, "expected the arrays"),
    ],
)
def test_arrays_that_are_no_forest(forest: TrainedModel, changed: dict[str, Any], message: str) -> None:
    if "extra" in changed:
        buffer = io.BytesIO()
        with np.load(io.BytesIO(forest.to_bytes())) as stored:
            np.savez(buffer, extra=np.zeros(1), **stored)
        data = buffer.getvalue()
    else:
        data = packed(forest, **changed)
    with pytest.raises(BundleError, match=message):
        read(data)


def test_a_pickle_is_never_loaded(forest: TrainedModel) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (pytest.fail, ("the pickle was loaded",))

    buffer = io.BytesIO()
    np.savez(buffer, feature=np.array([Bomb()], dtype=object))
    with pytest.raises(BundleError, match=r"rf_5.npz: expected the arrays"):
        read(buffer.getvalue())
    bomb = packed(forest, feature=lambda a: np.array([Bomb()] * len(a), dtype=object))
    with pytest.raises(BundleError, match=r"rf_5.npz: array feature must be a vector of int32"):
        read(bomb)


def test_sizes_are_checked_before_memory_is_asked_for(forest: TrainedModel, monkeypatch: Any) -> None:
    """A header that claims 2**40 numbers, and a megabyte of zeros packed into a kilobyte."""
    with np.load(io.BytesIO(forest.to_bytes())) as stored:
        arrays = {name: stored[name] for name in stored.files}
    npy = io.BytesIO()
    np.save(npy, arrays["value"])
    shape = f"({len(arrays['value'])},), }}"
    claims = npy.getvalue().replace(shape.encode() + b" " * 9, b"(1099511627776,), }".ljust(len(shape) + 9), 1)
    assert claims != npy.getvalue()
    with pytest.raises(BundleError, match="array value must be a vector"):
        read(zipped(forest, "value.npy", claims))
    monkeypatch.setattr("mlkit.models.bundle.vectors._UNPACKED_LIMIT", 2**20)
    assert len(read(forest.to_bytes()).importance) == 12
    with pytest.raises(BundleError, match="unpacks to more than 1048576 bytes"):
        read(zipped(forest, "value.npy", bytes(2**20)))


def zipped(forest: TrainedModel, name: str, content: bytes) -> bytes:
    """The forest's file with one member replaced."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(forest.to_bytes())) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            data = content if entry.filename == name else old.read(entry)
            new.writestr(entry.filename, data, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_truncated_files(forest: TrainedModel, cut: int) -> None:
    with pytest.raises(BundleError, match="not a file of trees"):
        read(forest.to_bytes()[:cut])


def test_flipped_bits_never_crash(forest: TrainedModel) -> None:
    data = forest.to_bytes()
    for position in np.random.default_rng(0).integers(0, len(data), 60):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            predict(read(bytes(damaged)), X[:5])
        except BundleError as error:
            assert "\n" not in str(error)
