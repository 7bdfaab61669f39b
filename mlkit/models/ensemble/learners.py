"""The three libraries of the price ensemble behind one interface: fit, predict, to and from bytes.

Each learner's memory is what its files hold: ``fit`` ends by reading back its own bytes, so a stored model
predicts the same bits as the one that was trained. Feature matrices and binned data are shared by all
horizons and never copied. The libraries only train: the trees in the files are read and walked by
:mod:`mlkit.models.ensemble.trees`, to the libraries' own bits, on one thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from mlkit.errors import BundleError
from mlkit.models.ensemble.random_forest import RandomForest
from mlkit.models.ensemble.settings import EnsembleSettings, Float32Matrix, FloatMatrix, FloatVector
from mlkit.models.ensemble.tree_files import read_lightgbm, read_xgboost
from mlkit.models.ensemble.trees import TreeArrays, Trees

Tick = Callable[[int], None]  # told the index of the horizon just fitted


@dataclass(frozen=True, eq=False)
class Rows:
    """Features and normalised labels of some rows in time order."""

    X: Float32Matrix  # (n, F), a view of the feature matrix where its rows are consecutive
    z: FloatMatrix  # (n, H)

    def __len__(self) -> int:
        return len(self.X)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a learner may see."""

    fit: Rows
    valid: Rows  # for early stopping
    early: Rows  # all rows before calibration, for the learner that needs no early stopping


class Learner(Protocol):
    """One library, fitted for every horizon."""

    name: ClassVar[str]

    @property
    def files(self) -> dict[str, bytes]:
        """File name to content, one file a horizon."""
        ...

    @property
    def trees(self) -> Trees:
        """What is in the files: one model a horizon."""
        ...

    @property
    def rounds(self) -> tuple[int, ...]:
        """Trees kept, per horizon."""
        ...

    @classmethod
    def fit(
        cls, parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick
    ) -> Self: ...

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """Normalised score, float64 (n, H), of finite features (n, F)."""
        ...

    def gain(self) -> FloatMatrix:
        """Training loss removed by each feature, (H, F); rows sum to 1, or to 0 where nothing was split."""
        ...

    def to_bytes(self) -> dict[str, bytes]:
        """File name to content, one file a horizon."""
        ...

    @classmethod
    def from_bytes(cls, files: Mapping[str, bytes], horizons: tuple[int, ...], n_features: int) -> Self:
        """Rebuild from :meth:`to_bytes`; BundleError if a file is not such a model, KeyError if one is missing."""
        ...


@dataclass(frozen=True, eq=False)
class _TreeLearner:
    """What the three have in common once they are trained: files, and the trees in them."""

    name: ClassVar[str]
    file: ClassVar[str]  # name of a horizon's file
    horizons: tuple[int, ...]
    files: dict[str, bytes]
    trees: Trees  # one model a horizon
    gains: FloatMatrix  # (H, F)
    rounds: tuple[int, ...]

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """See :class:`Learner`."""
        return self.trees.predict(X)

    def gain(self) -> FloatMatrix:
        """See :class:`Learner`."""
        total = self.gains.sum(axis=1, keepdims=True)
        shares: FloatMatrix = np.divide(self.gains, total, out=np.zeros_like(self.gains), where=total > 0)
        return shares

    def to_bytes(self) -> dict[str, bytes]:
        """See :class:`Learner`."""
        return dict(self.files)

    @classmethod
    def from_bytes(cls, files: Mapping[str, bytes], horizons: tuple[int, ...], n_features: int) -> Self:
        """See :class:`Learner`."""
        names = [cls.file.format(horizon) for horizon in horizons]
        held = {name: bytes(files[name]) for name in names}
        models, gains = zip(*(cls._read(held[name], name) for name in names), strict=True)
        for name, model in zip(names, models, strict=True):
            if model.n_features != n_features:
                raise BundleError(
                    f"{name}: the model takes {model.n_features} features, the bundle {n_features}; train it again"
                )
        trees = cls._join(models, names)
        return cls(horizons, held, trees, np.array(gains), tuple(len(model.offsets) - 1 for model in models))

    @classmethod
    def _read(cls, data: bytes, name: str) -> tuple[TreeArrays, FloatVector]:
        """Trees of one file, and the loss that each feature removed, (F,)."""
        raise NotImplementedError

    @classmethod
    def _join(cls, models: Sequence[TreeArrays], names: Sequence[str]) -> Trees:
        return Trees.join(models, names)


@dataclass(frozen=True, eq=False)
class XGBoostLearner(_TreeLearner):
    """XGBoost's native API: histogram trees on data binned once."""

    name: ClassVar[str] = "xgboost"
    file: ClassVar[str] = "xgb_{}.ubj"

    @classmethod
    def fit(cls, parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick) -> Self:
        """Boost each horizon until its validation error stops falling."""
        import xgboost

        binning = {"max_bin": settings.max_bin, "nthread": settings.n_threads}
        train = xgboost.QuantileDMatrix(parts.fit.X, **binning)
        valid = xgboost.QuantileDMatrix(parts.valid.X, ref=train, **binning)
        return cls.boost(train, valid, parts, horizons, settings, seed, tick)

    @classmethod
    def boost(
        cls,
        train: Any,
        valid: Any,
        parts: Parts,
        horizons: tuple[int, ...],
        settings: EnsembleSettings,
        seed: int,
        tick: Tick,
    ) -> Self:
        """The boosting, on binned rows wherever they lie."""
        import xgboost

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
        files = {}
        for j, horizon in enumerate(horizons):
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
            files[f"xgb_{horizon}.ubj"] = bytes(booster.save_raw("ubj"))
            tick(j)
        return cls.from_bytes(files, horizons, parts.fit.X.shape[1])

    @classmethod
    def _read(cls, data: bytes, name: str) -> tuple[TreeArrays, FloatVector]:
        model, gain = read_xgboost(data, name)
        return model, _by_feature(model, gain)

    @classmethod
    def _join(cls, models: Sequence[TreeArrays], names: Sequence[str]) -> Trees:
        return Trees.join(models, names, single=True)


def lightgbm_parameters(settings: EnsembleSettings, seed: int) -> dict[str, Any]:
    """What LightGBM is told, in its deterministic mode."""
    return {
        "objective": "regression",
        "metric": "l2",
        "boost_from_average": False,  # start from no change
        "learning_rate": settings.learning_rate,
        "max_depth": settings.max_depth,
        "num_leaves": min(2**settings.max_depth, 255),
        "min_data_in_leaf": settings.min_leaf,
        "bagging_fraction": settings.subsample,
        "bagging_freq": 1,
        "feature_fraction": settings.colsample,
        "lambda_l2": settings.reg_lambda,
        "max_bin": settings.max_bin,
        "num_threads": settings.n_threads,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


@dataclass(frozen=True, eq=False)
class LightGBMLearner(_TreeLearner):
    """LightGBM's native API in its deterministic mode."""

    name: ClassVar[str] = "lightgbm"
    file: ClassVar[str] = "lgb_{}.txt"

    @classmethod
    def fit(cls, parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick) -> Self:
        """Boost each horizon until its validation error stops falling."""
        import lightgbm

        parameters = lightgbm_parameters(settings, seed)
        train = lightgbm.Dataset(parts.fit.X, label=parts.fit.z[:, 0], params=parameters)
        valid = train.create_valid(parts.valid.X, label=parts.valid.z[:, 0], params=parameters)
        files = {}
        for j, horizon in enumerate(horizons):
            train.construct().set_label(parts.fit.z[:, j])
            valid.construct().set_label(parts.valid.z[:, j])
            booster = lightgbm.train(
                parameters,
                train,
                num_boost_round=settings.n_estimators,
                valid_sets=[valid],
                callbacks=[lightgbm.early_stopping(settings.early_stopping_rounds, verbose=False)],
            )
            files[f"lgb_{horizon}.txt"] = booster.model_to_string(booster.best_iteration).encode()
            tick(j)
        return cls.from_bytes(files, horizons, parts.fit.X.shape[1])

    @classmethod
    def _read(cls, data: bytes, name: str) -> tuple[TreeArrays, FloatVector]:
        model, gain = read_lightgbm(data, name)
        return model, _by_feature(model, gain)


@dataclass(frozen=True, eq=False)
class RandomForestLearner(_TreeLearner):
    """Scikit-learn's forest, kept as arrays; it needs no early stopping, so it also sees those rows."""

    name: ClassVar[str] = "random_forest"
    file: ClassVar[str] = "rf_{}.npz"

    @classmethod
    def fit(cls, parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick) -> Self:
        """Grow one forest a horizon."""
        from sklearn.ensemble import RandomForestRegressor

        files = {}
        for j, horizon in enumerate(horizons):
            model = RandomForestRegressor(
                n_estimators=settings.forest_trees,
                max_depth=settings.forest_depth,
                min_samples_leaf=settings.min_leaf,
                max_features=settings.forest_features,
                max_samples=min(settings.forest_rows, len(parts.early)),
                n_jobs=settings.n_threads,  # each tree has its own seed: no bit depends on it
                random_state=seed,
            ).fit(parts.early.X, parts.early.z[:, j])
            files[f"rf_{horizon}.npz"] = RandomForest.from_sklearn(model).to_bytes()
            tick(j)
        return cls.from_bytes(files, horizons, parts.fit.X.shape[1])

    @classmethod
    def _read(cls, data: bytes, name: str) -> tuple[TreeArrays, FloatVector]:
        forest = RandomForest.from_bytes(data, name)
        return forest.arrays, forest.importance

    @classmethod
    def _join(cls, models: Sequence[TreeArrays], names: Sequence[str]) -> Trees:
        return Trees.join(models, names, mean=True)


LEARNERS: dict[str, type[Learner]] = {
    learner.name: learner for learner in (XGBoostLearner, LightGBMLearner, RandomForestLearner)
}


def _by_feature(model: TreeArrays, gain: FloatVector) -> FloatVector:
    """Gain of each feature, (F,), from that of each node."""
    inner = model.inner
    return np.bincount(model.feature[inner], weights=gain[inner], minlength=model.n_features).astype(np.float64)
