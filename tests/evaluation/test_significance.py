"""Intervals cover, noise is called noise, drift is not an edge, and a planted edge is found."""

from collections.abc import Callable

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap
from arch.covariance.kernel import Bartlett
from scipy.stats import t

from mlkit.errors import ConfigError
from mlkit.evaluation import significance as s
from mlkit.evaluation.metrics import hit_rate, mae, rank_ic


def persistent_noise(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    x = rng.normal(size=n)
    for i in range(1, n):
        x[i] += rho * x[i - 1]
    return x


def overlapping(rng: np.random.Generator, n: int, h: int) -> np.ndarray:
    return np.convolve(rng.normal(0, 0.001, n + h), np.ones(h), "valid")[1 : n + 1]


def planted(seed: int, n: int = 3000, drift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pred = rng.normal(0, 3e-4, n)
    return pred + rng.normal(0, 1e-3, n) + drift, pred + drift


def row_by_row(stat: Callable[..., float], *columns: np.ndarray, reps: int, seed: int = 7) -> np.ndarray:
    """95 % interval of a bootstrap that takes every row as independent."""
    draws = StationaryBootstrap(1, *columns, seed=seed).apply(stat, reps)
    return np.quantile(draws, [0.025, 0.975])


def test_interval_of_an_overlapping_outcome_widens_with_the_block() -> None:
    rng = np.random.default_rng(1)
    y = overlapping(rng, 2000, 20)
    pred = persistent_noise(rng, 2000, 0.97)
    rows = row_by_row(rank_ic, y, pred, reps=200)
    columns = {"y": y, "pred": pred}
    blocks = s.metric_intervals(lambda of: {"ic": rank_ic(**of)}, columns, horizon=20, reps=200).loc["ic"]
    assert blocks["high"] - blocks["low"] > 2 * (rows[1] - rows[0])


def test_t_under_null_against_arch() -> None:
    x = 0.1 + persistent_noise(np.random.default_rng(2), 400, 0.8)
    oracle = Bartlett(x, bandwidth=19, df_adjust=0, center=False, force_int=True).cov.long_run
    assert s.t_under_null(x, 20) == pytest.approx(float(20 * x.mean() / np.sqrt(np.squeeze(oracle))), rel=1e-10)
    assert s.t_under_null(x, 1) == pytest.approx(20 * x.mean() / np.sqrt(np.mean(x**2)), rel=1e-12)
    assert s.t_under_null(np.zeros(5), 3) == 0.0


def test_overlap_is_not_evidence() -> None:
    """The planted fault: 15-bar outcomes taken as independent rows reject a true null every second time."""
    rng = np.random.default_rng(3)
    aware, naive = [], []
    for _ in range(400):
        score = persistent_noise(rng, 600, 0.93) * overlapping(rng, 600, 15)
        aware.append(abs(s.t_under_null(score, 23)) > 1.96)
        naive.append(abs(s.t_under_null(score, 1)) > 1.96)
    assert np.mean(naive) > 0.4
    assert np.mean(aware) < 0.1


def test_a_few_pieces_prove_nothing() -> None:
    short_trend = np.full(80, 0.5)  # 80 rows of 60-bar outcomes that all rose: hardly more than one of them
    assert s.t_under_null(short_trend, 91) < 1.5
    assert s.t_under_null(np.full(80, 0.5), 2) > 5


def test_turnover_of_tranches_by_hand() -> None:
    assert s.tranche_turnover(np.array([1.0, 1, -1, 0]), 1).tolist() == [1, 0, 2, 1]
    assert s.tranche_turnover(np.array([1.0, 1, 1, -1]), 1).tolist() == [1, 0, 0, 3]
    assert s.tranche_turnover(np.array([1.0, -1, 1, 1]), 2).tolist() == [1, 1, 1, 3]


def test_a_planted_edge_is_found_and_costs_can_take_it_away() -> None:
    y, pred = planted(4)
    found = s.verdict(y, pred, horizon=1, cost_bps=0.2, trials=4)
    assert found.verdict == "edge"
    assert 0 < found.lower_bps < found.mean_bps
    assert found.r2 == pytest.approx(0.08, abs=0.03)
    signal = np.sign(pred)
    net = signal * y - 0.2e-4 * s.tranche_turnover(signal, 1)
    assert found.mean_bps == pytest.approx(1e4 * net.mean(), rel=1e-12)
    dear = s.verdict(y, pred, horizon=1, cost_bps=5.0)
    assert dear.verdict == "no edge"
    assert "lower bound" in dear.reason


def test_drift_is_not_an_edge() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(4e-4, 1e-3, 3000)
    held = s.verdict(y, np.full(3000, 4e-4), horizon=1, cost_bps=0.2)
    assert held.r2 > 0 and held.lower_bps > 0  # the planted fault: both plain conditions hold
    assert held.verdict == "no edge"
    assert "holding one direction" in held.reason
    assert s.verdict(*planted(6, drift=1e-4), horizon=1, cost_bps=0.2).verdict == "edge"


def test_noise_is_called_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "REPS", 100)
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y = overlapping(rng, 600, 15)
        pred = 1e-4 * persistent_noise(rng, 600, 0.95)
        found += s.verdict(y, pred, horizon=15, cost_bps=0.0).verdict == "edge"
    assert found <= 4  # 5 % a test before the condition on R²


def test_what_is_earned_may_differ_from_what_is_forecast() -> None:
    """The planted fault: the whole return lies in the gap before the first possible fill."""
    y, pred = planted(7)
    earned = np.random.default_rng(8).normal(0, 1e-3, len(y))
    assert s.verdict(y, pred, horizon=1, cost_bps=0.2).verdict == "edge"
    assert s.verdict(y, pred, horizon=1, cost_bps=0.2, earned=earned).verdict == "no edge"


def test_reasons_for_no_answer() -> None:
    y, pred = planted(9)
    assert "R² against no change" in s.verdict(y, -pred, horizon=1).reason
    assert s.verdict(y, np.zeros_like(y), horizon=1).reason == "the forecast is no change"
    few = s.verdict(y[:30], pred[:30], horizon=1)
    assert few.reason == "30 rows are too few, blocks of 10 need 40"
    gaps = np.where(np.arange(len(y)) % 3, np.nan, y)
    assert s.verdict(gaps, pred, horizon=1).rows == 1000


def test_table_corrects_for_every_claim() -> None:
    y, pred = planted(10)
    Y, P = np.column_stack([y, y]), np.column_stack([pred, -pred])
    table = s.verdict_table(Y, P, (1, 5), trials=3, cost_bps=0.2)
    assert table.index.tolist() == [1, 5]
    assert table["verdict"].tolist() == ["edge", "no edge"]
    assert table.loc[1, "lower_bps"] == s.verdict(y, pred, horizon=1, trials=6, cost_bps=0.2).lower_bps
    assert table.loc[1, "lower_bps"] < s.verdict(y, pred, horizon=1, cost_bps=0.2).lower_bps
    with pytest.raises(ConfigError, match=r"must both be \(n, 3\)"):
        s.verdict_table(Y, P, (1, 5, 15))


def test_intervals_of_several_metrics_cover_under_overlap() -> None:
    """The planted fault: resampled row by row, the 95 % interval of a hit rate over 15 bars covers one time in two."""
    blocks, rows = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y, pred = overlapping(rng, 800, 15), persistent_noise(rng, 800, 0.95)
        columns = {"y": y, "pred": pred}
        table = s.metric_intervals(lambda of: {"hit": hit_rate(**of)}, columns, horizon=15, reps=60, seed=seed)
        blocks += bool(table.loc["hit", "low"] <= 0.5 <= table.loc["hit", "high"])
        low, high = row_by_row(hit_rate, y, pred, reps=60, seed=seed)
        rows += low <= 0.5 <= high
    assert blocks >= 54
    assert rows <= 40


def test_intervals_share_their_draws_with_arch() -> None:
    rng = np.random.default_rng(0)
    y, pred = rng.normal(size=300), rng.normal(size=300)
    table = s.metric_intervals(
        lambda of: {"mae": mae(of["y"], of["p"])}, {"y": y, "p": pred}, horizon=2, reps=100, seed=3
    )
    draws = StationaryBootstrap(10, y, pred, seed=3).apply(mae, 100)
    half = t.ppf(0.975, 15) * draws.std()
    assert table.loc["mae"].tolist() == pytest.approx([mae(y, pred), mae(y, pred) - half, mae(y, pred) + half])
    few = s.metric_intervals(lambda of: {"mae": mae(of["y"], 0.0)}, {"y": y[:30]}, horizon=5)
    assert few.loc["mae"].isna().tolist() == [False, True, True]


def test_net_rows_are_those_of_the_verdict() -> None:
    y, pred = planted(11)
    y[5] = np.nan
    rows = s.net_rows(y, pred, y, 1, 0.2)
    assert np.isnan(rows[5]) and 1e4 * np.nanmean(rows) == pytest.approx(
        s.verdict(y, pred, horizon=1, cost_bps=0.2).mean_bps, rel=1e-12
    )
