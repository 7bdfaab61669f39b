"""The backtest earns what a pencil says, and the commonest leak shows."""

import numpy as np
import pytest

from mlkit.errors import ConfigError
from mlkit.evaluation.backtesting import backtest

OPENS = np.array([100.0, 100.0, 110.0, 99.0, 99.0, 108.9])


def test_perfect_foresight_earns_the_hand_computed_amount() -> None:
    # Opens to opens: 0, +10 %, -10 %, 0, +10 %. The signal of bar t earns open[t + 1] -> open[t + 2].
    signal = np.array([1.0, -1.0, 0.0, 1.0, 0.0, 0.0])
    free = backtest(OPENS, signal, cost_bps=0.0)
    assert free.strategy.position.tolist() == [0, 1, -1, 0, 1, 0]
    assert free.strategy.total_return == pytest.approx(1.1 * 1.1 * 1.1 - 1, rel=1e-12)
    paid = backtest(OPENS, signal, cost_bps=10.0)
    # Sides at the opens of bars 1..5: 1, 2, 1, 1, 1.
    hand = (1.1 - 0.001) * (1.1 - 0.002) * (1 - 0.001) * (1.1 - 0.001) * (1 - 0.001) - 1
    assert paid.strategy.total_return == pytest.approx(hand, rel=1e-12)
    assert paid.strategy.turnover == 6.0
    assert paid.break_even_bps == pytest.approx(0.3 / 6 * 1e4, rel=1e-12)


def test_buy_and_hold_enters_at_the_second_open_and_pays_twice() -> None:
    held = backtest(OPENS, np.zeros(6), cost_bps=10.0).buy_and_hold
    assert held.total_return == pytest.approx(0.9 * 1.1 * (1.1 - 0.001) * (1 - 0.001) - 1, rel=1e-12)
    assert held.position.tolist() == [0, 1, 1, 1, 1, 0]
    assert held.max_drawdown == pytest.approx(0.1, rel=1e-12)


def test_worked_example_of_the_docstring() -> None:
    signal, opens = [1.0, 0, 0, 0, 0], [1.0, 1, 1, 1, 1]
    assert backtest(opens, signal, horizon=2).strategy.position.tolist() == [0, 0.5, 0.5, 0, 0]
    one = backtest(opens, signal, horizon=2, overlapping=False)
    assert one.strategy.position.tolist() == [0, 1, 1, 0, 0]


def test_tranches_are_the_mean_of_staggered_positions() -> None:
    rng = np.random.default_rng(0)
    signal, h = np.sign(rng.normal(size=50)), 4
    opens = np.exp(np.cumsum(rng.normal(0, 0.01, 50)))
    tranches = backtest(opens, signal, horizon=h).strategy.position
    staggered = []
    for k in range(h):
        only = np.full(50, np.nan)
        only[k::h] = signal[k::h]
        shifted = np.concatenate([only[k:], np.zeros(k)])
        position = backtest(opens, shifted, horizon=h, overlapping=False).strategy.position
        staggered.append(np.concatenate([np.zeros(k), position])[:50])
    assert tranches[:-1] == pytest.approx(np.mean(staggered, axis=0)[:-1], abs=1e-12)


def test_filling_at_the_signals_own_close_is_a_leak_that_shows() -> None:
    """The planted fault: all movement is in the gap close[t] -> open[t + 1], which no one can trade at t."""
    rng = np.random.default_rng(1)
    gap = rng.normal(0, 0.01, 300)
    opens = np.exp(np.cumsum(gap))
    close = opens  # nothing happens inside a bar, so the close of t is the price before the next gap
    signal = np.sign(np.append(opens[1:] / close[:-1] - 1, 0.0))  # foresees the coming gap
    honest = backtest(opens, signal, cost_bps=0.0).strategy.total_return
    leaked_fills = np.concatenate([[close[0]], close[:-1]])  # the fill of bar t + 1 is the close of t
    leaked = backtest(leaked_fills, signal, cost_bps=0.0).strategy.total_return
    assert leaked > 5.0
    assert abs(honest) < 0.5


def test_costs_eat_noise() -> None:
    rng = np.random.default_rng(2)
    opens = np.exp(np.cumsum(rng.normal(0, 0.001, 2000)))
    signal = np.sign(rng.normal(size=2000))
    free, paid = backtest(opens, signal, cost_bps=0.0), backtest(opens, signal, cost_bps=5.0)
    assert paid.strategy.total_return < free.strategy.total_return
    assert paid.break_even_bps == free.break_even_bps < 5.0


def test_nan_is_flat_and_the_table_prints() -> None:
    result = backtest(OPENS, np.full(6, np.nan))
    assert result.strategy.total_return == 0.0
    assert np.isnan(result.break_even_bps)
    assert np.isnan(result.strategy.sharpe(365.0))
    html = result._repr_html_()
    assert "buy and hold" in html
    assert "max drawdown" in html
    up = backtest(OPENS, np.ones(6)).strategy
    assert up.sharpe(4.0) == pytest.approx(2.0 * up.sharpe(1.0))


@pytest.mark.parametrize(
    ("opens", "signal", "horizon", "message"),
    [
        ([1, 1, 1], [0, 0], 1, "one length"),
        ([1, 1], [0, 0], 1, "at least 3"),
        ([1, 0, 1], [0, 0, 0], 1, "finite and positive"),
        ([1, 1, 1], [0, 2, 0], 1, "positions in"),
        ([1, 1, 1], [0, 0, 0], 0, "at least 1 bar"),
    ],
)
def test_bad_input(opens: list[float], signal: list[float], horizon: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backtest(opens, signal, horizon=horizon)


def slow_backtest(opens: np.ndarray, signal: np.ndarray, horizon: int, side: float) -> float:
    """Final equity of one unit, trade by trade: rebalanced at each open, each change paid for."""
    equity, held = 1.0, 0.0
    for k, price in enumerate(opens):
        live = [signal[t] for t in range(max(0, k - horizon), k)]  # tranches of the last `horizon` signals
        wanted = 0.0 if k == len(opens) - 1 else sum(live) / horizon
        following = opens[k + 1] / price - 1 if k + 1 < len(opens) else 0.0
        equity *= 1 + wanted * following - side * abs(wanted - held)
        held = wanted
    return equity - 1


@pytest.mark.parametrize("horizon", [1, 3, 7])
def test_against_a_trade_by_trade_account(horizon: int) -> None:
    rng = np.random.default_rng(horizon)
    opens, signal = np.exp(np.cumsum(rng.normal(0, 0.01, 80))), rng.choice([-1.0, 0.0, 1.0], 80)
    result = backtest(opens, signal, horizon=horizon, cost_bps=2.0, slippage_bps=3.0)
    assert result.strategy.total_return == pytest.approx(slow_backtest(opens, signal, horizon, 5e-4), rel=1e-9)
    assert result.cost_bps == 5.0


def test_slippage_is_a_worse_price() -> None:
    """Ten bps of slippage are ten bps on each fill: buy dearer, sell cheaper; the move in between is second order."""
    signal, opens = np.array([0.0, 1.0, 0.0, 0.0, 0.0]), np.array([100.0, 100.0, 100.0, 101.0, 101.0])
    slipped = backtest(opens, signal, cost_bps=0.0, slippage_bps=10.0).strategy.total_return
    assert slipped == pytest.approx(101 * 0.999 / (100 * 1.001) - 1, abs=2e-5)


def test_random_entry_against_every_rotation_by_hand() -> None:
    rng = np.random.default_rng(3)
    opens, signal = np.exp(np.cumsum(rng.normal(0, 0.01, 60))), rng.choice([-1.0, 0.0, 1.0], 60)
    signal[:4], signal[50:] = np.nan, np.nan  # no forecast there: only the bars between are rotated
    result = backtest(opens, signal, horizon=2, cost_bps=4.0)
    by_hand = []
    for shift in range(46):
        rotated = signal.copy()
        rotated[4:50] = np.roll(signal[4:50], shift)
        by_hand.append(backtest(opens, rotated, horizon=2, cost_bps=4.0).strategy.net_return.sum())
    random = result.random_entry()
    assert random.net_return == pytest.approx(by_hand[0], abs=1e-12)
    assert random.draws == pytest.approx(by_hand[1:], abs=1e-12)
    assert random.p_value == np.mean(np.array(by_hand) >= by_hand[0] - 1e-9)
    few = result.random_entry(draws=10)
    assert len(few.draws) == 10 and set(few.draws) <= set(random.draws)


@pytest.mark.parametrize("horizon", [1, 20])
def test_holding_one_direction_is_no_timing_and_foresight_is(horizon: int) -> None:
    """The planted fault: a market that falls after the last signal made "always long" look like timing."""
    rng = np.random.default_rng(4)
    opens = np.exp(np.cumsum(np.r_[rng.normal(0.001, 0.01, 500), np.full(60, -0.01)]))
    signal = np.r_[np.ones(500), np.full(60, np.nan)]
    held = backtest(opens, signal, horizon=horizon)
    assert held.strategy.total_return > 0.2 and held.random_entry().p_value == 1.0
    moves = np.append(opens[2:] / opens[1:-1] - 1, [0.0, 0.0])
    assert backtest(opens, np.sign(moves)).random_entry().p_value == 1 / 560
    assert backtest(opens, np.full(560, np.nan)).random_entry().p_value == 1.0


def test_random_entry_is_fair() -> None:
    """A signal without information is better than 95 % of the rotations one time in twenty."""
    rng = np.random.default_rng(5)
    p = []
    for _ in range(200):
        opens = np.exp(np.cumsum(rng.standard_t(5, 200) * 0.01))
        signal = np.sign(np.convolve(rng.normal(size=210), np.ones(11), "valid"))
        p.append(backtest(opens, signal, horizon=3).random_entry().p_value)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


def test_negative_costs_are_refused() -> None:
    with pytest.raises(ConfigError, match="costs must be at least 0"):
        backtest(OPENS, np.zeros(6), slippage_bps=-1.0)
