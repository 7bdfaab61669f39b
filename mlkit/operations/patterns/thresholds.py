"""Calibration and thresholds: from the trained network of both standards to the model of one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlkit.evaluation import logistic
from mlkit.features import PATTERNS, STANDARDS, Standard
from mlkit.models.patterns import (
    LENGTH,
    Float64Array,
    PatternCNN,
    PatternMeta,
    PatternModel,
    folded,
    net_logits,
    net_of,
    weights_of,
)
from mlkit.operations.patterns.samples import BoolArray, natural_windows, rule_labels


def best_f1(p: Float64Array, y: BoolArray) -> tuple[float, float]:
    """Highest F1 over thresholds on ``p``, and a threshold that gives it; (nan, 0.5) without positives.

    The threshold lies midway between neighbouring values of ``p``; among equals the one nearest 0.5 is taken.
    """
    if not y.any():
        return float("nan"), 0.5
    order = np.argsort(-p, kind="stable")
    q, hits = p[order], np.cumsum(y[order])
    f1 = 2.0 * hits / (np.arange(1, len(q) + 1) + hits[-1])
    f1[:-1][q[:-1] == q[1:]] = 0.0  # a threshold cannot part equal values
    cuts = 0.5 * (q + np.append(q[1:], 0.0))
    top = np.flatnonzero(f1 >= f1.max() - 1e-12)
    at = top[np.argmin(np.abs(cuts[top] - 0.5))]
    return float(f1[at]), float(np.clip(cuts[at], 0.02, 0.98))


def platt(z: Float64Array, y: BoolArray) -> tuple[float, float]:
    """Slope and intercept of calibrated log-odds ``slope z + intercept`` (Platt, 1999), by Newton's method.

    A weak prior at (1, 0), worth about one window, decides where a pattern has hardly any positives.
    """
    theta, prior = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    design = np.stack([z, np.ones_like(z)], axis=1)
    for _ in range(50):
        p = logistic(design @ theta)
        gradient = design.T @ (p - y) + (theta - prior)
        hessian = (design * (p * (1.0 - p))[:, None]).T @ design + np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        theta -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    return float(theta[0]), float(theta[1])


def calibrated(
    net: PatternCNN, standards: Sequence[Standard], n_bars: int, seed: int, command: str
) -> list[PatternModel]:
    """A model of each standard: its half of the network, with Platt's line and the threshold of the best F1.

    Both are set at natural rates on simulated bars that neither training nor the early stopping used.
    """
    x, labels = natural_windows((seed, 4), n_bars)
    models = []
    for standard in standards:
        own, state = columns(standard), weights_of(net)
        half = net_of(state | {name: state[name][own] for name in ("read_out.weight", "read_out.bias")})
        y = labels[:, own]
        z = net_logits(folded(half), x)
        lines = [platt(z[:, k], y[:, k]) for k in range(len(PATTERNS))]
        slope, intercept = (np.array(part) for part in zip(*lines, strict=True))
        p = logistic(slope * z + intercept)
        meta = PatternMeta(
            standard=standard,
            slope=tuple(slope.tolist()),
            intercept=tuple(intercept.tolist()),
            thresholds=tuple(best_f1(p[:, k], y[:, k])[1] for k in range(len(PATTERNS))),
            seed=seed,
            command=command,
        )
        models.append(PatternModel(weights_of(half), meta))
    return models


def columns(standard: Standard) -> slice:
    """Outputs of a standard among those of both."""
    first = STANDARDS.index(standard) * len(PATTERNS)
    return slice(first, first + len(PATTERNS))


def counts(model: PatternModel, ohlcv: Float64Array) -> NDArray[np.int64]:
    """Bars on which model and rules find each pattern, the model does, and the rules do, (3, n_patterns)."""
    own = [PATTERNS.index(name) for name in model.patterns]
    truth = rule_labels(ohlcv)[LENGTH - 1 :, columns(model.standard)][:, own]
    hit = model.probabilities(ohlcv)[LENGTH - 1 :] >= model.thresholds
    return np.array([(hit & truth).sum(axis=0), hit.sum(axis=0), truth.sum(axis=0)])


def macro_f1(model: PatternModel, ohlcv: Float64Array, least: int = 100) -> float:
    """Mean F1 of the model's detections against the rules, over patterns that the rules find ``least`` times."""
    both, detected, true = counts(model, ohlcv)
    return float((2.0 * both / np.maximum(detected + true, 1))[true >= least].mean())
