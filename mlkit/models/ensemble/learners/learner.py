"""What a learner of the ensemble is: how it trains, the trees it leaves behind, and the files that keep them.

A learner is one file of this folder: a subclass of `Learner` whose ``train`` yields a `TrainedModel` for each horizon.
The library only trains. Its trees are converted to arrays at once and evaluated by `mlkit.models.ensemble.trees` to the
library's own bits. The library's own file is kept beside the arrays for attributions (SHAP values) only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from mlkit.errors import BundleError, ConfigError, DependencyError
from mlkit.models.bundle.vectors import pack_vectors, unpack_vectors
from mlkit.models.ensemble.settings import EnsembleSettings, Float32Matrix, FloatMatrix, FloatVector
from mlkit.models.ensemble.trees import TreeArrays, Trees

# Name and dtype of the arrays in a file of trees.
_ARRAYS = {
    "feature": "<i4",
    "threshold": "<f8",
    "left": "<i4",
    "right": "<i4",
    "value": "<f8",
    "offsets": "<i8",
    "importance": "<f8",
}


ROWS_IN_MEMORY = 65_536  # of X at once where the arrays are files: 52 MB of 197 features


@dataclass(frozen=True, eq=False)
class Rows:
    """Features and normalised labels of some rows in time order."""

    X: Float32Matrix  # (n, F), a view of the feature matrix where its rows are consecutive
    z: FloatMatrix  # (n, H)

    def __len__(self) -> int:
        return len(self.X)


@dataclass(frozen=True, eq=False)
class TrainingParts:
    """The rows that a learner trains on."""

    fit: Rows
    valid: Rows  # for early stopping
    early: Rows  # all rows before calibration, for a learner without early stopping


@dataclass(frozen=True)
class DiskBatches:
    """How to train on rows that do not fit into memory."""

    folder: Path  # for working files: about 0.9 times the size of X, deleted at the end
    rows: int  # of X in memory at once; the process needs a few times as much

    def __post_init__(self) -> None:
        if self.rows < 1000:
            raise ConfigError(f"DiskBatches: rows must be at least 1000, got {self.rows}")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """Trees of one horizon."""

    trees: TreeArrays
    importance: FloatVector  # (F,) training loss removed by the splits on each feature
    native: bytes | None = None  # the same trees in the library's own format

    def to_bytes(self) -> bytes:
        """Trees and importance as a compressed npz; the same trees give the same bytes."""
        stored = {name: getattr(self.trees, name) for name in _ARRAYS if name != "importance"}
        return pack_vectors(stored | {"importance": self.importance})

    @classmethod
    def from_bytes(cls, data: bytes, native: bytes | None = None) -> Self:
        """Read what `to_bytes` wrote; BundleError if it is not an npz of these arrays or they are not trees."""
        arrays = unpack_vectors(data, _ARRAYS, "a file of trees")
        importance = arrays.pop("importance")
        if not len(importance) or not np.isfinite(importance).all() or (importance < 0).any():
            raise BundleError("importance must be finite and not negative, one number a feature")
        return cls(TreeArrays(**arrays, n_features=len(importance)), importance, native)


class Learner(ABC):
    """One library (or one algorithm of a library) that trains trees; has no state."""

    module: ClassVar[str]  # what is imported to train
    distributions: ClassVar[tuple[str, ...]]  # packages that provide it
    prefix: ClassVar[str]  # of its files in a bundle
    native: ClassVar[str] = ""  # suffix of the library's own file; empty: none is kept
    float32_sums: ClassVar[bool] = False  # leaf values are added in float32
    mean: ClassVar[bool] = False  # a prediction is the mean of the trees, not their sum

    @abstractmethod
    def train(
        self, parts: TrainingParts, settings: EnsembleSettings, seed: int, disk: DiskBatches | None = None
    ) -> Iterator[TrainedModel]:
        """Train a model for each column of the labels, in order.

        ``disk`` is given where the arrays of ``parts`` are files (``numpy.memmap``) that are larger than memory.
        """

    def native_predictions(self, native: bytes, X: Float32Matrix) -> Any:
        """Predictions (n,) by the library itself from its own file; only for a learner with such a file."""
        raise NotImplementedError

    def contributions(self, native: bytes, X: Float32Matrix) -> FloatMatrix:
        """SHAP values (n, F + 1), the bias last, by the library itself; only for a learner with such a file."""
        raise NotImplementedError

    def library(self) -> Any:
        """The imported library; DependencyError where it is not installed."""
        try:
            return import_module(self.module)
        except ImportError as error:
            raise DependencyError(f"attributions need {self.module}: pip install 'mlkit[train]'") from error


@dataclass(frozen=True, eq=False)
class FittedLearner:
    """The trees of a learner for every horizon."""

    learner: Learner
    horizons: tuple[int, ...]
    models: tuple[TrainedModel, ...]  # one a horizon
    trees: Trees  # the same, laid out for evaluation

    @classmethod
    def of(cls, learner: Learner, horizons: tuple[int, ...], models: list[TrainedModel]) -> Self:
        """Lay out trained models, one a horizon; BundleError if they are not trees."""
        names = [f"{learner.prefix}_{horizon}.npz" for horizon in horizons]
        arrays = [model.trees for model in models]
        trees = Trees.join(arrays, names, float32_sums=learner.float32_sums, mean=learner.mean)
        return cls(learner, horizons, tuple(models), trees)

    @property
    def rounds(self) -> tuple[int, ...]:
        """Number of trees, per horizon."""
        return tuple(len(model.trees.offsets) - 1 for model in self.models)

    @property
    def native_files(self) -> dict[str, bytes]:
        """The library's own files by name, in the order of the horizons; empty for a learner without."""
        suffix = f"{self.learner.prefix}_{{}}.{self.learner.native}"
        named = zip(self.horizons, self.models, strict=True)
        return {suffix.format(horizon): model.native for horizon, model in named if model.native is not None}

    def predict(self, X: Float32Matrix) -> FloatMatrix:
        """Normalised score, float64 (n, H), of finite features (n, F)."""
        return self.trees.predict(X)

    def gain(self) -> FloatMatrix:
        """Training loss removed by each feature, (H, F); rows sum to 1, or to 0 where nothing was split."""
        gains = np.array([model.importance for model in self.models])
        total = gains.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(gains, total, out=np.zeros_like(gains), where=total > 0))

    def contributions(self, X: Float32Matrix, j: int) -> FloatMatrix:
        """Contribution of each feature to the score of horizon number ``j``, (n, F + 1); rows sum to the score.

        The last column is the bias; for a learner without a file of its own it is the whole score.
        """
        native = self.models[j].native
        if native is not None:
            return self.learner.contributions(native, X)
        out = np.zeros((len(X), X.shape[1] + 1))
        out[:, -1] = self.predict(X)[:, j]
        return out

    def to_bytes(self) -> dict[str, bytes]:
        """File name to content: arrays and the library's own file for each horizon."""
        named = zip(self.horizons, self.models, strict=True)
        return self.native_files | {f"{self.learner.prefix}_{h}.npz": model.to_bytes() for h, model in named}

    @classmethod
    def from_bytes(
        cls, learner: Learner, files: Mapping[str, bytes], horizons: tuple[int, ...], n_features: int
    ) -> Self:
        """Rebuild from :meth:`to_bytes`; BundleError for a damaged file, KeyError for a missing one."""
        models = []
        for horizon in horizons:
            name = f"{learner.prefix}_{horizon}.npz"
            native = bytes(files[f"{learner.prefix}_{horizon}.{learner.native}"]) if learner.native else None
            try:
                model = TrainedModel.from_bytes(bytes(files[name]), native)
            except BundleError as error:
                raise BundleError(f"{name}: {error}; train the bundle again") from error
            width = model.trees.n_features
            if width != n_features:
                raise BundleError(
                    f"{name}: the model takes {width} features, the bundle {n_features}; train the bundle again"
                )
            models.append(model)
        return cls.of(learner, horizons, models)
