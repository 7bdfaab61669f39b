"""A random forest as plain arrays: trained by scikit-learn, stored without pickle, read by a compiled loop.

Prediction equals ``RandomForestRegressor.predict`` on one thread (scikit-learn adds trees up in whatever
order its threads finish, so with ``n_jobs > 1`` the last bits change from run to run).
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from mlkit.errors import BundleError
from mlkit.models.base import Float32Matrix, FloatVector

LEAF = -1

# Name, dtype of the stored arrays. Children count from the first node of their tree; a leaf has LEAF twice.
_ARRAYS = {
    "feature": np.int32,
    "threshold": np.float64,
    "left": np.int32,
    "right": np.int32,
    "value": np.float64,
    "offsets": np.int64,
    "importance": np.float64,
}


@dataclass(frozen=True, eq=False)
class RandomForest:
    """Regression trees, one after the other in shared arrays.

    Node ``i`` of the tree that starts at ``offsets[k]`` sends a row left if
    ``x[feature[i]] <= threshold[i]``; a leaf answers ``value[i]``. The forest is the mean of its trees.
    """

    feature: npt.NDArray[np.int32]  # (nodes,)
    threshold: FloatVector  # (nodes,)
    left: npt.NDArray[np.int32]  # (nodes,)
    right: npt.NDArray[np.int32]  # (nodes,)
    value: FloatVector  # (nodes,)
    offsets: npt.NDArray[np.int64]  # (trees + 1,)
    importance: FloatVector  # (F,) share of the variance removed

    @property
    def n_features(self) -> int:
        """Width of the feature matrix."""
        return len(self.importance)

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Copy the trees of a fitted single-output ``RandomForestRegressor``."""
        trees = [estimator.tree_ for estimator in model.estimators_]

        def join(name: str, dtype: type) -> Any:
            return np.concatenate([np.asarray(getattr(t, name)).reshape(t.node_count) for t in trees]).astype(dtype)

        left = join("children_left", np.int32)
        return cls(
            feature=np.where(left == LEAF, 0, join("feature", np.int32)).astype(np.int32),
            threshold=np.where(left == LEAF, 0.0, join("threshold", np.float64)),
            left=left,
            right=join("children_right", np.int32),
            value=join("value", np.float64),
            offsets=np.concatenate([[0], np.cumsum([t.node_count for t in trees])]).astype(np.int64),
            importance=np.asarray(model.feature_importances_, dtype=np.float64),
        )

    def predict(self, X: Float32Matrix) -> FloatVector:
        """Mean answer of the trees, (n,), for finite float32 features (n, F)."""
        out = np.zeros(len(X))
        _add_trees(X, self.feature, self.threshold, self.left, self.right, self.value, self.offsets, out)
        return out / (len(self.offsets) - 1)

    def to_bytes(self) -> bytes:
        """The arrays as a compressed npz; the same forest gives the same bytes."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: getattr(self, name) for name in _ARRAYS})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "forest") -> Self:
        """Read and check what :meth:`to_bytes` wrote; ``name`` is for messages.

        Raises
        ------
        BundleError
            Not an npz, a pickled or missing array, wrong dtype or shape, or nodes that are not trees.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {key: np.ascontiguousarray(stored[key]) for key in stored.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(f"{name}: not a forest file ({error}); train the bundle again") from error
        fault = _fault(arrays)
        if fault:
            raise BundleError(f"{name}: {fault}; train the bundle again")
        return cls(**arrays)


def _fault(arrays: dict[str, Any]) -> str:
    """The first reason why these arrays are not a forest, or nothing."""
    if arrays.keys() != _ARRAYS.keys():
        return f"expected the arrays {', '.join(_ARRAYS)}, got {', '.join(sorted(arrays)) or 'none'}"
    for name, dtype in _ARRAYS.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            return f"array {name} must be a vector of {np.dtype(dtype)}"
    feature, left, right, offsets = (arrays[n] for n in ("feature", "left", "right", "offsets"))
    nodes = len(feature)
    if any(len(arrays[n]) != nodes for n in ("threshold", "left", "right", "value")):
        return "node arrays differ in length"
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != nodes or (np.diff(offsets) < 1).any():
        return "tree offsets do not cover the nodes"
    if not all(np.isfinite(arrays[n]).all() for n in ("threshold", "value", "importance")):
        return "a threshold, value or importance is not finite"
    size = np.repeat(np.diff(offsets), np.diff(offsets))
    here = np.arange(nodes) - np.repeat(offsets[:-1], np.diff(offsets))
    inner = (left != LEAF) | (right != LEAF)
    # A child after its parent: every walk moves forward, so it ends.
    for child in (left, right):
        if (inner & ((child <= here) | (child >= size))).any():
            return "a child is not a later node of its own tree"
    if (inner & ((feature < 0) | (feature >= len(arrays["importance"])))).any():
        return "a node asks for a feature that does not exist"
    return ""


@njit(cache=True)
def _add_trees(X: Any, feature: Any, threshold: Any, left: Any, right: Any, value: Any, offsets: Any, out: Any) -> None:
    """Add the answer of every tree to ``out``, tree by tree, as scikit-learn does on one thread."""
    for tree in range(len(offsets) - 1):
        root = offsets[tree]
        for row in range(X.shape[0]):
            node = root
            while left[node] != LEAF:
                child = left[node] if X[row, feature[node]] <= threshold[node] else right[node]
                node = root + child
            out[row] += value[node]
