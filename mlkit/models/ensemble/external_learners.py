"""The boosting libraries on rows that do not fit into memory, through their own readers of external memory.

XGBoost bins the matrix batch by batch into a cache on disk and reads that once a level of a tree
(``ExtMemQuantileDMatrix``): every tree sees every row, as in memory.

LightGBM has no such matrix: its binned rows must be in memory. So they are binned batch by batch (``Sequence``) into
blocks, each a binary file of rows drawn from the whole history, and the booster is moved from block to block
(``Booster.update(train_set=...)``), a few trees at each: stochastic gradient boosting (Friedman 2002) whose sample is
a block instead of a fresh draw. Bins are those of a sample of all rows, and early stopping looks at all validation
rows. The random forest needs neither: a tree is grown on ``forest_rows`` rows, wherever they lie.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.models.ensemble.learners import (
    LEARNERS,
    Learner,
    LightGBMLearner,
    Parts,
    Tick,
    XGBoostLearner,
    lightgbm_parameters,
)
from mlkit.models.ensemble.settings import EnsembleSettings, Float32Matrix, IntVector

RUN = 1024  # consecutive rows that stay together in a LightGBM block
BIN_SAMPLE = 30_000  # rows that LightGBM's bins are cut from
_VISIT = 20  # most trees grown on a block before the next one is loaded
_SWEEPS = 4  # times that every block is visited, at least, if early stopping allows


@dataclass(frozen=True)
class Room:
    """How much may be in memory, and where the rest goes."""

    folder: Path  # for the binned rows
    rows: int  # of the feature matrix, in memory at once


def fit_external(
    name: str,
    parts: Parts,
    horizons: tuple[int, ...],
    settings: EnsembleSettings,
    seed: int,
    tick: Tick,
    room: Room,
) -> Learner:
    """A library's learner, fitted within ``room`` on parts whose arrays are files."""
    if name == XGBoostLearner.name:
        return _fit_xgboost(parts, horizons, settings, seed, tick, room)
    if name == LightGBMLearner.name:
        return _fit_lightgbm(parts, horizons, settings, seed, tick, room)
    return LEARNERS[name].fit(parts, horizons, settings, seed, tick)


def _fit_xgboost(
    parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick, room: Room
) -> Learner:
    """Boost each horizon on cached pages until its validation error stops falling."""
    import xgboost

    class Batches(xgboost.DataIter):  # type: ignore[misc]
        """Rows of a matrix on disk, some at a time."""

        def __init__(self, X: Float32Matrix, name: str) -> None:
            self.X, self.at = X, 0
            super().__init__(cache_prefix=str(room.folder / name))

        def next(self, input_data: Any) -> bool:
            if self.at >= len(self.X):
                return False
            input_data(data=np.array(self.X[self.at : self.at + room.rows]))
            self.at += room.rows
            return True

        def reset(self) -> None:
            self.at = 0

    binning = {"max_bin": settings.max_bin, "nthread": settings.n_threads}
    train = xgboost.ExtMemQuantileDMatrix(Batches(parts.fit.X, "xgboost-fit"), **binning)
    valid = xgboost.ExtMemQuantileDMatrix(Batches(parts.valid.X, "xgboost-valid"), ref=train, **binning)
    return XGBoostLearner.boost(train, valid, parts, horizons, settings, seed, tick)


def _fit_lightgbm(
    parts: Parts, horizons: tuple[int, ...], settings: EnsembleSettings, seed: int, tick: Tick, room: Room
) -> Learner:
    """Boost each horizon from block to block until its validation error stops falling."""
    import lightgbm

    parameters = lightgbm_parameters(settings, seed)
    X = parts.fit.X
    few = np.sort(np.random.default_rng(seed).choice(len(X), min(len(X), BIN_SAMPLE), replace=False))
    bins = lightgbm.Dataset(np.array(X[few]), params=parameters).construct()
    blocks = _write_blocks(X, bins, parameters, seed, room)
    valid_rows = _rows(parts.valid.X, np.arange(len(parts.valid.X)), room.rows)
    valid = lightgbm.Dataset(valid_rows, reference=bins, params=parameters).construct()
    files = {}
    for j, horizon in enumerate(horizons):
        valid.set_label(parts.valid.z[:, j])
        text = _boost_blocks(blocks, parts.fit.z[:, j], valid, parameters, settings)
        files[f"lgb_{horizon}.txt"] = text.encode()
        tick(j)
    return LightGBMLearner.from_bytes(files, horizons, X.shape[1])


def block_rows(n: int, blocks: int, seed: int) -> list[IntVector]:
    """Rows of every block, sorted: runs of ``RUN`` consecutive rows are dealt out in a seeded order."""
    runs = np.random.default_rng(seed).permutation(-(-n // RUN))
    owner = np.empty(len(runs), dtype=np.int64)
    owner[runs] = np.arange(len(runs)) % blocks
    of_row = np.repeat(owner, RUN)[:n]
    return [np.flatnonzero(of_row == k) for k in range(blocks)]


def _rows(X: Float32Matrix, rows: IntVector, batch: int) -> Any:
    """Rows of a matrix on disk as LightGBM reads them, a batch at a time."""
    import lightgbm

    class Rows(lightgbm.Sequence):  # type: ignore[misc]
        batch_size = min(batch, 4096)

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, which: Any) -> Any:
            return np.asarray(X[rows[which]], dtype=np.float64)

    return Rows()


def _write_blocks(
    X: Float32Matrix, bins: Any, parameters: dict[str, Any], seed: int, room: Room
) -> list[tuple[Path, IntVector]]:
    """Binned blocks as files, each with its rows; one is in memory at a time."""
    import lightgbm

    made = []
    for k, rows in enumerate(block_rows(len(X), -(-len(X) // (4 * room.rows)), seed)):
        path = room.folder / f"lightgbm-{k}.bin"
        path.unlink(missing_ok=True)
        lightgbm.Dataset(_rows(X, rows, room.rows), reference=bins, params=parameters).construct().save_binary(path)
        made.append((path, rows))
    return made


def _boost_blocks(
    blocks: list[tuple[Path, IntVector]], z: Any, valid: Any, parameters: dict[str, Any], settings: EnsembleSettings
) -> str:
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
            del left  # not sooner: the booster compares its bins with the new block's
        else:
            booster.update()
        error = booster.eval_valid()[0][2]
        if error < best:
            best, best_round = error, round_ + 1
        elif round_ + 1 - best_round >= settings.early_stopping_rounds:
            break
    return str(booster.model_to_string(best_round))
