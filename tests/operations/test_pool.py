"""Pooled training: rows of several markets are purged by the clock, and a pool of one is no pool."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation.significance import pool_verdict, verdict
from mlkit.evaluation.splits import WalkForward, inner_split
from mlkit.features.engine import DEFAULT_GARCH
from mlkit.inference.bundle_roots import answering_root
from mlkit.labels import forward_returns
from mlkit.market.simulate.markets import null_market, planted_edge
from mlkit.models.bundle.bundle_folders import market_root
from mlkit.models.bundle.manifest import POOL_SCHEMA, SCHEMA_VERSION
from mlkit.models.bundle.publishing import publish
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.training import training
from mlkit.operations.training.forecasting import forecast_rows
from mlkit.operations.training.panel_layout import lay_out, markets_of, pool_name
from mlkit.operations.training.scoring import score, score_symbols
from mlkit.operations.training.training import walk_forward

HORIZONS = (1, 5)
TINY = EnsembleSettings.smoke(
    n_estimators=10,
    early_stopping_rounds=4,
    learning_rate=0.3,
    min_leaf=10,
    forest_trees=4,
    forest_rows=400,
    n_threads=1,
)


def daily(symbol: str, seed: int, first: int, last: int, holidays: int = 40) -> pd.DataFrame:
    """Sessions of a simulated market with holidays of its own."""
    bars = null_market(2200, seed=seed, timeframe="1d", annual_volatility=0.1 * seed)
    weekdays = np.flatnonzero(bars.index.day_of_week < 5)[first:last]
    closed = np.random.default_rng(seed).choice(len(weekdays) - 2, holidays, replace=False) + 1
    kept = bars.iloc[np.delete(weekdays, closed)]
    kept.attrs = {"symbol": symbol, "timeframe": "1d", "calendar": "Mon-Fri 00:00-24:00 UTC"}
    return kept


@pytest.fixture(scope="module")
def pool() -> list[pd.DataFrame]:
    """Three markets that start, end and rest at different times; the last one starts in the test span."""
    return [daily("ALPHA", 2, 0, 1500), daily("BETA", 5, 200, 1540), daily("GAMMA", 9, 700, 1560)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> mlkit.Settings:
    return mlkit.Settings(
        prediction_horizons=HORIZONS, model_storage_path=tmp_path_factory.mktemp("models"), n_threads=1
    )


@pytest.fixture(scope="module")
def forecasts(pool: list[pd.DataFrame], settings: mlkit.Settings) -> pd.DataFrame:
    return walk_forward(pool, settings, n_splits=2, ensemble=TINY)


def spans(markets: list[pd.DataFrame], rows: np.ndarray) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Open time of each row's bar and of the bar that ends its longest label, straight from the bars."""
    layout = lay_out(markets)
    opened, ends = [], []
    for bars in markets:
        labels = forward_returns(bars, HORIZONS)
        opened.append(bars.index)
        ends.append(pd.DatetimeIndex(labels["end_time"].max(axis=1)))
    where = list(zip(layout.market[rows], layout.bar[rows], strict=True))
    return pd.DatetimeIndex([opened[m][b] for m, b in where]), pd.DatetimeIndex([ends[m][b] for m, b in where])


def overlaps(markets: list[pd.DataFrame], folds: Any) -> int:
    """Training rows whose label is known no earlier than the first test bar of their fold, whatever the market."""
    return sum(int((spans(markets, train)[1] >= spans(markets, test)[0].min()).sum()) for train, test in folds)


def test_no_label_of_any_market_reaches_a_test_block(pool: list[pd.DataFrame], settings: mlkit.Settings) -> None:
    cut = training.folds(pool, settings, n_splits=3)
    assert overlaps(pool, cut) == 0
    tests = [spans(pool, test)[0] for _, test in cut]
    assert all(before.max() < after.min() for before, after in pairwise(tests))
    layout = lay_out(pool)
    assert [set(layout.market[test]) for _, test in cut] == [{0, 1}, {0, 1, 2}, {0, 1, 2}]
    assert (layout.bar[np.concatenate([test for _, test in cut])] >= mlkit.FeatureSet().warm_up).all()
    assert len(np.unique(np.concatenate([test for _, test in cut]))) == sum(len(test) for _, test in cut)


@hypothesis_settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_markets_of_any_calendar_are_purged_by_the_clock(data: st.DataObject) -> None:
    """Random calendars on one axis: splits and inner parts, by label end times of the rows' own markets."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    where, end, h = [], [], data.draw(st.integers(1, 8))
    for _ in range(data.draw(st.integers(1, 5))):
        first, last = sorted(rng.choice(200, 2, replace=False))
        times = np.flatnonzero(rng.random(last - first + 1) < rng.uniform(0.3, 1.0)) + first
        ends = np.full((len(times), 2), -1)
        ends[:-1, 0], ends[: max(len(times) - h, 0), 1] = times[1:], times[h:]
        where.append(times)
        end.append(ends)
    order = np.argsort(np.concatenate(where), kind="stable")
    positions, ends = np.concatenate(where)[order], np.concatenate(end)[order]
    embargo = data.draw(st.integers(0, 3))
    try:
        cut = list(WalkForward(n_splits=2, embargo=embargo).split(None, groups=ends, positions=positions))
        parts = inner_split(ends, positions=positions)
    except ConfigError:
        return
    for train, test in cut:
        assert ends[train].max() + embargo < positions[test].min()
        assert (ends[np.concatenate([train, test])] >= 0).all()
    assert positions[cut[0][1]].max() < positions[cut[1][1]].min()
    for part, later in pairwise(parts):
        assert ends[part].max() < positions[later].min()


def by_row_number(patch: pytest.MonkeyPatch) -> None:
    """The planted leak: a label over h bars is purged h rows before the test block, as in one market's table."""
    honest = WalkForward.split

    def split(self: WalkForward, X: Any, y: Any = None, groups: Any = None, *, positions: Any = None) -> Iterator[Any]:
        for train, test in honest(self, None, groups=groups, positions=positions):
            past = np.arange(train[0], test[0])
            past = past[(groups[past] >= 0).all(axis=1)]
            yield past[past + max(HORIZONS) < test[0]], test

    patch.setattr(WalkForward, "split", split)


def fitted(markets: list[pd.DataFrame], settings: mlkit.Settings, leak: bool) -> list[dict[str, bytes]]:
    """Every model of a walk-forward."""
    models = []
    with pytest.MonkeyPatch.context() as patch:
        if leak:
            by_row_number(patch)
        fit = training.fit_price
        patch.setattr(training, "fit_price", lambda *a, **k: models.append(fit(*a, **k)) or models[-1])
        walk_forward(markets, settings, n_splits=1, ensemble=TINY)
    return [model.to_bytes() for model in models]


def test_a_purge_by_row_number_is_caught(pool: list[pd.DataFrame], settings: mlkit.Settings) -> None:
    with pytest.MonkeyPatch.context() as patch:
        by_row_number(patch)
        leaky = training.folds(pool, settings, n_splits=1)
    assert overlaps(pool, leaky) > 0
    for leak, cut in ((False, training.folds(pool, settings, n_splits=1)), (True, leaky)):
        first = spans(pool, cut[0][1])[0].min()  # all that opens from here on is another future
        poisoned = []
        for bars in pool:
            later = bars.index >= first
            other = bars.copy()
            other.loc[later] = bars.loc[later].to_numpy()[::-1] * [3, 3, 3, 3, 0.5]
            poisoned.append(other)
        same = fitted(pool, settings, leak) == fitted(poisoned, settings, leak)
        assert same is not leak


def test_forecasts_of_a_pool_name_their_symbol(pool: list[pd.DataFrame], forecasts: pd.DataFrame) -> None:
    assert not forecasts.duplicated(["timestamp", "symbol", "horizon"]).any()
    assert set(forecasts["symbol"]) == {"ALPHA", "BETA", "GAMMA"}
    assert np.isfinite(forecasts[["log_return", "p_up", "lo90", "hi90", "low90", "low90_garch"]]).all(axis=None)
    for bars in pool:
        part = forecasts[(forecasts["symbol"] == bars.attrs["symbol"]) & (forecasts["horizon"] == 5)]
        close = np.log(bars["close"])
        outcome = (close.shift(-5) - close).iloc[part["bar"]]
        np.testing.assert_allclose(part["outcome"], outcome, rtol=0, atol=1e-12)
        assert (bars.index[part["bar"]] == pd.DatetimeIndex(part["timestamp"])).all()
    assert len({source["symbol"] for source in forecasts.attrs["sources"]}) == 3


def test_the_order_of_the_symbols_does_not_matter(
    pool: list[pd.DataFrame], forecasts: pd.DataFrame, settings: mlkit.Settings
) -> None:
    other = walk_forward({bars.attrs["symbol"]: bars for bars in pool[::-1]}, settings, n_splits=2, ensemble=TINY)
    pd.testing.assert_frame_equal(forecasts, other, check_exact=True)
    assert other.attrs == forecasts.attrs
    first, second = (mlkit.train(p, settings, ensemble=TINY, forecasts=forecasts) for p in (pool, pool[::-1]))
    assert first.id == second.id


def test_a_pool_of_one_is_the_single_training_to_the_bit(pool: list[pd.DataFrame], settings: mlkit.Settings) -> None:
    bars = pool[0]
    alone = walk_forward(bars, settings, n_splits=1, ensemble=TINY)
    pooled = walk_forward({"ALPHA": bars}, settings, n_splits=1, ensemble=TINY)
    pd.testing.assert_frame_equal(alone, pooled, check_exact=True)
    bundles = [
        mlkit.train(b, settings, ensemble=TINY, forecasts=f, publish=False)
        for b, f in ((bars, alone), ([bars], pooled))
    ]
    assert bundles[0].id == bundles[1].id and bundles[0].path == bundles[1].path
    assert bundles[0].manifest.schema_version == SCHEMA_VERSION and bundles[0].manifest.pool == {}


def test_a_pooled_bundle_answers_for_each_of_its_symbols(
    pool: list[pd.DataFrame], forecasts: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"model_storage_path": tmp_path})
    bundle = mlkit.train(pool, settings, ensemble=TINY, forecasts=forecasts, name="THREE")
    manifest = bundle.manifest
    assert bundle.path.parent == settings.models / "pools" / "THREE-1d"
    assert (manifest.schema_version, manifest.symbols) == (POOL_SCHEMA, ("ALPHA", "BETA", "GAMMA"))
    assert manifest.training_span.bars == sum(map(len, pool))
    assert "3 markets" in bundle._repr_html_()
    for bars in pool:
        symbol = bars.attrs["symbol"]
        assert answering_root(symbol, "1d", settings) == bundle.path.parent
        fitted = training.fit_garch(bars) if len(bars) >= 500 else DEFAULT_GARCH
        assert manifest.garch_of(symbol) == fitted
        predictor = mlkit.Predictor(bundle, settings)
        data = training.prepare(bars, HORIZONS, fitted)
        expected = forecast_rows(data, bundle.price, np.arange(300, len(bars)))
        said = predictor.forecasts(bars)
        np.testing.assert_array_equal(said[said["horizon"] == 5]["hi90"].to_numpy()[300:], expected.hi90[:, 1])
        predictor.start(bars.iloc[:-2])
        live = [predictor.update(bar) for bar in bars.iloc[-2:].itertuples()][-1]
        assert live == mlkit.Predictor(bundle, settings).insight(bars)
    stranger = pool[0].copy()
    stranger.attrs["symbol"] = "DELTA"
    assert answering_root("DELTA", "1d", settings) is None and manifest.garch_of("DELTA") is None
    assert mlkit.Predictor(bundle, settings).insight(stranger).price_predictions  # asked for, it forecasts


def test_a_markets_own_bundle_comes_before_a_pool(
    pool: list[pd.DataFrame], forecasts: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    mine = settings.model_copy(update={"model_storage_path": tmp_path})
    assert answering_root("ALPHA", "1d", mine) is None
    older = [bars.iloc[:-20] for bars in pool]
    early = mlkit.train(older, mine, ensemble=TINY, forecasts=forecasts, name="A")
    assert answering_root("ALPHA", "1d", mine) == early.path.parent
    late = mlkit.train(pool, mine, ensemble=TINY, forecasts=forecasts, name="B", publish=False)
    assert answering_root("ALPHA", "1d", mine) == early.path.parent
    publish(late)
    assert answering_root("ALPHA", "1d", mine) == late.path.parent  # what was trained on later bars
    assert answering_root("ALPHA", "1h", mine) is None
    alone = walk_forward(pool[0], mine, n_splits=1, ensemble=TINY)
    own = mlkit.train(pool[0].iloc[:-300], mine, ensemble=TINY, forecasts=alone)
    assert answering_root("ALPHA", "1d", mine) == own.path.parent == market_root("ALPHA", "1d", mine)
    assert answering_root("BETA", "1d", mine) == late.path.parent


def test_a_pool_is_scored_as_one_and_each_of_its_markets(forecasts: pd.DataFrame, settings: mlkit.Settings) -> None:
    pooled, each = score(forecasts, settings), score_symbols(forecasts, settings)
    assert list(pooled.index) == list(HORIZONS) and list(pooled.columns) == list(each.columns)
    assert each.index.tolist() == [(s, h) for s in ("ALPHA", "BETA", "GAMMA") for h in HORIZONS]
    by_horizon = each.groupby("horizon")
    assert (pooled["rows"] == by_horizon["rows"].sum()).all()
    for metric in ("coverage_90", "hit_rate"):
        weighted = (each[metric] * each["rows"]).groupby("horizon").sum() / pooled["rows"]
        np.testing.assert_allclose(pooled[metric], weighted)
    assert (each["trials"] == 3 * pooled["trials"].iloc[0]).all()
    with pytest.raises(ConfigError, match="of one market"):
        score_symbols(forecasts.drop(columns="symbol"), settings)


def of_market(bars: pd.DataFrame, pred: np.ndarray) -> dict[str, np.ndarray]:
    close, opens = np.log(bars["close"]), np.log(bars["open"])
    y, earned = (close.shift(-1) - close).to_numpy(), (opens.shift(-2) - opens.shift(-1)).to_numpy()
    return {"times": bars.index.asi8, "y": y, "pred": pred, "earned": earned, "scale": np.ones(len(y))}


def test_the_verdict_of_a_pool_of_one_is_that_of_its_market() -> None:
    market = of_market(bars := planted_edge(3000, seed=1, strength=0.3), np.zeros(3000))
    close = np.log(bars["close"])
    market["pred"] = 0.1 * (close - close.shift(3)).fillna(0.0).to_numpy()
    alone = verdict(market["y"], market["pred"], earned=market["earned"], horizon=1, cost_bps=0.0)
    pooled = pool_verdict([market], horizon=1, cost_bps=0.0)
    assert alone.verdict == pooled.verdict == "edge"
    assert (alone.rows, alone.r2) == (pooled.rows, pytest.approx(pooled.r2))
    assert (alone.mean_bps, alone.lower_bps) == pytest.approx((pooled.mean_bps, pooled.lower_bps))


def test_the_same_market_ten_times_is_no_more_evidence_than_once() -> None:
    """The planted fault: rows of one bar time counted as independent."""
    rng = np.random.default_rng(3)
    market = of_market(null_market(2000, seed=2), rng.normal(size=2000))
    once, often = (pool_verdict([market] * k, horizon=1, cost_bps=0.0) for k in (1, 10))
    assert often.lower_bps == pytest.approx(once.lower_bps) and often.rows == 10 * once.rows
    apart = [market | {"times": market["times"] + k} for k in range(10)]  # a clock of its own each
    assert pool_verdict(apart, horizon=1, cost_bps=0.0).lower_bps > once.lower_bps


def test_what_cannot_be_pooled_is_refused(pool: list[pd.DataFrame], settings: mlkit.Settings) -> None:
    hourly = null_market(400, seed=1, timeframe="1h")
    for bars, message in (
        ([], "no bars"),
        ([pool[0], pool[0]], "ALPHA is given twice"),
        ({"ALFA": pool[0]}, "'ALFA' names bars of ALPHA"),
        ([pool[0], hourly], "bars of 1d and 1h"),
    ):
        with pytest.raises(ConfigError, match=message):
            markets_of(bars)
    with pytest.raises(BarsError, match=r"each symbol needs \d+ bars \(warm-up and labels\), GAMMA has 100"):
        walk_forward([pool[0], pool[2].iloc[:100]], settings, ensemble=TINY)
    with pytest.raises(BarsError, match=r"ALPHA, BETA 1d: need \d+ bars to train and evaluate, have \d+"):
        walk_forward([pool[0].iloc[:700], pool[1].iloc[:650]], settings, ensemble=TINY)


def test_a_pool_has_a_name_that_a_folder_can_have() -> None:
    assert pool_name(["BTCUSDT", "ADAUSDT"]) == "ADAUSDT+BTCUSDT"
    many = [f"COIN{k:04}USDT" for k in range(500)]
    assert pool_name(many) == pool_name(many[::-1]) != pool_name(many[:-1])
    assert len(pool_name(many)) <= 32
