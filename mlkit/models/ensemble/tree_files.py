"""The trees in files of XGBoost (UBJSON) and LightGBM (text), read without the libraries.

Both readers take the few properties that mlkit's own models have, and refuse the rest by name: numerical splits,
one output, no offset, no link function. They trust nothing: sizes are checked before memory is asked for.

Formats: Universal Binary JSON specification, draft 12, and XGBoost's "Introduction to Model IO"; LightGBM has no
specification, its text is what ``GBDT::SaveModelToString`` writes (version v4).
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from mlkit.errors import BundleError
from mlkit.models.ensemble.settings import FloatVector
from mlkit.models.ensemble.trees import LEAF, TreeArrays

_NUMBERS = {"i": ">b", "U": ">B", "I": ">h", "l": ">i", "L": ">q", "d": ">f", "D": ">d"}  # for struct and numpy
_DEPTH = 16  # of nested UBJSON values; XGBoost's models need 7


class _UBJSON:
    """A reader of Universal Binary JSON: plain dicts, lists and text, and an array for each typed array."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def document(self) -> Any:
        """The one value of the file."""
        value = self._value(self._marker(), 0)
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes follow the model")
        return value

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise ValueError(f"the file ends inside a value at byte {self.at}")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def _marker(self) -> str:
        return chr(self._take(1)[0])

    def _number(self, marker: str) -> int | float:
        kind = _NUMBERS[marker]
        number: int | float = struct.unpack(kind, self._take(struct.calcsize(kind)))[0]
        return number

    def _length(self) -> int:
        marker = self._marker()
        if marker not in "iUIlL":
            raise ValueError(f"a length of type {marker!r} at byte {self.at}")
        length = int(self._number(marker))
        if not 0 <= length <= len(self.data):
            raise ValueError(f"a length of {length} at byte {self.at}")
        return length

    def _text(self) -> str:
        return self._take(self._length()).decode()

    def _value(self, marker: str, depth: int) -> Any:
        if depth > _DEPTH:
            raise ValueError("values are nested too deep")
        if marker in _NUMBERS:
            return self._number(marker)
        if marker == "S":
            return self._text()
        if marker == "{":
            return self._object(depth)
        if marker == "[":
            return self._array(depth)
        if marker in "TFZ":
            return {"T": True, "F": False, "Z": None}[marker]
        raise ValueError(f"unknown type {marker!r} at byte {self.at}")

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.data[self.at : self.at + 1] != b"}":
            key = self._text()
            if key in found:
                raise ValueError(f"{key} is there twice")
            found[key] = self._value(self._marker(), depth + 1)
        self.at += 1
        return found

    def _array(self, depth: int) -> Any:
        head = self.data[self.at : self.at + 1]
        if head == b"$":
            kind = np.dtype(_NUMBERS[chr(self._take(2)[1])])
            if self._marker() != "#":
                raise ValueError(f"a typed array without a length at byte {self.at}")
            return np.frombuffer(self._take(self._length() * kind.itemsize), dtype=kind)
        if head == b"#":
            self.at += 1
            return [self._value(self._marker(), depth + 1) for _ in range(self._length())]
        items = []
        while self.data[self.at : self.at + 1] != b"]":
            items.append(self._value(self._marker(), depth + 1))
        self.at += 1
        return items


def read_xgboost(data: bytes, name: str = "model") -> tuple[TreeArrays, FloatVector]:
    """Trees of a ``.ubj`` file of XGBoost, and the loss that each node's split removed; ``name`` is for messages.

    Raises
    ------
    BundleError
        Damaged, or a model that mlkit does not train.
    """
    try:
        learner = _UBJSON(data).document()["learner"]
        shape, booster = learner["learner_model_param"], learner["gradient_booster"]
        _demand("base_score", _only(shape["base_score"]), 0.0)
        _demand("num_class", int(shape["num_class"]), 0)
        _demand("num_target", int(shape["num_target"]), 1)
        _demand("objective", learner["objective"]["name"], "reg:squarederror")
        _demand("booster", booster["name"], "gbtree")
        trees, width = booster["model"]["trees"], int(shape["num_feature"])
        _demand("trees of other outputs", sum(1 for group in booster["model"]["tree_info"] if group != 0), 0)
        parts = [_xgboost_tree(tree, width) for tree in trees]
        made = _joined(parts, width, strict=True)
        return made, _vector([part["gain"] for part in parts], np.float64)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, BundleError) as error:
        raise _unreadable(name, "XGBoost", error) from error


def _xgboost_tree(tree: dict[str, Any], width: int) -> dict[str, npt.NDArray[Any]]:
    """Node arrays of one tree."""
    shape = tree["tree_param"]
    _demand("leaf outputs", max(int(shape["size_leaf_vector"]), 1), 1)
    _demand("deleted nodes", int(shape["num_deleted"]), 0)
    _demand("features of a tree", int(shape["num_feature"]), width)
    nodes = int(shape["num_nodes"])
    kinds = {
        "left_children": np.int32,
        "right_children": np.int32,
        "split_indices": np.int32,
        "split_conditions": np.float32,
        "split_type": np.uint8,
        "loss_changes": np.float32,
    }
    held = {}
    for key, kind in kinds.items():
        array = np.asarray(tree[key])
        if array.ndim != 1 or (len(array) and array.dtype.newbyteorder("=") != kind):
            raise ValueError(f"{key} must be a vector of {np.dtype(kind)}")
        _demand(f"length of {key}", len(array), nodes)
        held[key] = array.astype(kind)
    _demand("categorical splits", int(held["split_type"].any()), 0)
    left, right, condition = held["left_children"], held["right_children"], held["split_conditions"]
    leaf = (left == LEAF) & (right == LEAF)
    return {
        "feature": held["split_indices"],
        "threshold": np.where(leaf, 0.0, condition.astype(np.float64)),
        "left": left,
        "right": right,
        "value": np.where(leaf, condition.astype(np.float64), 0.0),
        "gain": np.where(leaf, 0.0, held["loss_changes"].astype(np.float64)),
    }


def _only(text: str) -> float:
    """The number in ``0E0`` or, as XGBoost writes since 3.1, ``[0E0]``."""
    return float(text.removeprefix("[").removesuffix("]"))


_LIGHTGBM_HEAD = {"version": "v4", "num_class": "1", "num_tree_per_iteration": "1", "objective": "regression"}
_CATEGORY, _MISSING_ZERO = 1, 4  # bits of a decision
_ZERO = np.float32(1e-35)  # LightGBM takes a feature up to here for 0, then decides


def read_lightgbm(data: bytes, name: str = "model") -> tuple[TreeArrays, FloatVector]:
    """Trees of a text file of LightGBM, and the gain of each node's split; ``name`` is for messages.

    Raises
    ------
    BundleError
        Damaged, or a model that mlkit does not train.
    """
    try:
        trees, end, _ = data.decode().partition("\nend of trees\n")
        if not end:
            raise ValueError("the end of the trees is missing")
        head, *blocks = trees.split("\nTree=")
        if head.split("\n", 1)[0] != "tree":
            raise ValueError("the first line is not 'tree'")
        said = _pairs(head)
        for key, value in _LIGHTGBM_HEAD.items():
            _demand(key, said[key], value)
        _demand("average_output", "average_output" in said, False)
        _demand("number of trees", len(blocks), len(said["tree_sizes"].split()))
        width = int(said["max_feature_idx"]) + 1
        parts = []
        for k, block in enumerate(blocks):
            number, _, rest = block.partition("\n")
            _demand("tree", number, str(k))
            parts.append(_lightgbm_tree(_pairs(rest)))
        made = _joined(parts, width)
        return made, _vector([part["gain"] for part in parts], np.float64)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, BundleError) as error:
        raise _unreadable(name, "LightGBM", error) from error


def _lightgbm_tree(said: dict[str, str]) -> dict[str, npt.NDArray[Any]]:
    """Node arrays of one tree: its inner nodes, then its leaves."""
    leaves = int(said["num_leaves"])
    _demand("num_cat", said["num_cat"], "0")
    _demand("is_linear", said.get("is_linear", "0"), "0")
    inner = leaves - 1

    def numbers(key: str, kind: type, size: int) -> Any:
        array = np.array(said[key].split() if size else [], dtype=np.float64 if kind is float else np.int64)
        _demand(f"length of {key}", len(array), size)
        return array

    decision = numbers("decision_type", int, inner)
    _demand("splits by category, or with zero for missing", int((decision & (_CATEGORY | _MISSING_ZERO)).any()), 0)

    def children(key: str) -> Any:
        child = numbers(key, int, inner)
        return np.concatenate([np.where(child < 0, inner + ~child, child), np.full(leaves, LEAF)])

    nothing = np.zeros(leaves)
    return {
        "feature": np.concatenate([numbers("split_feature", int, inner), nothing]),
        "threshold": np.concatenate([_past_zero(numbers("threshold", float, inner)), nothing]),
        "left": children("left_child"),
        "right": children("right_child"),
        "value": np.concatenate([np.zeros(inner), numbers("leaf_value", float, leaves)]),
        "gain": np.concatenate([numbers("split_gain", float, inner), nothing]),
    }


def _past_zero(threshold: FloatVector) -> FloatVector:
    """Thresholds inside what LightGBM takes for zero, moved to its end: all of it is on one side."""
    below = np.float64(np.nextafter(-_ZERO, np.float32(-1)))
    above = np.where((threshold >= 0) & (threshold < _ZERO), np.float64(_ZERO), threshold)
    return np.where((threshold < 0) & (threshold >= -_ZERO), below, above)


def _pairs(text: str) -> dict[str, str]:
    """``key=value`` lines; a key alone has no value."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        key, _, value = line.partition("=")
        if key and key in found:
            raise ValueError(f"{key} is there twice")
        found[key] = value
    return found


def _joined(parts: list[dict[str, npt.NDArray[Any]]], width: int, *, strict: bool = False) -> TreeArrays:
    """The trees of one model behind one another."""
    return TreeArrays(
        feature=_vector([part["feature"] for part in parts], np.int32),
        threshold=_vector([part["threshold"] for part in parts], np.float64),
        left=_vector([part["left"] for part in parts], np.int32),
        right=_vector([part["right"] for part in parts], np.int32),
        value=_vector([part["value"] for part in parts], np.float64),
        offsets=np.cumsum([0, *(len(part["left"]) for part in parts)]),
        n_features=width,
        strict=strict,
    )


def _vector(arrays: list[npt.NDArray[Any]], kind: type) -> Any:
    """One vector of all; ValueError where a number does not fit the kind."""
    joined = np.concatenate([np.empty(0, dtype=kind), *arrays])
    made: npt.NDArray[Any] = joined.astype(kind)
    if not np.array_equal(made, joined, equal_nan=True):
        raise ValueError("a number is out of range")
    return made


def _demand(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"{what}: mlkit's models have {expected!r}, this one {found!r}")


def _unreadable(name: str, library: str, error: Exception) -> BundleError:
    detail = f"no {error.args[0]!r}" if isinstance(error, KeyError) and error.args else str(error)
    return BundleError(
        f"{name}: not a {library} model of mlkit ({' '.join(detail.split())[:200]}); train the bundle again"
    )
