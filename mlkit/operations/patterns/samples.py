"""Simulated windows for the pattern CNN: natural, rare and near misses, labelled by the rules."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlkit.features import PATTERNS, STANDARDS, pattern_flags
from mlkit.market.simulate import pattern_factory
from mlkit.models.patterns import LENGTH, Float32Array, Float64Array, scale_windows, windows

BoolArray = NDArray[np.bool_]

N_OUTPUTS = len(STANDARDS) * len(PATTERNS)  # both standards are trained at once and share the blocks
SERIES = 2_000  # bars of one simulated market
TICK = 0.01  # of every simulated market
RECENT = 4  # bars a mutation touches: the longest pattern, and the bar before it


def _bars(seed: tuple[int, ...], n_bars: int, planted: bool) -> Iterator[Float64Array]:
    """Simulated markets, (2000, 5) each, ``n_bars`` bars in all."""
    for child in np.random.SeedSequence(seed).generate_state(-(-n_bars // SERIES)):
        extra: dict[str, Any] = {} if planted else {"plant_rate": 0.0}
        yield pattern_factory(SERIES, seed=int(child), **extra).to_numpy()


def rule_labels(ohlcv: Float64Array) -> BoolArray:
    """Patterns at every bar, (n_bars, 2 n_patterns): first by the classic rules, then by the continuous ones."""
    o, h, low, c = np.ascontiguousarray(ohlcv[:, :4].T)
    return np.concatenate([pattern_flags(o, h, low, c, standard) != 0 for standard in STANDARDS], axis=1)


def window_labels(raw: Float64Array) -> BoolArray:
    """Patterns at the last bar of each window (n, 20, 5); no rule has a longer lookback than a window."""
    return rule_labels(raw.reshape(-1, raw.shape[2]))[LENGTH - 1 :: LENGTH]


def natural_windows(seed: tuple[int, ...], n_bars: int) -> tuple[Float32Array, BoolArray]:
    """All windows of simulated markets without planted shapes, and their labels: patterns occur at natural rates."""
    parts = [(windows(bars), rule_labels(bars)[LENGTH - 1 :]) for bars in _bars(seed, n_bars, False)]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def mutate(raw: Float64Array, rng: np.random.Generator) -> Float64Array:
    """Near misses: copies of windows (n, 20, 5) whose last bars are changed a little and stay valid.

    Each window gets one or more of: a nudge of some prices by a share of the mean range (0.1 % to 30 %), one price
    snapped to another or one tick beside it, the last bars stretched against those before, every open set to the
    previous close or a tick beside it, prices rounded to a coarser tick.
    """
    out = raw.copy()
    n = len(out)
    prices, recent = out[:, :, :4], out[:, -RECENT:, :4]
    scale = (out[:, :, 1] - out[:, :, 2]).mean(axis=1)[:, None, None]  # [n, 1, 1]
    scale = np.maximum(scale, 1e-9 * out[:, -1:, 3:4])

    pick = rng.random((n, 1, 1)) < 0.3  # stretch
    middle = recent[:, :1, :1]
    recent[:] = np.where(pick, middle + (recent - middle) * np.exp(rng.normal(0.0, 0.5, (n, 1, 1))), recent)

    size = scale * 10.0 ** rng.uniform(-3.0, -0.5, (n, 1, 1))  # nudge
    hit = (rng.random((n, 1, 1)) < 0.6) & (rng.random(recent.shape) < rng.uniform(0.1, 1.0, (n, 1, 1)))
    recent += hit * size * rng.standard_normal(recent.shape)

    row = np.flatnonzero(rng.random(n) < 0.5)  # snap
    flat = recent.reshape(n, 4 * RECENT).copy()
    to, source = rng.integers(4, 4 * RECENT, row.size), rng.integers(0, 4 * RECENT, row.size)
    beside = rng.choice([-1.0, 0.0, 0.0, 1.0], row.size) * 10.0 ** rng.uniform(-4.5, -1.0, row.size)
    flat[row, to] = flat[row, source] + beside * scale[row, 0, 0]
    recent[:] = flat.reshape(recent.shape)

    joined = rng.random(n) < 0.25  # a market without closes: opens at the previous close or a tick beside it
    ticks = scale[:, 0] * 10.0 ** rng.uniform(-5.0, -1.0, (n, 1)) * rng.integers(0, 2, (n, 1))
    opens = out[:, :-1, 3] + ticks * rng.integers(-1, 2, (n, LENGTH - 1))
    out[joined, 1:, 0] = opens[joined]

    coarse = rng.random(n) < 0.3
    tick = scale[coarse] * 10.0 ** rng.uniform(-2.0, 0.0, (int(coarse.sum()), 1, 1))
    prices[coarse] = np.round(prices[coarse] / tick) * tick
    out[:, :, 1] = prices.max(axis=2)
    out[:, :, 2] = prices.min(axis=2)
    return out


def half_tick(ohlcv: Float64Array, tick: float, rng: np.random.Generator) -> Float64Array:
    """The same bars (..., 5) with every price moved by up to half a tick, still valid."""
    out = ohlcv.copy()
    prices = out[..., :4]
    prices += tick * rng.uniform(-0.5, 0.5, prices.shape)
    out[..., 1], out[..., 2] = prices.max(axis=-1), prices.min(axis=-1)
    return out


def any_volume(raw: Float64Array, rng: np.random.Generator) -> Float64Array:
    """The same windows with volumes of any variance, some zero, since patterns do not depend on volume."""
    n = len(raw)
    rough = np.exp(rng.standard_normal((n, LENGTH)) * rng.uniform(0.0, 2.0, (n, 1)))
    raw[:, :, 4] = np.where(rng.random((n, 1)) < 0.5, raw[:, :, 4], rough)
    raw[:, :, 4] *= rng.random((n, LENGTH)) >= np.where(rng.random((n, 1)) < 0.1, rng.random((n, 1)), 0.0)
    return raw


def training_windows(
    seed: tuple[int, ...], n: int, natural: float = 0.35, rare: float = 0.25, *, jitter: bool = False
) -> tuple[Float32Array, BoolArray]:
    """New windows (n, 20, 5) float32 and their labels (n, 2 n_patterns) bool, in random order.

    ``natural`` and ``rare`` are the shares drawn evenly and by the rarity of their patterns; the rest is mutated.
    ``jitter`` moves the prices of windows that are not mutated by up to half a tick and keeps their labels: the network
    then learns the rules without the noise of the last digit. It is steadier than the rules, and near a threshold its
    probability is the share of such moves for which the rule holds.
    """
    rng = np.random.default_rng(np.random.SeedSequence((*seed, 1)))
    raw: list[Float64Array] = []
    labels: list[BoolArray] = []
    for bars in _bars(seed, n, True):
        raw.append(sliding_window_view(bars, LENGTH, axis=0).transpose(0, 2, 1))
        labels.append(rule_labels(bars)[LENGTH - 1 :])
    y = np.concatenate(labels)
    offsets = np.cumsum([0, *(len(r) for r in raw)])
    weight = (y / np.maximum(y.sum(axis=0), 30)).sum(axis=1) + 0.3 / len(y)  # each pattern equally often
    n_rare, n_near = int(rare * n), n - int(natural * n) - int(rare * n)
    rows = np.concatenate(
        [
            rng.choice(len(y), n - n_rare - n_near, replace=True),
            rng.choice(len(y), n_rare + n_near, p=weight / weight.sum()),
        ]
    )

    chosen = np.empty((n, LENGTH, 5))
    which = np.searchsorted(offsets, rows, side="right") - 1
    for i in np.unique(which):
        at = which == i
        chosen[at] = raw[i][rows[at] - offsets[i]]
    if jitter:
        chosen[: n - n_near] = half_tick(chosen[: n - n_near], TICK, rng)
    chosen[n - n_near :] = mutate(chosen[n - n_near :], rng)
    target = np.concatenate([y[rows[: n - n_near]], window_labels(chosen[n - n_near :])])
    x = scale_windows(any_volume(chosen, rng))
    order = rng.permutation(n)
    return x[order], target[order]
