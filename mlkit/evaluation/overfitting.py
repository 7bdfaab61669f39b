"""Probability of backtest overfitting (PBO) and Hansen's SPA test, for the best of several strategies.

Both take the net bar returns of every strategy of the selection, (n, N).
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import ArrayLike

from mlkit.errors import ConfigError
from mlkit.evaluation.metrics import aligned

FloatArray = npt.NDArray[np.float64]
_CHUNK = 2048  # splits computed at once


@dataclass(frozen=True, eq=False)
class Overfitting:
    """Out-of-sample performance of the strategy that is best in sample, over all splits."""

    probability: float  # share of the splits in which the best in sample is below the median out of sample
    logits: FloatArray  # (n_splits,) log odds of its relative rank out of sample
    slope: float  # of its Sharpe ratio out of sample on that in sample: negative if luck is selected
    loss: float  # share of the splits in which it loses money out of sample
    strategies: int
    splits: int


def backtest_overfitting(returns: ArrayLike, *, blocks: int = 12) -> Overfitting:
    """Probability of backtest overfitting by combinatorially symmetric cross-validation.

    The bars are cut into ``blocks`` contiguous blocks. Every choice of half of them is in sample: the strategy with
    the best Sharpe ratio there is ranked in the other half, with relative rank ``w = rank / (N + 1)`` among the N,
    ties at their mean. The probability is the share of splits with ``log(w / (1 - w)) <= 0``.

    Parameters
    ----------
    returns : net returns, (n, N), N >= 2; NaN counts as no position, 0.
    blocks : even number of blocks, at least 2, at most 16 (12,870 splits).

    Source: Bailey, Borwein, López de Prado & Zhu (2017), *Journal of Computational Finance* 20.
    """
    r = np.nan_to_num(np.asarray(returns, dtype=np.float64), nan=0.0)
    if r.ndim != 2 or r.shape[1] < 2:
        raise ConfigError(f"backtest_overfitting: returns must be (n, N) of at least 2 strategies, got {r.shape}")
    if blocks % 2 or not 2 <= blocks <= 16 or len(r) < 4 * blocks:
        raise ConfigError(
            f"backtest_overfitting: blocks must be even, 2 to 16, and of at least 4 bars each, got {blocks} for"
            f" {len(r)} bars"
        )
    parts = np.array_split(r, blocks)
    counts = np.array([len(p) for p in parts], dtype=np.float64)
    sums, squares = np.array([p.sum(axis=0) for p in parts]), np.array([(p**2).sum(axis=0) for p in parts])
    chosen = np.zeros((comb(blocks, blocks // 2), blocks))
    for row, half in zip(chosen, combinations(range(blocks), blocks // 2), strict=True):
        row[list(half)] = 1.0
    judged = [_best(chosen[k : k + _CHUNK], counts, sums, squares) for k in range(0, len(chosen), _CHUNK)]
    inside, outside, rank = (np.concatenate(part) for part in zip(*judged, strict=True))
    share = rank / (r.shape[1] + 1)
    logits = np.log(share / (1.0 - share))
    spread = inside - inside.mean()
    power = float(spread @ spread)
    return Overfitting(
        probability=float(np.mean(logits <= 0.0)),
        logits=logits,
        slope=float(spread @ outside) / power if power > 0 else float("nan"),
        loss=float(np.mean(outside < 0.0)),
        strategies=r.shape[1],
        splits=len(chosen),
    )


def _best(
    chosen: FloatArray, counts: FloatArray, sums: FloatArray, squares: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sharpe ratio of the best in sample, the same out of sample, and its rank there, of each split."""
    inside, outside = _sharpe(chosen, counts, sums, squares), _sharpe(1.0 - chosen, counts, sums, squares)
    best = inside.argmax(axis=1)[:, None]
    picked = np.take_along_axis(outside, best, axis=1)
    rank = (outside < picked).sum(axis=1) + 0.5 * ((outside == picked).sum(axis=1) + 1.0)
    return np.take_along_axis(inside, best, axis=1).ravel(), picked.ravel(), rank


def _sharpe(weights: FloatArray, counts: FloatArray, sums: FloatArray, squares: FloatArray) -> FloatArray:
    """Sharpe ratios (splits, N) of the blocks with weight 1; 0 where nothing varies."""
    n = (weights @ counts)[:, None]
    mean = weights @ sums / n
    variance = weights @ squares / n - mean**2
    moves = variance > 1e-12 * (weights @ squares / n)
    return np.divide(mean, np.sqrt(np.where(moves, variance, 1.0)), out=np.zeros_like(mean), where=moves)


def reality_check(
    returns: ArrayLike, *, block: float, benchmark: ArrayLike | None = None, reps: int = 1000, seed: int = 7
) -> "pd.Series[float]":
    """Hansen's test for superior predictive ability (SPA): p-values of "no strategy earns more than the benchmark".

    By the stationary bootstrap. A small p-value means that the best of the family is better than the best of as
    many strategies without skill.

    Parameters
    ----------
    returns : net returns, (n, N); NaN counts as no position, 0. Strategies that never trade are left out.
    block : mean block length in bars, at least the bars a position is held.
    benchmark : net returns of the benchmark, (n,), such as buy-and-hold; staying flat by default. A strategy equal to
        the benchmark is left out.

    Returns: Series: ``lower``, ``consistent`` (the one to quote) and ``upper`` (White's reality check, which loses
    power with poor strategies in the family); all 1 if no strategy is left.
    Sources: White (2000), *Econometrica* 68; Hansen (2005), *J. Business & Economic Statistics* 23
    (``arch.bootstrap.SPA``).
    """
    r, beaten = aligned("reality_check", returns=returns, benchmark=0.0 if benchmark is None else benchmark)
    r, to_beat = np.nan_to_num(r, nan=0.0), np.nan_to_num(np.broadcast_to(beaten, len(r)))
    r = r[:, (r - to_beat[:, None]).std(axis=0) > 0.0]
    names = ["lower", "consistent", "upper"]
    if r.shape[1] == 0:
        return pd.Series(1.0, index=names)
    test = _spa()(-to_beat, -r, block_size=block, reps=reps, bootstrap="stationary", seed=seed)
    test.compute()
    pvalues: pd.Series[float] = test.pvalues.astype(np.float64).loc[names]
    return pvalues


@cache
def _spa() -> Any:
    """``arch.bootstrap.SPA`` with its sum over all n lags as one Fourier transform: n log n steps instead of n squared.

    Made when it is needed, as arch is an optional dependency.
    """
    from arch.bootstrap import SPA
    from scipy.fft import irfft, next_fast_len, rfft

    class FastSPA(SPA):  # type: ignore[misc]
        """The same test with the same numbers."""

        def _compute_variance(self) -> None:
            n, p = self.t, 1.0 / self.block_size
            demeaned = self._loss_diff - self._loss_diff.mean(axis=0)
            size = next_fast_len(2 * n, real=True)
            spectrum = np.abs(rfft(demeaned, size, axis=0)) ** 2
            covariance = irfft(spectrum, size, axis=0)[:n] / n  # of each lag
            lag = np.arange(n)
            # Weights of the stationary bootstrap, Politis and Romano (1994), Lemma 1.
            weight = (1.0 - lag / n) * (1.0 - p) ** lag + lag / n * (1.0 - p) ** (n - lag)
            weight[1:] *= 2.0
            self._loss_diff_var = weight @ covariance

    return FastSPA
