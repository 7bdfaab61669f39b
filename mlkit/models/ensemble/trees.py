"""Regression trees as arrays, evaluated by one compiled loop for all learners.

Predictions equal those of the libraries to the last bit: same decisions, leaf values added in the order of the trees
and in the same precision, for one row and for many. A forecast therefore needs none of the libraries: their loaders
crash the process on damaged files, and one call of theirs costs more than evaluating a thousand trees here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from mlkit.compiled import cached
from mlkit.errors import BundleError
from mlkit.models.ensemble.settings import Float32Matrix, FloatMatrix, FloatVector

LEAF = -1
DEPTH_LIMIT = 255  # levels of one tree
NODE_LIMIT = 2**23  # of all trees of one model
FEATURE_LIMIT = 2**16

# One load reads a whole node. The child of a leaf is the leaf itself, so that extra steps do no harm.
NODE = np.dtype([("threshold", np.float32), ("feature", np.uint32), ("child", np.uint32)])
ROW_BLOCK = 128  # rows evaluated on all trees before the next rows are
WALKS = 8  # rows or trees walked side by side: one walk alone waits for memory at every step


@dataclass(frozen=True, eq=False)
class TreeArrays:
    """The trees of one model; BundleError for a child, feature or number that does not exist.

    Children count from the first node of their tree; a leaf has ``LEAF`` twice. An inner node sends a row left
    if ``x[feature] <= threshold``. :meth:`Trees.join` checks that every node has one parent.
    """

    feature: npt.NDArray[np.int32]  # (nodes,)
    threshold: FloatVector  # (nodes,)
    left: npt.NDArray[np.int32]  # (nodes,)
    right: npt.NDArray[np.int32]  # (nodes,)
    value: FloatVector  # (nodes,) prediction of a leaf
    offsets: npt.NDArray[np.int64]  # (trees + 1,) first node of each tree, and the end
    n_features: int

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
    last: npt.NDArray[np.int64]  # (models,) number of trees up to the end of each model
    n_features: int
    float32_sums: bool  # leaf values are added in float32
    divisor: FloatVector  # (models,) of the sums

    @classmethod
    def join(
        cls, models: Sequence[TreeArrays], names: Sequence[str] = (), *, float32_sums: bool = False, mean: bool = False
    ) -> Self:
        """Check and lay out the trees of one or more models.

        ``names``: of the models' files, for messages.
        ``float32_sums``: add leaf values in float32, as XGBoost does.
        ``mean``: predict the mean of a model's trees instead of their sum.

        Raises BundleError: the arrays are no trees over these features.
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
            last=np.cumsum(counts),
            n_features=models[0].n_features,
            float32_sums=float32_sums,
            divisor=divisor,
        )

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """Prediction of every model, float64 (n, models), for finite float32 features (n, F)."""
        out = np.empty((len(X), len(self.last)))
        X = np.ascontiguousarray(X).view()
        X.flags.writeable = False  # as arrays from pandas are: one compiled signature serves both
        _evaluate(X, self.nodes, self.value, self.roots, self.depths, self.last, self.float32_sums, out)
        out /= self.divisor
        return out


def stump() -> TreeArrays:
    """One leaf over one feature: the smallest model, to compile the evaluation with."""
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
        return "a node splits on a feature that does not exist"
    if not (np.isfinite(model.threshold).all() and np.isfinite(model.value).all()):
        return "a threshold or value is not finite"
    return ""


def _breadth_first(model: TreeArrays) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Nodes tree by tree and level by level, siblings side by side, and the depth of each tree."""
    inner, start = model.inner, model.offsets[:-1]
    trees = np.arange(len(start))
    depth = np.zeros(len(start), dtype=np.int64)
    parents_of = np.zeros(len(inner), dtype=np.int64)  # number of parents; the root counts one
    levels, owners = [start], [trees]
    for level in range(1, DEPTH_LIMIT + 2):
        parents_of[levels[-1]] += 1
        if len(np.unique(levels[-1])) < len(levels[-1]) or parents_of.max(initial=0) > 1:
            raise BundleError("a node has two parents")
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
    if not parents_of.all():
        raise BundleError("a node has no parent")
    return np.concatenate(levels)[np.argsort(np.concatenate(owners), kind="stable")], depth


def _nodes(model: TreeArrays, order: npt.NDArray[np.int64], start: int) -> npt.NDArray[Any]:
    """Nodes of one model in their new order, the first of which has position ``start``."""
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    first = np.repeat(model.offsets[:-1], np.diff(model.offsets))
    child = np.where(model.inner, position[model.left.clip(0) + first], position) + start
    # x <= t holds for a float32 x exactly where x is at most the largest float32 up to t.
    with np.errstate(over="ignore", under="ignore"):
        threshold = model.threshold.astype(np.float32)
    threshold = np.where(threshold > model.threshold, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    made = np.empty(len(order), dtype=NODE)
    made["threshold"] = np.where(model.inner, threshold, np.float32(np.inf))[order]
    made["feature"] = np.where(model.inner, model.feature, 0)[order]
    made["child"] = child[order]
    return made


@njit(inline="always")
def _next(X: Any, row: Any, nodes: Any, at: Any) -> Any:
    """Position of the node that a row goes to from node ``at``."""
    node = nodes[at]
    return np.uint64(node.child) + np.uint64(X[row, np.uint64(node.feature)] > node.threshold)


@cached(nogil=True, error_model="numpy")
def _evaluate(X: Any, nodes: Any, value: Any, roots: Any, depths: Any, last: Any, float32_sums: Any, out: Any) -> None:
    """Sum the leaf values of each model's trees, in their order."""
    at = np.empty(WALKS, dtype=np.uint64)
    total = np.empty(ROW_BLOCK)
    for first in range(0, X.shape[0], ROW_BLOCK):
        rows = min(ROW_BLOCK, X.shape[0] - first)
        tree = 0
        for model in range(len(last)):
            total[:rows] = 0.0
            if rows < WALKS:
                for row in range(rows):
                    for k in range(tree, last[model], WALKS):
                        trees = min(WALKS, last[model] - k)
                        _few_trees(X, first + row, nodes, roots[k : k + trees], depths[k : k + trees], at)
                        for lane in range(trees):
                            total[row] = _add(total[row], value[at[lane]], float32_sums)
            else:
                for k in range(tree, last[model]):
                    for start in range(0, rows, WALKS):
                        # The last rows overlap with those before, which are not added again.
                        begin = min(start, rows - WALKS)
                        _few_rows(X, first + begin, nodes, roots[k], depths[k], at)
                        for lane in range(start - begin, WALKS):
                            total[begin + lane] = _add(total[begin + lane], value[at[lane]], float32_sums)
            tree = last[model]
            for row in range(rows):
                out[first + row, model] = total[row]


@njit(inline="always")
def _add(total: Any, leaf: Any, float32_sums: Any) -> Any:
    return np.float64(np.float32(total + leaf)) if float32_sums else total + leaf


@njit(inline="always")
def _few_trees(X: Any, row: Any, nodes: Any, roots: Any, depths: Any, at: Any) -> None:
    """Leaves that one row reaches in at most ``WALKS`` trees."""
    depth = 0
    for lane in range(WALKS):
        tree = min(lane, len(roots) - 1)
        at[lane] = roots[tree]
        depth = max(depth, depths[tree])
    for _ in range(depth):
        for lane in range(WALKS):
            at[lane] = _next(X, row, nodes, at[lane])


@njit(inline="always")
def _few_rows(X: Any, first: Any, nodes: Any, root: Any, depth: Any, at: Any) -> None:
    """Leaves that ``WALKS`` consecutive rows reach in one tree."""
    for lane in range(WALKS):
        at[lane] = root
    for _ in range(depth):
        for lane in range(WALKS):
            at[lane] = _next(X, first + lane, nodes, at[lane])
