"""Planted shapes: where they go, and what they leave alone."""

import numpy as np
import pytest

from mlkit.market.simulate.shapes import PATTERN_SHAPES, Moves, plant_shapes


def flat(n_bars: int = 20_000) -> Moves:
    return Moves(np.zeros(n_bars), np.full(n_bars, 2.0), np.full(n_bars, 7.0), np.full(n_bars, 7.0))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
def test_the_rate_is_the_share_of_bars_replaced(rate: float) -> None:
    moves = flat()
    plant_shapes(moves, np.random.default_rng(1), rate, with_gaps=True)
    assert np.mean(moves.upper != 7.0) == pytest.approx(rate, abs=0.02)


def test_shadows_are_never_negative_and_gaps_only_where_allowed() -> None:
    for with_gaps in (True, False):
        moves = flat()
        plant_shapes(moves, np.random.default_rng(2), 0.5, with_gaps=with_gaps)
        assert min(moves.upper.min(), moves.lower.min()) >= 0
        assert moves.gap.any() == with_gaps


@pytest.mark.parametrize("n_bars", [1, 2, 5, 11])
def test_short_series_hold_what_fits(n_bars: int) -> None:
    for seed in range(20):
        moves = flat(n_bars)
        plant_shapes(moves, np.random.default_rng(seed), 0.9, with_gaps=True)
        assert np.isfinite(moves.range()).all()


def test_mirrored_shapes_are_upside_down() -> None:
    for up, down in (("engulfing_bullish", "engulfing_bearish"), ("morning_star", "evening_star")):
        for (gap, body, upper, lower), mirrored in zip(PATTERN_SHAPES[up], PATTERN_SHAPES[down], strict=True):
            assert mirrored == ((-gap[1], -gap[0]), (-body[1], -body[0]), lower, upper)


def test_tweezers_are_level_within_their_tolerance() -> None:
    name = "tweezer_top"
    (_, _, _, _), (_, _, difference, _) = PATTERN_SHAPES[name]
    moves = flat(2)
    moves.gap[:], moves.body[:] = (0.0, -0.5), (1.0, -1.0)
    moves.upper[:] = (3.0, 0.1)  # the second: by how much its high is above the first
    from mlkit.market.simulate.shapes import _level

    _level(moves, np.array([0]), top=True)
    highs = np.array([1.0 + 3.0, 1.0 - 0.5 + moves.upper[1]])
    assert highs[1] - highs[0] == pytest.approx(0.1)
    assert difference[0] < 0.05 < difference[1]  # true examples and near misses of TA-Lib's "equal"
