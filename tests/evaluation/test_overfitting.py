"""Choosing the best of a family: the probability of overfitting and the reality check know luck from skill."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import rankdata

from mlkit.errors import ConfigError
from mlkit.evaluation import overfitting
from mlkit.evaluation.overfitting import backtest_overfitting, reality_check


def slow_overfitting(returns: np.ndarray, blocks: int) -> tuple[float, list[float]]:
    """Bailey et al. (2017), algorithm 2.3, step by step."""
    parts = np.array_split(np.arange(len(returns)), blocks)
    logits = []
    for inside in combinations(range(blocks), blocks // 2):
        rows = np.concatenate([parts[k] for k in inside])
        rest = np.setdiff1d(np.arange(len(returns)), rows)
        train = returns[rows].mean(axis=0) / returns[rows].std(axis=0)
        test = returns[rest].mean(axis=0) / returns[rest].std(axis=0)
        share = rankdata(test)[train.argmax()] / (returns.shape[1] + 1)
        logits.append(float(np.log(share / (1 - share))))
    return float(np.mean(np.array(logits) <= 0)), logits


def test_against_the_algorithm_step_by_step() -> None:
    returns = np.random.default_rng(0).normal(0, 0.01, (203, 7))
    found = backtest_overfitting(returns, blocks=6)
    probability, logits = slow_overfitting(returns, 6)
    assert found.probability == probability
    assert found.logits == pytest.approx(logits, rel=1e-9)
    assert (found.splits, found.strategies) == (20, 7)


def test_luck_and_skill() -> None:
    rng = np.random.default_rng(1)
    lucky = [backtest_overfitting(rng.normal(0, 0.01, (400, 20)), blocks=8).probability for _ in range(30)]
    assert np.mean(lucky) == pytest.approx(0.5, abs=0.12)
    skilled = rng.normal(0, 0.01, (400, 20))
    skilled[:, 3] += 0.004
    found = backtest_overfitting(skilled, blocks=8)
    assert found.probability < 0.02 and found.loss < 0.02


def test_a_strategy_that_never_trades_and_gaps() -> None:
    returns = np.random.default_rng(2).normal(0, 0.01, (200, 3))
    returns[:, 1] = 0.0
    gaps = returns.copy()
    gaps[returns[:, 0] < -0.02, 0] = np.nan
    assert 0 <= backtest_overfitting(gaps, blocks=4).probability <= 1
    flat = backtest_overfitting(np.zeros((200, 3)), blocks=4)
    assert flat.probability == 1.0 and np.isnan(flat.slope)


@pytest.mark.parametrize(("shape", "blocks"), [((50, 1), 4), ((50,), 4), ((50, 3), 5), ((50, 3), 18), ((10, 3), 4)])
def test_what_is_refused(shape: tuple[int, ...], blocks: int) -> None:
    with pytest.raises(ConfigError, match="backtest_overfitting: "):
        backtest_overfitting(np.ones(shape), blocks=blocks)


def test_reality_check_against_the_best_of_noise() -> None:
    """The planted fault: the best of 20 tested alone is significant, as one of 20 it is not."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.01, (500, 20))
    best = noise[:, [noise.mean(axis=0).argmax()]]
    alone, together = reality_check(best, block=10, reps=500), reality_check(noise, block=10, reps=500)
    assert alone["consistent"] < 0.05 < together["consistent"]
    assert together["lower"] <= together["consistent"] <= together["upper"]
    skilled = np.column_stack([noise, noise[:, 0] + 0.002])
    assert reality_check(skilled, block=10, reps=500)["consistent"] < 0.01


def test_reality_check_is_rarely_wrong_about_noise() -> None:
    rng = np.random.default_rng(4)
    p = [reality_check(rng.normal(0, 0.01, (250, 5)), block=10, reps=100)["consistent"] for _ in range(80)]
    assert np.mean(np.array(p) < 0.05) < 0.13


def test_strategies_that_never_trade_are_no_contenders() -> None:
    returns = np.random.default_rng(5).normal(0, 0.01, (200, 2))
    padded = np.column_stack([returns, np.zeros(200)])
    assert reality_check(padded, block=5, reps=100).equals(reality_check(returns, block=5, reps=100))
    assert reality_check(np.zeros((200, 2)), block=5).tolist() == [1.0, 1.0, 1.0]


def test_beating_nothing_is_not_beating_the_market() -> None:
    """The planted fault: strategies that are mostly long in a rising market beat staying flat."""
    rng = np.random.default_rng(6)
    market = rng.normal(0.0015, 0.01, 600)
    long = market[:, None] * (rng.random((600, 4)) < 0.9)
    assert reality_check(long, block=10, reps=300)["consistent"] < 0.05
    assert reality_check(long, block=10, reps=300, benchmark=market)["consistent"] > 0.2
    assert reality_check(market[:, None], block=10, benchmark=market).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("n", "block"), [(20, 2.0), (250, 10.0), (1001, 37.5)])
def test_the_fast_variance_is_that_of_arch(n: int, block: float) -> None:
    from arch.bootstrap import SPA

    rng = np.random.default_rng(7)
    returns = np.cumsum(rng.normal(0.0, 0.01, (n, 4)), axis=0)  # dependent, so that every lag counts
    slow, fast = (test(np.zeros(n), returns, block_size=block, reps=50, seed=7) for test in (SPA, overfitting._spa()))
    for one in (slow, fast):
        one.compute()
    np.testing.assert_allclose(fast._loss_diff_var, slow._loss_diff_var, rtol=1e-11)
    assert fast.pvalues.equals(slow.pvalues)
