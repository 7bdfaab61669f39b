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
from mlkit.errors import ConfigError
from mlkit.inference.drift import read_drift
from mlkit.market.simulate import null_market
from mlkit.models.base import EnsembleSettings
from mlkit.models.bundle import ModelBundle
from mlkit.operations.drift import DriftReport, check_drift, save_drift
from mlkit.operations.training import fitted_garch, lay_out, prepare, train

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


@pytest.fixture(scope="module")
def markets() -> dict[str, pd.DataFrame]:
    """Three markets that never change; the last one's history ends a while before the others' training does."""
    made = {
        symbol: null_market(AT + LATER, seed=seed, timeframe="1h", symbol=symbol, annual_volatility=size)
        for seed, (symbol, size) in enumerate(VOLATILITY.items())
    }
    return made


@pytest.fixture(scope="module")
def pool(markets: dict[str, pd.DataFrame], settings: mlkit.Settings) -> ModelBundle:
    past = {symbol: bars.iloc[: AT - 100 * (symbol == "WILD")] for symbol, bars in markets.items()}
    return train(past, settings, ensemble=TINY, name="THREE")


@pytest.fixture(scope="module")
def reports(pool: ModelBundle, markets: dict[str, pd.DataFrame], settings: mlkit.Settings) -> dict[str, DriftReport]:
    return {symbol: check_drift(pool, bars, settings) for symbol, bars in markets.items()}


def wilder(bars: pd.DataFrame, times: float = 4.0) -> pd.DataFrame:
    """The same bars, whose moves are larger after the training."""
    logs = np.log(bars.drop(columns="volume"))
    last = logs["close"].iloc[AT - 1]
    logs.iloc[AT:] = last + times * (logs.iloc[AT:] - last)
    changed = np.exp(logs).assign(volume=bars["volume"])
    changed.attrs = bars.attrs
    return changed


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


def test_a_market_that_is_no_member_is_one_clear_error(pool: ModelBundle, settings: mlkit.Settings) -> None:
    stranger = null_market(AT + LATER, seed=9, timeframe="1h", symbol="OTHER")
    with pytest.raises(ConfigError, match=r"bars are of OTHER, bundle .* was trained on CALM, USUAL, WILD: ") as caught:
        check_drift(pool, stranger, settings)
    assert "\n" not in str(caught.value)
    many = replace(pool, manifest=pool.manifest.model_copy(update={"pool": dict.fromkeys(map(str, range(500)))}))
    with pytest.raises(ConfigError, match="and 492 more"):
        check_drift(many, stranger, settings)


def test_each_member_keeps_its_own_report_for_those_who_answer(
    pool: ModelBundle, markets: dict[str, pd.DataFrame], reports: dict[str, DriftReport], settings: mlkit.Settings,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("MLKIT_MODEL_STORAGE_PATH", str(settings.models))
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(settings.lake))
    for bars in markets.values():
        mlkit.save_bars(bars, settings)
    root = pool.path.parent
    changed = check_drift(pool, wilder(markets["USUAL"]), settings)
    assert save_drift(changed, root).name == "drift-USUAL-1h.json"
    with caplog.at_level(logging.WARNING):
        assert main(["drift", "--symbol", "CALM", "--timeframe", "1h", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["symbol"], told["bundle"], told["verdict"]) == ("CALM", pool.id, "no drift")
        for symbol, verdict in (("CALM", "no drift"), ("USUAL", changed.verdict), ("WILD", None)):
            kept = read_drift(root, symbol, "1h", pool.id)
            assert (None if kept is None else kept.verdict) == verdict
            badge = mlkit.Predictor(pool, settings).insight(markets[symbol]).model_status.drift
            assert badge == kept
    assert {path.name for path in Path(root).glob("drift*")} == {"drift-CALM-1h.json", "drift-USUAL-1h.json"}
    assert not caplog.records
    assert main(["drift", "--symbol", "OTHER", "--timeframe", "1h"]) == 2
    assert "no published model of this market" in capsys.readouterr().err
