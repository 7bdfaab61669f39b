"""A random forest as plain arrays: trained by scikit-learn, stored without pickle, read by a compiled loop.

Prediction equals ``RandomForestRegressor.predict`` on one thread (scikit-learn adds trees up in whatever
order its threads finish, so with ``n_jobs > 1`` the last bits change from run to run).
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlkit.errors import BundleError
from mlkit.models.base import Float32Matrix, FloatVector
from mlkit.models.trees import LEAF, TreeArrays, Trees

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
_UNPACKED_LIMIT = 2**28  # bytes of all arrays


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
        buffer = io.BytesIO()
        stored = {name: getattr(self.arrays, name) for name in _ARRAYS if name != "importance"}
        np.savez_compressed(buffer, **stored, importance=self.importance)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "forest") -> Self:
        """Read and check what :meth:`to_bytes` wrote; ``name`` is for messages.

        Raises
        ------
        BundleError
            Not an npz of these arrays, or nodes that are not trees.
        """
        try:
            arrays = _unpack(data)
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


def _unpack(data: bytes) -> dict[str, Any]:
    """The arrays of an npz whose every header is the one that its array's name and length ask for.

    ``np.load`` would believe headers: room for an array of any length, or pickled objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            wanted, found = sorted(f"{name}.npy" for name in _ARRAYS), sorted(e.filename for e in entries)
            if found != wanted:
                raise BundleError(f"expected the arrays {', '.join(_ARRAYS)}, got {', '.join(found)[:200] or 'none'}")
            if sum(entry.file_size for entry in entries) > _UNPACKED_LIMIT:
                raise BundleError(f"unpacks to more than {_UNPACKED_LIMIT} bytes")
            unpacked = {entry.filename.removesuffix(".npy"): archive.read(entry) for entry in entries}
    # zipfile raises the last two for encryption and for methods that it does not know.
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"not a forest file ({error})") from error
    return {name: _array(name, unpacked[name]) for name in _ARRAYS}


def _array(name: str, stored: bytes) -> npt.NDArray[Any]:
    """A vector in the npy format, version 1.0."""
    kind = np.dtype(_ARRAYS[name])
    room = len(stored) - 128  # header of a vector
    header = io.BytesIO()
    described = {"descr": kind.str, "fortran_order": False, "shape": (room // kind.itemsize,)}
    np.lib.format.write_array_header_1_0(header, described)
    if room < 0 or room % kind.itemsize or not stored.startswith(header.getvalue()):
        raise BundleError(f"array {name} must be a vector of {kind}")
    return np.frombuffer(stored, dtype=kind, offset=128)
