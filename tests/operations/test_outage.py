"""A long outage in a training: rows without features are neither learned from nor scored, nor forecast."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError
from mlkit.features.engine import DEFAULT_GARCH
from mlkit.market.simulate.markets import null_market
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.drift.checks import check_drift
from mlkit.operations.training.forecasting import forecast_rows, naive_intervals
from mlkit.operations.training.training import folds, walk_forward
from mlkit.operations.training.training_set import prepare

N, WARM_UP = 4000, mlkit.FeatureSet().warm_up


def torn(at: int, n: int = N, symbol: str = "A", seed: int = 3) -> pd.DataFrame:
    """Hours with years missing before bar ``at``, at another price then."""
    bars = null_market(n, seed=seed, timeframe="1h", symbol=symbol)
    after = np.arange(n) >= at
    bars.index = bars.index + pd.to_timedelta(np.where(after, 3650, 0), unit="D")
    bars.loc[after, ["open", "high", "low", "close"]] *= 7.0
    return mlkit.validate_bars(bars)


def test_no_test_row_is_without_features(home: mlkit.Settings, quick: EnsembleSettings) -> None:
    bars = torn(3200)
    cut = folds(bars, home, n_splits=3)
    rows = np.concatenate([test for _, test in cut])
    assert not np.isin(np.arange(3200, 3200 + WARM_UP), rows).any()
    assert rows[0] == 2000 and rows[-1] >= N - 2 and 3200 + WARM_UP in rows and 3198 in rows
    data = prepare(bars, (1,), DEFAULT_GARCH)
    every = np.arange(N)
    assert np.array_equal(data.warm(every), every[np.isfinite(data.X).all(axis=1)])
    assert np.array_equal(data.warm(every), every[(every >= WARM_UP) & ((every < 3200) | (every >= 3200 + WARM_UP))])


def test_a_walk_forward_over_an_outage_forgets_it(home: mlkit.Settings) -> None:
    few = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
    bars = torn(3000)
    found = walk_forward(bars, home, n_splits=1, ensemble=few)
    assert found["bar"].tolist() == [*range(2000, 2999), *range(3000 + WARM_UP, N - 1)]
    numbers = found.drop(columns=["timestamp", "outcome", "earned"]).select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all()
    usual = found.loc[found["bar"] < 3000, ["std", "high90_ewma", "high90_garch"]].median()
    assert (found.loc[found["bar"] >= 3000, ["std", "high90_ewma", "high90_garch"]].max() < 5 * usual).all()


def test_a_fold_of_cold_rows_alone_is_left_out(home: mlkit.Settings) -> None:
    assert len(folds(torn(2450), home, n_splits=4)) == 3  # the second of about 500 rows, bars 2450 to 3050 are cold
    short = torn(1200, n=1900)
    with pytest.raises(BarsError, match=rf"need \d+ bars to train and evaluate, have 1300 and {WARM_UP} without"):
        folds(short, home.model_copy(update={"prediction_horizons": (240,)}))


def test_other_markets_of_a_pool_go_on(home: mlkit.Settings) -> None:
    whole, other = null_market(N, seed=4, timeframe="1h", symbol="B"), torn(1000)
    data = prepare([other, whole], (1,), {"A": DEFAULT_GARCH, "B": DEFAULT_GARCH})
    rows = np.arange(len(data.X))
    assert np.array_equal(data.warm(rows), rows[np.isfinite(data.X).all(axis=1)])
    (train, test), *_ = folds([other, whole], home, n_splits=2)
    assert len(train) and np.isfinite(data.X[test]).all()
    naive = naive_intervals(data, train, test)
    assert all(np.isfinite(values).all() for values in naive.values())


def test_drift_is_told_from_rows_with_features(fitted: Callable[..., object]) -> None:
    bars = torn(2000, n=3200)
    bundle = fitted(bars.iloc[:2000])
    report = check_drift(bundle, bars)  # type: ignore[arg-type]
    assert report.bars == 1200 - WARM_UP
    assert np.isfinite(report.monitored.drop(columns=["timestamp", "outcome"]).to_numpy()).all()
    early = check_drift(bundle, bars.iloc[: 2000 + WARM_UP])  # type: ignore[arg-type]
    assert early.bars == 0 and early.verdict == "not enough bars"


def test_forecasts_of_rows_are_those_of_a_predictor(fitted: Callable[..., object]) -> None:
    bars = torn(2100, n=2100 + WARM_UP + 30)
    bundle = fitted(bars.iloc[:2000])
    data = prepare(bars, (1,), DEFAULT_GARCH if bundle.manifest.garch is None else bundle.manifest.garch)  # type: ignore[attr-defined]
    rows = data.warm(np.arange(2000, len(bars) - 1))
    ours = forecast_rows(data, bundle.price, rows)  # type: ignore[attr-defined]
    theirs = mlkit.Predictor(bundle).forecasts(bars).iloc[rows]  # type: ignore[arg-type]
    for name in ("log_return", "std", "lo90", "hi90"):
        assert np.array_equal(getattr(ours, name)[:, 0], theirs[name]), name
