"""LightGBM in its deterministic mode; rows larger than memory are boosted block by block.

LightGBM needs its binned rows in memory. Where they do not fit, they are binned batch by batch into blocks, each a
binary file of rows drawn from the whole history, and the booster moves from block to block, a few trees at each:
stochastic gradient boosting (Friedman 2002) whose sample is a block instead of a fresh draw. Bins are those of a
sample of all rows, and early stopping looks at all validation rows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.models.ensemble.learners.learner import DiskBatches, Learner, TrainedModel, TrainingParts
from mlkit.models.ensemble.settings import EnsembleSettings, Float32Matrix, FloatMatrix, FloatVector, IntVector
from mlkit.models.ensemble.trees import LEAF, TreeArrays

RUN_ROWS = 1024  # consecutive rows that stay together in a block
_BIN_SAMPLE = 30_000  # rows that the bins of blocks are cut from
_VISIT = 20  # most trees grown on a block before the next one is loaded
_SWEEPS = 4  # times that every block is visited, at least, if early stopping allows
_ZERO = np.float32(1e-35)  # LightGBM treats a feature within ±_ZERO as 0


class LightGBM(Learner):
    """Boosts each horizon until its validation error stops falling."""

    module = "lightgbm"
    distributions = ("lightgbm",)
    prefix = "lgb"
    native = "txt"

    def train(
        self, parts: TrainingParts, settings: EnsembleSettings, seed: int, disk: DiskBatches | None = None
    ) -> Iterator[TrainedModel]:
        """See `Learner.train`."""
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
        if disk is not None:
            yield from _train_in_blocks(parts, parameters, settings, disk)
            return
        train = lightgbm.Dataset(parts.fit.X, label=parts.fit.z[:, 0], params=parameters)
        valid = train.create_valid(parts.valid.X, label=parts.valid.z[:, 0], params=parameters)
        for j in range(parts.fit.z.shape[1]):
            train.construct().set_label(parts.fit.z[:, j])
            valid.construct().set_label(parts.valid.z[:, j])
            booster = lightgbm.train(
                parameters,
                train,
                num_boost_round=settings.n_estimators,
                valid_sets=[valid],
                callbacks=[lightgbm.early_stopping(settings.early_stopping_rounds, verbose=False)],
            )
            yield lightgbm_model(booster, booster.best_iteration)

    def native_predictions(self, native: bytes, X: Float32Matrix) -> Any:
        """See `Learner.native_predictions`."""
        return self.library().Booster(model_str=native.decode()).predict(X, num_threads=1)

    def contributions(self, native: bytes, X: Float32Matrix) -> FloatMatrix:
        """See `Learner.contributions`; TreeSHAP of Lundberg et al. (2020), *Nature Machine Intelligence* 2."""
        booster = self.library().Booster(model_str=native.decode())
        return np.asarray(booster.predict(X, pred_contrib=True, num_threads=1), dtype=np.float64)


def lightgbm_model(booster: Any, rounds: int = -1) -> TrainedModel:
    """The first ``rounds`` trees of a trained booster, all by default: numerical splits, one output."""
    described = booster.dump_model(num_iteration=rounds)
    n_features = described["max_feature_idx"] + 1
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    right: list[int] = []
    value: list[float] = []
    offsets = [0]
    importance = np.zeros(n_features)
    for tree in described["tree_info"]:
        nodes = [tree["tree_structure"]]
        for node in nodes:  # children are appended while the list is read: breadth first
            inner = "split_feature" in node
            feature.append(node["split_feature"] if inner else 0)
            threshold.append(node["threshold"] if inner else 0.0)
            left.append(len(nodes) if inner else LEAF)
            right.append(len(nodes) + 1 if inner else LEAF)
            value.append(0.0 if inner else node["leaf_value"])
            if inner:
                nodes += [node["left_child"], node["right_child"]]
                importance[node["split_feature"]] += node["split_gain"]
        offsets.append(len(feature))
    arrays = TreeArrays(
        feature=np.array(feature, dtype=np.int32),
        threshold=_outside_zero(np.array(threshold)),
        left=np.array(left, dtype=np.int32),
        right=np.array(right, dtype=np.int32),
        value=np.array(value),
        offsets=np.array(offsets),
        n_features=n_features,
    )
    return TrainedModel(arrays, importance, booster.model_to_string(rounds).encode())


def _outside_zero(threshold: FloatVector) -> FloatVector:
    """Thresholds within ±_ZERO moved to its border, as LightGBM sends everything in it to one side."""
    below = np.float64(np.nextafter(-_ZERO, np.float32(-1)))
    above = np.where((threshold >= 0) & (threshold < _ZERO), np.float64(_ZERO), threshold)
    return np.where((threshold < 0) & (threshold >= -_ZERO), below, above)


def _train_in_blocks(
    parts: TrainingParts, parameters: dict[str, Any], settings: EnsembleSettings, disk: DiskBatches
) -> Iterator[TrainedModel]:
    """Boost each horizon from block to block; one block is in memory at a time."""
    import lightgbm

    X, seed = parts.fit.X, parameters["seed"]
    few = np.sort(np.random.default_rng(seed).choice(len(X), min(len(X), _BIN_SAMPLE), replace=False))
    bins = lightgbm.Dataset(np.array(X[few]), params=parameters).construct()
    blocks = []
    for k, rows in enumerate(block_rows(len(X), -(-len(X) // (4 * disk.rows)), seed)):
        path = disk.folder / f"lightgbm-{k}.bin"
        path.unlink(missing_ok=True)
        sequence = _sequence(X, rows, disk.rows)
        lightgbm.Dataset(sequence, reference=bins, params=parameters).construct().save_binary(path)
        blocks.append((path, rows))
    everything = _sequence(parts.valid.X, np.arange(len(parts.valid.X)), disk.rows)
    valid = lightgbm.Dataset(everything, reference=bins, params=parameters).construct()
    for j in range(parts.fit.z.shape[1]):
        valid.set_label(parts.valid.z[:, j])
        yield _boost_blocks(blocks, parts.fit.z[:, j], valid, parameters, settings)


def block_rows(n: int, blocks: int, seed: int) -> list[IntVector]:
    """Rows of every block, sorted: runs of ``RUN_ROWS`` consecutive rows are dealt out in a seeded order."""
    runs = np.random.default_rng(seed).permutation(-(-n // RUN_ROWS))
    owner = np.empty(len(runs), dtype=np.int64)
    owner[runs] = np.arange(len(runs)) % blocks
    of_row = np.repeat(owner, RUN_ROWS)[:n]
    return [np.flatnonzero(of_row == k) for k in range(blocks)]


def _sequence(X: Float32Matrix, rows: IntVector, batch: int) -> Any:
    """Rows of a matrix on disk as LightGBM reads them, a batch at a time."""
    import lightgbm

    class Sequence(lightgbm.Sequence):  # type: ignore[misc]
        batch_size = min(batch, 4096)

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, which: Any) -> Any:
            return np.asarray(X[rows[which]], dtype=np.float64)

    return Sequence()


def _boost_blocks(
    blocks: list[tuple[Path, IntVector]], z: Any, valid: Any, parameters: dict[str, Any], settings: EnsembleSettings
) -> TrainedModel:
    """The model of one horizon: trees up to the best round on the validation rows."""
    import lightgbm

    visit = max(1, min(_VISIT, settings.n_estimators // (_SWEEPS * len(blocks))))
    booster: Any = None
    block: Any = None
    best, best_round = np.inf, 0
    for round_ in range(settings.n_estimators):
        if round_ % visit == 0:
            path, rows = blocks[round_ // visit % len(blocks)]
            left, block = block, lightgbm.Dataset(path, params=parameters).construct().set_label(z[rows])
            if booster is None:
                booster = lightgbm.Booster(parameters, block).add_valid(valid, "valid")
            booster.update(block)
            del left  # not sooner: the booster compares its bins with those of the new block
        else:
            booster.update()
        error = booster.eval_valid()[0][2]
        if error < best:
            best, best_round = error, round_ + 1
        elif round_ + 1 - best_round >= settings.early_stopping_rounds:
            break
    return lightgbm_model(booster, best_round)
