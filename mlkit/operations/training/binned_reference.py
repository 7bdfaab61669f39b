"""Has a distribution moved? PSI and Kolmogorov-Smirnov of a window against a reference of dependent bars.

The textbook p-values assume independent rows. Bars are dependent, so those tests alarm on every market that has
volatility clusters. Here the null distribution is estimated from the reference: the distance of each of its own
windows, of the same length as the new one, from the rest of it. With ``m`` the mean and ``v`` the variance of that
distance over the windows, the distance of a new window over ``m`` is F distributed with ``d = 2 m² / v`` and ``d / 2``
times the number of windows degrees of freedom (Satterthwaite 1946: a scaled chi-square by its moments; F because its
scale is estimated too; half because clusters make windows unequal: measured, see ``README.md`` beside this folder).
``m`` is never below that of independent rows. The p-values of all columns are corrected together by Benjamini and
Yekutieli (2001), which holds under any dependence between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import BundleError
from mlkit.models.ensemble import FloatMatrix, FloatVector

BLOCK_ROWS = 50  # rows that are counted together
MAX_BLOCKS = 10  # of the longest window
MIN_BLOCKS = 2  # of the shortest window
STRETCHES = 64  # of MAX_BLOCKS blocks each that are kept of a long history
BINS = 16  # of equally many reference rows
MIN_WINDOWS = 8  # that the reference must hold, one after the other

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WindowShift:
    """Distance of a window from its reference, column by column."""

    names: tuple[str, ...]
    rows: int  # of the window
    psi: FloatVector  # population stability index
    ks: FloatVector  # largest distance of the distribution functions, at the bins' edges
    usual_psi: FloatVector  # mean PSI of the reference's own windows
    p: FloatVector  # the smaller one of PSI and KS
    adjusted: FloatVector  # p corrected for all columns and both statistics
    farthest: bool  # no window of the reference has as small a corrected p-value among its own

    def table(self) -> pd.DataFrame:
        """One row a column, the least likely first: psi, usual_psi, ks, p, adjusted_p."""
        columns = {"psi": self.psi, "usual_psi": self.usual_psi, "ks": self.ks, "p": self.p}
        frame = pd.DataFrame({**columns, "adjusted_p": self.adjusted}, index=pd.Index(self.names, name="name"))
        return frame.sort_values(["p", "psi"], ascending=[True, False], kind="stable")


@dataclass(frozen=True, eq=False)
class BinnedReference:
    """The reference of some columns: counts in quantile bins, block by block in time order."""

    names: tuple[str, ...]
    edges: FloatMatrix  # (C, BINS - 1), increasing; filled up with inf where values tie
    counts: npt.NDArray[np.uint8]  # (K, C, BINS)
    follows: npt.NDArray[np.bool_]  # (K,) whether a block continues the one before it
    market: npt.NDArray[np.uint16]  # (K,) number of the market that a block is of

    @classmethod
    def fit(cls, names: Sequence[str], values: npt.NDArray[Any], *runs: npt.NDArray[np.int64]) -> Self:
        """Count rows of (n, C) values: all, or ``runs``, those of each market in time order, empty where it has none.

        Of more than ``STRETCHES * MAX_BLOCKS`` blocks, evenly spaced stretches are kept.
        """
        starts, follows, market = _stretches(runs or (np.arange(len(values)),))
        rows = np.array(starts, dtype=np.int64).reshape(-1)
        kept = np.asarray(values[rows], dtype=np.float64)
        edges = np.full((len(names), BINS - 1), np.inf)
        for column in range(len(names) if len(kept) else 0):
            found, times = np.unique(np.quantile(kept[:, column], np.arange(1, BINS) / BINS), return_counts=True)
            # A value that fills a whole bin, such as the 0 of a rare flag, gets a bin of its own.
            found = np.union1d(found, np.nextafter(found[times > 1], np.inf))
            edges[column, : len(found)] = found
        counts = _count(kept, edges).astype(np.uint8)
        return cls(tuple(names), edges, counts, np.array(follows, dtype=np.bool_), np.array(market, dtype=np.uint16))

    @classmethod
    def from_vectors(
        cls,
        names: Sequence[str],
        edges: FloatVector,
        counts: npt.NDArray[np.uint8],
        follows: npt.NDArray[np.uint8],
        market: npt.NDArray[np.uint16] | None = None,
    ) -> Self:
        """A reference of stored vectors; BundleError unless they fit the names and each other."""
        columns, blocks = len(names), len(follows)
        if edges.size != columns * (BINS - 1) or counts.size != blocks * columns * BINS:
            raise BundleError(f"{edges.size} edges and {counts.size} counts do not fit {columns} columns")
        if blocks > STRETCHES * MAX_BLOCKS:
            raise BundleError(f"{blocks} blocks are more than {STRETCHES * MAX_BLOCKS}")
        shaped, table = edges.reshape(columns, BINS - 1), counts.reshape(blocks, columns, BINS)
        if np.isnan(shaped).any() or (shaped[:, 1:] < shaped[:, :-1]).any():
            raise BundleError("edges must increase")
        if (table.sum(axis=2, dtype=np.int64) != BLOCK_ROWS).any() or (follows > 1).any():
            raise BundleError(f"every block must count {BLOCK_ROWS} rows")
        market = np.zeros(blocks, dtype=np.uint16) if market is None else market
        if market.size != blocks:
            raise BundleError(f"{market.size} markets do not fit {blocks} blocks")
        return cls(tuple(names), shaped, table, follows.astype(np.bool_), market)

    def of_market(self, number: int) -> "BinnedReference":
        """The blocks of one market alone; all of them where its own are too few to compare with."""
        own = self.market == number
        if own.sum() < MIN_WINDOWS * MIN_BLOCKS:
            return self
        return BinnedReference(self.names, self.edges, self.counts[own], self.follows[own], self.market[own])

    def blocks(self, rows: int) -> int:
        """Blocks of the window that so many new rows allow: 0 where they, or the reference, are too few."""
        most = min(rows // BLOCK_ROWS, MAX_BLOCKS, len(self.counts) // MIN_WINDOWS)
        return most if most >= MIN_BLOCKS else 0

    def compare(self, values: npt.NDArray[Any]) -> WindowShift | None:
        """Compare the newest rows of (n, C) values; None where they, or the reference, are too few."""
        blocks = self.blocks(len(values))
        if not blocks:
            return None
        newest = np.asarray(values[-blocks * BLOCK_ROWS :], dtype=np.float64)
        usual, smallest = self._own_windows(blocks)
        distance = _distances(_count(newest, self.edges).sum(axis=0), self._total)
        p = self._p_values(distance, usual.mean(axis=1), usual.var(axis=1), blocks)
        adjusted = _adjust(p)
        return WindowShift(
            names=self.names,
            rows=blocks * BLOCK_ROWS,
            psi=distance[1],
            ks=np.sqrt(distance[0]),
            usual_psi=usual.mean(axis=1)[1],
            p=p.min(axis=0),
            adjusted=adjusted.min(axis=0),
            farthest=bool((smallest > adjusted.min()).all()),
        )

    @cached_property
    def _total(self) -> Counts:
        return np.asarray(self.counts.sum(axis=0, dtype=np.int64))

    def _own_windows(self, blocks: int) -> tuple[FloatMatrix, FloatVector]:
        """Distance (2, W, C) of each of the reference's own windows of so many blocks from the rest of it.

        And the smallest corrected p-value (W,) of each of them against the windows that do not overlap it.
        """
        sums = np.concatenate([np.zeros_like(self._total)[None], self.counts.cumsum(axis=0, dtype=np.int64)])
        breaks = np.concatenate([[0], (~self.follows).cumsum()])
        first = np.flatnonzero(breaks[blocks:] == breaks[1 : len(breaks) - blocks + 1])  # windows without a gap
        window = sums[first + blocks] - sums[first]
        distance = _distances(window, self._total - window)
        apart = (np.abs(first[:, None] - first) >= blocks).astype(np.float64)
        apart /= apart.sum(axis=1, keepdims=True)
        mean, square = apart @ distance, apart @ distance**2
        return distance, _adjust(self._p_values(distance, mean, square - mean**2, blocks)).min(axis=(0, 2))

    def _p_values(self, distance: FloatMatrix, mean: FloatMatrix, variance: FloatMatrix, blocks: int) -> FloatMatrix:
        """Probability of a distance (2, ..., C) as large, by the F distribution at the head of this module."""
        from scipy.stats import f

        window, rest = blocks * BLOCK_ROWS, (len(self.counts) - blocks) * BLOCK_ROWS
        independent = np.array([np.pi**2 / 12, BINS - 1.0]) * (1 / window + 1 / rest)  # mean of independent rows
        least = independent.reshape(2, *[1] * (distance.ndim - 1))
        freedom = np.clip(2.0 * mean**2 / np.maximum(variance, 1e-300), 1.0, 9.0)
        windows = len(self.counts) / blocks - 1
        return np.asarray(f.sf(distance / np.maximum(mean, least), freedom, np.maximum(0.5 * freedom * windows, 2.5)))


def _stretches(runs: Sequence[npt.NDArray[np.int64]]) -> tuple[list[npt.NDArray[np.int64]], list[bool], list[int]]:
    """Rows of the blocks that are kept, whether each continues the one before, and the number of its market."""
    blocks, follows, market = [], [], []
    for number, rows in enumerate(runs):
        whole = rows[len(rows) % BLOCK_ROWS :].reshape(-1, BLOCK_ROWS)
        blocks += list(whole)
        follows += [k > 0 for k in range(len(whole))]
        market += [number] * len(whole)
    if len(blocks) <= STRETCHES * MAX_BLOCKS:
        return blocks, follows, market
    first = np.linspace(0, len(blocks) - MAX_BLOCKS, STRETCHES).astype(int)
    kept = [(start + k, follows[start + k] and k > 0) for start in first for k in range(MAX_BLOCKS)]
    return [blocks[k] for k, _ in kept], [joined for _, joined in kept], [market[k] for k, _ in kept]


def _count(values: FloatMatrix, edges: FloatMatrix) -> Counts:
    """Rows in each bin, block by block: (n / BLOCK_ROWS, C, BINS)."""
    blocks, columns = len(values) // BLOCK_ROWS, len(edges)
    counts = np.zeros((blocks, columns, BINS), dtype=np.int64)
    block = np.repeat(np.arange(blocks), BLOCK_ROWS)
    for column in range(columns):
        bins = np.searchsorted(edges[column], values[:, column], side="right")
        counts[:, column] = np.bincount(block * BINS + bins, minlength=blocks * BINS).reshape(blocks, BINS)
    return counts


def _distances(window: Counts, rest: Counts) -> FloatMatrix:
    """Squared KS distance and PSI, (2, ..., C), of counts (..., C, BINS); half a row is added to every bin for PSI."""
    share = [np.cumsum(c, axis=-1) / c.sum(axis=-1, keepdims=True) for c in (window, rest)]
    ks = np.abs(share[0] - share[1]).max(axis=-1)
    p, q = ((c + 0.5) / (c + 0.5).sum(axis=-1, keepdims=True) for c in (window, rest))
    psi = ((p - q) * np.log(p / q)).sum(axis=-1)
    return np.stack([ks**2, psi])


def _adjust(p: FloatMatrix) -> FloatMatrix:
    """P-values (2, ..., C) corrected by Benjamini and Yekutieli over both statistics and all columns."""
    from scipy.stats import false_discovery_control

    return np.stack(np.split(false_discovery_control(np.concatenate(p, axis=-1), axis=-1, method="by"), 2, axis=-1))
