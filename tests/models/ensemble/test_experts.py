"""The plain experts: what they measure, what they start with, and that foreign values are refused."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from mlkit.models.ensemble.calibration import conformal_quantiles
from mlkit.models.ensemble.conformal import BOUND_LEVELS, MAX_GAP, NORMAL_LOSS, learning_rate
from mlkit.models.ensemble.experts import LOSS_ROWS, PRIOR_WEIGHTS, HorizonExperts, fit_experts, simple_scales


def rows(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals whose spread is the first scale, that scale, and three others."""
    rng = np.random.default_rng(seed)
    scale = 0.01 * np.exp(0.5 * rng.normal(size=n))
    others = np.column_stack([np.ones(n), scale * np.exp(0.2 * rng.normal(size=n)), 3.0 * scale])
    return scale * rng.normal(size=n), scale, others


ENDS = (-1.645, -1.282, 1.282, 1.645)


def test_what_the_plain_experts_measure() -> None:
    scale, terms = np.array([[0.02, 0.04], [np.nan, 0.1]]), np.array([[-4.0, 9.0], [-3.0, 9.0]])
    plain = simple_scales(scale, terms, (1, 9))
    assert plain.shape == (2, 2, 3)
    assert np.array_equal(plain[:, :, 0], np.ones((2, 2)))
    np.testing.assert_allclose(plain[:, :, 1], np.exp([[-4.0], [-3.0]]) * [[1.0, 3.0]], rtol=1e-15)
    assert np.array_equal(plain[:, :, 2], scale, equal_nan=True)
    assert np.array_equal(simple_scales(scale[1:], terms[1:], (1, 9))[0], plain[1], equal_nan=True)
    assert np.array_equal(simple_scales(scale, None, (1, 9)), np.ones((2, 2, 1)))


def test_units_quantiles_and_losses() -> None:
    residual, scale, plain = rows()
    fitted = fit_experts(residual, scale, plain, ENDS, 1)
    for measure, factor, ends in zip(plain.T, fitted.factors, fitted.bounds, strict=True):
        score = residual / (factor * measure)
        assert np.mean(np.abs(score)) == pytest.approx(np.sqrt(2 / np.pi))
        assert (ends[1], ends[2]) == conformal_quantiles(score, 0.8)
        assert (ends[0], ends[3]) == conformal_quantiles(score, 0.9)
    assert fitted.factors[2] == pytest.approx(1 / 3, rel=0.03)
    losses = np.array(fitted.losses)
    assert losses.shape == (5, 4) and np.array_equal(losses.min(axis=0), np.zeros(4))
    most = MAX_GAP / fitted.learning
    assert losses[2] == pytest.approx([most] * 4) and losses.max() <= most + 1e-9  # a constant is no rival here
    behind = np.log(PRIOR_WEIGHTS[0] / np.array(PRIOR_WEIGHTS)) / fitted.learning
    assert losses[1] - losses[0] == pytest.approx([behind[1]] * 4)  # the same scale and ends: only the shares differ
    unit, level = np.sqrt(scale * fitted.factors[0])[:, None], np.array(BOUND_LEVELS)
    sums = []
    for measure, ends in ((scale, ENDS), (fitted.factors[1] * plain[:, 1], fitted.bounds[1])):
        apart = residual[:, None] - measure[:, None] * np.array(ends)
        sums.append((np.maximum(level * apart, (level - 1) * apart) / unit / NORMAL_LOSS).sum(axis=0))
    assert losses[3] - losses[0] == pytest.approx(np.minimum(sums[1] - sums[0] + behind[3], most))


def test_evidence_is_bounded_and_crowds_count_once() -> None:
    residual, scale, _ = rows(2000)
    close = np.column_stack([np.full(2000, 0.01), 1.02 * scale * np.exp(0.05 * np.sin(np.arange(2000)))])
    alone, crowded = (fit_experts(residual, scale, close, ENDS, 60, crowd) for crowd in (1.0, 2000.0))
    prior = np.log(PRIOR_WEIGHTS[0] / np.array(PRIOR_WEIGHTS[:4])) / learning_rate(60)
    assert np.array(crowded.losses)[:, 0] == pytest.approx(prior, abs=2.0)
    assert np.abs(np.array(alone.losses)[:, 0] - prior).max() > 5.0
    repeated = [np.repeat(values, 20, axis=0) for values in (residual, scale, close)]
    many = fit_experts(*repeated, ENDS, 60)
    more = (np.array(many.losses)[3] - prior[3]) / (np.array(alone.losses)[3] - prior[3])
    assert more == pytest.approx([LOSS_ROWS / 2000] * 4, rel=0.05)


def test_a_price_that_never_moved() -> None:
    _, scale, plain = rows(100)
    fitted = fit_experts(np.zeros(100), scale, plain, (0.0, 0.0, 0.0, 0.0), 5)
    assert np.isfinite(fitted.losses).all() and fitted.factors == (1.0, 1.0, 1.0)
    assert TypeAdapter(HorizonExperts).validate_json(json.dumps(asdict(fitted))) == fitted


def test_json_round_trip_and_foreign_values() -> None:
    fitted = fit_experts(*rows(300), ENDS, 5)
    read = TypeAdapter(HorizonExperts).validate_json
    assert read(json.dumps(asdict(fitted))) == fitted
    for change, message in (
        ({"horizon": True}, "valid integer"),
        ({"factors": "1"}, "valid array"),
        ({"factors": [1.0, float("nan"), 1.0]}, "finite number"),
        ({"factors": [1.0]}, "contradict"),
        ({"rate_factors": [1.0]}, "contradict"),
        ({"factors": [1.0, -1.0, 1.0]}, "greater than 0"),
        ({"bounds": [[2.0, 1.0, 0.0, -1.0]] * 3}, "contradict"),
        ({"bounds": [[1.0]] * 3}, "at least 4 items"),
        ({"losses": [[0.0] * 4] * 4}, "contradict"),
        ({"learning": None}, "valid number"),
        ({"learning": -1.0}, "greater than or equal to 0"),
        ({"more": 1}, "Unexpected keyword"),
    ):
        with pytest.raises(ValidationError, match=message):
            read(json.dumps(asdict(fitted) | change))
