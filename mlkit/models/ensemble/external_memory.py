"""The price ensemble trained on arrays that lie in files, larger than memory.

The same stages as `PricePredictor.fit`, each over batches of rows: which rows learn, the scale, labels, trees,
calibration. What differs is told in ``external_learners``, and beyond ``SPREAD_ROWS`` rows the scale is fitted on that
many of them, evenly spaced. Up to one batch of rows the result is that of `PricePredictor.fit`, to the bit.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlkit.errors import ConfigError
from mlkit.models.ensemble import price_predictor as whole
from mlkit.models.ensemble.experts import calibrate, plain_scales
from mlkit.models.ensemble.external_learners import Room, fit_external
from mlkit.models.ensemble.learners import Parts, Rows
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import (
    EnsembleSettings,
    Float32Matrix,
    FloatMatrix,
    FloatVector,
    IntMatrix,
    IntVector,
    Progress,
)
from mlkit.models.ensemble.split import TrainingSplit, fit_spreads, split_rows
from mlkit.models.ensemble.spread import HorizonSpread, spread_scale
from mlkit.threads import one_blas_thread

SPREAD_ROWS = 200_000
_PARTS = ("fit", "valid", "early", "calibration")
BATCH = 65_536  # rows in memory at once: 52 MB of 197 features


@one_blas_thread
def fit_larger_than_memory(
    X: Float32Matrix,
    Y: FloatMatrix,
    end: IntMatrix,
    scale: FloatMatrix,
    terms: FloatMatrix,
    *,
    horizons: Sequence[int],
    positions: IntVector | None = None,
    settings: EnsembleSettings | None = None,
    seed: int = 7,
    folder: Path | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> PricePredictor:
    """`PricePredictor.fit` for arrays in files (``numpy.memmap``), holding few rows in memory.

    Parameters
    ----------
    X, Y, end, scale, terms, horizons, positions, settings, seed, progress
        As in `PricePredictor.fit`.
    folder
        Where the working files go: about 0.9 times the size of X, deleted at the end. The system's temporary folder
        by default.
    batch
        Rows of X in memory at once, `BATCH` by default. The process needs a few times as much,
        about 100 bytes a row of X, and what the libraries take by themselves.

    Raises as `PricePredictor.fit`; ConfigError for a batch under 1,000 rows.
    """
    batch = BATCH if batch is None else batch
    if batch < 1000:
        raise ConfigError(f"fit_larger_than_memory: batch must be at least 1000 rows, got {batch}")
    settings = settings or EnsembleSettings.smoke()
    horizons = tuple(int(h) for h in horizons)
    whole._check_training(X, Y, end, scale, horizons)
    if len(X) <= batch:
        return PricePredictor.fit(
            X,
            Y,
            end,
            scale,
            terms,
            horizons=horizons,
            positions=positions,
            settings=settings,
            seed=seed,
            progress=progress,
        )
    split = split_rows(X, Y, end, scale, terms, horizons, positions, settings)
    spreads = _fit_spreads(split, scale, terms, Y, horizons)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".mlkit-external-") as place:
        room = Room(Path(place), batch)
        rows = _write_rows(split, spreads, X, Y, scale, terms, settings.target_clip, room)
        places = {name: _places(split.every, getattr(split, name)) for name in _PARTS}
        split = _in_files(split, room)
        return _fit(rows, scale, terms, split, places, spreads, horizons, settings, seed, room, progress)


@dataclass(frozen=True, eq=False)
class _Files:
    """The usable rows in their order, as files."""

    X: Float32Matrix  # (m, F)
    clipped: FloatMatrix  # (m, H) normalised labels to learn from
    z: FloatMatrix  # (m, H) normalised labels as they are
    unit: FloatMatrix  # (m, H) combined scale

    def part(self, rows: slice) -> Rows:
        return Rows(self.X[rows], self.clipped[rows])


def _fit(
    files: _Files,
    scale: FloatMatrix,
    terms: FloatMatrix,
    split: TrainingSplit,
    places: dict[str, slice],
    spreads: tuple[HorizonSpread, ...],
    horizons: tuple[int, ...],
    settings: EnsembleSettings,
    seed: int,
    room: Room,
    progress: Progress | None,
) -> PricePredictor:
    held_out = places["calibration"]
    parts = Parts(*(files.part(places[name]) for name in ("fit", "valid", "early")))
    weights = whole._installed_weights(settings)
    report = whole._Report(progress, len(weights) * len(horizons) + 1)
    learners = {}
    for name in weights:
        tick = partial(report, name, horizons)
        learners[name] = fit_external(name, parts, horizons, settings, seed, tick, room)
    scores: dict[str, list[FloatMatrix]] = {name: [] for name in learners}
    for rows in _batches(held_out.start, held_out.stop, room.rows):
        X = np.array(files.X[rows])
        for name, trained in learners.items():
            scores[name].append(trained.predict(X))
    raw = whole._combine({name: np.concatenate(found) for name, found in scores.items()}, weights)

    def column(j: int) -> tuple[FloatVector, FloatVector, FloatMatrix]:
        """Of one horizon: normalised labels, combined scale and what the plain experts measure."""
        measured = plain_scales(scale[split.every, j : j + 1], terms[split.every, :1], horizons[j : j + 1])
        return np.array(files.z[:, j]), np.array(files.unit[:, j]), measured[:, 0]

    told = replace(split, calibration=split.every[held_out])
    calibrations, experts = calibrate(raw, told, column, horizons)
    report.say("calibration")
    counts = {"fit": len(parts.fit), "valid": len(parts.valid), "calibration": len(raw)}
    trees = {name: list(learner.rounds) for name, learner in learners.items()}
    training: dict[str, Any] = {"rows": counts, "trees": trees, "seed": seed, "batch": room.rows}
    return PricePredictor(horizons, files.X.shape[1], weights, learners, calibrations, experts, training, spreads)


def _fit_spreads(
    split: TrainingSplit, scale: FloatMatrix, terms: FloatMatrix, Y: FloatMatrix, horizons: tuple[int, ...]
) -> tuple[HorizonSpread, ...]:
    """The scale of every horizon, from evenly spaced rows where there are many."""
    step = -(-len(split.early) // SPREAD_ROWS)
    return fit_spreads(replace(split, early=split.early[::step]), scale, terms, Y, horizons)


def _write_rows(
    split: TrainingSplit,
    spreads: tuple[HorizonSpread, ...],
    X: Float32Matrix,
    Y: FloatMatrix,
    scale: FloatMatrix,
    terms: FloatMatrix,
    clip: float,
    room: Room,
) -> _Files:
    """Labels of the usable rows in files, and their features where they are not consecutive already."""
    every = split.every
    n, first, shape = len(every), int(every[0]), (len(every), Y.shape[1])
    dense = int(every[-1]) - first + 1 == n
    features = X[first : first + n] if dense else _new(room.folder / "features", (n, X.shape[1]), np.float32)
    clipped, z, unit = (_new(room.folder / name, shape, np.float64) for name in ("clipped", "z", "unit"))
    for rows in _batches(0, n, room.rows):
        which = every[rows]
        unit[rows] = spread_scale(spreads, scale[which], terms[which])
        z[rows] = Y[which] / unit[rows]
        clipped[rows] = np.clip(z[rows], -clip, clip)
        if not dense:
            features[rows] = X[which]
    return _Files(features, clipped, z, unit)


def _in_files(split: TrainingSplit, room: Room) -> TrainingSplit:
    """The split with its long arrays in files, and without the rows of its parts: they would stay all the while."""
    kept = {}
    for name in ("every", "where"):
        values = getattr(split, name)
        kept[name] = _new(room.folder / name, (len(values), 1), np.int64)[:, 0]
        kept[name][:] = values
    nothing = np.empty(0, dtype=np.int64)
    return replace(split, **dict.fromkeys(_PARTS, nothing), **kept)


def _new(path: Path, shape: tuple[int, int], dtype: npt.DTypeLike) -> Any:
    return np.memmap(path, dtype=dtype, mode="w+", shape=shape)


def _batches(start: int, stop: int, size: int) -> Iterator[slice]:
    for at in range(start, stop, size):
        yield slice(at, min(at + size, stop))


def _places(every: IntVector, rows: IntVector) -> slice:
    """Where the rows are among the usable ones, up to their first hole: purging leaves one at the end of a part."""
    places = np.searchsorted(every, rows)
    breaks = np.flatnonzero(np.diff(places) > 1)
    return slice(int(places[0]), int(places[breaks[0] if len(breaks) else -1]) + 1)
