"""The three libraries of the price ensemble behind one interface: fit, predict, to and from bytes.

Each learner's memory is what its files hold: ``fit`` ends by reading back its own bytes, so a stored model
predicts the same bits as the one that was trained. Feature matrices and binned data are shared by all
horizons and never copied. Everything predicts on one thread: a row costs microseconds, waking threads costs
more, and a server may ask from many.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from mlkit.errors import BundleError
from mlkit.models.base import EnsembleSettings, Float32Matrix, FloatMatrix
from mlkit.models.random_forest import RandomForest

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
        """Rebuild from :meth:`to_bytes`; pass verified bytes only, the libraries do not check."""
        ...


@dataclass(frozen=True, eq=False)
class XGBoostLearner:
    """XGBoost's native API: histogram trees on data binned once."""

    name: ClassVar[str] = "xgboost"
    horizons: tuple[int, ...]
    n_features: int
    boosters: tuple[Any, ...]
    rounds: tuple[int, ...]

    @classmethod
    def fit(cls, parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick) -> Self:
        """Boost each horizon until its validation error stops falling."""
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
        binning = {"max_bin": settings.max_bin, "nthread": settings.n_threads}
        train = xgboost.QuantileDMatrix(parts.fit.X, **binning)
        valid = xgboost.QuantileDMatrix(parts.valid.X, ref=train, **binning)
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

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """See :class:`Learner`."""
        return np.column_stack([b.inplace_predict(X) for b in self.boosters]).astype(np.float64)

    def gain(self) -> FloatMatrix:
        """See :class:`Learner`."""
        total = np.zeros((len(self.horizons), self.n_features))
        for row, booster in zip(total, self.boosters, strict=True):
            for feature, gain in booster.get_score(importance_type="total_gain").items():
                row[int(feature[1:])] = gain
        return _shares(total)

    def to_bytes(self) -> dict[str, bytes]:
        """See :class:`Learner`."""
        pairs = zip(self.horizons, self.boosters, strict=True)
        return {f"xgb_{horizon}.ubj": bytes(booster.save_raw("ubj")) for horizon, booster in pairs}

    @classmethod
    def from_bytes(cls, files: Mapping[str, bytes], horizons: tuple[int, ...], n_features: int) -> Self:
        """See :class:`Learner`."""
        import xgboost

        boosters = []
        for horizon in horizons:
            booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(files[f"xgb_{horizon}.ubj"]))
            _demand_width(f"xgb_{horizon}.ubj", booster.num_features(), n_features)
            boosters.append(booster)
        rounds = tuple(b.num_boosted_rounds() for b in boosters)
        return cls(horizons, n_features, tuple(boosters), rounds)


@dataclass(frozen=True, eq=False)
class LightGBMLearner:
    """LightGBM's native API in its deterministic mode."""

    name: ClassVar[str] = "lightgbm"
    horizons: tuple[int, ...]
    n_features: int
    texts: tuple[str, ...]
    boosters: tuple[Any, ...]
    rounds: tuple[int, ...]

    @classmethod
    def fit(cls, parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick) -> Self:
        """Boost each horizon until its validation error stops falling."""
        import lightgbm

        parameters = {
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

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """See :class:`Learner`."""
        return np.column_stack([b.predict(X, num_threads=1) for b in self.boosters])

    def gain(self) -> FloatMatrix:
        """See :class:`Learner`."""
        return _shares(np.array([b.feature_importance("gain") for b in self.boosters], dtype=np.float64))

    def to_bytes(self) -> dict[str, bytes]:
        """See :class:`Learner`."""
        pairs = zip(self.horizons, self.texts, strict=True)
        return {f"lgb_{horizon}.txt": text.encode() for horizon, text in pairs}

    @classmethod
    def from_bytes(cls, files: Mapping[str, bytes], horizons: tuple[int, ...], n_features: int) -> Self:
        """See :class:`Learner`."""
        import lightgbm

        texts = tuple(files[f"lgb_{horizon}.txt"].decode() for horizon in horizons)
        boosters = tuple(lightgbm.Booster(model_str=text) for text in texts)
        for horizon, booster in zip(horizons, boosters, strict=True):
            _demand_width(f"lgb_{horizon}.txt", booster.num_feature(), n_features)
        rounds = tuple(b.num_trees() for b in boosters)
        return cls(horizons, n_features, texts, boosters, rounds)


@dataclass(frozen=True, eq=False)
class RandomForestLearner:
    """Scikit-learn's forest, kept as arrays; it needs no early stopping, so it also sees those rows."""

    name: ClassVar[str] = "random_forest"
    horizons: tuple[int, ...]
    forests: tuple[RandomForest, ...]
    rounds: tuple[int, ...]

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

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """See :class:`Learner`."""
        return np.column_stack([forest.predict(X) for forest in self.forests])

    def gain(self) -> FloatMatrix:
        """See :class:`Learner`."""
        return _shares(np.array([forest.importance for forest in self.forests]))

    def to_bytes(self) -> dict[str, bytes]:
        """See :class:`Learner`."""
        pairs = zip(self.horizons, self.forests, strict=True)
        return {f"rf_{horizon}.npz": forest.to_bytes() for horizon, forest in pairs}

    @classmethod
    def from_bytes(cls, files: Mapping[str, bytes], horizons: tuple[int, ...], n_features: int) -> Self:
        """See :class:`Learner`."""
        names = [f"rf_{horizon}.npz" for horizon in horizons]
        forests = tuple(RandomForest.from_bytes(files[name], name) for name in names)
        for name, forest in zip(names, forests, strict=True):
            _demand_width(name, forest.n_features, n_features)
        return cls(horizons, forests, tuple(len(f.offsets) - 1 for f in forests))


LEARNERS: dict[str, type[Learner]] = {
    learner.name: learner for learner in (XGBoostLearner, LightGBMLearner, RandomForestLearner)
}


def _shares(gain: FloatMatrix) -> FloatMatrix:
    total = gain.sum(axis=1, keepdims=True)
    shares: FloatMatrix = np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)
    return shares


def _demand_width(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise BundleError(f"{name}: the model takes {found} features, the bundle {expected}; train it again")
