"""Backtest with fills at the next open and costs on both sides, beside buy-and-hold and random entry.

Execution timing and look-ahead
-------------------------------
The signal of bar t is filled at the open of bar t + 1 and closed at the open of bar t + 1 + horizon, never at a
price of bar t: a fill at the close from which the signal is computed is the most common leak. With
horizon 2 and signals ``1 0 0 0 0`` the position over the five opens is ``0 ½ ½ 0 0`` (overlapping tranches)
or ``0 1 1 0 0`` (one position at a time).

Every change of the position pays the fee and the slippage of one side; slippage makes a fill worse than the open in
both directions. Open positions are closed at the last open. Buy-and-hold enters at the second open, exits at the
last and pays the same costs. Positions are shares of equity, reset at each open; costs are charged on changes of the
share, not on its drift in between. A position is held through a gap, and an outage counts as one bar.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from mlkit.errors import ConfigError
from mlkit.evaluation.metrics import aligned

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Account:
    """Returns and costs of one path of positions; arrays are (n,), each value from the open of its bar on."""

    position: FloatArray  # share of equity held from this open to the next
    gross_return: FloatArray  # position times the simple return from this open to the next
    cost: FloatArray  # fees paid at this open, share of equity

    @property
    def net_return(self) -> FloatArray:
        """Return after fees."""
        return self.gross_return - self.cost

    @property
    def equity(self) -> FloatArray:
        """Compounded net value of 1 invested at the first open."""
        return np.asarray(np.cumprod(1.0 + self.net_return), dtype=np.float64)

    @property
    def total_return(self) -> float:
        """Final equity less 1."""
        return float(self.equity[-1] - 1.0)

    @property
    def max_drawdown(self) -> float:
        """Largest loss from a peak of equity, as a share of that peak."""
        equity = np.concatenate([[1.0], self.equity])
        return float(np.max(1.0 - equity / np.maximum.accumulate(equity)))

    @property
    def turnover(self) -> float:
        """Sum of the position changes, in units of equity: 2 for one round trip."""
        return float(np.sum(np.abs(np.diff(self.position, prepend=0.0))))

    def sharpe(self, bars_per_year: float) -> float:
        """Annualised mean over standard deviation of the net bar returns; NaN without variation."""
        net = self.net_return[:-1]
        spread = float(np.std(net, ddof=1)) if len(net) > 1 else 0.0
        return float(np.sqrt(bars_per_year) * np.mean(net) / spread) if spread > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class RandomEntry:
    """Net returns of the same signals at other times: sums over bars, not compounded."""

    net_return: float  # of the strategy
    draws: FloatArray  # of the rotations, (n_rotations,)
    p_value: float  # share of the rotations, the strategy itself included, that earn as much


@dataclass(frozen=True, eq=False)
class Backtest:
    """A strategy beside buy-and-hold over the same bars, with the same fees."""

    strategy: Account
    buy_and_hold: Account
    horizon: int
    cost_bps: float  # fee and slippage of one side
    open_return: FloatArray  # (n,) simple return from each open to the next, 0 for the last
    signal: FloatArray  # (n,) as passed, NaN where there is none
    overlapping: bool

    @property
    def break_even_bps(self) -> float:
        """Cost per side at which the uncompounded net return is zero; NaN if nothing was traded."""
        turnover = self.strategy.turnover
        return float(1e4 * self.strategy.gross_return.sum() / turnover) if turnover > 0 else float("nan")

    def random_entry(self, *, draws: int = 1000, seed: int = 7) -> "RandomEntry":
        """Permutation test of the timing: the same signals at other times.

        From the first to the last bar with a signal, the signals are rotated against the prices: by every number of
        bars, or by ``draws`` random ones if there are more. Each rotation has the same exposure, direction, holding
        times, turnover (up to the positions cut at both ends) and costs, so what the strategy earns beyond the
        rotations is due to timing. The p-value is 1 if the signal never changes.
        """
        known = np.flatnonzero(np.isfinite(self.signal))
        own = float(self.strategy.net_return.sum())
        if not len(known):
            return RandomEntry(own, np.zeros(0), 1.0)
        span = slice(known[0], known[-1] + 1)
        path = np.nan_to_num(self.signal[span], nan=0.0)
        shifts = np.arange(1, len(path))
        if len(shifts) > draws:
            shifts = np.sort(np.random.default_rng(seed).choice(shifts, draws, replace=False))
        net, rotated = np.empty(len(shifts)), np.zeros(len(self.signal))
        for k, shift in enumerate(shifts):
            rotated[span] = np.roll(path, shift)
            position = _positions(rotated, self.horizon, self.overlapping)
            net[k] = _trade(self.open_return, position, self.cost_bps).net_return.sum()
        return RandomEntry(own, net, float(1 + np.sum(net >= own - 1e-9)) / (1 + len(net)))

    def summary(self) -> pd.DataFrame:
        """One row for the strategy, one for buy-and-hold."""
        accounts = {"strategy": self.strategy, "buy and hold": self.buy_and_hold}
        return pd.DataFrame(
            {
                "total return": [a.total_return for a in accounts.values()],
                "gross return (sum)": [float(a.gross_return.sum()) for a in accounts.values()],
                "fees (sum)": [float(a.cost.sum()) for a in accounts.values()],
                "max drawdown": [a.max_drawdown for a in accounts.values()],
                "turnover": [a.turnover for a in accounts.values()],
                "mean position": [float(a.position[:-1].mean()) for a in accounts.values()],
            },
            index=list(accounts),
        )

    def _repr_html_(self) -> str:
        table = self.summary().to_html(float_format="{:.4f}".format)
        costs = f"{self.cost_bps:g} bps a side, break-even {self.break_even_bps:.2f} bps"
        return f"{table}<p>{self.horizon}-bar positions, {costs}</p>"


def backtest(
    open_price: ArrayLike,
    signal: ArrayLike,
    *,
    horizon: int = 1,
    cost_bps: float = 1.0,
    slippage_bps: float = 0.0,
    overlapping: bool = True,
) -> Backtest:
    """Trade a signal at the next open and hold each position for ``horizon`` bars.

    Parameters
    ----------
    open_price : open of each bar, (n,), finite and positive.
    signal : target position in [-1, 1] known at the **close** of each bar, (n,), such as ``np.sign(log_return)``
        of the forecast; NaN is flat.
    horizon : bars a position is held.
    cost_bps : fee per side, basis points of the traded value.
    slippage_bps : difference between fill and open, per side, basis points; 0 if ``cost_bps`` includes it.
    overlapping : True: each bar opens a tranche of ``1 / horizon``. False: only bars 0, horizon, 2 horizon, ... open
        one, of full size.

    Raises
    ------
    ConfigError
        Lengths or indexes differ, fewer than 3 bars, prices not positive, a signal outside [-1, 1], or a negative cost.
    """
    opens, wanted = _checked(open_price, signal, horizon)
    if min(cost_bps, slippage_bps) < 0:
        raise ConfigError(f"backtest: costs must be at least 0, got {cost_bps} and {slippage_bps} bps a side")
    side = cost_bps + slippage_bps
    position = _positions(np.nan_to_num(wanted, nan=0.0), horizon, overlapping)
    always = np.concatenate([[0.0], np.ones(len(opens) - 1)])
    simple = np.append(opens[1:] / opens[:-1] - 1.0, 0.0)
    strategy, held = _trade(simple, position, side), _trade(simple, always, side)
    return Backtest(strategy, held, horizon, side, simple, wanted, overlapping)


def _positions(wanted: FloatArray, horizon: int, overlapping: bool) -> FloatArray:
    """Position from each open on: the signal of the close of t is held from the open of t + 1."""
    if overlapping:
        total = np.cumsum(np.concatenate([np.zeros(horizon), wanted]))
        held = (total[horizon:] - total[:-horizon]) / horizon
    else:
        held = wanted[np.arange(len(wanted)) // horizon * horizon]
    return np.concatenate([[0.0], held[:-1]])


def _trade(simple: FloatArray, position: FloatArray, cost_bps: float) -> Account:
    held = position.copy()
    held[-1] = 0.0  # closed at the last open
    return Account(held, held * simple, 1e-4 * cost_bps * np.abs(np.diff(held, prepend=0.0)))


def _checked(open_price: ArrayLike, signal: ArrayLike, horizon: int) -> tuple[FloatArray, FloatArray]:
    opens, wanted = aligned("backtest", open_price=open_price, signal=signal)
    if opens.ndim != 1 or opens.shape != wanted.shape or len(opens) < 3:
        raise ConfigError(
            f"backtest: open_price and signal must be vectors of one length, at least 3, got {opens.shape}"
            f" and {wanted.shape}"
        )
    if not (np.isfinite(opens) & (opens > 0)).all():
        raise ConfigError("backtest: open prices must be finite and positive; repair the bars first")
    if (np.abs(wanted) > 1).any():
        raise ConfigError("backtest: signals are positions in [-1, 1]; use np.sign(log_return)")
    if horizon < 1:
        raise ConfigError(f"backtest: horizon must be at least 1 bar, got {horizon}")
    return opens, wanted
