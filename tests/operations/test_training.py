"""Training sees nothing of what it is scored on, finds a planted edge, denies one where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, BundleError, ConfigError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.features.garch import fit_garch
from mlkit.market.simulate.markets import null_market, planted_edge
from mlkit.models.bundle.publishing import history
from mlkit.models.ensemble.settings import FORECAST_COLUMNS
from mlkit.operations.tracking.trials import feature_digest
from mlkit.operations.training import training
from mlkit.operations.training.scoring import intervals, score
from mlkit.operations.training.training import walk_forward
from mlkit.operations.training.training_set import ensemble_settings

HORIZONS = (1, 5)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> mlkit.Settings:
    folder = tmp_path_factory.mktemp("models")
    return mlkit.Settings(prediction_horizons=HORIZONS, model_storage_path=folder, cost_bps=0.1)


@pytest.fixture(scope="module")
def bars(sp500: pd.DataFrame) -> pd.DataFrame:
    return sp500.iloc[-2600:]


@pytest.fixture(scope="module")
def forecasts(bars: pd.DataFrame, settings: mlkit.Settings) -> pd.DataFrame:
    return walk_forward(bars, settings, n_splits=2)


def with_another_future(bars: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """The same bars up to ``start``, and a shuffled, three times larger market from there on."""
    other = bars.copy()
    rows = np.flatnonzero(bars.index >= start)
    other.iloc[rows] = bars.iloc[np.random.default_rng(0).permutation(rows)].to_numpy() * [3, 3, 3, 3, 0.5]
    return other


def same_past(a: pd.DataFrame, b: pd.DataFrame, start: pd.Timestamp) -> bool:
    columns = [*FORECAST_COLUMNS, "xgboost", "lightgbm", "random_forest", "low90", "high90"]
    return a.loc[a["timestamp"] < start, columns].equals(b.loc[b["timestamp"] < start, columns])


def test_bars_after_a_test_block_change_nothing_in_it(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings
) -> None:
    second = forecasts.loc[forecasts["fold"] == 1, "timestamp"].min()
    poisoned = walk_forward(with_another_future(bars, second), settings, n_splits=2)
    assert same_past(forecasts, poisoned, second)
    assert not forecasts.equals(poisoned)


def test_the_poison_finds_a_fit_on_all_bars(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted leak: GARCH fitted on the whole history instead of the training bars."""
    second = forecasts.loc[forecasts["fold"] == 1, "timestamp"].min()
    leaky = []
    for past in (bars, with_another_future(bars, second)):
        everything = fit_garch(past)
        monkeypatch.setattr(training, "fit_garch", lambda _, found=everything: found)
        leaky.append(walk_forward(past, settings, n_splits=2))
    assert not same_past(leaky[0], leaky[1], second)


def test_forecasts_are_one_row_a_test_bar_and_horizon(bars: pd.DataFrame, forecasts: pd.DataFrame) -> None:
    assert not forecasts.duplicated(["timestamp", "horizon"]).any()
    assert set(forecasts["horizon"]) == set(HORIZONS)
    outcome = forecasts[forecasts["horizon"] == 5].set_index("timestamp")["outcome"]
    close = np.log(bars["close"])
    pd.testing.assert_series_equal(
        outcome, (close.shift(-5) - close).loc[outcome.index], check_names=False, check_freq=False
    )
    opens = np.log(bars["open"])
    earned = forecasts[forecasts["horizon"] == 5].set_index("timestamp")["earned"]
    expected = (opens.shift(-6) - opens.shift(-1)).loc[earned.index]
    pd.testing.assert_series_equal(earned, expected, check_names=False, check_freq=False)


def test_a_planted_edge_is_found_and_a_null_market_denied(settings: mlkit.Settings) -> None:
    markets = {"edge": planted_edge(6000, seed=5, strength=0.3), "no edge": null_market(4000, seed=5)}
    found = {
        truth: score(walk_forward(market, settings, n_splits=1), settings).loc[1] for truth, market in markets.items()
    }
    assert {truth: row["verdict"] for truth, row in found.items()} == {"edge": "edge", "no edge": "no edge"}
    assert found["edge"]["r2"] > 0.02
    assert found["no edge"]["r2"] > -0.001


def test_train_publishes_a_bundle_that_says_what_it_is_worth(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings
) -> None:
    bundle = mlkit.train(bars, settings, forecasts=forecasts)
    assert (settings.models / "SP500-1d" / "CURRENT").read_text().strip() == bundle.id
    assert bundle.manifest.training_span.bars == len(bars)
    assert bundle.manifest.horizons == HORIZONS
    expected = score(forecasts, settings)
    for horizon in HORIZONS:
        measured = bundle.manifest.metrics[str(horizon)]
        assert isinstance(measured, dict)
        assert measured["verdict"] == expected.loc[horizon, "verdict"]
        assert measured["coverage_90"] == expected.loc[horizon, "coverage_90"]
    insight = mlkit.Predictor(bundle, settings).insight(bars)
    assert insight.model_status.models_loaded
    assert list(insight.price_predictions) == ["1", "5"]
    again = mlkit.train(bars, settings, forecasts=forecasts)
    assert again.id == bundle.id


def test_own_features_reach_the_models_and_the_predictor(bars: pd.DataFrame, settings: mlkit.Settings) -> None:
    @mlkit.feature(lookback=20)
    def overnight_share(b: pd.DataFrame) -> pd.Series:
        overnight = np.log(b["open"] / b["close"].shift()).abs().rolling(20).sum()
        return overnight / (overnight + np.log(b["close"] / b["open"]).abs().rolling(20).sum())

    own = mlkit.FeatureSet(own=[overnight_share], bars=bars)
    few = settings.model_copy(update={"prediction_horizons": (1,)})
    bundle = mlkit.train(bars, few, features=own)
    assert bundle.manifest.feature_names == own.names
    assert mlkit.Predictor(bundle, few, features=own).insight(bars).price_predictions["1"].prediction
    with pytest.raises(BundleError, match=r"'overnight_share' is not one of this version .* pass Predictor"):
        mlkit.Predictor(bundle, few).insight(bars)


def test_too_few_bars_say_how_many_are_missing(sp500: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path) -> None:
    with pytest.raises(BarsError, match=r"SP500 1d: need 1110 bars to train and evaluate, have 1000"):
        mlkit.train(sp500.iloc[:1000], settings)
    assert len(walk_forward(sp500.iloc[:1110], settings, n_splits=1)) > 0  # and the number is right
    assert not list(tmp_path.iterdir())


def test_a_fit_learns_from_its_rows_only(bars: pd.DataFrame, settings: mlkit.Settings) -> None:
    """A hole in the rows, a test block of combinatorial splits, is not learned from."""
    garch = fit_garch(bars)
    data = training.prepare(bars, HORIZONS, garch)
    rows = np.concatenate([np.arange(300, 1200), np.arange(1400, 2500)])
    scrambled = replace(data, Y=data.Y.copy())
    scrambled.Y[1200:1400] = np.random.default_rng(0).normal(0, 1, (200, len(HORIZONS)))
    honest, poisoned = (training.fit_price(d, rows, settings).to_bytes() for d in (data, scrambled))
    assert honest == poisoned
    everything = training.fit_price(scrambled, np.arange(300, 2500), settings).to_bytes()
    assert everything != training.fit_price(data, np.arange(300, 2500), settings).to_bytes()


def test_no_label_and_no_trade_across_an_outage(settings: mlkit.Settings) -> None:
    market = null_market(2600, seed=3)
    broken = market.drop(market.index[2000:2100])  # 100 minutes of a market that never closes
    assert not np.isfinite(training.prepare(broken, HORIZONS, fit_garch(broken)).earned[1999 - 5 : 2000, 1]).any()
    forecasts = walk_forward(broken, settings, n_splits=1)
    known = forecasts.groupby("horizon")["outcome"].count()
    assert (known == len(forecasts) / len(HORIZONS)).all()
    before = broken.index[2000 - 5 : 2000]  # their five bars ahead lie beyond the outage
    assert not forecasts["timestamp"].isin(before).any()
    assert forecasts["timestamp"].isin(broken.index[2000 - 6 : 2000 - 5]).any()
    scores = score(forecasts, settings)
    assert (scores["rows"] == known).all()
    assert (np.diff(np.unique(forecasts["bar"])) > 1).sum() == 1  # the hole is a hole in the score's rows, too


def test_every_fit_is_in_the_ledger_and_the_score_counts_them(
    bars: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    mine = settings.model_copy(update={"ledger_path": tmp_path / "ledger.jsonl", "prediction_horizons": (1,)})
    ledger, sources = Ledger.of(mine), [Source.of(bars)]
    forecasts = walk_forward(bars, mine, n_splits=2)
    assert len(ledger.entries()) == 4  # two fits, each its start and end
    assert ledger.trials(sources) == score(forecasts, mine)["trials"][1] == 1
    walk_forward(bars, mine, n_splits=2)
    walk_forward(bars, mine.model_copy(update={"n_threads": 1}), n_splits=2)
    assert ledger.trials(sources) == 1  # the same again, on another number of threads
    other = mine.model_copy(update={"seed": 8})
    walk_forward(bars, other, n_splits=2)
    walk_forward(bars, mine, n_splits=1)
    data = training.prepare(bars, (1,), fit_garch(bars))
    with pytest.raises(ConfigError):
        training.fit_price(data, np.arange(400, 450), mine.model_copy(update={"seed": 9}))  # too few rows
    assert ledger.table(sources)["failed"].sum() == 1
    found, alone = score(forecasts, mine), score(forecasts, mine, trials=1)
    assert found["trials"][1] == 4 == ledger.trials(sources)
    assert found["lower_bps"][1] < alone["lower_bps"][1] or np.isnan(alone["lower_bps"][1])
    with pytest.raises(ConfigError, match="do not say which data they are of"):
        score(without_attrs(forecasts), mine)


def without_attrs(frame: pd.DataFrame) -> pd.DataFrame:
    bare = frame.copy()
    bare.attrs = {}
    return bare


def test_an_own_feature_is_known_by_what_it_does(bars: pd.DataFrame) -> None:
    def made(days: int) -> mlkit.FeatureSet:
        @mlkit.feature(lookback=20, name="pace")
        def pace(b: pd.DataFrame) -> pd.Series:
            return b["close"].pct_change(days)

        return mlkit.FeatureSet(own=[pace])

    def other(b: pd.DataFrame) -> pd.Series:
        return b["close"].pct_change(10)

    renamed = mlkit.FeatureSet(own=[mlkit.feature(lookback=20, name="pace")(other)])
    assert feature_digest(made(5)) == feature_digest(made(5))
    assert len({feature_digest(s) for s in (made(5), made(10), renamed, mlkit.FeatureSet())}) == 4


def test_forecasts_keep_their_source_in_a_file(
    forecasts: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    forecasts.to_parquet(tmp_path / "forecasts.parquet")
    again = pd.read_parquet(tmp_path / "forecasts.parquet")
    pd.testing.assert_frame_equal(score(again, settings), score(forecasts, settings))


def test_every_headline_metric_has_an_interval(forecasts: pd.DataFrame, settings: mlkit.Settings) -> None:
    table, scores = intervals(forecasts, settings, reps=50), score(forecasts, settings)
    for metric in ("r2", "hit_rate", "brier_skill", "ece", "coverage_80", "coverage_90", "interval_ratio", "rank_ic"):
        at = table.xs(metric, level="metric")
        pd.testing.assert_series_equal(at["value"], scores[metric], check_names=False)
        known = at.dropna()
        assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()
    net = table.xs("net_bps", level="metric")["value"]
    traded = scores["net_bps"].notna()
    pd.testing.assert_series_equal(net[traded], scores.loc[traded, "net_bps"], check_names=False)


def test_an_ensemble_of_ones_own_reaches_every_fit_and_the_ledger(
    bars: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    mine = settings.model_copy(update={"ledger_path": tmp_path / "ledger.jsonl", "prediction_horizons": (1,)})
    few = replace(ensemble_settings(mine), n_estimators=3, forest_trees=4)
    ledger, sources = Ledger.of(mine), [Source.of(bars)]
    forecasts = walk_forward(bars, mine, n_splits=1, ensemble=few)
    assert score(forecasts, mine)["trials"][1] == 1
    walk_forward(bars, mine, n_splits=1)
    assert ledger.trials(sources) == 2  # another ensemble is another trial
    tried = {entry["settings"]["ensemble"]["forest_trees"] for entry in ledger.entries() if entry["event"] == "start"}
    assert tried == {4, ensemble_settings(mine).forest_trees}
    same = training.fit_price(
        training.prepare(bars, (1,), fit_garch(bars)), np.arange(300, 2400), mine, ensemble=ensemble_settings(mine)
    )
    assert same.training["trees"]["random_forest"] == [ensemble_settings(mine).forest_trees]


def test_a_challenger_is_written_beside_the_current_bundle(
    bars: pd.DataFrame, forecasts: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    mine = settings.model_copy(update={"model_storage_path": tmp_path})
    few = replace(ensemble_settings(mine), n_estimators=3, forest_trees=4)
    challenger = mlkit.train(bars, mine, forecasts=forecasts, ensemble=few, publish=False)
    root = tmp_path / "SP500-1d"
    assert history(root) == () and mlkit.ModelBundle.open(challenger.path).id == challenger.id
    assert challenger.manifest.settings["ensemble"]["forest_trees"] == 4
    champion = mlkit.train(bars, mine, forecasts=forecasts)
    again = mlkit.train(bars, mine, forecasts=forecasts, ensemble=few, publish=False)
    assert history(root) == (champion.id,) and again.id == challenger.id != champion.id


def test_what_was_chosen_on_earlier_bars_is_judged_on_later_ones(bars: pd.DataFrame, settings: mlkit.Settings) -> None:
    for seen in (2079, 2079 - 7, 600):
        cut = training.folds(bars, settings, n_splits=2, after=pd.Timestamp(bars.index[seen]))
        first = min(int(test[0]) for _, test in cut)
        assert first > seen
        assert (first - seen < 5) == (seen > len(bars) // 2)
    times = walk_forward(bars, settings, n_splits=1, after=bars.index[2079])["timestamp"]
    assert times.min() > bars.index[2079] and times.max() == bars.index[-max(HORIZONS) - 1]
    with pytest.raises(BarsError, match=r"SP500 1d: need 205 bars after 2018-.*, have 204; load newer bars"):
        training.folds(bars, settings, after=bars.index[-205])
