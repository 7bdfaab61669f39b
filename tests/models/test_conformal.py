"""Intervals that follow the outcomes: what they may know, how long they remember, and that they cover."""

import numpy as np
import pytest

from mlkit.models.conformal import LEVELS, OUTER, adaptation_memory, adaptation_rate, follow_ends, lean_rate

START = np.array([-1.645, -1.282, 1.282, 1.645])  # of a standard normal score


def follow(score: np.ndarray, horizon: int = 1, first: int = 0, **options: float) -> np.ndarray:
    rules = {"memory": 500, "rate": 0.02, "lean": 0.0} | options
    lean_at = rules.pop("at", np.zeros(len(score)))
    return follow_ends(score, lean_at, START, horizon, int(rules["memory"]), rules["rate"], rules["lean"], first)


def overlapping(rng: np.random.Generator, n: int, horizon: int) -> np.ndarray:
    return np.convolve(rng.normal(size=n + horizon), np.ones(horizon) / np.sqrt(horizon), "valid")[1 : n + 1]


def test_one_step_by_hand() -> None:
    """Horizon 1: the score of row 0 is known at row 1, that of row 1 at row 2."""
    ends = follow(np.array([5.0, -5.0, 0.0]), rate=0.1)
    rates = 0.1 * OUTER
    assert np.array_equal(ends[0], START)
    assert ends[1] == pytest.approx(START + rates * np.array(LEVELS))
    assert ends[2] == pytest.approx(START + rates * np.array(LEVELS) + rates * (np.array(LEVELS) - 1.0))


def test_errors_are_those_of_the_interval_as_it_was_issued() -> None:
    """Horizon 2: row 2's forecast knew score 0 only; its error counts against that end, not against the newest."""
    score = np.array([5.0, 5.0, START[3] + 0.01, 5.0, 5.0])
    ends = follow(score, horizon=2, rate=0.1)
    step = 0.15 * 0.95
    assert ends[2, 3] == pytest.approx(START[3] + step)
    assert ends[3, 3] == pytest.approx(START[3] + 2 * step)
    # Score 2 missed nothing by the end issued at row 2 (one step up), so the end comes down.
    assert ends[4, 3] == pytest.approx(START[3] + 2 * step - 0.15 * 0.05)


@pytest.mark.parametrize("horizon", [1, 7])
def test_a_row_reads_its_window_and_nothing_else(horizon: int) -> None:
    """The planted fault: everything outside is replaced, once before the window and once after it."""
    rng = np.random.default_rng(0)
    score, u, t, memory = rng.normal(size=400), rng.uniform(-1, 1, size=400), 300, 100
    row = follow(score, horizon, memory=memory, lean=0.02, at=u)[t]
    first, last = t - horizon - memory + 1, t - horizon
    outside = score.copy()
    outside[:first], outside[last + 1 :] = 9.0, -9.0
    assert np.array_equal(follow(outside, horizon, memory=memory, lean=0.02, at=u)[t], row)
    for edge in (first, last):
        inside = score.copy()
        inside[edge] = 9.0 if score[edge] < 0 else -9.0
        assert not np.array_equal(follow(inside, horizon, memory=memory, lean=0.02, at=u)[t], row)


def test_live_is_batch_to_the_bit() -> None:
    rng = np.random.default_rng(1)
    score, u = rng.normal(size=700), rng.uniform(-1.5, 1.5, size=700)
    score[rng.random(700) < 0.1] = np.nan
    whole = follow(score, 5, memory=200, lean=0.01, at=u)
    for t in (204, 300, 699):
        window = slice(t - 204, t + 1)
        live = follow(score[window], 5, first=204, memory=200, lean=0.01, at=u[window])
        assert np.array_equal(live[0], whole[t])


def test_without_scores_the_ends_stay() -> None:
    assert np.array_equal(follow(np.full(50, np.nan)), np.tile(START, (50, 1)))
    assert follow(np.empty(0)).shape == (0, 4)


@pytest.mark.parametrize(("horizon", "noise"), [(1, 0.015), (15, 0.03)])
def test_coverage_holds_when_the_spread_doubles(horizon: int, noise: float) -> None:
    """The planted fault is the fixed interval: it covers 80 % before the change and about half after it."""
    rng = np.random.default_rng(2)
    score = overlapping(rng, 12_000, horizon)
    score[6000:] *= 2.0
    ends = follow(score, horizon, memory=adaptation_memory(horizon), rate=adaptation_rate(horizon))
    rows = slice(7000, None)
    for low, high, level in ((0, 3, 0.9), (1, 2, 0.8)):
        held = np.mean((ends[rows, low] <= score[rows]) & (score[rows] <= ends[rows, high]))
        fixed = np.mean((START[low] <= score[rows]) & (score[rows] <= START[high]))
        assert held == pytest.approx(level, abs=noise)
        assert fixed < level - 0.15


def test_the_slope_evens_out_calm_and_wild_bars() -> None:
    rng = np.random.default_rng(3)
    u = np.clip(np.repeat(rng.normal(size=600), 20), -1.5, 1.5)
    score = rng.normal(size=12_000) * np.exp(0.4 * u)  # the scale understates the wild bars
    gaps = {}
    for lean in (0.0, lean_rate(1)):
        ends = follow(score, 1, memory=adaptation_memory(1), lean=lean, at=u)[3000:]
        inside = (ends[:, 1] <= score[3000:]) & (score[3000:] <= ends[:, 2])
        gaps[lean] = abs(inside[u[3000:] > 0.5].mean() - inside[u[3000:] < -0.5].mean())
    assert gaps[0.0] > 0.15
    assert gaps[lean_rate(1)] < 0.04


def test_ends_never_cross() -> None:
    rng = np.random.default_rng(4)
    ends = follow(rng.normal(size=2000) * 0.01, rate=0.5)
    assert np.all(np.diff(ends, axis=1) >= 0)
