"""Simulated markets whose distribution or edge changes at a known bar, to test drift monitors."""

from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from mlkit.errors import ConfigError
from mlkit.market.bars import validate_bars
from mlkit.market.simulate.markets import planted_edge

Change = Literal["none", "volatility", "skill", "tails", "tick", "volume"]
CHANGES: tuple[Change, ...] = get_args(Change)


def regime_change(
    n_bars: int, at: int, change: Change, *, seed: int, strength: float = 0.0, **market: Any
) -> pd.DataFrame:
    """A market (`planted_edge`) of n_bars whose character changes with bar ``at``.

    Parameters
    ----------
    at : first bar of the new regime, 1 to n_bars - 1.
    change : what happens there.
        ``none``: a new stretch of the same market; ``volatility``: twice the volatility; ``skill``: momentum turns into
        reversal, ``-strength``; ``tails``: shocks of 2.5 degrees of freedom instead of 6, of the same variance;
        ``tick``: prices move in steps of one bar's mean move; ``volume``: five times the volume, and its noise
        twice as wide.
    seed, strength, market : of `planted_edge`.

    Returns valid bars (n_bars, 5). Raises ConfigError for an unknown change or a parameter out of range.
    """
    if change not in CHANGES:
        raise ConfigError(f"change {change!r} is unknown; use one of {', '.join(CHANGES)}")
    if not 0 < at < n_bars:
        raise ConfigError(f"at={at!r} is out of range; use 1 to {n_bars - 1}")
    before = planted_edge(at, seed=seed, strength=strength, **market)
    last = float(before["close"].iloc[-1])
    moves = np.abs(np.diff(np.log(before["close"].to_numpy()))).mean() if at > 1 else 1e-3
    changed: dict[str, dict[str, Any]] = {
        "volatility": {"annual_volatility": 2.0 * market.get("annual_volatility", 0.6)},
        "skill": {"strength": -strength},
        "tails": {"tails": 2.5},
        "tick": {"tick": float(moves * last)},
    }
    options = {"strength": strength, **market, "price": last, **changed.get(change, {})}
    after = planted_edge(n_bars - at, seed=seed + 2**32, **options)
    if change == "volume":
        noise = np.exp(np.sqrt(0.75) * np.random.default_rng([seed, 1]).standard_normal(len(after)))
        after["volume"] *= 5.0 * noise
    step = before.index[1] - before.index[0] if at > 1 else after.index[-1] - after.index[-2]
    joined = pd.concat([before, after.set_axis(before.index[-1] + step * np.arange(1, len(after) + 1))])
    joined.index.name = before.index.name
    joined.attrs = dict(before.attrs)
    return validate_bars(joined)
