"""Drift of a bundle: flagged where the market changed, not elsewhere, on what was known, and kept for the badge."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BundleError, ConfigError
from mlkit.inference.drift_note import read_drift
from mlkit.market.simulate.markets import null_market, regime_change
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.ensemble.settings import FORECAST_COLUMNS, EnsembleSettings
from mlkit.operations.drift.checks import DriftReport, check_drift, save_drift
from mlkit.operations.drift.outcomes import calibration_table, coverage_table
from mlkit.operations.training.drift_reference import DRIFT_FILE, DriftReference
from mlkit.operations.training.training import train

AT = 3500  # bars of the training
TINY = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> mlkit.Settings:
    return mlkit.Settings(prediction_horizons=(1, 5), model_storage_path=tmp_path_factory.mktemp("models"), n_threads=1)


@pytest.fixture(scope="module")
def same() -> pd.DataFrame:
    return regime_change(AT + 600, AT, "none", seed=3)


@pytest.fixture(scope="module")
def wilder() -> pd.DataFrame:
    return regime_change(AT + 600, AT, "volatility", seed=3)


@pytest.fixture(scope="module")
def bundle(same: pd.DataFrame, wilder: pd.DataFrame, settings: mlkit.Settings) -> ModelBundle:
    assert same.iloc[:AT].equals(wilder.iloc[:AT])
    return train(same.iloc[:AT], settings, ensemble=TINY)


@pytest.fixture(scope="module")
def drifted(bundle: ModelBundle, wilder: pd.DataFrame, settings: mlkit.Settings) -> DriftReport:
    return check_drift(bundle, wilder, settings)


def fields_of(bundle: ModelBundle) -> dict[str, Any]:
    """What `write_bundle` was given."""
    added = {"schema_version", "manifest_sha256", "bundle_id", "library_versions", "files"}
    return bundle.manifest.model_dump(mode="json", exclude=added)


def without_reference(bundle: ModelBundle, root: Path) -> ModelBundle:
    """The same models in a bundle of before drift was looked at."""
    return write_bundle(root, fields_of(bundle), price=bundle.price)


def test_a_change_is_flagged_with_its_reason_and_the_same_market_is_not(
    bundle: ModelBundle, same: pd.DataFrame, drifted: DriftReport, settings: mlkit.Settings
) -> None:
    assert drifted.verdict == "drift" and drifted.reasons[0].startswith("features: ")
    assert drifted.bars == 600 and drifted.bundle == bundle.id
    calm = check_drift(bundle, same, settings)
    assert calm.verdict == "no drift"
    assert len(calm.reasons) == 6  # one a family; and the model is old by then
    assert calm.table["level"].sum() == pytest.approx(settings.drift_level)
    assert calm.features.index[0] in bundle.manifest.feature_names


def test_bars_after_now_change_nothing_that_is_said_now(
    bundle: ModelBundle, same: pd.DataFrame, settings: mlkit.Settings
) -> None:
    """Forecasts and outcomes that a later check repeats are the bits of the earlier one, whatever came between."""
    now = AT + 400
    poisoned = same.copy()
    poisoned.iloc[now:, :4] *= 3.0
    early = check_drift(bundle, same.iloc[:now], settings).monitored
    late = check_drift(bundle, poisoned, settings).monitored
    late = late[late["timestamp"] < same.index[now]]
    keys = ["timestamp", "horizon"]
    pd.testing.assert_frame_equal(
        early[[*keys, *FORECAST_COLUMNS]].reset_index(drop=True),
        late[[*keys, *FORECAST_COLUMNS]].reset_index(drop=True),
    )
    known = early["outcome"].notna().to_numpy()
    assert (~known).sum() == 1 + 5  # the newest forecasts of each horizon
    assert early["outcome"].to_numpy()[known].tolist() == late["outcome"].to_numpy()[known].tolist()


def test_training_bars_are_not_judged(bundle: ModelBundle, same: pd.DataFrame, settings: mlkit.Settings) -> None:
    for rows, bars in ((AT, 0), (AT + 99, 99)):
        report = check_drift(bundle, same.iloc[:rows], settings)
        assert (report.verdict, report.bars, len(report.monitored)) == ("not enough bars", bars, 2 * bars)
        assert "need 100 bars" in report.reasons[0]


def test_a_bundle_without_reference_opens_and_says_so(
    bundle: ModelBundle, same: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    old = without_reference(bundle, tmp_path)
    report = check_drift(old, same, settings)
    assert report.verdict == "not enough bars" and "no drift reference" in report.reasons[0]
    assert report.table.loc["coverage", "verdict"] == "no drift"  # needs none


def test_a_damaged_reference_is_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    assert DRIFT_FILE in bundle.manifest.files
    other = write_bundle(tmp_path, fields_of(bundle), price=bundle.price, extra={DRIFT_FILE: b"not a reference"})
    with pytest.raises(BundleError, match="train again"):
        DriftReference.read(other)


def test_other_timeframes_and_bundles_without_prices_are_refused(
    bundle: ModelBundle, same: pd.DataFrame, settings: mlkit.Settings, tmp_path: Path
) -> None:
    slower = null_market(700, seed=1, timeframe="1h")
    with pytest.raises(ConfigError, match="1h"):
        check_drift(bundle, slower, settings)
    bare = write_bundle(tmp_path, fields_of(bundle), extra={"note.txt": b"nothing"})
    with pytest.raises(ConfigError, match="no price models"):
        check_drift(bare, same, settings)


def test_old_bars_are_told_beside_the_verdict(
    bundle: ModelBundle, same: pd.DataFrame, settings: mlkit.Settings
) -> None:
    bars = same.iloc[: AT + 200]
    fresh = check_drift(bundle, bars, settings, now=(bars.index[-1] + pd.Timedelta("2min")).to_pydatetime())
    late = check_drift(bundle, bars, settings, now=datetime(2030, 1, 1, tzinfo=UTC))
    assert not fresh.stale and late.stale and fresh.verdict == late.verdict
    assert late.reasons[-1].startswith("the bars are stale")


def test_the_report_is_plain_json_and_shows_itself(drifted: DriftReport) -> None:
    said = json.loads(json.dumps(drifted.to_dict(), allow_nan=False))
    assert said["verdict"] == "drift" and said["reasons"] == list(drifted.reasons)
    assert len(said["features"]) == 20 and len(said["families"]) == 5 and len(said["coverage"]) == 4
    page = replace(drifted, symbol="<b>").to_dict()["symbol"], drifted._repr_html_()
    assert page[0] == "<b>" and "<b>drift</b>" in page[1] and "calibration" in page[1]


def test_what_was_saved_is_read_for_this_bundle_and_market_only(
    drifted: DriftReport, bundle: ModelBundle, tmp_path: Path
) -> None:
    root = tmp_path / "EDGE-1m"
    assert save_drift(drifted, root) == root / "drift.json"
    found = read_drift(root, "EDGE", "1m", bundle.id)
    assert found is not None and found.verdict == "drift" and found.reasons == list(drifted.reasons)
    assert pd.Timestamp(found.checked) == drifted.checked.tz_localize(None)
    assert read_drift(root, "EDGE", "1m", "0" * 16) is None
    pool = tmp_path / "pools" / "majors-1m"
    assert save_drift(drifted, pool) == pool / "drift-EDGE-1m.json"
    assert read_drift(pool, "EDGE", "1m", bundle.id) == found and read_drift(pool, "OTHER", "1m", bundle.id) is None


def forecasts(p_up: np.ndarray, rise: np.ndarray, width: float = 1.645) -> pd.DataFrame:
    """One-bar forecasts of standard normal outcomes with the directions given."""
    y = np.abs(np.random.default_rng(9).standard_normal(len(p_up))) * np.where(rise, 1.0, -1.0)
    ends = {"lo80": -0.779 * width, "hi80": 0.779 * width, "lo90": -width, "hi90": width}
    return pd.DataFrame({"horizon": 1, "outcome": y, "p_up": p_up, **ends})


def test_probabilities_that_turned_are_flagged_and_kept_ones_are_not() -> None:
    rng = np.random.default_rng(8)
    p_up = 0.5 + 0.08 * rng.standard_normal(1000)
    rise = rng.random(1000) < p_up
    kept = calibration_table(forecasts(p_up, rise), {})
    turned = calibration_table(forecasts(1.0 - p_up, rise), {})
    assert kept["p"].item() > 0.01 > 1e-4 > turned["p"].item()
    assert turned["brier"].item() > turned["promised"].item()
    worse_before = calibration_table(forecasts(1.0 - p_up, rise), {1: (turned["excess"].item(), 0.0)})
    assert worse_before["p"].item() == pytest.approx(0.5)  # no worse than the walk-forward


def test_intervals_that_became_too_narrow_are_flagged(bundle: ModelBundle) -> None:
    p_up = np.full(1000, 0.5)
    rise = np.random.default_rng(7).random(1000) < 0.5
    bare = bundle.manifest.model_copy(update={"metrics": {}})
    kept, narrow = (coverage_table(forecasts(p_up, rise, width), bare) for width in (1.645, 1.3))
    assert kept["p"].min() > 0.01 > 1e-4 > narrow["p"].max()
    assert kept["realised"].tolist() == pytest.approx([0.8, 0.9], abs=0.03)
    forgiven = bundle.manifest.model_copy(update={"metrics": {"1": {"coverage_80": 0.69, "coverage_90": 0.81}}})
    assert coverage_table(forecasts(p_up, rise, 1.3), forgiven)["p"].min() > 0.05
