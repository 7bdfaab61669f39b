"""The price ensemble: several tree learners, shrunk and calibrated on held-out rows.

The target of horizon h is the log return divided by its expected scale, so that calm and wild markets weigh the same;
the scale itself is combined from several estimates (``spread``). Training rows fall into three chronological parts,
purged between: trees and scale are fitted on the first, boosting stops early on the second, and the score is calibrated
on the third, which no model has seen. Intervals start from the quantiles of all three and adapt to the outcomes that
become known (``mlkit.models.ensemble.conformal``).
"""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError, model_validator

from mlkit.errors import BundleError, ConfigError, DependencyError
from mlkit.models.ensemble.calibration import HorizonCalibration
from mlkit.models.ensemble.conformal import BARS_PER_BLOCK
from mlkit.models.ensemble.experts import HorizonExperts, adapted_bounds, calibrate, simple_scales
from mlkit.models.ensemble.learners import LEARNERS
from mlkit.models.ensemble.learners.learner import DiskBatches, FittedLearner
from mlkit.models.ensemble.settings import (
    EnsembleSettings,
    Float32Matrix,
    FloatMatrix,
    FloatVector,
    Forecast,
    IntVector,
    Progress,
)
from mlkit.models.ensemble.split import (
    NormalisedRows,
    TrainingArrays,
    batches,
    check_features,
    fit_spreads,
    on_disk,
    split_rows,
    take,
    usable_rows,
)
from mlkit.models.ensemble.spread import STRICT, HorizonSpread, spread_scale
from mlkit.threads import one_blas_thread

CALIBRATION_FILE = "calibration.json"
BOUNDS = ("lo90", "lo80", "hi80", "hi90")  # in the order of the conformal levels
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class PricePredictor:
    """A fitted ensemble; immutable. Make one with :meth:`fit` or :meth:`from_bytes`."""

    horizons: tuple[int, ...]
    n_features: int
    weights: dict[str, float]  # of the learners in use; they sum to 1
    learners: dict[str, FittedLearner]
    calibrations: tuple[HorizonCalibration, ...]
    experts: tuple[HorizonExperts, ...]
    training: dict[str, Any]  # rows of each part, trees kept; plain JSON values
    spreads: tuple[HorizonSpread, ...] = ()  # empty: the scale is used as it is passed

    def __repr__(self) -> str:
        used = ", ".join(f"{name} {weight:.0%}" for name, weight in self.weights.items())
        return f"PricePredictor(horizons={self.horizons}, features={self.n_features}, {used})"

    @classmethod
    @one_blas_thread
    def fit(
        cls,
        arrays: TrainingArrays,
        settings: EnsembleSettings | None = None,
        *,
        seed: int = 7,
        progress: Progress | None = None,
        disk: DiskBatches | None = None,
    ) -> Self:
        """Train all learners for all horizons; same arrays, seed, settings and versions give the same bits.

        Parameters
        ----------
        arrays : Features, labels and scales; see `TrainingArrays`.
        settings : default ``EnsembleSettings.smoke()``. The weight of a library that is not installed goes to the
            others, with a logged warning; DependencyError if none is left.
        progress : called after each horizon of each learner, and after the calibration.
        disk : for arrays in files that are larger than memory: at most ``disk.rows`` rows of X are in memory at once.
            LightGBM then learns block by block (see its file), and the scale is fitted on evenly spaced rows. Up to
            that many rows the bits are those of training in memory.
        Raises ConfigError for rows out of time order or too few rows.
        """
        settings = settings or EnsembleSettings.smoke()
        if disk is None or len(arrays.X) <= disk.rows:
            return cls._fit(arrays, settings, seed, progress, None)
        with tempfile.TemporaryDirectory(dir=disk.folder, prefix=".mlkit-external-") as folder:
            return cls._fit(arrays, settings, seed, progress, replace(disk, folder=Path(folder)))

    @classmethod
    def _fit(
        cls,
        arrays: TrainingArrays,
        settings: EnsembleSettings,
        seed: int,
        progress: Progress | None,
        disk: DiskBatches | None,
    ) -> Self:
        horizons = arrays.horizons
        weights = _installed_weights(settings)
        split = split_rows(arrays, settings)
        spreads = fit_spreads(arrays, split, disk)
        rows = NormalisedRows.make(arrays, split, spreads, settings.target_clip, disk)
        parts, held_out = rows.parts(split, disk)
        split = split if disk is None else on_disk(split, held_out, disk)
        stages, total = count(1), len(weights) * len(horizons) + 1

        def done(stage: str) -> None:
            if progress:
                progress(stage, next(stages), total)

        learners = {}
        for name in weights:
            models = []
            for horizon, model in zip(horizons, LEARNERS[name].train(parts, settings, seed, disk), strict=True):
                models.append(model)
                done(f"{name} h={horizon}")
            learners[name] = FittedLearner.of(LEARNERS[name], horizons, models)
        X = take(rows.X, held_out)
        scored = []
        for batch in batches(len(X), disk):
            scored.append(_combine({name: m.predict(np.asarray(X[batch])) for name, m in learners.items()}, weights))
        raw = np.concatenate(scored)

        def column(j: int) -> tuple[FloatVector, FloatVector, FloatMatrix]:
            every, terms = split.every, arrays.terms
            first = None if terms is None else terms[every, :1]
            simple = simple_scales(arrays.scale[every, j : j + 1], first, horizons[j : j + 1])
            return np.array(rows.z[:, j]), np.array(rows.scale[:, j]), simple[:, 0]

        calibrations, experts = calibrate(raw, split, column, horizons)
        done("calibration")
        training: dict[str, Any] = {
            "rows": {"fit": len(parts.fit), "valid": len(parts.valid), "calibration": len(raw)},
            "trees": {name: list(learner.rounds) for name, learner in learners.items()},
            "seed": seed,
        }
        if disk is not None:
            training["batch"] = disk.rows
        return cls(horizons, arrays.X.shape[1], weights, learners, calibrations, experts, training, spreads)

    @property
    def lookback(self) -> int:
        """Earlier bars that an adaptive forecast may depend on: the outcomes read, and the longest horizon."""
        return BARS_PER_BLOCK - 1 + max(c.lookback + c.horizon for c in self.calibrations)

    def predict(self, X: Float32Matrix, scale: FloatMatrix, terms: FloatMatrix | None = None) -> Forecast:
        """Forecast every row, intervals as fixed by the bundle; see :class:`Forecast` for what comes back.

        Parameters
        ----------
        X : Features, float32 (n, F), in the order of the training.
        scale : expected spread of every horizon, (n, H), as in training. Rows with NaN features or a scale that is not
            positive are NaN in every output.
        terms : (n, K), as in training; ConfigError when one of the two had them and the other has not.
        """
        check_features(X, scale, self.n_features, len(self.horizons))
        simple = simple_scales(scale, terms, self.horizons)
        scale = self.refined(scale, terms)
        usable = usable_rows(X, scale)
        n, shape = int(usable.sum()), (len(X), len(self.horizons))
        X = np.ascontiguousarray(X if n == len(X) else X[usable])
        unit = scale[usable]
        scores = {name: m.predict(X) if n else np.empty((0, shape[1])) for name, m in self.learners.items()}
        raw = _combine(scores, self.weights)
        shrunk = self._column("shrink") * unit
        p_up = np.column_stack([c.p_up(raw[:, j]) for j, c in enumerate(self.calibrations)])
        bounds = [raw * shrunk + quantile * unit for quantile in self._bounds.T]
        shares = [z * shrunk for z in scores.values()]
        values = [raw * shrunk, raw * unit, p_up, unit, self._column("std") * unit, *bounds, *shares]
        placed = np.full((len(values), *shape), np.nan)
        placed[:, usable] = values
        names = ("log_return", "raw", "p_up", "scale", "std", *BOUNDS)
        simple[~usable] = np.nan
        columns = dict(zip(names, placed, strict=False))
        members = dict(zip(scores, placed[len(names) :], strict=True))
        return Forecast(horizons=self.horizons, simple=simple, members=members, **columns)

    def adapted(self, forecast: Forecast, outcome: FloatMatrix, block: IntVector, rows: int | None = None) -> Forecast:
        """The last ``rows`` rows of a forecast, intervals and ``std`` adapted to the outcomes known at each.

        Parameters
        ----------
        forecast : of consecutive bars. With at least ``lookback`` bars before it a row has the same bits in every call.
        outcome : realised log return, (n, H), NaN where there is none; row t reads that of row s only where
            ``s + horizon <= t``.
        block : block of the calendar that each bar lies in, (n,): ``block_numbers`` of the open times.
        rows : all rows by default.
        """
        first = 0 if rows is None else len(forecast) - rows
        shape = forecast.log_return.shape
        if outcome.shape != shape or block.shape != shape[:1] or not 0 <= first <= len(forecast):
            raise ConfigError(
                f"adapted: outcomes {outcome.shape} and blocks {block.shape} for forecasts {shape}, rows {rows}"
            )
        bounds = adapted_bounds(forecast, outcome, self.calibrations, self.experts, block, first)
        out = {name: values[first:] for name, values in forecast.columns().items()}
        out |= {name: bounds[:, :, k] for k, name in enumerate(BOUNDS)}
        width = (self._bounds[:, 2] - self._bounds[:, 1]) * out["scale"]
        out["std"] = out["std"] * np.where(
            width > 0, (out["hi80"] - out["lo80"]) / np.where(width > 0, width, 1.0), 1.0
        )
        members = {name: values[first:] for name, values in forecast.members.items()}
        return replace(forecast, members=members, **out)

    def refined(self, scale: FloatMatrix, terms: FloatMatrix | None) -> FloatMatrix:
        """The combined scale; the one passed where the training had no terms."""
        held = len(self.spreads[0].coefficients) - 2 if self.spreads else None
        given = None if terms is None else terms.shape[-1]
        if given != held or (terms is not None and len(terms) != len(scale)):
            raise ConfigError(f"volatility terms: {given} columns, the training had {held}; use volatility_terms")
        return scale if terms is None else spread_scale(self.spreads, scale, terms)

    def unshrunk(self) -> Self:
        """The same trees without shrinkage towards no change."""
        return replace(self, calibrations=tuple(replace(c, shrink=1.0) for c in self.calibrations))

    def attributions(self, X: Float32Matrix, horizon: int) -> FloatMatrix:
        """How much each feature moved the raw score of every row, float64 (n, F + 1), in units of the scale.

        The last column is attributed to no feature: the bias of the boosted models, and the whole score of a learner
        without SHAP values (the random forest). Rows sum to ``raw / scale`` of :meth:`predict`, to float32 precision.
        X must be finite, float32 (n, F).
        Raises ConfigError for a horizon that was not trained, DependencyError where a boosting library is missing.
        """
        if horizon not in self.horizons:
            raise ConfigError(f"attributions: horizon {horizon} is none of {self.horizons}")
        j = self.horizons.index(horizon)
        shares = [self.weights[name] * learner.contributions(X, j) for name, learner in self.learners.items()]
        return np.asarray(sum(shares), dtype=np.float64)

    def feature_importance(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Gain of every feature: one column a learner (mean over horizons, sums to 1) and the weighted mean.

        Sorted by that mean, largest first. Default names are ``f0``, ``f1``, ...
        """
        index = [f"f{i}" for i in range(self.n_features)] if names is None else list(names)
        if len(index) != self.n_features:
            raise ConfigError(f"feature_importance: {len(index)} names for {self.n_features} features")
        gains = {name: learner.gain().mean(axis=0) for name, learner in self.learners.items()}
        frame = pd.DataFrame(gains, index=pd.Index(index, name="feature"))
        frame["mean"] = sum(self.weights[name] * gain for name, gain in gains.items())
        return frame.sort_values("mean", ascending=False, kind="stable")

    def to_bytes(self) -> dict[str, bytes]:
        """File name to content: the files of each learner and horizon, and ``calibration.json``."""
        files = {name: data for m in self.learners.values() for name, data in m.to_bytes().items()}
        described = {name: getattr(self, name) for name in _Document.model_fields}
        files[CALIBRATION_FILE] = json.dumps(described, indent=1, allow_nan=False, default=asdict).encode()
        return files

    @classmethod
    def from_bytes(cls, files: Mapping[str, bytes]) -> Self:
        """Rebuild from :meth:`to_bytes`; none of the libraries is needed.

        Raises BundleError: a file is missing, damaged or does not fit the others.
        """
        try:
            found = _Document.model_validate_json(files[CALIBRATION_FILE])
        except (KeyError, ValidationError) as error:
            detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
            raise BundleError(f"{CALIBRATION_FILE}: not a calibration ({detail[:160]}); train again") from error
        try:
            learners = {
                name: FittedLearner.from_bytes(LEARNERS[name], files, found.horizons, found.n_features)
                for name in found.weights
            }
        except KeyError as error:
            raise BundleError(f"model file {error.args[0]} is missing; train again") from error
        return cls(learners=learners, **dict(found))

    @cached_property
    def _bounds(self) -> FloatMatrix:
        """Quantiles of the bundle, (H, 4)."""
        return np.array([c.bounds for c in self.calibrations])

    def _column(self, name: str) -> FloatVector:
        """A calibration value of every horizon, (H,)."""
        return np.array([getattr(c, name) for c in self.calibrations])


class _Document(BaseModel):
    """The content of ``calibration.json``."""

    model_config = STRICT

    horizons: tuple[int, ...]
    n_features: int
    weights: dict[str, float]
    calibrations: tuple[HorizonCalibration, ...]
    experts: tuple[HorizonExperts, ...]
    spreads: tuple[HorizonSpread, ...]
    training: dict[str, Any]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = [tuple(c.horizon for c in self.calibrations), tuple(fitted.horizon for fitted in self.experts)]
        if self.spreads:
            found.append(tuple(spread.horizon for spread in self.spreads))
        sound = all(self.horizons == horizons for horizons in found)
        sound &= {len(fitted.factors) for fitted in self.experts} == {3 if self.spreads else 1}
        sound &= len({len(spread.coefficients) for spread in self.spreads}) <= 1
        sound &= self.weights.keys() <= LEARNERS.keys() and abs(sum(self.weights.values()) - 1.0) < 1e-9
        if not sound:
            raise ValueError("horizons or weights contradict each other")
        return self


def _installed_weights(settings: EnsembleSettings) -> dict[str, float]:
    """Weights of the learners whose library is installed, summing to 1."""
    wanted = {name: weight for name, weight in settings.weights.items() if weight > 0}
    unknown = sorted(wanted.keys() - LEARNERS.keys())
    if unknown:
        raise ConfigError(f"no learner named {', '.join(unknown)}; there are {', '.join(LEARNERS)}")
    held = {name: weight for name, weight in wanted.items() if find_spec(LEARNERS[name].module)}
    if not held:
        raise DependencyError(f"none of {', '.join(wanted)} is installed: pip install 'mlkit[train]'")
    total = sum(held.values())
    shares = {name: weight / total for name, weight in held.items()}
    if len(held) < len(wanted):
        lost = ", ".join(wanted.keys() - held.keys())
        now = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        _log.warning("%s is not installed; the ensemble goes on with %s (pip install 'mlkit[train]')", lost, now)
    return shares


def _combine(scores: Mapping[str, FloatMatrix], weights: Mapping[str, float]) -> FloatMatrix:
    return np.asarray(sum(weights[name] * z for name, z in scores.items()), dtype=np.float64)
