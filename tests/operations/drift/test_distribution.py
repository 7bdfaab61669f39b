"""Distributions of dependent rows: the textbook formulas, honest p-values, changes that are seen, files refused."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from mlkit.errors import BundleError
from mlkit.features.garch import fit_garch
from mlkit.market.simulate.markets import regime_change
from mlkit.operations.training.binned_reference import (
    BINS,
    BLOCK_ROWS,
    MAX_BLOCKS,
    MIN_BLOCKS,
    MIN_WINDOWS,
    STRETCHES,
    BinnedReference,
)
from mlkit.operations.training.training_set import prepare

LEVEL = 0.005


def autoregressive(rng: np.random.Generator, rows: int, columns: int, memory: float = 0.97) -> np.ndarray:
    """AR(1) columns of variance 1."""
    from scipy.signal import lfilter

    noise = rng.standard_normal((rows + 300, columns)) * np.sqrt(1 - memory**2)
    return np.asarray(lfilter([1.0], [1.0, -memory], noise, axis=0)[300:])


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return autoregressive(np.random.default_rng(0), 8000, 4)


def test_statistics_are_the_textbook_ones_of_the_window(reference: np.ndarray) -> None:
    binned, window = BinnedReference.fit("abcd", reference), autoregressive(np.random.default_rng(1), 700, 4) + 0.3
    found = binned.compare(window)
    assert found is not None and found.rows == MAX_BLOCKS * BLOCK_ROWS
    for column in range(4):
        old, new = reference[:, column], window[-found.rows :, column]
        exact = ks_2samp(old, new).statistic
        assert exact - 2 / BINS < found.ks[column] <= exact + 1e-12  # looked at on the edges only
        edges = [-np.inf, *np.quantile(old, np.arange(1, BINS) / BINS), np.inf]
        p, q = (np.histogram(x, edges)[0] + 0.5 for x in (new, old))
        p, q = p / p.sum(), q / q.sum()
        assert found.psi[column] == pytest.approx(float(np.sum((p - q) * np.log(p / q))), rel=0.05)


def test_autocorrelation_is_no_drift_where_the_plain_test_alarms() -> None:
    alarms, plain = 0, 0
    for seed in range(60):
        values = autoregressive(np.random.default_rng(seed), 6500, 5)
        found = BinnedReference.fit("abcde", values[:6000]).compare(values[6000:])
        assert found is not None
        alarms += bool(found.adjusted.min() <= 0.05)
        plain += ks_2samp(values[:6000, 0], values[6000:, 0]).pvalue <= 0.05
    assert plain >= 40  # of 60: rows taken as independent
    assert alarms <= 3


def test_a_moved_column_is_found_and_named(reference: np.ndarray) -> None:
    window = autoregressive(np.random.default_rng(2), 500, 4)
    window[:, 2] = 2.5 + 0.5 * window[:, 2]
    found = BinnedReference.fit("abcd", reference).compare(window)
    assert found is not None and found.farthest
    assert [name for name, p in zip("abcd", found.adjusted, strict=True) if p <= LEVEL] == ["c"]


def test_a_reference_of_the_window_itself_would_be_blind(reference: np.ndarray) -> None:
    """The planted fault: what is compared with must be the training, not the newest rows."""
    window = 3.0 + autoregressive(np.random.default_rng(3), 4000, 4)
    honest, faulty = (BinnedReference.fit("abcd", rows).compare(window) for rows in (reference, window))
    assert honest is not None and faulty is not None
    assert honest.adjusted.max() <= LEVEL < faulty.adjusted.min()


def test_a_flag_that_never_rose_in_training_is_seen_when_it_does() -> None:
    values = np.zeros((6000, 2))
    values[:, 1] = np.random.default_rng(4).standard_normal(6000)
    binned = BinnedReference.fit("ab", values)
    quiet, loud = values[:500].copy(), values[:500].copy()
    loud[::3, 0] = 1.0
    judged = [binned.compare(rows) for rows in (quiet, loud)]
    assert judged[0] is not None and judged[1] is not None
    assert judged[0].adjusted.min() > LEVEL >= judged[1].adjusted[0]


def test_rows_that_are_too_few_are_not_judged(reference: np.ndarray) -> None:
    binned = BinnedReference.fit("abcd", reference)
    assert binned.compare(reference[: MIN_BLOCKS * BLOCK_ROWS - 1]) is None
    small = BinnedReference.fit("abcd", reference[: MIN_BLOCKS * BLOCK_ROWS * MIN_WINDOWS - 1])
    assert small.compare(reference) is None
    empty = BinnedReference.fit("abcd", reference[:0])
    assert empty.compare(reference) is None and empty.counts.shape == (0, 4, BINS)


def test_a_long_history_keeps_stretches_and_markets_are_not_joined() -> None:
    values = np.arange(3.0 * STRETCHES * MAX_BLOCKS * BLOCK_ROWS)[:, None]
    binned = BinnedReference.fit("a", values)
    assert len(binned.counts) == STRETCHES * MAX_BLOCKS and (~binned.follows).sum() == STRETCHES
    rows = np.arange(4000)
    two = BinnedReference.fit("a", values, rows[::2], rows[1::2])  # two markets, row by row in turn
    assert (binned.market == 0).all() and set(two.market) == {0, 1} and (np.diff(two.market.astype(int)) >= 0).all()
    assert np.flatnonzero(~two.follows).tolist() == [0, 2000 // BLOCK_ROWS]


def test_stored_vectors_make_the_same_panel_and_others_are_refused(reference: np.ndarray) -> None:
    binned = BinnedReference.fit("abcd", reference)
    edges, counts, follows = binned.edges.ravel(), binned.counts.ravel(), binned.follows.astype(np.uint8)
    again = BinnedReference.from_vectors("abcd", edges, counts, follows)
    first, second = binned.compare(reference[:500]), again.compare(reference[:500])
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.p, second.p)
    falling, odd = edges[::-1].copy(), counts.copy()
    odd[0] += 1
    for broken in (
        (falling, counts, follows),
        (edges, odd, follows),
        (edges[:-1], counts, follows),
        (edges, counts, follows + 2),
        (np.full_like(edges, np.nan), counts, follows),
        (edges, np.tile(counts, 10), np.tile(follows, 10)),
    ):
        with pytest.raises(BundleError):
            BinnedReference.from_vectors("abcd", *broken)


def test_changes_are_flagged_and_volatility_clusters_are_not() -> None:
    """A small version of ``tests/bench/drift_rates.py``: the features 500 bars after 5,000 that were learned from."""
    alarms = dict.fromkeys(("none", "volatility", "tick"), 0)
    for seed in range(4):
        histories = {change: regime_change(5500, 5000, change, seed=seed) for change in alarms}  # type: ignore[arg-type]
        garch = fit_garch(histories["none"].iloc[:5000])
        tables = {change: prepare(bars, (1,), garch).X for change, bars in histories.items()}
        binned = BinnedReference.fit([str(k) for k in range(tables["none"].shape[1])], tables["none"][600:5000])
        for change, X in tables.items():
            found = binned.compare(X[5000:])
            assert found is not None
            alarms[change] += found.farthest and found.adjusted.min() <= LEVEL
    assert alarms["none"] <= 1 and alarms["volatility"] >= 3 and alarms["tick"] == 4


def test_a_market_is_judged_by_its_own_blocks_where_they_are_enough() -> None:
    rng = np.random.default_rng(5)
    low, high = (autoregressive(rng, 4000, 3) + level for level in (0.0, 3.0))
    least = MIN_BLOCKS * BLOCK_ROWS * MIN_WINDOWS
    rows = np.arange(8000)
    binned = BinnedReference.fit("abc", np.concatenate([low, high]), rows[:4000], rows[4000 : 4000 + least - 1])
    assert binned.of_market(1) is binned  # a bar too few
    alone = binned.of_market(0)
    assert len(alone.counts) == 80 and not alone.follows[0] and alone.follows[1:].all()
    moved = autoregressive(rng, 500, 3) + 3.0  # as the other one always was
    found, blurred = alone.compare(moved), binned.compare(moved)
    assert found is not None and blurred is not None
    assert found.adjusted.min() < 0.001 < blurred.adjusted.min()
    same = alone.compare(autoregressive(rng, 500, 3))
    assert same is not None and same.adjusted.min() > 0.05
