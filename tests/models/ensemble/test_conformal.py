"""Intervals that follow the outcomes: what they may know, how long they remember, that they cover, whom they trust."""

import numpy as np
import pytest

from mlkit.models.ensemble.conformal import (
    BARS_PER_BLOCK,
    BOUND_LEVELS,
    LOOKBACK,
    MAX_GAP,
    NORMAL_LOSS,
    STEP_FACTORS,
    adaptation_rate,
    adaptive_bounds,
    learning_rate,
    make_experts,
    slope_rate,
)
from mlkit.models.ensemble.experts import RATE_FACTORS

START = np.array([-1.645, -1.282, 1.282, 1.645])  # of a standard normal score


def follow(outcome: np.ndarray, horizon: int = 1, first: int = 0, **options: object) -> np.ndarray:
    """One expert with scale 1, unless ``scales`` says otherwise."""
    rules = {"lookback": 500, "rate": 0.02, "lean": 0.0, "learning": 0.1} | options
    log_scale = rules.pop("at", np.zeros(len(outcome)))
    scales = np.asarray(rules.pop("scales", np.ones((len(outcome), 1))))
    count = scales.shape[1]
    losses = rules.pop("losses", np.zeros((count, 4)))
    block = rules.pop("block", np.arange(len(outcome)))
    start = np.tile(rules.pop("start", START), (count, 1))
    rate, lean = (np.broadcast_to(np.asarray(rules[name], dtype=float), count) for name in ("rate", "lean"))
    experts = make_experts(start, losses, rate, lean, rules["learning"], horizon, rules["lookback"])
    return adaptive_bounds(outcome, scales, log_scale, experts, block, first)


def overlapping(rng: np.random.Generator, n: int, horizon: int) -> np.ndarray:
    return np.convolve(rng.normal(size=n + horizon), np.ones(horizon) / np.sqrt(horizon), "valid")[1 : n + 1]


def panel(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes, three experts' scales and a log scale, a tenth of the rows without an outcome."""
    rng = np.random.default_rng(seed)
    scales = np.exp(0.3 * rng.normal(size=(n, 3)))
    outcome = scales[:, 0] * rng.normal(size=n)
    outcome[rng.random(n) < 0.1] = np.nan
    return outcome, scales, rng.uniform(-1.5, 1.5, size=n)


def test_one_step_by_hand() -> None:
    """Horizon 1: the score of row 0 is known at row 1, that of row 1 at row 2."""
    ends = follow(np.array([5.0, -5.0, 0.0]), rate=0.1)
    rates = 0.1 * STEP_FACTORS
    assert np.array_equal(ends[0], START)
    assert ends[1] == pytest.approx(START + rates * np.array(BOUND_LEVELS))
    assert ends[2] == pytest.approx(START + rates * np.array(BOUND_LEVELS) + rates * (np.array(BOUND_LEVELS) - 1.0))


def test_errors_are_those_of_the_interval_as_it_was_issued() -> None:
    """Horizon 2: row 2's forecast knew score 0 only; its error counts against that end, not against the newest."""
    score = np.array([5.0, 5.0, START[3] + 0.01, 5.0, 5.0])
    ends = follow(score, horizon=2, rate=0.1)
    step = 0.15 * 0.95
    assert ends[2, 3] == pytest.approx(START[3] + step)
    assert ends[3, 3] == pytest.approx(START[3] + 2 * step)
    # Score 2 missed nothing by the end issued at row 2 (one step up), so the end comes down.
    assert ends[4, 3] == pytest.approx(START[3] + 2 * step - 0.15 * 0.05)


def test_weights_by_hand() -> None:
    """Experts that stand still: the weights are those of the losses of the outcomes known, in one unit."""
    outcome, scales = np.array([0.5, -4.0, 1.0]), np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 3.0], [1.5, 1.5, 2.0]])
    losses = np.array([[0.0] * 4, [2.0] * 4, [1.0] * 4])
    ends = follow(outcome, rate=0.0, scales=scales, losses=losses, learning=0.3)
    level = np.array(BOUND_LEVELS)
    cost = losses.copy()
    for row in range(3):
        weight = np.exp(-0.3 * cost)
        assert ends[row] == pytest.approx((weight * scales[row][:, None] * START).sum(axis=0) / weight.sum(axis=0))
        apart = outcome[row] - scales[row][:, None] * START
        loss = np.maximum(level * apart, (level - 1.0) * apart)
        cost += loss / np.sqrt(scales[row, 0] * scales[row, 2]) / NORMAL_LOSS


@pytest.mark.parametrize("horizon", [1, 7])
def test_a_row_reads_its_window_and_nothing_else(horizon: int) -> None:
    """The planted fault: everything outside is replaced, once before the window and once after it.

    With three experts it is the weights too that must not see the row's own outcome, nor one not yet known.
    """
    outcome, scales, u = panel(400)
    outcome = np.nan_to_num(outcome, nan=0.3)
    for experts, rate in ((1, 0.02), (3, 0.02), (3, 0.0)):
        t, lookback, of = 300, 100, scales[:, :experts]
        row = follow(outcome, horizon, lookback=lookback, rate=rate, lean=rate, at=u, scales=of)[t]
        first, last = t - horizon - lookback + 1, t - horizon
        outside = outcome.copy()
        outside[:first], outside[last + 1 :] = 9.0, -9.0
        assert np.array_equal(
            follow(outside, horizon, lookback=lookback, rate=rate, lean=rate, at=u, scales=of)[t], row
        )
        for edge in (first, last):
            inside = outcome.copy()
            inside[edge] = 9.0 if outcome[edge] < 0 else -9.0
            changed = follow(inside, horizon, lookback=lookback, rate=rate, lean=rate, at=u, scales=of)[t]
            assert not np.array_equal(changed, row)


def test_live_is_batch_to_the_bit() -> None:
    outcome, scales, u = panel(700, seed=1)
    scales[:3] = np.nan  # a warm-up
    whole = follow(outcome, 5, lookback=200, lean=0.01, at=u, scales=scales)
    assert np.isnan(whole[:3]).all() and np.isfinite(whole[3:]).all()
    for t in (204, 300, 699):
        window = slice(t - 204, t + 1)
        live = follow(outcome[window], 5, first=204, lookback=200, lean=0.01, at=u[window], scales=scales[window])
        assert np.array_equal(live[0], whole[t])


def test_a_block_starts_anew_and_its_rows_go_on_from_one_another() -> None:
    """The first row of a block is as if every row were one; the last has read the block's outcomes besides."""
    outcome, scales, u = panel(700, seed=1)
    rules = {"horizon": 5, "lean": 0.01, "at": u, "scales": scales}
    block = np.arange(700) // 50
    whole = follow(outcome, lookback=200, block=block, **rules)
    alone = [follow(outcome, lookback=200 + k, **rules) for k in (0, 20, 49)]
    for k, rows in zip((0, 20, 49), alone, strict=True):
        assert np.array_equal(whole[k::50], rows[k::50])
    for t in (300, 349, 699):  # live: with as many rows before it as a block and the memory reach
        window = slice(t - 253, t + 1)
        of = {**rules, "at": u[window], "scales": scales[window], "block": block[window]}
        assert np.array_equal(follow(outcome[window], first=253, lookback=200, **of)[0], whole[t])


def test_without_scores_the_ends_stay() -> None:
    assert np.array_equal(follow(np.full(50, np.nan)), np.tile(START, (50, 1)))
    assert follow(np.empty(0), scales=np.empty((0, 1))).shape == (0, 4)


@pytest.mark.parametrize(("horizon", "noise"), [(1, 0.015), (15, 0.03)])
def test_coverage_holds_when_the_spread_doubles(horizon: int, noise: float) -> None:
    """The planted fault is the fixed interval: it covers 80 % before the change and about half after it."""
    rng = np.random.default_rng(2)
    score = overlapping(rng, 16_000, horizon)
    score[6000:] *= 2.0
    steps, both = adaptation_rate(horizon) * np.array(RATE_FACTORS[:2]), np.ones((16_000, 2))
    rules = {"lookback": LOOKBACK, "block": np.arange(16_000) // BARS_PER_BLOCK, "learning": learning_rate(horizon)}
    ends = follow(score, horizon, rate=steps, scales=both, first=10_000, **rules)
    late = score[10_000:]
    for low, high, level in ((0, 3, 0.9), (1, 2, 0.8)):
        held = np.mean((ends[:, low] <= late) & (late <= ends[:, high]))
        fixed = np.mean((START[low] <= late) & (late <= START[high]))
        assert held == pytest.approx(level, abs=noise)
        assert fixed < level - 0.15


def test_the_slope_evens_out_calm_and_wild_bars() -> None:
    rng = np.random.default_rng(3)
    u = np.clip(np.repeat(rng.normal(size=600), 20), -1.5, 1.5)
    score = rng.normal(size=12_000) * np.exp(0.4 * u)  # the scale understates the wild bars
    gaps = {}
    for lean in (0.0, slope_rate(1)):
        ends = follow(
            score, 1, lookback=LOOKBACK, lean=lean, at=u, first=6000, block=np.arange(12_000) // BARS_PER_BLOCK
        )
        inside = (ends[:, 1] <= score[6000:]) & (score[6000:] <= ends[:, 2])
        gaps[lean] = abs(inside[u[6000:] > 0.5].mean() - inside[u[6000:] < -0.5].mean())
    assert gaps[0.0] > 0.15
    assert gaps[slope_rate(1)] < 0.06


def loss(outcome: np.ndarray, ends: np.ndarray) -> float:
    """Mean quantile loss over the four levels."""
    apart = outcome[:, None] - ends
    return float(np.maximum(np.array(BOUND_LEVELS) * apart, (np.array(BOUND_LEVELS) - 1.0) * apart).mean())


@pytest.mark.parametrize("truth", [0, 1, 2])
def test_the_mixture_costs_what_the_best_expert_would_have(truth: int) -> None:
    rng = np.random.default_rng(4)
    scales = np.exp(0.5 * rng.normal(size=(4000, 3)))
    outcome = scales[:, truth] * rng.normal(size=4000)
    ends = follow(outcome, 1, lookback=LOOKBACK, rate=adaptation_rate(1), scales=scales, learning=learning_rate(1))
    alone = [loss(outcome[500:], (scales[:, [e]] * START)[500:]) for e in range(3)]
    assert min(np.delete(alone, truth)) > 1.05 * alone[truth]
    assert loss(outcome[500:], ends[500:]) < 1.01 * alone[truth]


def test_an_expert_left_behind_for_long_is_back_within_bars() -> None:
    """The planted fault is a first scale that explodes, as after an outage; the second one has been poor for long."""
    rng = np.random.default_rng(5)
    scales = np.ones((3000, 3))
    scales[:2000, 2] = np.exp(rng.normal(size=2000))
    scales[2000:, :2] = 50.0
    losses = np.array([[0.0] * 4, [0.0] * 4, [MAX_GAP / learning_rate(1)] * 4])
    ends = follow(
        rng.normal(size=3000), 1, lookback=LOOKBACK, rate=0.0, scales=scales, learning=learning_rate(1), losses=losses
    )
    width = ends[:, 3] - ends[:, 0]
    assert width[2000] > 100
    assert (width[2100:] < 4.5).all()


def test_a_short_training_leaves_more_to_follow() -> None:
    """The quantiles of few rows are off by luck, and longer steps mend that sooner: less loss and nearer coverage."""
    gaps, losses = {}, {}
    for bars in (800, 8000):
        rows = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            start = np.quantile(rng.normal(size=80), BOUND_LEVELS)  # 800 rows of a horizon of 10 hold about as many
            outcome = rng.normal(size=3000)
            rate = np.full(1, adaptation_rate(1, bars))
            ends = follow(outcome, lookback=LOOKBACK, rate=rate, start=start, block=np.arange(3000) // BARS_PER_BLOCK)
            rows.append((abs(np.mean((ends[:, 0] <= outcome) & (outcome <= ends[:, 3])) - 0.9), loss(outcome, ends)))
        gaps[bars], losses[bars] = np.mean(rows, axis=0)
    assert adaptation_rate(1, 800) == pytest.approx(3 * adaptation_rate(1), rel=0.06)
    assert adaptation_rate(1, 10**6) == adaptation_rate(1)
    assert gaps[800] < 0.8 * gaps[8000]
    assert losses[800] < losses[8000]


def test_ends_never_cross() -> None:
    rng = np.random.default_rng(4)
    ends = follow(rng.normal(size=2000) * 0.01, rate=0.5)
    assert np.all(np.diff(ends, axis=1) >= 0)
