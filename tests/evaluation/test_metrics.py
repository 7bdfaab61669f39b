"""Metrics against scikit-learn, scipy and hand numbers."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mlkit.evaluation import metrics as m

rng = np.random.default_rng(11)
Y = rng.normal(0, 0.01, 500)
PRED = 0.3 * Y + rng.normal(0, 0.005, 500)
UP = (rng.random(500) < 0.5).astype(float)
P = np.clip(0.5 + 0.2 * (UP - 0.5) + rng.normal(0, 0.1, 500), 0, 1)


def test_errors_against_sklearn() -> None:
    assert m.mae(Y, PRED) == pytest.approx(sk.mean_absolute_error(Y, PRED), rel=1e-12)
    assert m.brier(UP, P) == pytest.approx(sk.brier_score_loss(UP, P), rel=1e-12)


def test_r2_no_change() -> None:
    ratio = sk.mean_squared_error(Y, PRED) / sk.mean_squared_error(Y, np.zeros(500))
    assert m.r2_no_change(Y, PRED) == pytest.approx(1 - ratio, rel=1e-12)
    assert m.r2_no_change(Y, np.zeros(500)) == 0.0
    assert m.r2_no_change(Y, Y) == 1.0
    # Against the mean, as sklearn's r2_score has it, a drifting market would hide the loss.
    assert m.r2_no_change(Y + 1.0, np.ones(500)) > 0.99 > 0.0 >= sk.r2_score(Y + 1.0, np.ones(500))


def test_rank_ic_against_scipy_with_ties() -> None:
    y, pred = np.round(Y, 2), np.round(PRED, 2)
    assert len(np.unique(y)) < 20
    assert m.rank_ic(y, pred) == pytest.approx(stats.spearmanr(y, pred).statistic, rel=1e-12)
    assert math.isnan(m.rank_ic(Y, np.zeros(500)))


def test_hit_rate_without_ties_is_accuracy() -> None:
    assert m.hit_rate(Y, PRED) == pytest.approx(sk.accuracy_score(Y > 0, PRED > 0), rel=1e-12)


def test_ties_are_half_a_hit() -> None:
    y = [0.01, -0.01, 0.0, 0.02]
    assert m.hit_rate(y, [1, 1, 1, 1]) == (1 + 0 + 0.5 + 1) / 4
    assert m.hit_rate(y, [0, 0, 0, 0]) == 0.5
    assert m.hit_rate(y, [1, -1, 1, 0]) == (1 + 1 + 0.5 + 0.5) / 4
    assert m.hit_rate_baseline(y) == 0.625 == m.hit_rate(y, 1.0)
    falling = [-0.01, -0.02, 0.03, 0.0]
    assert m.hit_rate_baseline(falling) == 0.625 == m.hit_rate(falling, -1.0)
    assert m.direction([0.1, 0.0, -0.1, np.nan])[:3].tolist() == [1.0, 0.5, 0.0]


def test_ties_do_not_reward_a_constant_forecast() -> None:
    """The planted fault: scored as ``(y > 0) == (pred > 0)``, "never up" looks right on every tie."""
    y = np.where(rng.random(4000) < 0.4, 0.0, rng.normal(size=4000))
    naive = np.mean((y > 0) == np.zeros(4000, dtype=bool))
    assert naive > 0.65
    assert m.hit_rate(y, -1.0) == pytest.approx(0.5, abs=0.02)


def test_brier_skill() -> None:
    assert m.brier_skill(UP, P) == pytest.approx(1 - sk.brier_score_loss(UP, P) / 0.25, rel=1e-12)
    assert m.brier_skill(UP, np.full(500, 0.5)) == 0.0
    assert m.brier_skill(UP, UP) == 1.0
    assert m.brier_skill([1, 1, 0], [0.6, 0.6, 0.6], reference=0.6) == 0.0
    assert m.brier([0.5], [0.5]) == 0.0


def test_reliability_against_sklearn() -> None:
    table = m.reliability_table(UP, P)
    observed, forecast = calibration_curve(UP, P, n_bins=10)
    assert table["observed"].to_numpy() == pytest.approx(observed, rel=1e-12)
    assert table["forecast"].to_numpy() == pytest.approx(forecast, rel=1e-12)
    assert table["rows"].sum() == 500
    assert ((table["low"] <= table["forecast"]) & (table["forecast"] <= table["high"])).all()


def test_expected_calibration_error_by_hand() -> None:
    outcome, p = [1, 0, 1, 1], [0.25, 0.25, 0.75, 1.0]
    # Bins of width 1/2: {0.25, 0.25} observed 0.5, {0.75, 1.0} observed 1.
    assert m.expected_calibration_error(outcome, p, bins=2) == pytest.approx(0.5 * 0.25 + 0.5 * 0.125)
    assert m.expected_calibration_error(UP, UP) == 0.0


def test_intervals() -> None:
    half = stats.norm.ppf(0.9) * 0.01
    low, high = np.full(500, -half), np.full(500, half)
    assert m.coverage(Y, low, high) == np.mean(np.abs(Y) <= half)
    assert m.coverage([1.0, 2.0], [1.0, 0.0], [3.0, 2.0]) == 1.0
    # A central interval's score is 2/α times the pinball losses of its ends (Gneiting & Raftery 2007).
    ends = sk.mean_pinball_loss(Y, low, alpha=0.1) + sk.mean_pinball_loss(Y, high, alpha=0.9)
    assert m.interval_score(Y, low, high, 0.8) == pytest.approx(2 / 0.2 * ends, rel=1e-12)
    assert m.interval_score(Y, low, high, 0.8) < m.interval_score(Y, 3 * low, 3 * high, 0.8)
    assert m.interval_score(Y, low, high, 0.8) < m.interval_score(Y, low / 3, high / 3, 0.8)


def test_rows_that_cannot_be_scored_are_left_out() -> None:
    y, pred = Y.copy(), PRED.copy()
    y[:5], pred[5:9] = np.nan, np.nan
    assert m.mae(y, pred) == m.mae(Y[9:], PRED[9:])
    assert m.rank_ic(y, pred) == m.rank_ic(Y[9:], PRED[9:])
    assert m.coverage([np.nan, 1.0], 0.0, 2.0) == 1.0


@pytest.mark.parametrize(
    "value",
    [
        m.mae([], []),
        m.r2_no_change([0.0, 0.0], [1.0, 1.0]),
        m.rank_ic([], []),
        m.hit_rate([], []),
        m.hit_rate_baseline([]),
        m.brier_skill([], []),
        m.expected_calibration_error([], []),
        m.coverage([], [], []),
    ],
)
def test_no_answer_is_nan(value: float) -> None:
    assert math.isnan(value)


@pytest.mark.parametrize(("horizon", "level"), [(1, 0.8), (5, 0.9), (20, 0.8)])
def test_coverage_noise_is_that_of_an_oracle(horizon: int, level: float) -> None:
    rng = np.random.default_rng(horizon)
    moves = rng.normal(size=(600, 1000 + horizon))
    total = np.cumsum(moves, axis=1)
    y = (total[:, horizon:] - total[:, :-horizon]) / np.sqrt(horizon)  # 600 markets of 1,000 outcomes
    z = stats.norm.ppf(0.5 + level / 2)
    shares = np.mean(np.abs(y) < z, axis=1)
    assert m.coverage_noise(1000, horizon, level) == pytest.approx(shares.std(), rel=0.1)
    assert m.direction_noise(1000, horizon) == pytest.approx(np.mean(y > 0, axis=1).std(), rel=0.1)


def test_calibration_noise_bounds_the_error_of_perfect_probabilities() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        p = rng.choice([0.45, 0.55], size=500)
        rise = (rng.random(500) < p).astype(float)
        inside += m.expected_calibration_error(rise, p) <= m.calibration_noise(rise, p, 1)
    assert inside >= 95
    assert m.calibration_noise(rise, p, 60) > 3 * m.calibration_noise(rise, p, 1)
