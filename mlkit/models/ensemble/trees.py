"""Regression trees as arrays: one layout and one compiled walk for XGBoost, LightGBM and scikit-learn.

The answers are the libraries' own, to the last bit: same decisions, leaf values added in the order of the trees
and in the same precision, for one row and for many. So a forecast needs none of the three libraries, whose
loaders crash the process on damaged files and whose doors cost more than a thousand trees.

A decision on a float32 feature needs only a float32 threshold: ``x <= t`` holds exactly where ``x`` is at most
the largest float32 up to t, and XGBoost's ``x < t`` exactly where it is at most the float32 before t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from mlkit.errors import BundleError
from mlkit.models.ensemble.settings import Float32Matrix, FloatMatrix, FloatVector

LEAF = -1
DEPTH_LIMIT = 255  # levels of one tree
NODE_LIMIT = 2**23  # of all trees of one model
FEATURE_LIMIT = 2**16

# One node is read at once. A leaf sends every row back to itself, so a walk may take more steps than it needs.
NODE = np.dtype([("threshold", np.float32), ("feature", np.uint32), ("child", np.uint32)])
BLOCK = 128  # rows that meet all trees before the next rows do
WALKS = 8  # at a time: a walk alone waits for memory at every step


@dataclass(frozen=True, eq=False)
class TreeArrays:
    """The trees of one model as its file tells them; BundleError if a number leads nowhere.

    Children count from the first node of their tree; a leaf has ``LEAF`` twice. An inner node sends a row left
    if ``x[feature] <= threshold``, or ``<`` where ``strict``. That every node has one parent is for
    :meth:`Trees.join` to see.
    """

    feature: npt.NDArray[np.int32]  # (nodes,)
    threshold: FloatVector  # (nodes,)
    left: npt.NDArray[np.int32]  # (nodes,)
    right: npt.NDArray[np.int32]  # (nodes,)
    value: FloatVector  # (nodes,) answer of a leaf
    offsets: npt.NDArray[np.int64]  # (trees + 1,) first node of each tree, and the end
    n_features: int
    strict: bool = False

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise BundleError(fault)

    @property
    def inner(self) -> npt.NDArray[np.bool_]:
        """Nodes that split, (nodes,)."""
        return np.asarray((self.left != LEAF) | (self.right != LEAF), dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class Trees:
    """The trees of several models over the same features, laid out for walking: siblings are neighbours."""

    nodes: npt.NDArray[Any]  # of NODE; ``child`` is the left one, the right one follows
    value: FloatVector  # (nodes,)
    roots: npt.NDArray[np.int64]  # (trees,)
    depths: npt.NDArray[np.int64]  # (trees,)
    ends: npt.NDArray[np.int64]  # (models,) number of trees up to the end of each model
    n_features: int
    single: bool  # leaf values are added in float32
    divisor: FloatVector  # (models,) of the sums

    @classmethod
    def join(
        cls, models: Sequence[TreeArrays], names: Sequence[str] = (), *, single: bool = False, mean: bool = False
    ) -> Self:
        """Check and lay out the trees of one or more models.

        Parameters
        ----------
        names
            Of the models' files, for messages.
        single
            Add leaf values in float32, as XGBoost does.
        mean
            Answer the mean of a model's trees, not their sum.

        Raises
        ------
        BundleError
            The arrays are no trees over these features.
        """
        nodes, values, roots, depths = [], [], [], []
        start = 0
        for k, model in enumerate(models):
            try:
                order, depth = _breadth_first(model)
            except BundleError as error:
                raise BundleError(f"{names[k]}: {error}; train the bundle again" if names else str(error)) from error
            nodes.append(_nodes(model, order, start))
            values.append(model.value[order])
            roots.append(model.offsets[:-1] + start)
            depths.append(depth)
            start += len(order)
        counts = np.array([len(depth) for depth in depths], dtype=np.int64)
        divisor = np.maximum(counts, 1).astype(np.float64) if mean else np.ones(len(models))
        return cls(
            nodes=np.concatenate(nodes),
            value=np.concatenate(values),
            roots=np.concatenate(roots).astype(np.int64),
            depths=np.concatenate(depths).astype(np.int64),
            ends=np.cumsum(counts),
            n_features=models[0].n_features,
            single=single,
            divisor=divisor,
        )

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """Answer of every model, float64 (n, models), for finite float32 features (n, F)."""
        out = np.empty((len(X), len(self.ends)))
        X = np.ascontiguousarray(X).view()
        X.flags.writeable = False  # as pandas hands out its columns: one compiled walk serves both
        _walk(X, self.nodes, self.value, self.roots, self.depths, self.ends, self.single, out)
        out /= self.divisor
        return out


def stump() -> TreeArrays:
    """One leaf over one feature: the smallest model, to compile the walk with."""
    one, nothing = np.full(1, LEAF, dtype=np.int32), np.zeros(1)
    return TreeArrays(np.zeros(1, dtype=np.int32), nothing, one, one, nothing, np.array([0, 1]), 1)


def _fault(model: TreeArrays) -> str:
    """The first reason why these arrays are no trees, or nothing."""
    nodes, offsets = len(model.feature), model.offsets
    if any(len(array) != nodes for array in (model.threshold, model.left, model.right, model.value)):
        return "node arrays differ in length"
    if nodes > NODE_LIMIT or not 0 < model.n_features <= FEATURE_LIMIT:
        return f"{nodes} nodes over {model.n_features} features, at most {NODE_LIMIT} over {FEATURE_LIMIT} can be"
    size = np.diff(offsets)
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != nodes or (size < 1).any():
        return "tree offsets do not cover the nodes"
    inner, length = model.inner, np.repeat(size, size)
    for child in (model.left, model.right):
        if (inner & ((child < 1) | (child >= length))).any():
            return "a child is not a node of its own tree"
    if (inner & ((model.feature < 0) | (model.feature >= model.n_features))).any():
        return "a node asks for a feature that does not exist"
    if not (np.isfinite(model.threshold).all() and np.isfinite(model.value).all()):
        return "a threshold or value is not finite"
    return ""


def _breadth_first(model: TreeArrays) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Nodes tree by tree and level by level, siblings side by side, and the depth of each tree."""
    inner, start = model.inner, model.offsets[:-1]
    trees = np.arange(len(start))
    depth = np.zeros(len(start), dtype=np.int64)
    met = np.zeros(len(inner), dtype=np.int64)
    levels, owners = [start], [trees]
    for level in range(1, DEPTH_LIMIT + 2):
        met[levels[-1]] += 1
        if len(np.unique(levels[-1])) < len(levels[-1]) or met.max(initial=0) > 1:
            raise BundleError("a node is the child of two")
        parents = levels[-1][inner[levels[-1]]]
        if not len(parents):
            break
        trees = owners[-1][inner[levels[-1]]]
        depth[trees] = level
        children = np.column_stack([model.left[parents], model.right[parents]]) + start[trees][:, None]
        levels.append(children.ravel())
        owners.append(np.repeat(trees, 2))
    else:
        raise BundleError(f"a tree is deeper than {DEPTH_LIMIT} levels")
    if not met.all():
        raise BundleError("a node is nobody's child")
    return np.concatenate(levels)[np.argsort(np.concatenate(owners), kind="stable")], depth


def _nodes(model: TreeArrays, order: npt.NDArray[np.int64], start: int) -> npt.NDArray[Any]:
    """Nodes of one model in their new order, the first of which has the place ``start``."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    first = np.repeat(model.offsets[:-1], np.diff(model.offsets))
    child = np.where(model.inner, place[model.left.clip(0) + first], place) + start
    made = np.empty(len(order), dtype=NODE)
    made["threshold"] = np.where(model.inner, _at_most(model.threshold, model.strict), np.float32(np.inf))[order]
    made["feature"] = np.where(model.inner, model.feature, 0)[order]
    made["child"] = child[order]
    return made


def _at_most(threshold: FloatVector, strict: bool) -> npt.NDArray[np.float32]:
    """Largest float32 that goes left."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = threshold.astype(np.float32)
    beyond = rounded >= threshold if strict else rounded > threshold
    return np.where(beyond, np.nextafter(rounded, np.float32(-np.inf)), rounded)


@njit(inline="always")
def _step(X: Any, row: Any, nodes: Any, place: Any) -> Any:
    """Where a row goes from a node."""
    node = nodes[place]
    return np.uint64(node.child) + np.uint64(X[row, np.uint64(node.feature)] > node.threshold)


@njit(cache=True, nogil=True, error_model="numpy")
def _walk(X: Any, nodes: Any, value: Any, roots: Any, depths: Any, ends: Any, single: Any, out: Any) -> None:
    """Sum the leaf values of each model's trees, in their order."""
    at = np.empty(WALKS, dtype=np.uint64)
    total = np.empty(BLOCK)
    for first in range(0, X.shape[0], BLOCK):
        rows = min(BLOCK, X.shape[0] - first)
        tree = 0
        for model in range(len(ends)):
            total[:rows] = 0.0
            if rows < WALKS:
                for row in range(rows):
                    total[row] = _one(X, first + row, nodes, value, roots, depths, tree, ends[model], single, at)
            else:
                for k in range(tree, ends[model]):
                    _many(X, first, rows, nodes, value, roots[k], depths[k], single, at, total)
            tree = ends[model]
            for row in range(rows):
                out[first + row, model] = total[row]


@njit(inline="always")
def _one(
    X: Any, row: Any, nodes: Any, value: Any, roots: Any, depths: Any, tree: Any, end: Any, single: Any, at: Any
) -> Any:
    """Sum over trees ``tree`` to ``end`` for one row: several trees are walked at a time."""
    total = 0.0
    while tree < end:
        count = min(WALKS, end - tree)
        depth = 0
        for k in range(WALKS):
            at[k] = roots[tree + min(k, count - 1)]
            depth = max(depth, depths[tree + min(k, count - 1)])
        for _ in range(depth):
            for k in range(WALKS):
                at[k] = _step(X, row, nodes, at[k])
        for k in range(count):
            total = np.float64(np.float32(total + value[at[k]])) if single else total + value[at[k]]
        tree += count
    return total


@njit(inline="always")
def _many(
    X: Any, first: Any, rows: Any, nodes: Any, value: Any, root: Any, depth: Any, single: Any, at: Any, total: Any
) -> None:
    """Add one tree's answers for several rows, a few rows at a time."""
    for start in range(0, rows, WALKS):
        begin = min(start, rows - WALKS)  # the last rows overlap with those before, which are not added again
        for k in range(WALKS):
            at[k] = root
        for _ in range(depth):
            for k in range(WALKS):
                at[k] = _step(X, first + begin + k, nodes, at[k])
        for k in range(start - begin, WALKS):
            added = total[begin + k] + value[at[k]]
            total[begin + k] = np.float64(np.float32(added)) if single else added
