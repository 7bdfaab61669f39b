"""Returns of traded patterns: an edge is found where it was planted, none where prices are noise."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from mlkit.config import Settings
from mlkit.evaluation.metrics import wilson_interval
from mlkit.evaluation.pattern_returns import traded_patterns
from mlkit.inference.insight_data import PatternEvidence
from mlkit.operations.training.training_bundle import pattern_evidence

Market = tuple[pd.DataFrame, pd.DataFrame]


def market(seed: int, n: int = 4000, every: int = 25) -> Market:
    """Noise of one percent a bar, a hammer and a shooting star now and then: flags, and returns over one bar."""
    rng = np.random.default_rng(seed)
    flags = pd.DataFrame(0.0, index=range(n), columns=["hammer", "shooting_star"])
    flags.loc[rng.choice(n, n // every, replace=False), "hammer"] = 1.0
    flags.loc[rng.choice(n, n // every, replace=False), "shooting_star"] = -1.0
    return flags, pd.DataFrame({1: 0.01 * rng.standard_normal(n)})


def test_a_planted_edge_is_found_and_its_numbers_are_right() -> None:
    flags, returns = market(1)
    returns[1] += 0.006 * flags["hammer"]
    found = traded_patterns(flags, returns, cost_bps=1.0)
    hammer = PatternEvidence.model_validate(found["hammer"])
    gains = returns.loc[flags["hammer"] == 1, 1]
    assert hammer.verdict == "edge" and hammer.cases == len(gains) == 160
    assert hammer.hit_rate == pytest.approx((gains > 0).mean())
    assert hammer.edge_bps == pytest.approx(1e4 * (gains.mean() - returns[1].mean()) - 2.0)
    assert 0 < hammer.lower_bps < hammer.edge_bps
    assert hammer.low < hammer.hit_rate < hammer.high
    assert found["shooting_star"]["verdict"] == "no edge"


def test_noise_has_no_edge() -> None:
    verdicts = [v["verdict"] for seed in range(40) for v in traded_patterns(*market(seed), cost_bps=0.0).values()]
    assert len(verdicts) == 80 and verdicts.count("edge") <= 4  # 5 % of 40 markets is 2


def test_overlapping_outcomes_are_no_new_evidence() -> None:
    """The planted fault: one lucky stretch, in which every bar is a case of the same twenty-bar rise."""
    rng = np.random.default_rng(3)
    walk = np.cumsum(0.01 * rng.standard_normal(3000))
    walk[1500:1600] += np.linspace(0, 0.3, 100)
    walk[1600:] += 0.3
    returns = pd.DataFrame({20: np.append(walk[20:] - walk[:-20], np.full(20, np.nan))})
    flags = pd.DataFrame({"hammer": np.zeros(3000)})
    flags.iloc[1500:1580] = 1.0
    assert not traded_patterns(flags, returns, cost_bps=1.0)  # 80 cases, 4 of them disjoint
    flags.iloc[:1300:100] = 1.0
    found = traded_patterns(flags, returns, cost_bps=1.0)["hammer"]
    assert found["cases"] == 93 and found["verdict"] == "no edge"


def test_a_rising_market_is_no_evidence_for_a_bullish_pattern() -> None:
    flags, returns = market(2)
    found = traded_patterns(flags, returns + 0.01, cost_bps=1.0)["hammer"]
    assert found["hit_rate"] > 0.75 and found["base_rate"] > 0.75
    assert found["verdict"] == "no edge"


def test_few_cases_are_no_evidence() -> None:
    flags, returns = market(4)
    rows = np.flatnonzero(flags["hammer"])
    flags.iloc[rows[29:], 0] = 0.0
    assert "hammer" not in traded_patterns(flags, returns, cost_bps=1.0)
    assert traded_patterns(0.0 * flags[:50], returns[:50], cost_bps=1.0) == {}


def test_evidence_of_real_bars(sp500: pd.DataFrame) -> None:
    found = pattern_evidence(sp500.iloc[-1500:], Settings(prediction_horizons=(1, 5)))
    assert found and "doji" not in found  # a doji claims no direction
    for evidence in found.values():
        assert PatternEvidence.model_validate(evidence).horizon in (1, 5)


def test_wilson_interval_is_that_of_scipy() -> None:
    for hits, n in ((0, 20), (9, 20), (20, 20), (550, 1000)):
        oracle = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson_interval(hits / n, n) == pytest.approx((oracle.low, oracle.high), abs=1e-7)
    low, high = wilson_interval(0.5, 10_000)
    assert high - low == pytest.approx(2 * 1.95996 * 0.005, rel=1e-3)
