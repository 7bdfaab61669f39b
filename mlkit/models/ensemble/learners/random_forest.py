"""Scikit-learn's random forest; it needs no early stopping, so it also trains on those rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mlkit.models.ensemble.learners.learner import DiskBatches, Learner, TrainedModel, TrainingParts
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.trees import LEAF, TreeArrays


class RandomForest(Learner):
    """Grows one forest a horizon, each tree on at most ``forest_rows`` rows."""

    module = "sklearn"
    distributions = ("scikit-learn",)
    prefix = "rf"
    mean = True

    def train(
        self, parts: TrainingParts, settings: EnsembleSettings, seed: int, disk: DiskBatches | None = None
    ) -> Iterator[TrainedModel]:
        """See `Learner.train`; rows on disk are read in place."""
        from sklearn.ensemble import RandomForestRegressor

        for z in parts.early.z.T:
            forest = RandomForestRegressor(
                n_estimators=settings.forest_trees,
                max_depth=settings.forest_depth,
                min_samples_leaf=settings.min_leaf,
                max_features=settings.forest_features,
                max_samples=min(settings.forest_rows, len(parts.early)),
                n_jobs=settings.n_threads,  # each tree has its own seed: no bit depends on it
                random_state=seed,
            )
            yield forest_model(forest.fit(parts.early.X, z))


def forest_model(forest: Any) -> TrainedModel:
    """Trees of a fitted single-output forest of scikit-learn.

    Their mean equals ``forest.predict`` on one thread: with ``n_jobs > 1`` scikit-learn adds the trees in the order in
    which its threads finish, and the last bits change from run to run.
    """
    trees = [estimator.tree_ for estimator in forest.estimators_]

    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate([np.asarray(getattr(tree, name)).reshape(tree.node_count) for tree in trees])

    left, importance = joined("children_left"), np.asarray(forest.feature_importances_, dtype=np.float64)
    arrays = TreeArrays(
        feature=np.where(left == LEAF, 0, joined("feature")).astype(np.int32),
        threshold=np.where(left == LEAF, 0.0, joined("threshold")).astype(np.float64),
        left=left.astype(np.int32),
        right=joined("children_right").astype(np.int32),
        value=joined("value").astype(np.float64),
        offsets=np.cumsum([0, *(tree.node_count for tree in trees)], dtype=np.int64),
        n_features=len(importance),
    )
    return TrainedModel(arrays, importance)
