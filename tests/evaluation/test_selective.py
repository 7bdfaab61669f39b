"""The risk-coverage curve: the surer the better, ties share the cut, noise is level."""

import numpy as np
import pytest

from mlkit.errors import ConfigError
from mlkit.evaluation.selective import risk_coverage


def test_by_hand() -> None:
    gain, confidence = [1.0, 0.0, 1.0, 0.0, np.nan], [0.4, 0.1, 0.3, 0.2, 0.9]
    table = risk_coverage(gain, confidence, horizon=1, shares=(0.25, 0.5, 0.75, 1.0))
    assert table["value"].tolist() == pytest.approx([1.0, 1.0, 2 / 3, 0.5])
    assert table["rows"].tolist() == [1, 2, 3, 4] and table["threshold"].tolist() == [0.4, 0.3, 0.2, 0.1]


def test_ties_at_the_cut_share_it() -> None:
    """The planted fault: a stable sort acts on the first of the tied rows, so their order decides the score."""
    table = risk_coverage([1.0, 1.0, 0.0, 0.0], [0.1] * 4, horizon=1, shares=(0.25, 0.5, 1.0))
    assert table["value"].tolist() == [0.5, 0.5, 0.5]
    mixed = risk_coverage([1.0, 0.0, 1.0, 0.0], [0.9, 0.1, 0.1, 0.1], horizon=1, shares=(0.5,))
    assert mixed["value"].iloc[0] == pytest.approx((1 + 1 / 3) / 2)


def test_confidence_that_means_something_and_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 0.7, 4000)
    hit = (rng.random(4000) < p).astype(float)
    real = risk_coverage(hit, p - 0.5, horizon=1, reps=100)
    assert real.loc[0.1, "value"] == pytest.approx(0.69, abs=0.04)
    assert real.loc[0.1, "low"] > real.loc[1.0, "high"] > 0.6
    noise = risk_coverage(hit, rng.random(4000), horizon=1, reps=100)
    assert (noise["low"] < 0.6).all() and (noise["high"] > 0.6).all()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="shares must be above 0"):
        risk_coverage([1.0], [1.0], horizon=1, shares=(0.0,))
    with pytest.raises(ConfigError, match=r"must be \(n,\)"):
        risk_coverage([1.0, 2.0], [1.0], horizon=1)
    with pytest.raises(ConfigError, match="no row has both"):
        risk_coverage([np.nan], [1.0], horizon=1)
