"""Drift of a bundle of several markets: each of them is looked at by itself, and no other one."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.cli import main
from mlkit.errors import BundleError, ConfigError
from mlkit.inference.drift_note import read_drift
from mlkit.market.simulate.markets import Change, null_market, regime_change
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.operations.drift.checks import DriftReport, check_drift, save_drift
from mlkit.operations.training.drift_reference import DRIFT_FILE, DriftReference
from mlkit.operations.training.panel_layout import lay_out
from mlkit.operations.training.training import fitted_garch, train, walk_forward
from mlkit.operations.training.training_set import prepare

AT, LATER = 1600, 400
TINY = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
VOLATILITY = {"CALM": 0.15, "USUAL": 0.4, "WILD": 1.2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> mlkit.Settings:
    home = tmp_path_factory.mktemp("pool")
    return mlkit.Settings(
        prediction_horizons=(1, 5),
        model_storage_path=home / "models",
        training_data_path=home / "bars",
        ledger_path=home / "ledger.jsonl",
        n_threads=1,
    )


def history(symbol: str, change: Change) -> pd.DataFrame:
    """A market that changes its character with the first bar after the training, or not."""
    seed = 10 + list(VOLATILITY).index(symbol)
    size = VOLATILITY[symbol]
    return regime_change(AT + LATER, AT, change, seed=seed, timeframe="1h", symbol=symbol, annual_volatility=size)


@pytest.fixture(scope="module")
def markets() -> dict[str, pd.DataFrame]:
    """Three markets that never change."""
    return {symbol: history(symbol, "none") for symbol in VOLATILITY}


@pytest.fixture(scope="module")
def changed() -> dict[str, pd.DataFrame]:
    """The same, but their volatility doubles."""
    return {symbol: history(symbol, "volatility") for symbol in VOLATILITY}


@pytest.fixture(scope="module")
def pool(markets: dict[str, pd.DataFrame], settings: mlkit.Settings) -> ModelBundle:
    """Trained on all of them; the history of one ends a little earlier."""
    past = {symbol: bars.iloc[: AT - 10 * (symbol == "WILD")] for symbol, bars in markets.items()}
    judged = walk_forward(past, settings, n_splits=1, ensemble=TINY)
    return train(past, settings, ensemble=TINY, forecasts=judged, name="THREE")


@pytest.fixture(scope="module")
def reports(pool: ModelBundle, markets: dict[str, pd.DataFrame], settings: mlkit.Settings) -> dict[str, DriftReport]:
    return {symbol: check_drift(pool, bars, settings) for symbol, bars in markets.items()}


@pytest.mark.parametrize("symbol", VOLATILITY)
def test_no_member_that_did_not_change_drifts(symbol: str, reports: dict[str, DriftReport], pool: ModelBundle) -> None:
    report = reports[symbol]
    assert (report.verdict, report.bundle, report.symbol) == ("no drift", pool.id, symbol)
    assert report.bars == LATER  # those later than the training of all members, also where its own ended before
    assert (report.table.drop("predictions")["verdict"] == "no drift").all()


def test_a_member_is_judged_with_its_own_garch(
    pool: ModelBundle, markets: dict[str, pd.DataFrame], reports: dict[str, DriftReport]
) -> None:
    garch = fitted_garch((markets["CALM"].iloc[:AT],), lay_out((markets["CALM"].iloc[:AT],)), AT)["CALM"]
    assert pool.manifest.garch_of("CALM") == garch
    said = mlkit.Predictor(pool).forecasts(markets["CALM"])
    kept = reports["CALM"].monitored
    said = said.merge(kept[["timestamp", "horizon"]])
    for name in ("p_up", "std", "hi90"):
        ours = kept.sort_values(["timestamp", "horizon"])[name].to_numpy()
        np.testing.assert_array_equal(ours, said.sort_values(["timestamp", "horizon"])[name].to_numpy())
    data = prepare(markets["CALM"], (1, 5), garch)
    known = kept[kept["horizon"] == 5]["outcome"].to_numpy()
    np.testing.assert_array_equal(known, data.Y[-LATER:, 1])


def drifting(pool: ModelBundle, markets: dict[str, pd.DataFrame], settings: mlkit.Settings) -> set[str]:
    return {symbol for symbol, bars in markets.items() if check_drift(pool, bars, settings).verdict == "drift"}


def test_a_member_is_compared_with_its_own_part_of_the_training(
    pool: ModelBundle, changed: dict[str, pd.DataFrame], settings: mlkit.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drifting(pool, changed, settings) == {"CALM", "USUAL"}
    # The planted fault: against all of them, twice as wild is what one of the others always was.
    monkeypatch.setattr(DriftReference, "of_market", lambda self, number: self)
    assert "USUAL" not in drifting(pool, changed, settings)


def test_the_reference_of_a_pool_says_which_market_a_block_is_of(
    pool: ModelBundle, markets: dict[str, pd.DataFrame], settings: mlkit.Settings, tmp_path: Path
) -> None:
    reference = DriftReference.read(pool)
    assert reference is not None and reference.pooled and set(reference.features.market) == {0, 1, 2}
    assert reference.to_bytes() == pool.read(DRIFT_FILE)
    added = {"schema_version", "manifest_sha256", "bundle_id", "library_versions", "files"}
    fields = pool.manifest.model_dump(mode="json", exclude=added)
    broken = write_bundle(tmp_path / "broken", fields, price=pool.price, extra={DRIFT_FILE: b"not a reference"})
    with pytest.raises(BundleError, match="not a drift reference"):
        check_drift(broken, markets["CALM"], settings)


def test_a_market_that_is_no_member_is_one_clear_error(pool: ModelBundle, settings: mlkit.Settings) -> None:
    stranger = null_market(AT + LATER, seed=9, timeframe="1h", symbol="OTHER")
    with pytest.raises(ConfigError, match=r"bars are of OTHER, bundle .* was trained on CALM, USUAL, WILD: ") as caught:
        check_drift(pool, stranger, settings)
    assert "\n" not in str(caught.value)
    many = replace(pool, manifest=pool.manifest.model_copy(update={"pool": dict.fromkeys(map(str, range(500)))}))
    with pytest.raises(ConfigError, match="and 492 more"):
        check_drift(many, stranger, settings)


def test_each_member_keeps_its_own_report_for_those_who_answer(
    pool: ModelBundle, markets: dict[str, pd.DataFrame], changed: dict[str, pd.DataFrame], settings: mlkit.Settings,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLKIT_MODEL_STORAGE_PATH", str(settings.models))
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(settings.lake))
    for bars in markets.values():
        mlkit.save_bars(bars, settings)
    root = pool.path.parent
    report = check_drift(pool, changed["USUAL"], settings)
    assert save_drift(report, root).name == "drift-USUAL-1h.json"
    with caplog.at_level(logging.WARNING):
        assert main(["drift", "--symbol", "CALM", "--timeframe", "1h", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["symbol"], told["bundle"], told["verdict"]) == ("CALM", pool.id, "no drift")
        for symbol, verdict in (("CALM", "no drift"), ("USUAL", "drift"), ("WILD", None)):
            kept = read_drift(root, symbol, "1h", pool.id)
            assert (None if kept is None else kept.verdict) == verdict
            badge = mlkit.Predictor(pool, settings).insight(markets[symbol]).model_status.drift
            assert badge == kept
    assert {path.name for path in Path(root).glob("drift*")} == {"drift-CALM-1h.json", "drift-USUAL-1h.json"}
    assert not caplog.records
    assert main(["drift", "--symbol", "OTHER", "--timeframe", "1h"]) == 2
    assert "no published model of this market" in capsys.readouterr().err
