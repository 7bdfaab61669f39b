"""Calibration: external oracles for each piece, and noise that must come out as noise."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression

from mlkit.errors import ConfigError
from mlkit.evaluation.metrics import direction, expected_calibration_error, r2_no_change
from mlkit.models.ensemble import calibration as c


def noise_walk(rng: np.random.Generator, n: int, h: int) -> tuple[np.ndarray, np.ndarray]:
    """A persistent score and an overlapping outcome that know nothing of each other."""
    y = np.convolve(rng.normal(size=n + h), np.ones(h) / np.sqrt(h), "valid")[1 : n + 1]
    z = rng.normal(size=n)
    for i in range(1, n):
        z[i] += (1 - 1 / h) * z[i - 1]
    return 0.3 * z / z.std(), y


def signal(seed: int, n: int = 4000, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = share * rng.normal(size=n)
    return z, z + rng.normal(size=n)


def test_shrink_is_the_regression_slope_when_the_signal_is_strong() -> None:
    z, y = signal(0)
    slope = LinearRegression(fit_intercept=False).fit(2.0 * z[:, None], y).coef_[0]
    shrink, trust, t = c.shrinkage(2.0 * z, y, 1)
    assert t == pytest.approx(stats.ttest_1samp(z * y, 0.0).statistic, rel=0.15)
    assert trust == pytest.approx(1 - 1.96 / t, rel=1e-12)
    assert shrink == pytest.approx(slope * trust, rel=1e-12)
    assert 0.4 < shrink < 0.5


def test_shrink_never_enlarges_or_inverts() -> None:
    z, y = signal(1)
    small = c.shrinkage(0.2 * z, y, 1)  # a slope of 5 is told as 1, less what may be luck
    assert small[0] == small[1] < 1.0
    assert c.shrinkage(-z, y, 1)[:2] == (0.0, 0.0)
    assert c.shrinkage(np.zeros(100), y[:100], 1) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("n", "h"), [(500, 1), (600, 15), (600, 60)])
def test_noise_shrinks_to_no_change(n: int, h: int) -> None:
    rng = np.random.default_rng(h)
    shrinks, losses, plain = [], [], []
    for _ in range(100):
        z, y = noise_walk(rng, 2 * n + h, h)
        shrink = c.shrinkage(z[:n], y[:n], h)[0]
        shrinks.append(shrink)
        losses.append(r2_no_change(y[n + h :], shrink * z[n + h :]))
        plain.append(r2_no_change(y[n + h :], np.clip(z[:n] @ y[:n] / (z[:n] @ z[:n]), 0, 1) * z[n + h :]))
    assert np.mean(np.array(shrinks) > 0) < 0.1  # 2.5 % is nominal
    assert np.median(losses) == 0.0
    # The planted fault: the slope without its discount follows noise about every second time.
    assert np.mean(np.array(plain) != 0.0) > 0.3
    assert 0.0 >= np.mean(losses) > 0.25 * np.mean(plain)


def test_logistic_fit_against_sklearn() -> None:
    rng = np.random.default_rng(3)
    z = 0.01 * rng.normal(size=600)
    y = np.where(rng.random(600) < 0.1, 0.0, z + rng.normal(0.002, 0.01, 600))
    rise = direction(y)
    ups, downs = np.sum(rise == 1), np.sum(rise == 0)
    target = np.interp(rise, [0.0, 1.0], [1 / (downs + 2), (ups + 1) / (ups + 2)])  # Platt's targets
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000).fit(
        np.concatenate([z, z])[:, None] * 100,
        np.repeat([1, 0], 600),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    intercept, slope = c.fit_logistic(z, rise)
    assert intercept == pytest.approx(oracle.intercept_[0], abs=1e-5)
    assert slope == pytest.approx(100 * oracle.coef_[0, 0], rel=1e-4)


def test_separable_rows_have_a_finite_answer() -> None:
    z = np.linspace(-1, 1, 50)
    intercept, slope = c.fit_logistic(z, direction(z))
    assert np.isfinite([intercept, slope]).all()
    assert slope > 1


def test_direction_probability_is_calibrated_and_monotone() -> None:
    z, y = signal(4, n=20_000, share=0.8)
    fitted = c.fit_calibration(z[:10_000], y[:10_000], 1)
    p = fitted.p_up(z[10_000:])
    assert expected_calibration_error(direction(y[10_000:]), p) < 0.02
    np.testing.assert_allclose(p, stats.norm.cdf(z[10_000:]), atol=0.04)
    assert np.all(np.diff(fitted.p_up(np.linspace(-5, 5, 50))) > 0)


def test_without_a_signal_the_probability_is_the_base_rate() -> None:
    rng = np.random.default_rng(5)
    z, y = rng.normal(size=3000), rng.normal(0.3, 1, size=3000)
    y[:300] = 0.0  # ties are half a rise
    fitted = c.fit_calibration(z, y, 1)
    assert fitted.slope == fitted.shrink == 0.0
    assert fitted.p_up(np.array([-3.0, 3.0])) == pytest.approx(np.mean(direction(y)), abs=0.004)


def test_an_accidental_trend_is_not_a_base_rate() -> None:
    """The planted fault: 60-bar outcomes of a driftless walk rise together, their share strays."""
    rng = np.random.default_rng(6)
    strayed, told = [], []
    for _ in range(60):
        z, y = noise_walk(rng, 400, 60)
        strayed.append(abs(np.mean(direction(y)) - 0.5))
        told.append(abs(c.fit_calibration(z, y, 60).p_up(np.zeros(1))[0] - 0.5))
    assert np.mean(strayed) > 0.1
    assert np.median(told) == 0.0
    assert np.mean(told) < 0.4 * np.mean(strayed)


def test_a_short_rally_is_not_certainty() -> None:
    rising = c.fit_calibration(np.ones(200), np.linspace(0.5, 1.0, 200), 60)
    assert rising.shrink == rising.slope == 0.0
    assert 0.5 <= rising.p_up(np.ones(1))[0] < 0.85


def test_the_base_rate_is_that_of_all_training_rows() -> None:
    rng = np.random.default_rng(12)
    z, y = rng.normal(size=200), rng.normal(size=200)
    history = np.concatenate([rng.normal(0.4, 1, size=4000), y])
    alone, told = (c.fit_calibration(z, y, 1, history=past).p_up(np.zeros(1))[0] for past in (y, history))
    assert told == pytest.approx(np.mean(direction(history)), abs=0.003)
    assert abs(alone - 0.5) < abs(told - 0.5)


def test_a_lucky_stretch_is_not_evidence() -> None:
    """The planted fault: the score agrees with the outcome in the last third only, and strongly."""
    rng = np.random.default_rng(13)
    z, y = rng.normal(size=900), rng.normal(size=900)
    y[600:] += 0.6 * z[600:]
    y[:300] -= 0.05 * z[:300]
    shrink, trust, t = c.shrinkage(z, y, 1)
    assert t > c.MIN_T  # significant over all rows
    assert shrink == trust == 0.0
    steady = c.shrinkage(z, 0.25 * z + rng.normal(size=900), 1)
    assert steady[0] > 0.1


def test_conformal_ranks_by_hand() -> None:
    # Nine residuals, 80 %: each tail is the order statistic ceil(0.9 * 10) = 9, that is, the extremes.
    assert c.conformal_quantiles(np.arange(9.0), 0.8) == (0.0, 8.0)
    # 99 residuals, 90 %: ceil(0.95 * 100) = 95th from each side.
    assert c.conformal_quantiles(np.arange(1.0, 100.0), 0.9) == (5.0, 95.0)
    assert c.conformal_quantiles(np.arange(5.0), 0.9) == (0.0, 4.0)


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_conformal_coverage_is_at_least_nominal_and_hardly_more(level: float) -> None:
    rng = np.random.default_rng(7)
    held = []
    for _ in range(400):
        residual = rng.gamma(2.0, size=101)  # skewed: each tail has its own quantile
        low, high = c.conformal_quantiles(residual[:100], level)
        held.append(np.mean((rng.gamma(2.0, size=200) >= low) & (rng.gamma(2.0, size=200) <= high)))
    assert level - 0.005 < np.mean(held) < level + 2 / 101 + 0.005  # exact up to 1 / (n + 1) in each tail


def test_std_is_that_of_the_residual() -> None:
    z, y = signal(9)
    fitted = c.fit_calibration(z, y, 1)
    assert fitted.std == pytest.approx(np.sqrt(np.mean((y - fitted.shrink * z) ** 2)))
    assert fitted.low90 < fitted.low80 < 0 < fitted.high80 < fitted.high90


def test_json_round_trip() -> None:
    fitted = c.fit_calibration(*signal(10), 5)
    assert TypeAdapter(c.HorizonCalibration).validate_json(json.dumps(asdict(fitted))) == fitted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": float("nan")}, "std.*\n.*finite number"),
        ({"std": "1"}, "std.*\n.*valid number"),
        ({"horizon": True}, "horizon.*\n.*valid integer"),
        ({"horizon": 1.5}, "horizon.*\n.*valid integer"),
        ({"shrink": 1.5}, "less than or equal to 1"),
        ({"slope": -0.1}, "greater than or equal to 0"),
        ({"low80": 3.0}, "contradict"),
        ({"lookback": 10**9}, "less than or equal to 100000"),
        ({"rate": -0.1}, "greater than or equal to 0"),
        ({"more": 1}, "Unexpected keyword"),
    ],
)
def test_foreign_values_are_refused(change: dict[str, object], message: str) -> None:
    values = asdict(c.fit_calibration(*signal(11), 5)) | change
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(c.HorizonCalibration).validate_json(json.dumps(values))


def test_too_few_rows() -> None:
    with pytest.raises(ConfigError, match="39 held-out rows, it takes 40"):
        c.fit_calibration(np.zeros(39), np.zeros(39), 1)
    assert c.fit_calibration(*signal(14, n=40), 60).shrink == 0.0  # not even one outcome of its own


def test_constant_outcomes_are_no_change() -> None:
    fitted = c.fit_calibration(np.zeros(100), np.zeros(100), 5)
    assert (fitted.shrink, fitted.std, fitted.intercept, fitted.slope) == (0.0, 0.0, 0.0, 0.0)
