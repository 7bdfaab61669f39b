"""Figures draw what they are given, name their axes, and keep their labels apart."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from scipy import stats

from mlkit import plots

HORIZONS = [1, 5, 15, 60]
SHAPES = ["doji", "hammer", "engulfing_bearish", "three_white_soldiers", "dark_cloud_cover", "marubozu"]


@pytest.fixture(autouse=True)
def _look() -> Iterator[None]:
    with matplotlib.rc_context(plots.RC):
        yield
    plt.close("all")


@pytest.fixture
def ax() -> Axes:
    return plt.subplots()[1]


def forecasts_at(time: pd.Timestamp) -> pd.DataFrame:
    spread = 0.01 * np.sqrt(HORIZONS)
    columns: dict[str, Any] = {
        "timestamp": time,
        "horizon": HORIZONS,
        "log_return": [0.001, 0.002, 0.003, 0.004],
    }
    for level, z in (("80", 1.28), ("90", 1.64)):
        columns |= {f"lo{level}": -z * spread, f"hi{level}": z * spread}
    return pd.DataFrame(columns)


def every_figure(bars: pd.DataFrame) -> dict[str, Callable[[Axes], Axes]]:
    rng = np.random.default_rng(7)
    returns = np.log(bars["close"]).diff()
    draws = rng.normal(size=400) * 0.01
    epochs = pd.DataFrame({"train": [3.0, 2.0, 1.0], "valid": [3.0, 2.5, 2.6]}, index=[1, 2, 3])
    gain = pd.DataFrame(rng.random((30, 2)), index=[f"f{i}" for i in range(30)], columns=["xgboost", "lightgbm"])
    rates = pd.DataFrame({"classic": [1.0, 0.0], "continuous": [2.0, np.nan]}, index=["doji", "hammer"])
    scores = pd.DataFrame({"value": [0.01] * 4, "low": [0.0] * 4, "high": [0.02] * 4}, index=HORIZONS)
    table = pd.DataFrame({"forecast": [0.4, 0.6], "observed": [0.5, 0.55], "rows": [100, 50]})
    shares = pd.DataFrame({0.8: [0.79, 0.8, 0.7, 0.81], 0.9: [0.9, 0.91, 0.88, 0.9]}, index=HORIZONS)
    wealth = pd.DataFrame({"ensemble": np.exp(returns.fillna(0).cumsum()), "flat": 1.0})
    curve = scores.set_index(pd.Index([0.1, 0.3, 0.5, 1.0], name="share"))
    states = ["complete", "complete", "pruned", "complete"]
    trials = pd.DataFrame({"state": states, "score": [1.0, 0.9, 1.1, 0.95], "default": [True, False, False, False]})
    trials["depth"] = [3.0, 5.0, 8.0, 4.0]
    splits = [(np.arange(50), np.arange(60, 90)), (np.arange(80), np.arange(90, 120))]
    index = pd.DatetimeIndex(bars.index)
    moved = pd.DataFrame({"psi": [1.0, 0.1], "usual_psi": 0.2, "adjusted_p": [0.001, 0.5]}, index=["a", "b"])
    monitored = pd.DataFrame({"timestamp": index, "horizon": 1, "outcome": returns.to_numpy()})
    monitored = monitored.assign(lo80=-0.01, hi80=0.01, lo90=-0.02, hi90=0.02)
    return {
        "base_rates": lambda ax: plots.base_rates(ax, rates),
        "calendar_gaps": lambda ax: plots.calendar_gaps(ax, bars),
        "candles": lambda ax: plots.candles(ax, bars.iloc[-60:]),
        "cones": lambda ax: plots.cones(ax, bars, forecasts_at(bars.index[-30])),
        "coverage": lambda ax: plots.coverage(ax, shares),
        "coverage_over_time": lambda ax: plots.coverage_over_time(ax, monitored),
        "drift_features": lambda ax: plots.drift_features(ax, moved),
        "equity": lambda ax: plots.equity(ax, wealth),
        "feature_panel": lambda ax: plots.feature_panel(ax, returns.rolling(20).std().rename("std"), unit="log"),
        "folds": lambda ax: plots.folds(ax, splits, index),
        "forecast_vs_outcome": lambda ax: plots.forecast_vs_outcome(ax, draws, draws[::-1]),
        "grouped_bars": lambda ax: plots.grouped_bars(ax, rates, unit="F1"),
        "horizon_scores": lambda ax: plots.horizon_scores(ax, scores, unit="R²"),
        "importance": lambda ax: plots.importance(ax, gain),
        "learning_curve": lambda ax: plots.learning_curve(ax, epochs),
        "random_entry": lambda ax: plots.random_entry(ax, draws, 0.01),
        "reliability": lambda ax: plots.reliability(ax, table),
        "returns_histogram": lambda ax: plots.returns_histogram(ax, returns),
        "risk_coverage": lambda ax: plots.risk_coverage(ax, {1: curve}, unit="hit rate", naive=0.5),
        "tuning_history": lambda ax: plots.tuning_history(ax, trials),
        "tuning_slice": lambda ax: plots.tuning_slice(ax, trials, "depth", log=True),
    }


def test_every_figure_returns_its_axes_with_names_and_a_picture(sp500: pd.DataFrame) -> None:
    figures = every_figure(sp500.iloc[-300:])
    assert set(figures) == set(plots.__all__) - {"PALETTE", "RC", "style"}
    for name, draw in figures.items():
        fig, ax = plt.subplots()
        assert draw(ax) is ax, name
        fig.canvas.draw()
        assert ax.get_xlabel() or ax.get_ylabel(), name
        assert ax.lines or ax.patches or ax.collections, name
        plt.close(fig)


def test_a_figure_is_the_same_bytes_each_time(sp500: pd.DataFrame) -> None:
    def picture() -> bytes:
        fig, ax = plt.subplots()
        plots.candles(ax, sp500.iloc[-60:])
        file = io.BytesIO()
        fig.savefig(file, format="png")
        return file.getvalue()

    assert picture() == picture()


def test_pattern_names_overlap_neither_each_other_nor_the_candles(ax: Axes, sp500: pd.DataFrame) -> None:
    bars = sp500.iloc[-90:]
    hits = np.random.default_rng(3).random((90, len(SHAPES))) < 0.05
    markers = pd.DataFrame(hits, index=bars.index, columns=SHAPES)
    plots.candles(ax, bars, markers=markers, max_labels=10)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 10 < len(boxes) <= 20
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    low, high = (ax.transData.transform(np.c_[np.arange(90), bars[name]]) for name in ("low", "high"))
    for box in boxes:
        inside = (low[:, 0] > box.x0) & (low[:, 0] < box.x1)
        assert not (inside & (low[:, 1] < box.y1) & (high[:, 1] > box.y0)).any()


def test_bullish_names_stand_below_their_bar_and_bearish_above(ax: Axes, sp500: pd.DataFrame) -> None:
    bars = sp500.iloc[-20:]
    markers = pd.DataFrame(False, index=bars.index, columns=["hammer", "engulfing_bearish"])
    markers.iloc[10] = True
    plots.candles(ax, bars, markers=markers)
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert heights["hammer"] < bars["low"].iloc[10]
    assert heights["engulfing bearish"] > bars["high"].iloc[10]


def test_histogram_has_unit_area(ax: Axes, sp500: pd.DataFrame) -> None:
    plots.returns_histogram(ax, np.log(sp500["close"]).diff())
    assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1.0)  # type: ignore[attr-defined]


def test_every_gap_is_counted(ax: Axes, sp500: pd.DataFrame) -> None:
    plots.calendar_gaps(ax, sp500)
    heights = [bar.get_height() for bar in ax.patches]  # type: ignore[attr-defined]
    assert sum(heights) == len(sp500) - 1
    assert heights[0] == (np.diff(sp500.index) == np.timedelta64(1, "D")).sum()


def test_forecast_bins_hold_equally_many_forecasts(ax: Axes) -> None:
    rng = np.random.default_rng(5)
    predicted, realised = rng.normal(size=1200) * 1e-3, rng.normal(size=1200) * 1e-2
    plots.forecast_vs_outcome(ax, predicted, realised, bins=12)
    groups = pd.Series(realised).groupby(pd.qcut(predicted, 12), observed=True)
    dots = ax.containers[0].lines[0].get_ydata()  # type: ignore[attr-defined]
    np.testing.assert_allclose(dots, groups.mean() * 1e4)


def test_reliability_intervals_are_wilson_scores(ax: Axes) -> None:
    table = pd.DataFrame({"forecast": [0.4, 0.6], "observed": [0.45, 0.9], "rows": [20, 50]})
    plots.reliability(ax, table)
    segments = ax.containers[0].lines[2][0].get_segments()  # type: ignore[attr-defined]
    for (_, low), (_, high), share, n in zip(
        *np.swapaxes(segments, 0, 1), table["observed"], table["rows"], strict=True
    ):
        oracle = stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=1e-8)


def test_random_entry_marks_the_strategy_among_all_its_rotations(ax: Axes) -> None:
    draws = np.random.default_rng(0).normal(0.01, 0.02, 500)
    plots.random_entry(ax, draws, 0.05)
    assert sum(bar.get_height() for bar in ax.patches) == 500  # type: ignore[attr-defined]
    assert [float(line.get_xdata()[0]) for line in ax.lines] == pytest.approx([100 * np.median(draws), 5.0])
    never = plt.subplots()[1]
    plots.random_entry(never, np.zeros(50), 0.0)  # a strategy that never trades
    assert sum(bar.get_height() for bar in never.patches) == 50  # type: ignore[attr-defined]


def test_risk_coverage_draws_a_line_a_horizon(ax: Axes) -> None:
    table = pd.DataFrame({"value": [0.6, 0.5], "low": [0.5, 0.45], "high": [0.7, 0.55]}, index=[0.1, 1.0])
    plots.risk_coverage(ax, {1: table, 5: table + 0.1}, unit="hit rate", naive=0.5)
    assert [line.get_label() for line in ax.lines] == ["1 bar", "5 bars", "no skill"]
    assert ax.lines[1].get_ydata() == pytest.approx([0.7, 0.6])


def test_cones_start_at_the_last_close_and_show_what_came(ax: Axes, sp500: pd.DataFrame) -> None:
    now = len(sp500) - 31
    plots.cones(ax, sp500, forecasts_at(sp500.index[now]))
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines}
    closes = sp500["close"].to_numpy()
    np.testing.assert_array_equal(lines["close"], closes[now - 60 : now + 1])
    np.testing.assert_array_equal(lines["what came"], closes[now:])
    np.testing.assert_allclose(lines["forecast"], closes[now] * np.exp([0.001, 0.002, 0.003, 0.004]))
    assert lines["no change"][0] == closes[now]


def test_learning_curve_marks_the_best_validation_epoch(ax: Axes) -> None:
    plots.learning_curve(ax, pd.DataFrame({"train": [3, 2, 1], "valid": [3.0, 2.5, 2.6]}, index=[1, 2, 3]))
    assert "best: epoch 2" in [line.get_label() for line in ax.lines]


def test_importance_shows_the_largest_first(ax: Axes) -> None:
    plots.importance(ax, pd.Series({"a": 0.1, "b": 0.6, "c": 0.3}), top=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "c"]


def test_importing_mlkit_does_not_import_matplotlib() -> None:
    code = "import mlkit, mlkit.report, sys; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_best_so_far_never_counts_a_pruned_trial(ax: Axes) -> None:
    trials = pd.DataFrame({"state": ["complete", "pruned", "complete"], "score": [1.0, 0.5, 0.9], "default": False})
    plots.tuning_history(ax, trials)
    best = next(line for line in ax.lines if line.get_label() == "best so far")
    assert list(np.asarray(best.get_ydata())) == [1.0, 1.0, 0.9]


def test_moved_features_are_told_from_those_in_their_usual_range(ax: Axes) -> None:
    names = pd.Index([f"feature_{k}" for k in range(20)], name="name")
    psi, p = np.linspace(2.0, 0.1, 20), np.linspace(0.0, 1.0, 20)
    table = pd.DataFrame({"psi": psi, "usual_psi": 0.1, "ks": 0.2, "p": p, "adjusted_p": p}, index=names)
    plots.drift_features(ax, table, top=6, level=0.1)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(names[:6])
    groups = {container.get_label(): len(container) for container in ax.containers}
    assert groups == {"within the usual range": 4, "moved": 2}
    assert "stability" in ax.get_xlabel()


def test_coverage_over_time_is_the_rolling_share_beside_its_noise(ax: Axes) -> None:
    y = np.r_[np.zeros(150), np.full(50, 5.0)]
    frame = pd.DataFrame({"timestamp": pd.date_range("2024", periods=200, freq="min", tz="UTC"), "horizon": 1})
    frame = frame.assign(outcome=y, lo90=-1.0, hi90=1.0, lo80=-0.5, hi80=0.5)
    frame.loc[199, "outcome"] = np.nan
    plots.coverage_over_time(ax, frame, window=100)
    share = np.asarray(ax.lines[-1].get_ydata(), dtype=float)
    assert share[99] == 1.0 and share[-1] == pytest.approx(0.51) and len(share) == 199
    assert ax.get_ylim()[0] < 0.51 and "1 bar ahead" in ax.get_ylabel()
