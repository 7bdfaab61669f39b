"""Sharpe statistics against the examples of the papers, scipy's moments and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from mlkit.errors import ConfigError
from mlkit.evaluation import sharpe as s


def test_the_worked_example_of_the_deflated_sharpe_ratio() -> None:
    """Bailey & López de Prado (2014), "A numerical example": 5 years of days, an annual ratio of 2.5, 100 trials."""
    observed, variance = 2.5 / math.sqrt(250), 0.5 / 250
    best = s.expected_best_sharpe(100, variance)
    assert best == pytest.approx(0.1132, abs=5e-5)
    deflated = s.sharpe_probability(observed, 1250, best, skew=-3, kurtosis=10)
    assert deflated == pytest.approx(0.9004, abs=5e-5)
    fewer = s.expected_best_sharpe(46, variance)
    assert s.sharpe_probability(observed, 1250, fewer, skew=-3, kurtosis=10) == pytest.approx(0.9505, abs=5e-5)
    normal = s.expected_best_sharpe(88, variance)
    assert s.sharpe_probability(observed, 1250, normal) == pytest.approx(0.9505, abs=5e-5)


def test_the_worked_example_of_the_probabilistic_sharpe_ratio() -> None:
    """Bailey & López de Prado (2012): two years of months, mean 0.036, deviation 0.079, skewed and fat-tailed."""
    known = {"skew": -2.448, "kurtosis": 10.164}
    assert s.sharpe_probability(0.458, 24) == pytest.approx(0.982, abs=5e-4)
    assert s.sharpe_probability(0.458, 24, **known) == pytest.approx(0.913, abs=5e-4)


def test_from_returns_against_scipys_moments() -> None:
    r = stats.t.rvs(5, size=400, random_state=1) * 0.01 + 0.001
    with_gaps = np.insert(r, [10, 200], np.nan)
    ratio = r.mean() / r.std(ddof=1)
    expected = s.sharpe_probability(ratio, 400, 0.02, skew=stats.skew(r), kurtosis=stats.kurtosis(r, fisher=False))
    assert s.sharpe_ratio(with_gaps) == pytest.approx(ratio, rel=1e-12)
    assert s.probabilistic_sharpe(with_gaps, 0.02) == pytest.approx(expected, rel=1e-12)
    assert s.deflated_sharpe(r, 1) == s.probabilistic_sharpe(r) > s.deflated_sharpe(r, 10) > s.deflated_sharpe(r, 1000)
    assert s.deflated_sharpe(r, 10, variance=0.01) < s.deflated_sharpe(r, 10)


def test_the_expected_best_is_the_mean_of_the_best() -> None:
    draws = np.random.default_rng(0).normal(0, 0.05, (4000, 30)).max(axis=1)
    assert s.expected_best_sharpe(30, 0.05**2) == pytest.approx(draws.mean(), rel=0.02)
    assert s.expected_best_sharpe(1, 0.05**2) == 0.0


def test_the_error_is_the_spread_of_the_ratio() -> None:
    rng = np.random.default_rng(1)
    skewed = rng.exponential(1.0, (3000, 250)) - 0.8  # skewness 2, kurtosis 9
    ratios = skewed.mean(axis=1) / skewed.std(axis=1, ddof=1)
    assert s.sharpe_error(0.2, 250, skew=2.0, kurtosis=9.0) == pytest.approx(ratios.std(), rel=0.05)


def test_the_best_of_many_without_skill_is_seen_through() -> None:
    """The planted fault: judged as if it were the only one, the best of 50 looks certain."""
    rng = np.random.default_rng(2)
    naive, deflated = [], []
    for _ in range(200):
        tried = rng.normal(0, 0.01, (250, 50))
        best = tried[:, (tried.mean(axis=0) / tried.std(axis=0)).argmax()]
        naive.append(s.probabilistic_sharpe(best) > 0.95)
        deflated.append(s.deflated_sharpe(best, 50) > 0.95)
    assert np.mean(naive) > 0.9
    assert np.mean(deflated) <= 0.05


def test_no_answer() -> None:
    assert math.isnan(s.sharpe_ratio(np.zeros(10))) and math.isnan(s.sharpe_ratio([1.0]))
    assert math.isnan(s.probabilistic_sharpe(np.zeros(10))) and math.isnan(s.deflated_sharpe([0.1, 0.2], 3))
    with pytest.raises(ConfigError, match="trials >= 1"):
        s.expected_best_sharpe(0, 1.0)
