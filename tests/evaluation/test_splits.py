"""Splits: hand-written indices, and the two laws (no overlap, embargo) on arbitrary labels."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, TimeSeriesSplit, cross_val_score

from mlkit.errors import ConfigError
from mlkit.evaluation.splits import CombinatorialPurged, WalkForward, distinct, inner_split, label_end_positions


def label_frame(n: int, horizons: tuple[int, ...], *, unit: str = "ns") -> pd.DataFrame:
    """Labels as ``forward_returns`` lays them out, on n daily bars."""
    index = pd.date_range("2024-01-01", periods=n, freq="D", tz="UTC", name="timestamp").as_unit(unit)
    columns: dict[tuple[str, int], object] = {}
    for h in horizons:
        columns["log_return", h] = np.where(np.arange(n) + h < n, 0.01, np.nan)
    for h in horizons:
        columns["end_time", h] = index.to_series().shift(-h)
    frame = pd.DataFrame(columns, index=index)
    frame.columns = frame.columns.set_names(["label", "horizon"])
    return frame


def as_lists(folds: object) -> list[tuple[list[int], list[int]]]:
    return [(train.tolist(), test.tolist()) for train, test in folds]


def test_worked_example_of_the_docstring() -> None:
    Y = label_frame(12, (1, 2))
    assert as_lists(WalkForward(n_splits=2, min_train=6).split(Y)) == [
        ([0, 1, 2, 3], [6, 7]),
        ([0, 1, 2, 3, 4, 5], [8, 9]),
    ]
    assert as_lists(WalkForward(n_splits=2, min_train=6, embargo=1).split(Y))[0] == ([0, 1, 2], [6, 7])
    assert as_lists(WalkForward(n_splits=2, min_train=6, expanding=False).split(Y))[1] == (
        [2, 3, 4, 5],
        [8, 9],
    )


def test_the_longest_horizon_purges() -> None:
    train, test = next(WalkForward(n_splits=1, min_train=8).split(label_frame(15, (1, 5))))
    assert train.tolist() == [0, 1, 2]  # row 3 ends at bar 8, where the test begins
    assert test.tolist() == [8, 9]


def test_rolling_window_is_min_train_long_whatever_the_remainder() -> None:
    folds = as_lists(WalkForward(n_splits=2, min_train=5, expanding=False).split(label_frame(13, (1,))))
    assert folds == [([1, 2, 3, 4], [6, 7, 8]), ([4, 5, 6, 7], [9, 10, 11])]


def test_test_blocks_are_those_of_sklearn() -> None:
    ours = [test.tolist() for _, test in WalkForward(n_splits=4).split(label_frame(104, (1,)))]
    theirs = [test.tolist() for _, test in TimeSeriesSplit(n_splits=4).split(np.zeros((103, 1)))]
    assert ours == theirs


def test_missing_labels_are_in_neither_part() -> None:
    Y = label_frame(40, (1,))
    Y.loc[Y.index[[3, 30]], ("log_return", 1)] = np.nan
    for train, test in WalkForward(n_splits=3).split(Y):
        assert not {3, 30, 39} & (set(train) | set(test))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_end_positions_on_any_time_unit(unit: str) -> None:
    end = label_end_positions(label_frame(4, (1, 3), unit=unit))
    assert end.dtype == np.int64
    assert end.tolist() == [[1, 3], [2, -1], [3, -1], [-1, -1]]


def test_end_positions_where_rows_were_dropped() -> None:
    Y = label_frame(6, (2,)).drop(label_frame(6, (2,)).index[2])  # the bar at which row 0's label ends
    assert label_end_positions(Y)[:, 0].tolist() == [1, 2, 4, -1, -1]


def uneven_ends(n: int, seed: int) -> np.ndarray:
    """Label end positions of uneven reach, some missing, as outages leave them."""
    rng = np.random.default_rng(seed)
    end = np.arange(n)[:, None] + rng.integers(1, 8, size=(n, 2))
    end[rng.random((n, 2)) < 0.05] = -1
    end[end >= n] = -1
    return end


def touches(end: np.ndarray, train: np.ndarray, test: np.ndarray, embargo: int = 0) -> np.ndarray:
    """Whether the bars that a train label covers come within ``embargo`` bars of those of a contiguous test block."""
    first, last = test.min(), end[test].max()
    return (end[train].max(axis=1) >= first - embargo) & (train <= last + embargo)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(30, 200),
    n_splits=st.integers(1, 6),
    embargo=st.integers(0, 5),
    expanding=st.booleans(),
    min_train=st.none() | st.integers(1, 60),
    seed=st.integers(0, 10_000),
)
def test_no_train_label_overlaps_a_test_label(
    n: int, n_splits: int, embargo: int, expanding: bool, min_train: int | None, seed: int
) -> None:
    end = uneven_ends(n, seed)
    folds = WalkForward(n_splits=n_splits, embargo=embargo, expanding=expanding, min_train=min_train)
    try:
        parts = list(folds.split(np.zeros((n, 1)), groups=end))
    except ConfigError:
        return
    labelled = np.flatnonzero((end >= 0).all(axis=1))
    assert len(parts) == folds.get_n_splits()
    tested = np.concatenate([test for _, test in parts])
    assert tested.tolist() == labelled[-len(tested) :].tolist()  # every row to the last labelled one, once
    first_train = len(labelled) // (n_splits + 1) if min_train is None else min_train
    for train, test in parts:
        held = set(range(test.min(), end[test].max() + 1))  # bars that a test label covers
        assert not any(held & set(range(t, end[t].max() + 1)) for t in train)
        assert end[train].max() + embargo < test.min()
        past = labelled[labelled < test.min()]
        window = past if expanding else past[-first_train:]
        lost = np.setdiff1d(window, train)
        assert set(train) <= set(window)
        assert touches(end, lost, test, embargo).all()  # nothing else is lost


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(30, 160),
    shape=st.sampled_from([(2, 1), (3, 1), (4, 2), (5, 3), (6, 2), (6, 5)]),
    embargo=st.integers(0, 5),
    seed=st.integers(0, 10_000),
)
def test_no_combinatorial_train_label_overlaps_a_test_label(
    n: int, shape: tuple[int, int], embargo: int, seed: int
) -> None:
    end, splitter = uneven_ends(n, seed), CombinatorialPurged(*shape, embargo=embargo)
    try:
        parts = list(splitter.split(np.zeros((n, 1)), groups=end))
    except ConfigError as error:
        assert "no training row is left" in str(error)
        return
    labelled = np.flatnonzero((end >= 0).all(axis=1))
    blocks = splitter.groups(end)
    assert np.concatenate(blocks).tolist() == labelled.tolist()
    assert len(parts) == splitter.get_n_splits()
    for train, test in parts:
        inside = [block for block in blocks if block[0] in test]
        assert test.tolist() == np.concatenate(inside).tolist() and len(inside) == shape[1]
        near = np.any([touches(end, labelled, block, embargo) for block in inside], axis=0)
        assert train.tolist() == labelled[~near].tolist()  # nothing that overlaps, and all that does not
        held = {bar for block in inside for bar in range(block[0], end[block].max() + 1)}
        assert not any(held & set(range(t, end[t].max() + 1)) for t in train)
    counts = np.bincount(np.concatenate([test for _, test in parts]), minlength=n)
    assert set(counts[labelled]) == {splitter.n_paths} and counts.sum() == splitter.n_paths * len(labelled)


def test_combinatorial_worked_example_of_the_docstring() -> None:
    parts = as_lists(CombinatorialPurged(3, 1).split(label_frame(8, (1,))))
    assert parts == [([4, 5, 6], [0, 1, 2]), ([0, 1, 6], [3, 4]), ([0, 1, 2, 3], [5, 6])]


def test_paths_are_those_of_the_book() -> None:
    """López de Prado (2018), figure 12.1: 6 groups, 2 of them tested, 15 splits, 5 paths."""
    splitter = CombinatorialPurged(6, 2)
    assert (splitter.get_n_splits(), splitter.n_paths) == (15, 5)
    assert splitter.paths().tolist() == [
        [0, 0, 1, 2, 3, 4],
        [1, 5, 5, 6, 7, 8],
        [2, 6, 9, 9, 10, 11],
        [3, 7, 10, 12, 12, 13],
        [4, 8, 11, 13, 14, 14],
    ]


def test_joined_paths_cover_every_labelled_row_once() -> None:
    end = uneven_ends(90, 3)
    splitter = CombinatorialPurged(5, 2)
    tests = [test for _, test in splitter.split(np.zeros(90), groups=end)]
    joined = splitter.join([1000.0 * number + test for number, test in enumerate(tests)], end)
    labelled = (end >= 0).all(axis=1)
    assert np.isnan(joined[:, ~labelled]).all()
    assert (joined[:, labelled] % 1000 == np.flatnonzero(labelled)).all()
    blocks = splitter.groups(end)
    made_by = [[int(path[block[0]] // 1000) for block in blocks] for path in joined]
    assert made_by == splitter.paths().tolist()


def test_a_leaky_split_breaks_the_law() -> None:
    """The planted fault: sklearn's split without a gap overlaps, so the property above can fail."""
    end = np.arange(60) + 5
    train, test = next(TimeSeriesSplit(n_splits=3).split(np.zeros((60, 1))))
    assert end[train].max() >= test.min()
    train, test = next(KFold(n_splits=3).split(np.zeros((60, 1))))
    assert touches(end[:, None], train, test).any()


def test_sklearn_takes_it_as_cv() -> None:
    Y = label_frame(60, (1, 5))
    X, y = np.zeros((60, 2)), np.zeros(60)
    cv = WalkForward(n_splits=3)
    scores = cross_val_score(
        DummyRegressor(), X, y, cv=cv, groups=label_end_positions(Y), scoring="neg_mean_absolute_error"
    )
    assert scores.tolist() == [0.0, 0.0, 0.0]
    assert as_lists(cv.split(X, Y)) == as_lists(cv.split(Y))


@pytest.mark.parametrize("cv", [WalkForward(n_splits=3), WalkForward(3, expanding=False), CombinatorialPurged(4, 2)])
def test_sklearn_searches_over_it(cv: WalkForward | CombinatorialPurged) -> None:
    """Grid search scores each candidate on exactly the pairs that the splitter yields."""
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(120, 3)), rng.normal(size=120)
    y, end = X @ [1.0, 0.5, 0.0] + noise, label_end_positions(label_frame(120, (1, 5)))
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 10.0]}, cv=cv, scoring="r2").fit(X, y, groups=end)
    assert search.n_splits_ == cv.get_n_splits()
    for j, (train, test) in enumerate(cv.split(X, y, end)):
        by_hand = Ridge(alpha=10.0).fit(X[train], y[train]).score(X[test], y[test])
        assert search.cv_results_[f"split{j}_test_score"][1] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 1), "n_groups must be at least 2"), ((4, 0), "n_test_groups must be"), ((4, 4), r"below n_groups \(4\)")],
)
def test_combinations_that_are_refused(shape: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CombinatorialPurged(*shape)


def test_combinations_of_too_few_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 groups need as many rows with every label, got 3"):
        next(CombinatorialPurged().split(label_frame(4, (1,))))
    with pytest.raises(ConfigError, match=r"no training row is left beside test groups \(0,\)"):
        next(CombinatorialPurged(2, 1).split(label_frame(60, (40,))))


def test_what_cannot_be_purged_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"CombinatorialPurged\.split: no label end times"):
        next(CombinatorialPurged().split(np.zeros((50, 2))))
    with pytest.raises(ConfigError, match="no label end times"):
        next(WalkForward().split(np.zeros((50, 2))))
    with pytest.raises(ConfigError, match="integer label end positions, got float64"):
        next(WalkForward().split(np.zeros((50, 2)), groups=np.zeros(50)))
    with pytest.raises(ConfigError, match=r"need \d+ rows with every label, got 3"):
        next(WalkForward().split(label_frame(4, (1,))))
    with pytest.raises(ConfigError, match="no training row is left before row"):
        next(WalkForward(n_splits=2, min_train=5).split(label_frame(60, (20,))))


@pytest.mark.parametrize("bad", [{"n_splits": 0}, {"embargo": -1}, {"min_train": 0}])
def test_bad_parameters(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} must be at least"):
        WalkForward(**bad)


def test_inner_split_by_hand() -> None:
    end = np.arange(20)[:, None] + np.array([1, 3])
    end[end >= 20] = -1  # rows 17..19 lack a label: 17 rows remain
    fit, valid, calibration = inner_split(end, (0.5, 0.25, 0.25))
    assert calibration.tolist() == [13, 14, 15, 16]
    assert valid.tolist() == [8, 9]  # 10 ends at 13
    assert fit.tolist() == [0, 1, 2, 3, 4]  # 5 ends at 8


def test_inner_split_of_a_later_window_needs_its_positions() -> None:
    end = np.arange(500, 560)[:, None] + np.array([1, 3])
    parts = inner_split(end, positions=np.arange(500, 560))
    assert [p.tolist() for p in parts] == [p.tolist() for p in inner_split(end - 500)]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(30, 300), h=st.integers(1, 12), seed=st.integers(0, 1000))
def test_inner_parts_never_share_a_bar_of_outcome(n: int, h: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    positions = np.sort(rng.choice(2 * n, size=n, replace=False))
    end = positions[:, None] + np.array([1, h])
    end[rng.random(n) < 0.1] = -1
    try:
        fit, valid, calibration = inner_split(end, positions=positions)
    except ConfigError:
        return
    assert end[fit].max() < positions[valid[0]]
    assert end[valid].max() < positions[calibration[0]]
    assert (end[np.concatenate([fit, valid, calibration])] >= 0).all()


def test_inner_split_refuses() -> None:
    end = np.arange(100)[:, None] + 1
    with pytest.raises(ConfigError, match="time order"):
        inner_split(end, positions=np.arange(100)[::-1])
    with pytest.raises(ConfigError, match="three positive shares of 1"):
        inner_split(end, (0.9, 0.1, 0.1))
    with pytest.raises(ConfigError, match="leave an empty part"):
        inner_split(np.arange(100)[:, None] + 30)


def test_distinct_is_unique_of_an_ordered_array() -> None:
    rng = np.random.default_rng(1)
    for n in (0, 1, 50):
        ordered = np.sort(rng.integers(-5, 20, n))
        assert np.array_equal(distinct(ordered), np.unique(ordered))
