"""A random forest as plain arrays: trained by scikit-learn, stored without pickle, read by a compiled loop.

Prediction equals ``RandomForestRegressor.predict`` on one thread (scikit-learn adds trees up in whatever
order its threads finish, so with ``n_jobs > 1`` the last bits change from run to run).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlkit.errors import BundleError
from mlkit.models.bundle.vectors import pack_vectors, unpack_vectors
from mlkit.models.ensemble.settings import Float32Matrix, FloatVector
from mlkit.models.ensemble.trees import LEAF, TreeArrays, Trees

# Name, dtype of the stored arrays. Children count from the first node of their tree; a leaf has LEAF twice.
_ARRAYS = {
    "feature": "<i4",
    "threshold": "<f8",
    "left": "<i4",
    "right": "<i4",
    "value": "<f8",
    "offsets": "<i8",
    "importance": "<f8",
}


@dataclass(frozen=True, eq=False)
class RandomForest:
    """Regression trees whose mean is the answer; ``x[feature] <= threshold`` goes left."""

    arrays: TreeArrays
    importance: FloatVector  # (F,) share of the variance removed

    @property
    def n_features(self) -> int:
        """Width of the feature matrix."""
        return len(self.importance)

    @cached_property
    def trees(self) -> Trees:
        """The trees as they are walked; BundleError if the arrays are none."""
        return Trees.join([self.arrays], mean=True)

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Copy the trees of a fitted single-output ``RandomForestRegressor``."""
        trees = [estimator.tree_ for estimator in model.estimators_]

        def join(name: str) -> npt.NDArray[Any]:
            return np.concatenate([np.asarray(getattr(t, name)).reshape(t.node_count) for t in trees])

        left, importance = join("children_left"), np.asarray(model.feature_importances_, dtype=np.float64)
        arrays = TreeArrays(
            feature=np.where(left == LEAF, 0, join("feature")).astype(np.int32),
            threshold=np.where(left == LEAF, 0.0, join("threshold")).astype(np.float64),
            left=left.astype(np.int32),
            right=join("children_right").astype(np.int32),
            value=join("value").astype(np.float64),
            offsets=np.cumsum([0, *(t.node_count for t in trees)], dtype=np.int64),
            n_features=len(importance),
        )
        return cls(arrays, importance)

    def predict(self, X: Float32Matrix) -> FloatVector:
        """Mean answer of the trees, (n,), for finite float32 features (n, F)."""
        return self.trees.predict(X)[:, 0]

    def to_bytes(self) -> bytes:
        """The arrays as a compressed npz; the same forest gives the same bytes."""
        stored = {name: getattr(self.arrays, name) for name in _ARRAYS if name != "importance"}
        return pack_vectors(stored | {"importance": self.importance})

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "forest") -> Self:
        """Read and check what :meth:`to_bytes` wrote; ``name`` is for messages.

        Raises
        ------
        BundleError
            Not an npz of these arrays, or nodes that are not trees.
        """
        try:
            arrays = unpack_vectors(data, _ARRAYS, "a forest file")
            importance = arrays.pop("importance")
            if not len(importance) or not np.isfinite(importance).all() or (importance < 0).any():
                raise BundleError("importance must be finite and not negative, one number a feature")
            if len(arrays["offsets"]) < 2:
                raise BundleError("a forest without trees")
            forest = cls(TreeArrays(**arrays, n_features=len(importance)), importance)
            assert forest.trees  # laid out, hence checked, here and not at the first forecast
        except BundleError as error:
            raise BundleError(f"{name}: {error}; train the bundle again") from error
        return forest
