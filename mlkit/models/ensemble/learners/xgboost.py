"""XGBoost: histogram trees on data binned once for all horizons."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mlkit.models.ensemble.learners.learner import DiskBatches, Learner, TrainedModel, TrainingParts
from mlkit.models.ensemble.settings import EnsembleSettings, Float32Matrix, FloatMatrix
from mlkit.models.ensemble.trees import LEAF, TreeArrays


class XGBoost(Learner):
    """Boosts each horizon until its validation error stops falling."""

    module = "xgboost"
    distributions = ("xgboost", "xgboost-cpu")
    prefix = "xgb"
    native = "ubj"
    float32_sums = True

    def train(
        self, parts: TrainingParts, settings: EnsembleSettings, seed: int, disk: DiskBatches | None = None
    ) -> Iterator[TrainedModel]:
        """See `Learner.train`."""
        import xgboost

        train, valid = _binned(parts, settings, disk)
        parameters = {
            "objective": "reg:squarederror",
            "base_score": 0.0,  # no change
            "tree_method": "hist",
            "eta": settings.learning_rate,
            "max_depth": settings.max_depth,
            "min_child_weight": settings.min_leaf,
            "subsample": settings.subsample,
            "colsample_bytree": settings.colsample,
            "lambda": settings.reg_lambda,
            "max_bin": settings.max_bin,
            "nthread": settings.n_threads,
            "seed": seed,
            "verbosity": 0,
        }
        for j in range(parts.fit.z.shape[1]):
            train.set_label(parts.fit.z[:, j])
            valid.set_label(parts.valid.z[:, j])
            stop = xgboost.callback.EarlyStopping(rounds=settings.early_stopping_rounds, save_best=True)
            booster = xgboost.train(
                parameters,
                train,
                num_boost_round=settings.n_estimators,
                evals=[(valid, "valid")],
                callbacks=[stop],
                verbose_eval=False,
            )
            yield xgboost_model(booster)

    def native_predictions(self, native: bytes, X: Float32Matrix) -> Any:
        """See `Learner.native_predictions`."""
        booster = self.library().Booster({"nthread": 1}, model_file=bytearray(native))
        return booster.inplace_predict(X).astype(np.float64)

    def contributions(self, native: bytes, X: Float32Matrix) -> FloatMatrix:
        """See `Learner.contributions`; TreeSHAP of Lundberg et al. (2020), *Nature Machine Intelligence* 2."""
        xgboost = self.library()
        booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(native))
        return np.asarray(booster.predict(xgboost.DMatrix(X, nthread=1), pred_contribs=True), dtype=np.float64)


def xgboost_model(booster: Any) -> TrainedModel:
    """Trees of a trained booster: numerical splits, one output, no base score."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    n_features = booster.num_features()

    def joined(key: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.concatenate([np.array(tree[key], dtype=dtype) for tree in trees])

    left, feature = joined("left_children", np.int32), joined("split_indices", np.int32)
    leaf = left == LEAF
    condition = joined("split_conditions", np.float32)  # of a leaf: its value
    # A row goes left where x < condition, that is, where x is at most the float32 before it.
    threshold = np.where(leaf, np.float32(0.0), np.nextafter(condition, np.float32(-np.inf)))
    arrays = TreeArrays(
        feature=feature,
        threshold=threshold.astype(np.float64),
        left=left,
        right=joined("right_children", np.int32),
        value=np.where(leaf, condition, np.float32(0.0)).astype(np.float64),
        offsets=np.cumsum([0, *(len(tree["left_children"]) for tree in trees)]),
        n_features=n_features,
    )
    gain = joined("loss_changes", np.float32)[~leaf].astype(np.float64)
    importance = np.bincount(feature[~leaf], weights=gain, minlength=n_features).astype(np.float64)
    return TrainedModel(arrays, importance, bytes(booster.save_raw("ubj")))


def _binned(parts: TrainingParts, settings: EnsembleSettings, disk: DiskBatches | None) -> tuple[Any, Any]:
    """Binned rows for training and for early stopping.

    Rows larger than memory are binned batch by batch into a cache on disk, which XGBoost reads once a level of a tree:
    every tree sees every row, as in memory.
    """
    import xgboost

    binning = {"max_bin": settings.max_bin, "nthread": settings.n_threads}
    if disk is None:
        train = xgboost.QuantileDMatrix(parts.fit.X, **binning)
        return train, xgboost.QuantileDMatrix(parts.valid.X, ref=train, **binning)

    folder, rows = disk.folder, disk.rows

    class Batches(xgboost.DataIter):  # type: ignore[misc]
        def __init__(self, X: Float32Matrix, name: str) -> None:
            self.X, self.start = X, 0
            super().__init__(cache_prefix=str(folder / name))

        def next(self, input_data: Any) -> bool:
            if self.start >= len(self.X):
                return False
            input_data(data=np.array(self.X[self.start : self.start + rows]))
            self.start += rows
            return True

        def reset(self) -> None:
            self.start = 0

    train = xgboost.ExtMemQuantileDMatrix(Batches(parts.fit.X, "xgboost-fit"), **binning)
    return train, xgboost.ExtMemQuantileDMatrix(Batches(parts.valid.X, "xgboost-valid"), ref=train, **binning)
