"""The combined scale: an oracle for the regression, a known truth to find, and a prior to fall back on."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize

from mlkit.models.ensemble.spread import PERSISTENCE, RIDGE, HorizonSpread, fit_spread, spread_scale


def market(n: int, seed: int = 0, horizon: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """GARCH's scale, three terms, and outcomes whose spread follows the second term and a season."""
    rng = np.random.default_rng(seed)
    ewma = -5.0 + 0.3 * rng.normal(size=n)
    better, season = 0.5 * rng.normal(size=n), 0.5 * np.cos(np.arange(n) / 10)
    garch = np.exp(ewma + 0.1 * rng.normal(size=n)) * np.sqrt(horizon)
    truth = np.exp(ewma + 0.8 * better + 0.6 * season) * np.sqrt(horizon)
    return garch, np.column_stack([ewma, better, season]), truth * rng.normal(size=n)


def test_the_regression_against_scipy() -> None:
    scale, terms, y = market(400)
    fitted = fit_spread(scale, terms, y, 1)
    columns = np.column_stack([np.log(scale) - terms[:, 0], terms])
    design = np.column_stack([np.ones(400), columns - columns.mean(axis=0)])
    size = np.abs(y) / np.exp(0.5 * np.log(scale) + 0.5 * terms[:, 0])
    ridge = RIDGE * (1 + PERSISTENCE) / 400

    def loss(b: np.ndarray) -> float:
        eta = design @ b
        return float(np.mean(size * np.exp(-eta) + eta) + 0.5 * ridge * np.sum(b[1:] ** 2))

    oracle = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    assert np.array(fitted.coefficients[1:]) == pytest.approx(oracle.x[1:], abs=1e-5)


def test_a_better_term_and_a_season_are_found() -> None:
    scale, terms, y = market(20_000, seed=1)
    fitted = fit_spread(scale, terms, y, 1)
    ours = spread_scale((fitted,), scale[:, None], terms)[:, 0]
    assert np.std(y / ours) == pytest.approx(1.0, abs=0.05)
    assert fitted.coefficients[3] == pytest.approx(0.8, abs=0.1)
    assert fitted.coefficients[4] == pytest.approx(0.6, abs=0.1)
    late = np.abs(market(5000, seed=2)[2])
    scale, terms, _ = market(5000, seed=2)
    assert (
        np.corrcoef(late, spread_scale((fitted,), scale[:, None], terms)[:, 0])[0, 1] > np.corrcoef(late, scale)[0, 1]
    )


def test_few_outcomes_keep_the_prior() -> None:
    scale, terms, y = market(300, horizon=60)
    few, crowded = fit_spread(scale, terms, y, 60), fit_spread(scale, terms, y, 1, rows_per_time=1e9)
    assert np.abs(few.coefficients[1:]).max() < 0.35 < 0.8
    assert np.abs(crowded.coefficients[1:]).max() < 1e-6
    ours = spread_scale((crowded,), scale[:, None], terms)[:, 0]
    prior = np.sqrt(scale * np.exp(terms[:, 0]))
    assert np.ptp(ours / prior) == pytest.approx(0.0, abs=1e-6)


def test_a_row_alone_has_the_bits_it_has_in_company() -> None:
    scale, terms, y = market(500)
    spreads = tuple(fit_spread(scale, terms, y, h) for h in (1, 5))
    both = np.column_stack([scale, scale])
    whole = spread_scale(spreads, both, terms)
    for row in (0, 123, 499):
        assert np.array_equal(spread_scale(spreads, both[row : row + 1], terms[row : row + 1])[0], whole[row])
    both[7, 0], terms[8, 1] = np.nan, np.nan
    holed = spread_scale(spreads, both, terms)
    assert np.isnan(holed[7, 0]) and np.isnan(holed[8]).all() and np.isfinite(holed[9]).all()


def test_what_was_never_seen_stays_in_reach() -> None:
    scale, terms, y = market(2000)
    fitted = fit_spread(scale, terms, y, 1)
    wild = terms.copy()
    wild[:, 1] = 50.0
    ours = spread_scale((fitted,), scale[:, None], wild)[:, 0]
    base = np.exp(0.5 * np.log(scale) + 0.5 * terms[:, 0])
    assert np.all(ours <= base * np.exp(fitted.high) * (1 + 1e-12))


def test_json_round_trip_and_foreign_values() -> None:
    fitted = fit_spread(*market(300), 1)
    assert TypeAdapter(HorizonSpread).validate_json(json.dumps(asdict(fitted))) == fitted
    for change, message in (
        ({"coefficients": "1"}, "valid array"),
        ({"coefficients": [1.0, 2.0, float("nan")]}, "finite number"),
        ({"coefficients": [1.0]}, "at least 3 items"),
        ({"horizon": True}, "valid integer"),
        ({"low": 3.0, "high": 2.0}, "contradict"),
        ({"high": 1e9}, "less than or equal to 50"),
        ({"more": 1}, "Unexpected keyword"),
    ):
        with pytest.raises(ValidationError, match=message):
            TypeAdapter(HorizonSpread).validate_json(json.dumps(asdict(fitted) | change))


def test_outcomes_that_never_move() -> None:
    scale, terms, _ = market(300)
    fitted = fit_spread(scale, terms, np.zeros(300), 1)
    assert np.all(np.isfinite(spread_scale((fitted,), scale[:, None], terms)))
