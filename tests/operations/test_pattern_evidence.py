"""Evidence of patterns: found where it was planted, absent where prices are noise, never from the future."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from mlkit.features.rules import PATTERNS
from mlkit.inference.insight import PatternEvidence
from mlkit.labels import pattern_directions
from mlkit.market.bars import COLUMNS
from mlkit.operations.patterns.evidence_of_patterns import (
    MIN_CASES,
    _wilson,
    measure_patterns,
    pattern_sides,
    weigh_patterns,
)

HAMMER, STAR = PATTERNS.index("hammer"), PATTERNS.index("shooting_star")


def market(seed: int, n: int = 4000, every: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Noise of one percent a bar, a hammer and a shooting star now and then; (sides, earned over one bar)."""
    rng = np.random.default_rng(seed)
    sides = np.zeros((n, 15))
    sides[rng.choice(n, n // every, replace=False), HAMMER] = 1.0
    sides[rng.choice(n, n // every, replace=False), STAR] = -1.0
    return sides, 0.01 * rng.standard_normal((n, 1))


def test_a_planted_edge_is_found_and_its_numbers_are_right() -> None:
    sides, earned = market(1)
    earned[:, 0] += 0.006 * sides[:, HAMMER]
    found = weigh_patterns(sides, earned, (1,), cost_bps=1.0)
    hammer = PatternEvidence.model_validate(found["hammer"])
    cases = sides[:, HAMMER] == 1
    gains = earned[cases, 0]
    assert hammer.verdict == "edge" and hammer.cases == cases.sum() == 160
    assert hammer.hit_rate == pytest.approx((gains > 0).mean())
    assert hammer.edge_bps == pytest.approx(1e4 * (gains.mean() - earned.mean()) - 2.0)
    assert 0 < hammer.lower_bps < hammer.edge_bps
    assert hammer.low < hammer.hit_rate < hammer.high
    assert found["shooting_star"]["verdict"] == "no edge"


def test_noise_has_no_edge() -> None:
    verdicts = [v["verdict"] for seed in range(40) for v in weigh_patterns(*market(seed), (1,), cost_bps=0.0).values()]
    assert len(verdicts) == 80 and verdicts.count("edge") <= 4  # 5 % of 40 markets is 2


def test_overlapping_outcomes_are_no_new_evidence() -> None:
    """The planted fault: one lucky stretch, in which every bar is a case of the same twenty-bar rise."""
    rng = np.random.default_rng(3)
    walk = np.cumsum(0.01 * rng.standard_normal(3000))
    walk[1500:1600] += np.linspace(0, 0.3, 100)
    walk[1600:] += 0.3
    earned = np.full((3000, 1), np.nan)
    earned[:-20, 0] = walk[20:] - walk[:-20]
    sides = np.zeros((3000, 15))
    sides[1500:1580, HAMMER] = 1.0
    assert "hammer" not in weigh_patterns(sides, earned, (20,), cost_bps=1.0)  # 80 cases, 4 apart
    sides[:1300:100, HAMMER] = 1.0
    found = weigh_patterns(sides, earned, (20,), cost_bps=1.0)["hammer"]
    assert found["cases"] == 93 and found["verdict"] == "no edge"


def test_a_rising_market_is_no_evidence_for_a_bullish_pattern() -> None:
    sides, earned = market(2)
    found = weigh_patterns(sides, earned + 0.01, (1,), cost_bps=1.0)["hammer"]
    assert found["hit_rate"] > 0.75 and found["base_rate"] > 0.75
    assert found["verdict"] == "no edge"


def test_few_cases_are_no_evidence() -> None:
    sides, earned = market(4)
    rows = np.flatnonzero(sides[:, HAMMER])
    sides[rows[MIN_CASES - 1 :], HAMMER] = 0.0
    assert "hammer" not in weigh_patterns(sides, earned, (1,), cost_bps=1.0)
    assert weigh_patterns(np.zeros((50, 15)), earned[:50], (1,), cost_bps=1.0) == {}


def test_sides_are_those_of_the_rules(sp500: pd.DataFrame) -> None:
    rules = pattern_directions(sp500, "classic").to_numpy().astype(float)
    sides = pattern_sides(rules != 0, sp500[list(COLUMNS)].to_numpy())
    rules[:, PATTERNS.index("doji")] = 0.0  # has none
    assert (sides == rules).mean() > 0.9999  # a marubozu or harami beside a bar without a body may differ


def test_real_bars_end_to_end(sp500: pd.DataFrame) -> None:
    found = measure_patterns(sp500.iloc[-1500:], (1, 5), cost_bps=1.0)
    assert found and found.keys() <= set(PATTERNS) - {"doji"}
    for evidence in found.values():
        assert PatternEvidence.model_validate(evidence).horizon in (1, 5)


def test_wilson_holds_its_promise() -> None:
    rng = np.random.default_rng(0)
    draws = rng.binomial(50, 0.55, 4000) / 50
    ends = [_wilson(float(p), 50) for p in draws]
    assert np.mean([low <= 0.55 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.02)
    low, high = _wilson(0.5, 10_000)
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * 0.005, rel=1e-3)
