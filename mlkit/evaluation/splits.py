"""Chronological splits, purged by the time at which a label becomes known."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.errors import ConfigError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WalkForward:
    """Walk-forward cross-validation without look-ahead: train on the past, test on the block that follows.

    Parameters
    ----------
    n_splits : number of test blocks. They are contiguous, of equal size, and end with the last labelled row.
    embargo : bars, or length of time (Timedelta), left out between the last training label and the first test row, on
        top of the purge.
    min_train : labelled rows before the first test block, counted before the purge. Default: ``n // (n_splits + 1)`` of
        the n labelled rows, the size of one test block.
    expanding : True: every fold trains on all earlier rows. False: on the last ``min_train`` of them (rolling).

    Execution timing and look-ahead
    -------------------------------
    Row t is known when bar t closes; its label for horizon h is known when bar ``end = t + h`` closes.
    A train row is kept only if its latest label, over **all** horizons, ends strictly before the first
    test row: ``end < first_test - embargo``. A label that ends on the first test row itself is dropped
    too, because the model must be fitted before that close. A row with any label missing is in
    neither part, so every horizon of a fold is fitted and scored on the same rows.

    Twelve bars with horizons (1, 2): rows 0..9 have both labels, rows 10 and 11 do not.
    With ``WalkForward(n_splits=2, min_train=6)`` the test blocks are (6, 7) and (8, 9).

    ======  ===================  =======  ==============================================
    fold    train                test     dropped from train
    ======  ===================  =======  ==============================================
    0       0 1 2 3              6 7      4 and 5: their labels end at bars 6 and 7
    1       0 1 2 3 4 5          8 9      6 and 7: their labels end at bars 8 and 9
    ======  ===================  =======  ==============================================

    With ``embargo=1`` fold 0 trains on 0 1 2; with ``expanding=False`` fold 1 trains on 2 3 4 5.

    Source: López de Prado, *Advances in Financial Machine Learning* (2018), ch. 7: purging and embargo.
    """

    n_splits: int = 5
    _: KW_ONLY
    embargo: int | timedelta = 0
    min_train: int | None = None
    expanding: bool = True

    def __post_init__(self) -> None:
        _demand(self, "n_splits", self.n_splits, 1)
        if not isinstance(self.embargo, timedelta):
            _demand(self, "embargo", self.embargo, 0)
        elif not self.embargo >= timedelta(0):  # NaT is not either
            raise ConfigError(f"WalkForward: embargo must be at least 0, got {self.embargo}")
        _demand(self, "min_train", 1 if self.min_train is None else self.min_train, 1)

    def split(
        self, X: Any, y: Any = None, groups: Any = None, *, positions: IntArray | None = None
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield ``(train, test)`` row positions, int64, sorted.

        Parameters
        ----------
        X, y : one of them is the frame of ``forward_returns``; or
        groups : label end positions, int64 (n, H), from :func:`label_end_positions`; for scikit-learn, which passes
            plain arrays: ``cross_val_score(..., groups=end)``.
        positions : position of each row's bar time, int64 (n,), in the units of ``groups``, if several markets share
            bar times. Test blocks, the purge and the embargo then count bar times, not rows, and all rows of a time are
            in one block. Default 0..n-1.

        Raises ConfigError: no label end times among the arguments, too few labelled rows, or nothing left after the
        purge.
        """
        end = _find_ends(self, X, y, groups)
        last = end.max(axis=1)
        rows = np.flatnonzero((end >= 0).all(axis=1))
        at = _bar_times("WalkForward", positions, len(end))[rows]
        times = np.unique(at)
        min_train, size = self._layout(len(times))
        for start in range(len(times) - self.n_splits * size, len(times), size):
            first, begin = times[start], times[0 if self.expanding else start - min_train]
            test = rows[(at >= first) & (at <= times[start + size - 1])]
            past = rows[(at >= begin) & (at < first)]
            if isinstance(self.embargo, timedelta):
                before = _first_within(self.embargo, int(first), X, y)
            else:
                before = int(first) - self.embargo
            train = past[last[past] < before]
            if not len(train):
                raise ConfigError(
                    f"WalkForward: no training row is left before row {test[0]} once labels that reach it"
                    f" (embargo {self.embargo}) are purged; raise min_train or pass more bars"
                )
            yield train, test

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds; scikit-learn passes the arguments."""
        return self.n_splits

    def _layout(self, n_rows: int) -> tuple[int, int]:
        """Training rows before the purge, and rows of a test block; the remainder is in the first training part."""
        min_train = n_rows // (self.n_splits + 1) if self.min_train is None else self.min_train
        size = (n_rows - min_train) // self.n_splits
        if size < 1 or min_train < 1:
            least = max(min_train, 1) + self.n_splits
            raise ConfigError(
                f"WalkForward: {self.n_splits} splits after {max(min_train, 1)} training rows need"
                f" {least} rows with every label, got {n_rows}; pass more bars or ask for fewer splits"
            )
        return min_train, size


@dataclass(frozen=True)
class CombinatorialPurged:
    """Combinatorial purged cross-validation: every choice of test groups, joined into paths over the whole history.

    The labelled rows are cut into ``n_groups`` contiguous groups; each split tests on ``n_test_groups`` of
    them and trains on the rest. Every row is tested by ``n_paths`` splits, so that the splits join into
    ``n_paths`` forecasts of the whole history, which give a distribution of the result.

    Parameters
    ----------
    n_groups, n_test_groups : N and k, ``1 <= k < N``; there are C(N, k) splits and C(N - 1, k - 1) paths.
    embargo : bars left out on both sides of a test group, on top of the purge.

    Execution timing and look-ahead
    -------------------------------
    Row t's label covers bars t to ``end``. A train row is kept only if its interval, to the latest end over
    **all** horizons, lies wholly before or wholly after the interval of every test group, ``embargo`` bars
    apart: ``end < first - embargo`` or ``t > last_end + embargo``. Models train on later rows too, so
    this measures how stable a result is; for what it would have earned use ``WalkForward``.

    Eight bars with horizon 1: rows 0..6 have a label. With ``CombinatorialPurged(n_groups=3, n_test_groups=1)``
    the groups are 0-2, 3-4 and 5-6; the split that tests rows 3-4 (bars 3 to 5) trains on rows 0, 1 and 6.

    Source: López de Prado, *Advances in Financial Machine Learning* (2018), ch. 12.
    """

    n_groups: int = 6
    n_test_groups: int = 2
    _: KW_ONLY
    embargo: int = 0

    def __post_init__(self) -> None:
        _demand(self, "n_groups", self.n_groups, 2)
        _demand(self, "n_test_groups", self.n_test_groups, 1)
        _demand(self, "embargo", self.embargo, 0)
        if self.n_test_groups >= self.n_groups:
            raise ConfigError(
                f"CombinatorialPurged: n_test_groups must be below n_groups ({self.n_groups}), got {self.n_test_groups}"
            )

    @property
    def n_paths(self) -> int:
        """Number of paths, each a forecast of the whole history."""
        return comb(self.n_groups - 1, self.n_test_groups - 1)

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield ``(train, test)`` row positions, int64, sorted; arguments and errors as ``WalkForward.split``."""
        end = _find_ends(self, X, y, groups)
        last, blocks = end.max(axis=1), self.groups(end)
        rows = np.concatenate(blocks)
        for chosen in combinations(range(self.n_groups), self.n_test_groups):
            test = np.concatenate([blocks[g] for g in chosen])
            apart = ~np.isin(rows, test)
            for block in (blocks[g] for g in chosen):
                before = last[rows] < block[0] - self.embargo
                apart &= before | (rows > last[block].max() + self.embargo)
            if not apart.any():
                raise ConfigError(
                    f"CombinatorialPurged: no training row is left beside test groups {chosen} once labels that"
                    f" overlap them (embargo {self.embargo}) are purged; pass more bars or ask for fewer groups"
                )
            yield rows[apart], test

    def groups(self, end: IntArray) -> list[IntArray]:
        """The labelled rows of each group, from label end positions (n, H)."""
        rows = np.flatnonzero((_two_dimensional(end) >= 0).all(axis=1))
        if len(rows) < self.n_groups:
            raise ConfigError(
                f"CombinatorialPurged: {self.n_groups} groups need as many rows with every label, got {len(rows)};"
                " pass more bars"
            )
        return np.array_split(rows, self.n_groups)

    def paths(self) -> IntArray:
        """Number of the split that tests each group on each path, (n_paths, n_groups), in the order of ``split``."""
        tested: list[list[int]] = [[] for _ in range(self.n_groups)]
        for number, chosen in enumerate(combinations(range(self.n_groups), self.n_test_groups)):
            for group in chosen:
                tested[group].append(number)
        return np.array(tested, dtype=np.int64).T

    def join(self, forecasts: Sequence[Any], end: IntArray) -> npt.NDArray[np.float64]:
        """Forecasts of each path, (n_paths, n), from one array a split in the order of its ``test``; NaN: no label."""
        blocks, paths = self.groups(end), self.paths()
        joined = np.full((self.n_paths, len(end)), np.nan)
        splits = list(combinations(range(self.n_groups), self.n_test_groups))
        for path, row in zip(joined, paths, strict=True):
            for group, number in enumerate(row):
                start = sum(len(blocks[g]) for g in splits[number] if g < group)
                path[blocks[group]] = np.asarray(forecasts[number])[start : start + len(blocks[group])]
        return joined

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of splits, C(n_groups, n_test_groups); scikit-learn passes the arguments."""
        return comb(self.n_groups, self.n_test_groups)


def label_end_positions(labels: pd.DataFrame) -> IntArray:
    """Row position of the bar at whose close each label is known.

    Parameters
    ----------
    labels : frame of ``forward_returns``: index of bar open times, ``end_time`` columns per horizon.

    Returns: int64 (n, H); -1 where the label does not exist (no end time, or no return).
    """
    ends = labels["end_time"]
    times = pd.DatetimeIndex(labels.index).as_unit("ns").asi8
    columns = [pd.DatetimeIndex(ends[h]).as_unit("ns").asi8 for h in ends.columns]
    # The last bar that opens no later than the end: exact on bars, and not too early if rows were dropped.
    end = np.stack([np.searchsorted(times, c, side="right") - 1 for c in columns], axis=1)
    missing = ends.isna().to_numpy()
    if "log_return" in labels.columns.get_level_values(0):
        missing = missing | labels["log_return"].isna().to_numpy()
    end[missing] = -1
    return end.astype(np.int64, copy=False)


def inner_split(
    end: IntArray, fractions: tuple[float, float, float] = (0.7, 0.15, 0.15), *, positions: IntArray | None = None
) -> tuple[IntArray, IntArray, IntArray]:
    """Cut training rows into chronological fit, validation and calibration parts, purged between parts.

    Parameters
    ----------
    end : label end positions, int64 (n, H), -1 where none; rows in time order.
    fractions : shares of the bar times at which a row has every label; they sum to 1.
    positions : bar position of each row, int64 (n,), in the units of ``end``. Default 0..n-1: the rows are all the
        bars. Required for a subset of bars (one walk-forward fold) and for rows of several markets, which share
        positions.

    Returns: row numbers, int64 and sorted. No label of a part ends at or after the first bar of the next part.
    Raises ConfigError: fractions that are not three positive shares of 1, rows out of time order, or an empty part.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(f"inner_split: fractions must be three positive shares of 1, got {fractions}")
    end = _two_dimensional(end)
    rows = np.flatnonzero((end >= 0).all(axis=1))
    where = _bar_times("inner_split", positions, len(end))
    last, times = end.max(axis=1), distinct(where[rows])
    cuts = np.round(np.cumsum(fractions[:2]) * len(times)).astype(int)
    first = np.append(times, np.iinfo(np.int64).max)[cuts]  # bar times at which the later parts begin
    fit, valid, calibration = np.split(rows, np.searchsorted(where[rows], first))
    if len(valid) and len(calibration):
        fit = fit[last[fit] < where[valid[0]]]
        valid = valid[last[valid] < where[calibration[0]]]
    if not (len(fit) and len(valid) and len(calibration)):
        raise ConfigError(
            f"inner_split: {len(rows)} labelled rows leave an empty part for fractions {fractions} once"
            " labels that reach the next part are purged; pass more bars or shorter horizons"
        )
    return fit, valid, calibration


def distinct(ordered: IntArray) -> IntArray:
    """Distinct values of a sorted array: ``np.unique`` without the sort."""
    return ordered[np.diff(ordered, prepend=ordered[:1] - 1) > 0]


def _bar_times(caller: str, positions: IntArray | None, n: int) -> IntArray:
    """Bar position of each of n rows, by default 0..n-1; ConfigError if they are out of order."""
    if positions is None:
        return np.arange(n)
    where = np.asarray(positions, dtype=np.int64)
    if where.shape != (n,) or np.any(np.diff(where) < 0):
        raise ConfigError(f"{caller}: positions must be one a row, in time order; do not shuffle the rows")
    return where


def _demand(splitter: object, name: str, value: Any, least: int) -> None:
    """ConfigError unless a parameter is a whole number; 5.0 is kept as 5."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
        object.__setattr__(splitter, name, value)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{type(splitter).__name__}: {name} must be a whole number, got {value!r}")
    if value < least:
        raise ConfigError(f"{type(splitter).__name__}: {name} must be at least {least}, got {value}")


def _first_within(embargo: timedelta, first: int, X: Any, y: Any) -> int:
    """Position of the first bar that opens within ``embargo`` before that at position ``first``."""
    for labels in (X, y):
        if isinstance(labels, pd.DataFrame) and isinstance(labels.index, pd.DatetimeIndex):
            return int(labels.index.searchsorted(labels.index[first] - embargo))
    raise ConfigError("WalkForward: an embargo in time needs the forward_returns frame; pass it, or a number of bars")


def _find_ends(splitter: object, X: Any, y: Any, groups: Any) -> IntArray:
    """Label end positions from the first argument that has them."""
    for labels in (X, y):
        if isinstance(labels, pd.DataFrame) and "end_time" in labels.columns.get_level_values(0):
            for other in (X, y):
                if isinstance(other, pd.Series | pd.DataFrame) and not other.index.equals(labels.index):
                    raise ConfigError(
                        f"{type(splitter).__name__}.split: X and y have different rows; align them, as "
                        "X.reindex(y.index)"
                    )
            return label_end_positions(labels)
    where = f"{type(splitter).__name__}.split"
    if groups is None:
        raise ConfigError(
            f"{where}: no label end times, so labels that overlap the test block cannot be purged;"
            " pass the forward_returns frame, or groups=label_end_positions(frame)"
        )
    end = np.asarray(groups)
    if not np.issubdtype(end.dtype, np.integer):
        raise ConfigError(f"{where}: groups must be integer label end positions, got {end.dtype}")
    return _two_dimensional(end)


def _two_dimensional(end: npt.NDArray[Any]) -> IntArray:
    """Label end positions with one column a horizon, for a vector too."""
    end = np.asarray(end, dtype=np.int64)
    return end[:, None] if end.ndim == 1 else end
