"""Has a distribution moved? PSI and Kolmogorov-Smirnov of a window against a reference of dependent bars.

The textbook p-values take rows as independent; bars are not, so they alarm on every market that has volatility
clusters. Here the reference says itself how far a window of the same length usually strays: the distance of each of its
own windows from the rest of it. With ``m`` the mean and ``v`` the variance of that distance over the windows, the
distance of a new window over ``m`` is F distributed with ``d = 2 m² / v`` and ``d / 2`` times the number of windows
degrees of freedom (Satterthwaite 1946: a scaled chi-square by its moments; F since its scale is measured too, and the
half since clusters make windows unequal: measured, see ``README.md`` beside this file). ``m`` is never below that of
independent rows. All columns are judged together by Benjamini and Yekutieli (2001), which holds under any dependence
between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from mlkit.errors import BundleError
from mlkit.models.ensemble import FloatMatrix, FloatVector

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 50  # rows counted together
LONGEST = 10  # blocks of the longest window
SHORTEST = 2  # of the shortest
STRETCHES = 64  # of LONGEST blocks each that are kept of a long history
BINS = 16  # of equally many reference rows
WINDOWS = 8  # that the reference must hold, one after the other

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Panel:
    """The reference of some columns: counts in quantile bins, block by block in time order."""

    names: tuple[str, ...]
    edges: FloatMatrix  # (C, BINS - 1), increasing; what ties leave over is inf
    counts: npt.NDArray[np.uint8]  # (K, C, BINS)
    follows: npt.NDArray[np.bool_]  # (K,) whether a block continues the one before it
    market: npt.NDArray[np.uint16]  # (K,) run that a block is of

    @classmethod
    def fit(cls, names: Sequence[str], values: npt.NDArray[Any], *runs: npt.NDArray[np.int64]) -> Self:
        """Count reference rows.

        Parameters
        ----------
        names : of the C columns
        values : (n, C), finite in the rows that count
        runs : those rows in time order, one run a market, empty where it has none; all of them by default

        Of more than ``STRETCHES * LONGEST`` blocks evenly spaced stretches are kept.
        """
        starts, follows, market = _stretches(runs or (np.arange(len(values)),))
        rows = np.array([start[:BLOCK] for start in starts], dtype=np.int64).reshape(-1)
        kept = np.asarray(values[rows], dtype=np.float64)
        edges = np.full((len(names), BINS - 1), np.inf)
        for column in range(len(names) if len(kept) else 0):
            found = _edges(kept[:, column])
            edges[column, : len(found)] = found
        counts = _count(kept, edges).astype(np.uint8)
        return cls(tuple(names), edges, counts, np.array(follows, dtype=np.bool_), np.array(market, dtype=np.uint16))

    def of_market(self, run: int) -> "Panel":
        """The blocks of one run alone, which others do not blur; all of them where its own are too few to judge by."""
        own = self.market == run
        if own.sum() < WINDOWS * SHORTEST:
            return self
        return Panel(self.names, self.edges, self.counts[own], self.follows[own], self.market[own])

    def blocks(self, rows: int) -> int:
        """Blocks of the window that so many new rows allow: 0 where they, or the reference, are too few."""
        most = min(rows // BLOCK, LONGEST, len(self.counts) // WINDOWS)
        return most if most >= SHORTEST else 0

    def judge(self, values: npt.NDArray[Any]) -> "Comparison | None":
        """Compare the newest rows of (n, C) values; None where they, or the reference, are too few."""
        blocks = self.blocks(len(values))
        if not blocks:
            return None
        newest = np.asarray(values[-blocks * BLOCK :], dtype=np.float64)
        null = self._null(blocks)
        distance = _distances(_count(newest, self.edges).sum(axis=0), self._total)
        p = _p_values(distance, null.mean, null.variance, self._least(blocks), len(self.counts) / blocks - 1)
        adjusted = _adjust(p)
        return Comparison(
            names=self.names,
            rows=blocks * BLOCK,
            psi=distance[1],
            ks=np.sqrt(distance[0]),
            usual_psi=null.mean[1],
            p=p.min(axis=0),
            adjusted=adjusted.min(axis=0),
            farthest=bool((null.smallest > adjusted.min()).all()),
        )

    @cached_property
    def _total(self) -> Counts:
        return np.asarray(self.counts.sum(axis=0, dtype=np.int64))

    def _least(self, blocks: int) -> FloatVector:
        """Mean distance (2, 1) of a window of independent rows."""
        window, rest = blocks * BLOCK, (len(self.counts) - blocks) * BLOCK
        return np.array([[np.pi**2 / 12], [BINS - 1.0]]) * (1 / window + 1 / rest)

    def _null(self, blocks: int) -> "_Null":
        """How far the reference's own windows of so many blocks stray from the rest of it."""
        sums = np.concatenate([np.zeros_like(self._total)[None], self.counts.cumsum(axis=0, dtype=np.int64)])
        breaks = np.concatenate([[0], (~self.follows).cumsum()])
        first = np.flatnonzero(breaks[blocks:] == breaks[1 : len(breaks) - blocks + 1])  # whole windows only
        window = sums[first + blocks] - sums[first]
        distance = _distances(window, self._total - window)  # (2, W, C)
        apart = (np.abs(first[:, None] - first) >= blocks).astype(np.float64)
        apart /= apart.sum(axis=1, keepdims=True)
        mean, square = apart @ distance, apart @ distance**2
        windows = len(self.counts) / blocks - 1
        p = _p_values(distance, mean, square - mean**2, self._least(blocks)[:, None], windows)
        smallest = _adjust(p).min(axis=(0, 2))
        return _Null(distance.mean(axis=1), distance.var(axis=1), smallest)


@dataclass(frozen=True, eq=False)
class _Null:
    mean: FloatMatrix  # (2, C)
    variance: FloatMatrix  # (2, C)
    smallest: FloatVector  # (W,) smallest adjusted p-value of each window against the others


@dataclass(frozen=True, eq=False)
class Comparison:
    """A window against its reference, column by column."""

    names: tuple[str, ...]
    rows: int  # of the window
    psi: FloatVector  # population stability index
    ks: FloatVector  # largest distance of the distribution functions, at the bins' edges
    usual_psi: FloatVector  # its mean over the reference's own windows
    p: FloatVector  # the smaller one of PSI and KS
    adjusted: FloatVector  # for all columns and both statistics
    farthest: bool  # no window of the reference is as unlikely among its own


def comparison_table(found: Comparison | None) -> "pd.DataFrame":
    """One row a column, the least likely first: psi, usual_psi, ks, p, adjusted_p; no row without a comparison."""
    import pandas as pd

    if found is None:
        return pd.DataFrame(columns=["psi", "usual_psi", "ks", "p", "adjusted_p"], index=pd.Index([], name="name"))
    columns = {"psi": found.psi, "usual_psi": found.usual_psi, "ks": found.ks, "p": found.p}
    frame = pd.DataFrame({**columns, "adjusted_p": found.adjusted}, index=pd.Index(found.names, name="name"))
    return frame.sort_values(["p", "psi"], ascending=[True, False], kind="stable")


def _stretches(runs: Sequence[npt.NDArray[np.int64]]) -> tuple[list[npt.NDArray[np.int64]], list[bool], list[int]]:
    """Rows of the blocks that are kept, whether each continues the one before, and which run it is of."""
    blocks, follows, market = [], [], []
    for run, rows in enumerate(runs):
        whole = rows[len(rows) % BLOCK :].reshape(-1, BLOCK)
        blocks += list(whole)
        follows += [k > 0 for k in range(len(whole))]
        market += [run] * len(whole)
    most = STRETCHES * LONGEST
    if len(blocks) <= most:
        return blocks, follows, market
    first = np.linspace(0, len(blocks) - LONGEST, STRETCHES).astype(int)
    kept = [(start + k, follows[start + k] and k > 0) for start in first for k in range(LONGEST)]
    return [blocks[k] for k, _ in kept], [joined for _, joined in kept], [market[k] for k, _ in kept]


def _edges(values: FloatVector) -> FloatVector:
    """At most BINS - 1 edges; a value that fills a whole bin, such as the 0 of a rare flag, gets one of its own."""
    found, times = np.unique(np.quantile(values, np.arange(1, BINS) / BINS), return_counts=True)
    return np.union1d(found, np.nextafter(found[times > 1], np.inf))


def _count(values: FloatMatrix, edges: FloatMatrix) -> Counts:
    """Rows in each bin, block by block: (n / BLOCK, C, BINS)."""
    blocks, columns = len(values) // BLOCK, len(edges)
    counts = np.zeros((blocks, columns, BINS), dtype=np.int64)
    block = np.repeat(np.arange(blocks), BLOCK)
    for column in range(columns):
        place = np.searchsorted(edges[column], values[:, column], side="right")
        counts[:, column] = np.bincount(block * BINS + place, minlength=blocks * BINS).reshape(blocks, BINS)
    return counts


def _distances(window: Counts, rest: Counts) -> FloatMatrix:
    """Squared KS distance and PSI, (2, ..., C), of counts (..., C, BINS); half a row is added to every bin for PSI."""
    share = [np.cumsum(c, axis=-1) / c.sum(axis=-1, keepdims=True) for c in (window, rest)]
    ks = np.abs(share[0] - share[1]).max(axis=-1)
    p, q = ((c + 0.5) / (c + 0.5).sum(axis=-1, keepdims=True) for c in (window, rest))
    psi = ((p - q) * np.log(p / q)).sum(axis=-1)
    return np.stack([ks**2, psi])


def _p_values(
    distance: FloatMatrix, mean: FloatMatrix, variance: FloatMatrix, least: FloatVector, windows: float
) -> FloatMatrix:
    """Probability of a distance as large, by the F distribution at the head of this module."""
    from scipy.stats import f

    freedom = np.clip(2.0 * mean**2 / np.maximum(variance, 1e-300), 1.0, 9.0)
    p = f.sf(distance / np.maximum(mean, least), freedom, np.maximum(0.5 * freedom * windows, 2.5))
    return np.asarray(p)


def _adjust(p: FloatMatrix) -> FloatMatrix:
    """P-values (2, ..., C) adjusted by Benjamini and Yekutieli over both statistics and all columns."""
    flat = np.concatenate([p[0], p[1]], axis=-1)
    tests = flat.shape[-1]
    order = np.argsort(flat, axis=-1)
    harmonic = float(np.sum(1.0 / np.arange(1, tests + 1)))
    raised = np.take_along_axis(flat, order, axis=-1) * tests * harmonic / np.arange(1, tests + 1)
    falling = np.minimum.accumulate(raised[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(flat)
    np.put_along_axis(adjusted, order, np.minimum(falling, 1.0), axis=-1)
    return np.stack([adjusted[..., : tests // 2], adjusted[..., tests // 2 :]])


def panel_from_vectors(
    names: Sequence[str],
    edges: FloatVector,
    counts: npt.NDArray[np.uint8],
    follows: npt.NDArray[np.uint8],
    market: npt.NDArray[np.uint16] | None = None,
) -> Panel:
    """A panel of stored vectors; BundleError unless they fit the names and each other."""
    columns, blocks = len(names), len(follows)
    if edges.size != columns * (BINS - 1) or counts.size != blocks * columns * BINS or blocks > STRETCHES * LONGEST:
        raise BundleError(f"{edges.size} edges and {counts.size} counts do not fit {columns} columns")
    shaped = edges.reshape(columns, BINS - 1)
    if np.isnan(shaped).any() or (shaped[:, 1:] < shaped[:, :-1]).any():
        raise BundleError("edges must increase")
    table = counts.reshape(blocks, columns, BINS)
    if (table.sum(axis=2, dtype=np.int64) != BLOCK).any() or (follows > 1).any():
        raise BundleError(f"every block must count {BLOCK} rows")
    market = np.zeros(blocks, dtype=np.uint16) if market is None else market
    if market.size != blocks:
        raise BundleError(f"{market.size} markets do not fit {blocks} blocks")
    return Panel(tuple(names), shaped, table, follows.astype(np.bool_), market)
