"""What a pattern is worth: planted effects are found, noise is not, and no row is scored where it was fitted."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from mlkit.errors import ConfigError
from mlkit.evaluation.pattern_returns import agreement, incremental_ic, returns_after, with_discoveries

Array = NDArray[np.float64]
N = 4_000


@pytest.fixture(scope="module")
def flags() -> pd.DataFrame:
    """Two patterns of either direction and one too rare to judge."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({name: rng.choice([-1, 0, 1], N, p=(0.05, 0.9, 0.05)) for name in ("real", "empty")})
    return frame.assign(rare=0).astype(np.int8)


def market(flags: pd.DataFrame, edge: float, seed: int) -> pd.DataFrame:
    """Returns with a drift that no pattern caused, and an effect of ``real`` on the next bar."""
    noise = np.random.default_rng(seed).normal(2e-3, 1e-2, N)
    one = noise + edge * flags["real"].to_numpy()
    five = pd.Series(one).rolling(5).sum().shift(-4)
    return pd.DataFrame({1: one, 5: five})


def test_an_effect_is_found_in_the_direction_claimed_and_drift_is_not(flags: pd.DataFrame) -> None:
    table = returns_after(flags, market(flags, 5e-3, 2), reps=200).set_index(["pattern", "horizon"])
    assert set(table.index) == {(name, h) for name in ("real", "empty") for h in (1, 5)}  # not the rare one
    one = table.loc[("real", 1)]
    hits = np.flatnonzero(flags["real"])
    r, d = market(flags, 5e-3, 2)[1].to_numpy(), flags["real"].to_numpy()
    assert one["mean_bps"] == pytest.approx(1e4 * np.mean([d[t] * (r[t] - r.mean()) for t in hits]))
    assert one["hits"] == len(hits)
    assert 25.0 < one["low_bps"] < 50.0 < one["high_bps"] < 75.0  # the planted effect is 50 bps
    assert one["p"] < 1e-4
    quiet = table.loc["empty"]
    assert ((quiet["low_bps"] < 0) & (quiet["high_bps"] > 0)).all()


def test_interval_is_that_of_the_mean_when_rows_are_independent(flags: pd.DataFrame) -> None:
    row = returns_after(flags[["empty"]], market(flags, 0.0, 3)[[1]], reps=1000).iloc[0]
    ordinary = 1.96 * 1e2 / np.sqrt(row["hits"])  # bps: a hit is 1e2 of noise
    assert row["high_bps"] - row["mean_bps"] == pytest.approx(ordinary, rel=0.1)


def test_noise_is_called_a_discovery_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(5)
    p = []
    for seed in range(12):
        none = pd.DataFrame(rng.choice([-1, 0, 1], (N, 6), p=(0.04, 0.92, 0.04)))
        returns = pd.DataFrame({20: pd.Series(rng.normal(size=N)).rolling(20).sum()})
        p.append(returns_after(none, returns, reps=100, seed=seed)["p"])
    pooled = pd.concat(p)
    assert len(pooled) == 72
    assert (pooled < 0.05).mean() < 0.15  # nominal 0.05, with overlapping returns
    assert not with_discoveries(pd.DataFrame({"p": pooled}))["found"].any()


def test_false_discovery_control_by_hand() -> None:
    table = pd.DataFrame({"p": [0.001, 0.02, 0.04, 0.5]})
    bh = with_discoveries(table, method="bh")
    assert bh["q"].tolist() == pytest.approx([0.004, 0.04, 4 / 3 * 0.04, 0.5])
    assert bh["found"].tolist() == [True, True, False, False]
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert with_discoveries(table)["q"].iloc[0] == pytest.approx(0.004 * harmonic)
    assert with_discoveries(table.iloc[:0])["found"].empty


def test_agreement_is_that_of_sklearn_and_knows_its_noise() -> None:
    rng = np.random.default_rng(9)
    p = pd.DataFrame({"calibrated": rng.beta(0.2, 2.0, N), "too sure": rng.beta(0.2, 2.0, N), "never": 0.01})
    y = pd.DataFrame({"calibrated": rng.random(N) < p["calibrated"], "too sure": rng.random(N) < 0.5 * p["too sure"]})
    y["never"] = False
    p.iloc[:19] = np.nan
    table = agreement(y, p, [0.4, 0.3, 0.5])
    for name, cut in (("calibrated", 0.4), ("too sure", 0.3)):
        truth, q = y[name][19:], p[name][19:]
        scores = [f(truth, q >= cut) for f in (f1_score, precision_score, recall_score)]
        assert table.loc[name, ["F1", "precision", "recall"]].tolist() == pytest.approx(scores)
        assert table.loc[name, "AP"] == pytest.approx(average_precision_score(truth, q))
        assert table.loc[name, "positives"] == truth.sum()
    assert table.loc["calibrated", "ECE"] < 2 * table.loc["calibrated", "ECE noise"]
    assert table.loc["too sure", "ECE"] > 4 * table.loc["too sure", "ECE noise"]
    assert table.loc["never", ["F1", "AP"]].isna().all() and table.loc["never", "positives"] == 0


def halves() -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """One fold: the first half teaches, the second is scored."""
    return [(np.arange(N // 2), np.arange(N // 2, N))]


def test_information_that_is_new_adds_ic_and_a_copy_adds_none() -> None:
    rng = np.random.default_rng(7)
    base, new, noise = rng.normal(size=(3, N, 1))
    y = 0.2 * base[:, 0] + 0.3 * new[:, 0] + rng.normal(size=N)
    better = incremental_ic(y, base, new, halves(), block=10, reps=200)
    scored = slice(N // 2, N)
    assert better.rows == N // 2
    assert better.base.estimate == pytest.approx(spearmanr(y[scored], base[scored, 0])[0], abs=1e-9)
    assert better.gain.estimate == pytest.approx(better.full.estimate - better.base.estimate)
    assert better.gain.low > 0.05
    for useless in (base + 0.0, noise):
        same = incremental_ic(y, base, useless, halves(), block=10, reps=200)
        assert same.gain.low <= 0.01 and same.gain.high < 0.05


def test_a_fold_never_learns_from_the_rows_it_scores() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(N, 1)), rng.normal(size=N)
    y[N // 2 :] = x[N // 2 :, 0]  # holds in the scored half only: a leak would score 1
    honest = incremental_ic(y, np.zeros((N, 1)), x, halves(), block=10, reps=50)
    assert honest.base.estimate == 0.0
    slope = np.polyfit(x[: N // 2, 0], y[: N // 2], 1)[0]
    assert honest.full.estimate == pytest.approx(np.sign(slope))  # of a line fitted to noise
    leaky = incremental_ic(y, np.zeros((N, 1)), x, [(np.arange(N), np.arange(N // 2, N))], block=10, reps=50)
    assert leaky.full.estimate == pytest.approx(1.0)


def test_the_mean_return_of_a_fold_is_no_forecast() -> None:
    """Returns drift from below zero to above: training means rank the folds, but no row within one."""
    rng = np.random.default_rng(10)
    y, x = np.linspace(-1.0, 1.0, N) + 0.1 * rng.normal(size=N), rng.normal(size=(N, 1))
    folds = [(np.arange(k), np.arange(k, k + N // 4)) for k in (N // 4, N // 2, 3 * N // 4)]
    found = incremental_ic(y, np.zeros((N, 1)), x, folds, block=10, reps=50)
    assert abs(found.base.estimate) < 1e-6 and abs(found.full.estimate) < 0.1


def test_rows_with_holes_are_left_out_and_nothing_left_is_an_error(flags: pd.DataFrame) -> None:
    x, y = np.zeros((N, 1)), np.full(N, np.nan)
    with pytest.raises(ConfigError, match="no complete row"):
        incremental_ic(y, x, x, halves(), block=10)
    with pytest.raises(ConfigError, match="no fold"):
        incremental_ic(y, x, x, [], block=10)
    with pytest.raises(ConfigError, match=r"flags and returns have different rows \(row 10"):
        returns_after(flags, market(flags, 0.0, 1).iloc[:10])
