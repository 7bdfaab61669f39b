"""The predictor with a real small ensemble, a real untrained network, and everything that can be missing."""

import builtins
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit.config import Settings
from mlkit.errors import BarsError, BundleError, ConfigError, DependencyError, NotTrainedError
from mlkit.evaluation.splits import label_end_positions
from mlkit.features.engine import DEFAULT_GARCH, FEATURE_NAMES, WARM_UP, build_features, volatility_scale
from mlkit.features.rules import PATTERNS
from mlkit.features.volatility import volatility_terms
from mlkit.inference import loaded_models as module
from mlkit.inference.bundle_roots import current_bundle
from mlkit.inference.predictor import Predictor, insights
from mlkit.labels import forward_returns, pattern_directions
from mlkit.market.bars import fingerprint
from mlkit.models.bundle.bundle import ModelBundle, write_bundle
from mlkit.models.bundle.publishing import publish
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import FORECAST_COLUMNS, EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays
from mlkit.models.patterns.cnn import PatternMeta, PatternModel
from mlkit.models.patterns.network import PatternCNN, weights_of

HORIZONS = (1, 5, 15, 60)
SETTINGS = EnsembleSettings.smoke(n_estimators=8, forest_trees=4, n_threads=1)
VERDICTS = {"1": "no edge", "5": "edge", "15": "edge"}  # 60 was not measured


@pytest.fixture(scope="module")
def bars(sp500: pd.DataFrame) -> pd.DataFrame:
    return sp500.iloc[-2200:]


@pytest.fixture(scope="module")
def price(bars: pd.DataFrame) -> PricePredictor:
    features, labels = build_features(bars), forward_returns(bars, HORIZONS)
    arrays = TrainingArrays(
        features.to_numpy(),
        labels["log_return"].to_numpy(),
        label_end_positions(labels),
        volatility_scale(features, HORIZONS, DEFAULT_GARCH),
        HORIZONS,
        volatility_terms(features, "1d"),
    )
    return PricePredictor.fit(arrays, SETTINGS)


def manifest(bars: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    fields = {
        "created": "2024-01-01T00:00:00Z",
        "symbol": bars.attrs["symbol"],
        "timeframe": bars.attrs["timeframe"],
        "calendar": bars.attrs["calendar"],
        "feature_names": FEATURE_NAMES,
        "horizons": HORIZONS,
        "training_span": {"start": str(bars.index[0]), "end": str(bars.index[-1]), "bars": len(bars)},
        "data_sha256": fingerprint(bars),
        "seed": 7,
        "settings": {},
        "metrics": {h: {"verdict": verdict} for h, verdict in VERDICTS.items()},
    }
    return {**fields, **changes}


@pytest.fixture(scope="module")
def bundle(bars: pd.DataFrame, price: PricePredictor, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return write_bundle(tmp_path_factory.mktemp("bundles"), manifest(bars), price=price)


@pytest.fixture(scope="module")
def cnn() -> PatternModel:
    """An untrained network with thresholds that some patterns pass."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = PatternCNN()
    return PatternModel(weights_of(net), PatternMeta(standard="classic", thresholds=(0.5,) * len(PATTERNS)))


@pytest.fixture
def predictor(bundle: ModelBundle, cnn: PatternModel) -> Predictor:
    return Predictor(bundle, Settings(), cnn=cnn)


# --- the insight is the last row ---------------------------------------------------------------------


def test_insight_is_the_last_row_of_the_forecasts(predictor: Predictor, bars: pd.DataFrame) -> None:
    insight, frame = predictor.insight(bars), predictor.forecasts(bars)
    assert list(frame.columns) == ["timestamp", "horizon", *FORECAST_COLUMNS]
    assert len(frame) == len(bars) * len(HORIZONS)
    close = bars["close"].iloc[-1]
    for row in frame.tail(len(HORIZONS)).itertuples():
        predicted = insight.price_predictions[str(row.horizon)]
        assert row.timestamp == bars.index[-1]
        assert (predicted.log_return, predicted.p_up) == (row.log_return, row.p_up)  # the same bits
        assert predicted.prediction == close * math.exp(row.log_return)
        assert predicted.interval == (close * math.exp(row.lo90), close * math.exp(row.hi90))
        assert predicted.interval_80 == (close * math.exp(row.lo80), close * math.exp(row.hi80))
    assert insight.current_price == close


def test_insight_is_the_last_row_of_the_probabilities(
    predictor: Predictor, bars: pd.DataFrame, cnn: PatternModel
) -> None:
    probabilities = predictor.pattern_probabilities(bars)
    assert probabilities.shape == (len(bars), 15) and tuple(probabilities.columns) == PATTERNS
    assert probabilities.index.equals(bars.index)
    assert probabilities.iloc[:19].isna().all().all() and probabilities.iloc[19:].notna().all().all()
    reading = predictor.patterns(bars)
    last = probabilities.iloc[-1].to_dict()
    assert reading.probabilities == last
    assert reading.detected == {name: p for name, p in last.items() if p >= 0.5}
    assert list(reading.detected.values()) == sorted(reading.detected.values(), reverse=True)
    assert reading.standard == "classic" and reading.thresholds == dict.fromkeys(PATTERNS, 0.5)


@pytest.mark.parametrize("back", [0, 1, 7])
def test_nothing_after_a_bar_changes_what_was_said(predictor: Predictor, bars: pd.DataFrame, back: int) -> None:
    known = bars.iloc[: len(bars) - back]
    full, prefix = predictor.forecasts(bars), predictor.forecasts(known)
    pd.testing.assert_frame_equal(full.iloc[: len(prefix)], prefix)
    full, prefix = predictor.pattern_probabilities(bars), predictor.pattern_probabilities(known)
    pd.testing.assert_frame_equal(full.iloc[: len(prefix)], prefix)


def test_forecasts_are_nan_in_the_warm_up_only(predictor: Predictor, bars: pd.DataFrame) -> None:
    frame = predictor.forecasts(bars).set_index("timestamp")[list(FORECAST_COLUMNS)]
    warm = frame.index < bars.index[WARM_UP]
    assert frame[warm].isna().all().all() and frame[~warm].notna().all().all()


def test_the_parts_are_those_of_the_insight(predictor: Predictor, bars: pd.DataFrame) -> None:
    insight = predictor.insight(bars)
    assert predictor.patterns(bars) == insight.patterns
    assert predictor.price_prediction(bars) == insight.price_predictions
    assert predictor.signals(bars) == insight.signals
    assert predictor.status() == insight.model_status
    assert insight.model_status.models_loaded
    assert insight.message is None and insight.bundle == predictor.insight(bars).bundle


# --- definitions ---------------------------------------------------------------------------------------


def test_times_and_verdicts(predictor: Predictor, bars: pd.DataFrame) -> None:
    insight = predictor.insight(bars)
    document = insight.model_dump(mode="json")
    assert document["timestamp"] == "2018-12-31T00:00:00"
    assert document["known_at"] == "2018-12-31T21:00:00"  # 16:00 in New York
    found = {h: p["verdict"] for h, p in document["price_predictions"].items()}
    assert found == {**VERDICTS, "60": None}
    assert document["price_predictions"]["60"]["reason"] == "verdict: not measured out of sample"
    assert all(s.type == "HOLD" for s in insight.signals if s.source == "Price forecast: 1 bar")


def test_overall_confidence_is_that_of_the_leading_signal(predictor: Predictor, bars: pd.DataFrame) -> None:
    for end in range(len(bars) - 12, len(bars)):
        insight = predictor.insight(bars.iloc[:end])
        assert insight.confidence == insight.signals[0].confidence
        assert ("confidence" in insight.reasons) == (insight.confidence is None)


def test_std_is_that_of_a_log_normal_price(predictor: Predictor, bars: pd.DataFrame) -> None:
    row = predictor.forecasts(bars).iloc[-1]
    predicted = predictor.insight(bars).price_predictions["60"]
    rng = np.random.default_rng(0)
    drawn = bars["close"].iloc[-1] * np.exp(row["log_return"] + row["std"] * rng.standard_normal(400_000))
    assert predicted.std == pytest.approx(drawn.std(), rel=0.01)


def test_directions_are_those_of_the_rules(
    predictor: Predictor, sp500: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = pattern_directions(sp500, "classic").drop(columns="doji")
    seen: set[tuple[str, int]] = set()
    monkeypatch.setattr(PatternModel, "thresholds", property(lambda self: np.zeros(15)))
    for name in rules.columns:
        for sign in (-1, 1):
            rows = np.flatnonzero(rules[name] == sign)
            if rows.size:
                reading = predictor.patterns(sp500.iloc[: rows[-1] + 1])
                assert reading.directions[name] == sign, name
                assert reading.directions["doji"] == 0
                seen.add((name, sign))
    assert {("harami", 1), ("harami", -1), ("marubozu", 1), ("marubozu", -1)} <= seen


# --- doors ---------------------------------------------------------------------------------------------


def test_too_few_bars(predictor: Predictor, bars: pd.DataFrame) -> None:
    with pytest.raises(BarsError, match=f"need {WARM_UP + 1} bars for the price forecast, have {WARM_UP}"):
        predictor.insight(bars.iloc[:WARM_UP])
    assert predictor.insight(bars.iloc[: WARM_UP + 1]).price_predictions["1"].prediction
    with pytest.raises(BarsError, match="need 20 bars for the pattern CNN, have 19"):
        Predictor(cnn=predictor._models._given).insight(bars.iloc[:19])


def test_another_timeframe(predictor: Predictor, bars: pd.DataFrame) -> None:
    weekly = bars.iloc[:800].copy()
    weekly.index = pd.date_range("2000-01-03", periods=800, freq="7D", tz="UTC", name="timestamp")
    weekly.attrs.update(symbol="SP500", timeframe="1w")
    for call in (predictor.insight, predictor.forecasts, predictor.pattern_probabilities):
        with pytest.raises(ConfigError, match=r"bars are 1w, the bundle [0-9a-f]{16} was trained on 1d"):
            call(weekly)


def test_bars_are_checked(predictor: Predictor, bars: pd.DataFrame) -> None:
    broken = bars.copy()
    broken.iloc[-1, 3] = np.nan
    with pytest.raises(BarsError, match="close"):
        predictor.insight(broken)


def test_features_of_another_version(bars: pd.DataFrame, price: PricePredictor, tmp_path: Path) -> None:
    names = ("moon_phase", *FEATURE_NAMES[1:])
    foreign = write_bundle(tmp_path, manifest(bars, feature_names=names), price=price)
    with pytest.raises(BundleError, match="'moon_phase' is not one of this version"):
        Predictor(foreign).price_prediction(bars)


def test_inputs_are_those_of_the_training(bars: pd.DataFrame, price: PricePredictor, tmp_path: Path) -> None:
    """The bundle's features in the bundle's order, filtered with the bundle's GARCH."""
    garch, names = (1e-6, 0.12, 0.85), FEATURE_NAMES[::-1]
    trained = write_bundle(tmp_path, manifest(bars, garch=garch, feature_names=names), price=price)
    features, scale, terms = Predictor(trained)._inputs(bars)
    expected = build_features(bars, garch=garch)
    assert features.dtype == np.float32
    assert np.array_equal(features, expected[list(names)].to_numpy(), equal_nan=True)
    assert not np.array_equal(features, build_features(bars)[list(names)].to_numpy(), equal_nan=True)
    assert np.array_equal(scale, volatility_scale(expected, HORIZONS, garch), equal_nan=True)
    assert terms is not None and np.array_equal(terms, volatility_terms(expected, "1d"), equal_nan=True)


# --- what is missing -------------------------------------------------------------------------------------


def test_without_a_bundle(cnn: PatternModel, bars: pd.DataFrame) -> None:
    alone = Predictor(cnn=cnn)
    insight = alone.insight(bars.iloc[-30:])
    assert insight.message == "Models not trained yet"
    assert insight.price_predictions == {} and insight.patterns.probabilities
    assert insight.reasons["price_predictions"] == (
        "Models not trained yet: run mlkit train --symbol SP500 --timeframe 1d"
    )
    assert insight.model_status.pattern_cnn_loaded and not insight.model_status.price_predictor_loaded
    with pytest.raises(NotTrainedError, match="mlkit train"):
        alone.forecasts(bars)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package impossible to import."""
    real = builtins.__import__

    def hide(package: str) -> None:
        def refuse(name: str, *rest: Any, **more: Any) -> Any:
            if name == package or name.startswith(f"{package}."):
                raise DependencyError(f"needs {package}: pip install 'mlkit[train]'")
            return real(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", refuse)
        module._warn_once.cache_clear()

    return hide


def test_without_a_reader_of_weights(
    without: Callable[[str], None], bars: pd.DataFrame, bundle: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    without("mlkit.models.patterns")
    with caplog.at_level(logging.WARNING, logger="mlkit"):
        first, _ = Predictor(bundle).insight(bars), Predictor(bundle).insight(bars)
    assert first.patterns.reason == "needs mlkit.models.patterns: pip install 'mlkit[train]'"
    assert first.message == "Models not trained yet"
    assert first.model_status.reasons == {"pattern_cnn": first.patterns.reason}
    assert first.patterns.detected == {} and first.price_predictions["1"].prediction is not None
    assert not first.model_status.pattern_cnn_loaded and first.model_status.price_predictor_loaded
    assert len(caplog.records) == 1
    with pytest.raises(DependencyError, match="pip install"):
        Predictor(bundle).pattern_probabilities(bars)


def test_without_anything(without: Callable[[str], None], bars: pd.DataFrame) -> None:
    without("mlkit.models.patterns")
    insight = Predictor().insight(bars.iloc[-5:])
    assert insight.signals[0].type == "HOLD" and insight.confidence is None
    assert "pip install" in insight.reasons["confidence"]
    assert insight.model_dump()["message"] == "Models not trained yet"


def test_without_a_library_of_the_ensemble(
    bars: pd.DataFrame, bundle: ModelBundle, cnn: PatternModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ModelBundle) -> PricePredictor:
        raise DependencyError("this model needs xgboost: pip install 'mlkit[train]'")

    monkeypatch.setattr(ModelBundle, "price", property(refuse))
    insight = Predictor(bundle, cnn=cnn).insight(bars)
    assert insight.reasons["price_predictions"] == "this model needs xgboost: pip install 'mlkit[train]'"
    assert insight.message == "Models not trained yet" and insight.price_predictions == {}
    assert insight.model_status.reasons == {"price_predictor": insight.reasons["price_predictions"]}
    with pytest.raises(DependencyError, match="xgboost"):
        Predictor(bundle, cnn=cnn).forecasts(bars)


def test_a_damaged_bundle_is_an_error(
    bars: pd.DataFrame, price: PricePredictor, cnn: PatternModel, tmp_path: Path
) -> None:
    written = write_bundle(tmp_path, manifest(bars), price=price)
    file = next(written.path.glob("xgb_*"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError):
        Predictor(written, cnn=cnn).insight(bars)


def test_nan_never(predictor: Predictor, bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: a model whose answers are no numbers."""
    real = PricePredictor.adapted

    def broken(self: PricePredictor, *inputs: Any, **options: Any) -> Any:
        forecast = real(self, *inputs, **options)
        forecast.log_return[:, 0] = np.nan
        forecast.hi90[:, 1] = 800.0
        return forecast

    monkeypatch.setattr(PricePredictor, "adapted", broken)
    insight = predictor.insight(bars)
    assert insight.price_predictions["1"].prediction is None
    assert "not all known" in str(insight.price_predictions["1"].reason)
    assert "beyond any price" in str(insight.price_predictions["5"].reason)
    text = insight.model_dump_json()
    assert "NaN" not in text and "Infinity" not in text
    assert {s.source for s in insight.signals if s.source.startswith("Price")} == {
        "Price forecast: 15 bars",
        "Price forecast: 60 bars",
    }


# --- the one-liner ----------------------------------------------------------------------------------------


def test_insights_uses_the_current_bundle(
    bars: pd.DataFrame,
    price: PricePredictor,
    cnn: PatternModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlkit.models.patterns.pretrained", lambda *_: cnn)
    settings = Settings(model_storage_path=tmp_path)
    assert current_bundle("SP500", "1d", settings) is None
    untrained = insights("SP500", "1d", settings)
    assert untrained.message == "Models not trained yet" and untrained.bundle is None
    written = write_bundle(tmp_path / "SP500-1d", manifest(bars), price=price)
    publish(written)
    trained = insights("SP500", "1d", settings)
    assert trained.bundle == written.id
    assert trained.price_predictions.keys() == {"1", "5", "15", "60"}
    with pytest.raises(ConfigError, match="no bars"):
        insights("SP500", "1m", settings)
