"""The ensemble finds a planted signal, calls noise noise, and repeats itself to the bit."""

import json
import logging
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from mlkit.errors import BundleError, ConfigError, DependencyError
from mlkit.evaluation.metrics import coverage, r2_no_change, rank_ic
from mlkit.models.ensemble.conformal import block_numbers
from mlkit.models.ensemble.price_predictor import PricePredictor
from mlkit.models.ensemble.settings import EnsembleSettings
from mlkit.models.ensemble.split import TrainingArrays

HORIZONS = (1, 5)
SETTINGS = EnsembleSettings.smoke(n_threads=1, n_estimators=40, forest_trees=8)


@dataclass
class Market:
    X: np.ndarray
    Y: np.ndarray
    end: np.ndarray
    scale: np.ndarray

    def __getitem__(self, rows: Any) -> "Market":
        return Market(self.X[rows], self.Y[rows], self.end[rows], self.scale[rows])

    def fit(self, **options: Any) -> PricePredictor:
        arrays = TrainingArrays(self.X, self.Y, self.end, self.scale, options.pop("horizons", HORIZONS))
        return PricePredictor.fit(arrays, **({"settings": SETTINGS, "seed": 3} | options))


def market(n: int, strength: float, seed: int = 0, n_features: int = 8) -> Market:
    """Features of noise; feature 2 is persistent and adds ``strength`` volatilities to the next return."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features)).astype(np.float32)
    driver = rng.normal(size=n)
    for i in range(1, n):
        driver[i] = 0.9 * driver[i - 1] + np.sqrt(1 - 0.81) * driver[i]
    X[:, 2] = driver
    scale = 0.001 * np.exp(np.sin(np.arange(n) / 150))
    returns = scale * rng.normal(size=n)
    returns[1:] += strength * scale[1:] * driver[:-1]
    price = np.cumsum(returns)
    Y, end = np.full((n, len(HORIZONS)), np.nan), np.full((n, len(HORIZONS)), -1)
    for j, h in enumerate(HORIZONS):
        Y[:-h, j] = price[h:] - price[:-h]
        end[:-h, j] = np.arange(h, n)
    return Market(X, Y, end, scale[:, None] * np.sqrt(HORIZONS))


@pytest.fixture(scope="module")
def planted() -> Market:
    return market(4000, 0.2)


@pytest.fixture(scope="module")
def fitted(planted: Market) -> PricePredictor:
    return planted[:3000].fit()


def test_a_planted_signal_is_found_out_of_sample(planted: Market, fitted: PricePredictor) -> None:
    late = planted[3010:]
    forecast = fitted.predict(late.X, late.scale)
    for j in range(2):
        y = late.Y[:, j]
        assert r2_no_change(y, forecast.log_return[:, j]) > 0.008
        assert rank_ic(y, forecast.p_up[:, j]) > 0.1
        assert coverage(y, forecast.lo80[:, j], forecast.hi80[:, j]) == pytest.approx(0.8, abs=0.08)
        assert coverage(y, forecast.lo90[:, j], forecast.hi90[:, j]) == pytest.approx(0.9, abs=0.06)
    importance = fitted.feature_importance([f"x{i}" for i in range(8)])
    assert importance.index[0] == "x2"
    assert importance["mean"].iloc[0] > 0.5
    assert importance.drop(columns="mean").sum().to_numpy() == pytest.approx(np.ones(3))


def test_noise_is_no_change() -> None:
    noise = market(3000, 0.0, seed=1)
    forecast = noise[:2000].fit().predict(noise.X[2000:], noise.scale[2000:])
    for j in range(2):
        assert r2_no_change(noise.Y[2000:, j], forecast.log_return[:, j]) >= -0.001
    np.testing.assert_allclose(forecast.p_up, 0.5, atol=0.1)


def test_same_seed_same_bits(planted: Market) -> None:
    small = planted[:1200]
    first, second = small.fit().to_bytes(), small.fit().to_bytes()
    assert first == second
    assert small.fit(seed=4).to_bytes() != first


def test_round_trip_through_files_is_bit_equal(planted: Market, fitted: PricePredictor) -> None:
    files = fitted.to_bytes()
    assert sorted(files) == [
        "calibration.json",
        *(f"lgb_{h}.{end}" for h in HORIZONS for end in ("npz", "txt")),
        *(f"rf_{h}.npz" for h in HORIZONS),
        *(f"xgb_{h}.{end}" for h in HORIZONS for end in ("npz", "ubj")),
    ]
    again = PricePredictor.from_bytes(files)
    ours, theirs = (m.predict(planted.X, planted.scale) for m in (fitted, again))
    for field in ("log_return", "p_up", "std", "lo80", "hi80", "lo90", "hi90"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field), equal_nan=True)
    assert again.to_bytes() == fitted.to_bytes()
    assert again.training == fitted.training
    assert again.feature_importance().equals(fitted.feature_importance())


def test_forecast_hangs_together(planted: Market, fitted: PricePredictor) -> None:
    f = fitted.predict(planted.X, planted.scale)
    weighted = sum(fitted.weights[name] * member for name, member in f.members.items())
    np.testing.assert_allclose(weighted, f.log_return, rtol=0, atol=1e-15)
    assert set(f.members) == {"xgboost", "lightgbm", "random_forest"}
    assert np.all((f.lo90 <= f.lo80) & (f.lo80 < f.log_return) & (f.log_return < f.hi80) & (f.hi80 <= f.hi90))
    assert np.all((f.p_up > 0) & (f.p_up < 1) & (f.std > 0))
    wild = fitted.predict(planted.X, 2 * planted.scale)
    np.testing.assert_allclose(wild.hi90, 2 * f.hi90, rtol=1e-12)
    assert np.array_equal(wild.p_up, f.p_up)
    assert len(f) == 4000 and f.horizons == HORIZONS


def test_a_row_never_depends_on_its_company(planted: Market, fitted: PricePredictor) -> None:
    """The live bar must get the very forecast that the backtest gave it."""
    whole = fitted.predict(planted.X, planted.scale)
    for row in (0, 777, 3999):
        alone = fitted.predict(planted.X[row : row + 1], planted.scale[row : row + 1])
        assert np.array_equal(alone.log_return, whole.log_return[row : row + 1])
        assert np.array_equal(alone.p_up, whole.p_up[row : row + 1])


def test_rows_that_cannot_be_forecast_are_nan_everywhere(planted: Market, fitted: PricePredictor) -> None:
    X, scale = planted.X[:6].copy(), planted.scale[:6].copy()
    X[0, 3], X[1, 0], scale[2], scale[3] = np.nan, np.inf, np.nan, 0.0
    f = fitted.predict(X, scale)
    whole = fitted.predict(planted.X[:6], planted.scale[:6])
    for values in (f.log_return, f.p_up, f.std, f.lo80, f.hi80, f.lo90, f.hi90, *f.members.values()):
        assert np.isnan(values[:4]).all()
        assert np.isfinite(values[4:]).all()
    assert np.array_equal(f.log_return[4:], whole.log_return[4:])
    assert np.isnan(fitted.predict(X[:2], scale[:2]).p_up).all()
    assert fitted.predict(X[:0], scale[:0]).log_return.shape == (0, 2)


def test_training_skips_rows_without_features_or_labels(planted: Market) -> None:
    whole = planted[:1200]
    clean = whole[100:].fit()
    warm = Market(whole.X.copy(), whole.Y, whole.end, whole.scale)
    warm.X[:100] = np.nan
    assert warm.fit().to_bytes() == clean.to_bytes()


def test_models_never_see_the_calibration_rows(planted: Market) -> None:
    """The planted fault: outcomes of the last part are replaced; only the calibration may notice."""
    honest = planted[:1200]
    rows = honest.fit().training["rows"]
    assert rows["calibration"] == pytest.approx(180, abs=3)
    poisoned = Market(honest.X, honest.Y.copy(), honest.end, honest.scale)
    poisoned.Y[-rows["calibration"] - 1 :] *= -30.0  # and a row of the purged gap
    before, after = honest.fit().to_bytes(), poisoned.fit().to_bytes()
    assert {name for name in before if before[name] != after[name]} == {"calibration.json"}


def test_a_later_window_is_split_by_its_own_bars(planted: Market) -> None:
    window = planted[1500:2700]
    rebased = Market(window.X, window.Y, np.where(window.end >= 0, window.end - 1500, -1), window.scale)
    assert window.fit().to_bytes() == rebased.fit().to_bytes()


def test_features_reach_the_libraries_uncopied(planted: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightgbm
    import sklearn.ensemble
    import xgboost

    small, seen = planted[:1200], []

    def spying(make: Any) -> Any:
        def spy(X: np.ndarray, *args: Any, **options: Any) -> Any:
            seen.append(X)
            return make(X, *args, **options)

        return spy

    class Forest(sklearn.ensemble.RandomForestRegressor):
        def fit(self, X: np.ndarray, y: np.ndarray) -> Any:
            seen.append(X)
            return super().fit(X, y)

    monkeypatch.setattr(xgboost, "QuantileDMatrix", spying(xgboost.QuantileDMatrix))
    monkeypatch.setattr(lightgbm, "Dataset", spying(lightgbm.Dataset))
    monkeypatch.setattr(sklearn.ensemble, "RandomForestRegressor", Forest)
    small.fit()
    assert len(seen) == 2 + 1 + 2
    assert all(np.shares_memory(X, small.X) and X.dtype == np.float32 for X in seen)


def test_a_missing_library_leaves_its_weight_to_the_others(
    planted: Market, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = planted[:1200].fit()
    said = whole.predict(planted.X[:50], planted.scale[:50])
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with caplog.at_level(logging.WARNING):
        model = planted[:1200].fit()
    assert model.weights == pytest.approx({"xgboost": 2 / 3, "random_forest": 1 / 3})
    assert "lightgbm is not installed" in caplog.text
    assert "xgboost 0.67, random_forest 0.33" in caplog.text
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DependencyError, match="none of xgboost, lightgbm, random_forest is installed"):
        planted[:1200].fit()
    again = PricePredictor.from_bytes(whole.to_bytes())  # what was trained with all three needs none of them
    assert np.array_equal(again.predict(planted.X[:50], planted.scale[:50]).log_return, said.log_return)


def test_a_library_without_weight_is_not_trained(planted: Market) -> None:
    model = planted[:1200].fit(settings=replace(SETTINGS, weights={"xgboost": 0.0, "random_forest": 0.2}))
    assert model.weights == {"random_forest": 1.0}
    assert sorted(model.to_bytes()) == ["calibration.json", "rf_1.npz", "rf_5.npz"]


def test_progress_counts_up_to_its_total(planted: Market) -> None:
    told: list[tuple[str, int, int]] = []
    planted[:1200].fit(progress=lambda *stage: told.append(stage))
    assert [done for _, done, _ in told] == list(range(1, 8))
    assert {total for _, _, total in told} == {7}
    assert told[0][0] == "xgboost h=1" and told[-1][0] == "calibration"


def test_what_cannot_be_trained_on_is_refused(planted: Market) -> None:
    small = planted[:1200]
    with pytest.raises(ConfigError, match=r"features must be float32 \(n, 8\), got float64"):
        replace(small, X=small.X.astype(np.float64)).fit()
    with pytest.raises(ConfigError, match=r"labels and their ends must be \(1200, 2\)"):
        replace(small, Y=small.Y[:, :1]).fit()
    with pytest.raises(ConfigError, match="one spread a row and horizon"):
        replace(small, scale=small.scale[:5]).fit()
    with pytest.raises(ConfigError, match="integer bar positions, got float64"):
        replace(small, end=small.end.astype(float)).fit()
    with pytest.raises(ConfigError, match="increasing numbers of bars"):
        small.fit(horizons=(5, 1))
    with pytest.raises(ConfigError, match="time order"):
        small[np.random.default_rng(0).permutation(1200)].fit()
    with pytest.raises(ConfigError, match="pass more bars"):
        planted[:60].fit()
    with pytest.raises(ConfigError, match="30 held-out rows, it takes 40; pass more bars or drop the horizon"):
        planted[:200].fit()


def test_what_cannot_be_predicted_is_refused(planted: Market, fitted: PricePredictor) -> None:
    with pytest.raises(ConfigError, match=r"features must be float32 \(n, 8\), got float32 \(4000, 7\)"):
        fitted.predict(planted.X[:, :7], planted.scale)
    with pytest.raises(ConfigError, match="7 names for 8 features"):
        fitted.feature_importance(list("abcdefg"))


def test_terms_refine_the_scale_and_reach_the_files(planted: Market) -> None:
    """The passed scale is blind to a factor that one of the terms shows."""
    rng = np.random.default_rng(0)
    seen, n = 0.6 * rng.normal(size=2000), 2000
    Y, end = planted.Y[:n] * np.exp(seen)[:, None], planted.end[:n]
    terms = np.column_stack([np.log(planted.scale[:n, 0]), seen])
    data = (planted.X[:n], Y, end, planted.scale[:n])
    plain, refined = (PricePredictor.fit(TrainingArrays(*data, HORIZONS, t), SETTINGS) for t in (None, terms))
    assert plain.spreads == () and len(refined.spreads) == 2
    forecast = refined.predict(data[0], data[3], terms)
    assert np.corrcoef(np.log(forecast.scale[:, 0] / data[3][:, 0]), seen)[0, 1] > 0.95
    again = PricePredictor.from_bytes(refined.to_bytes())
    assert again.spreads == refined.spreads
    assert np.array_equal(again.predict(data[0], data[3], terms).hi90, forecast.hi90)
    for model, given, message in (
        (plain, terms, "2 columns, the training had None"),
        (refined, None, "None columns, the training had 2"),
        (refined, terms[:, :1], "1 columns, the training had 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.predict(data[0], data[3], given)
    described = json.loads(refined.to_bytes()["calibration.json"])
    described["spreads"] = described["spreads"][:1]
    with pytest.raises(BundleError, match="contradict"):
        PricePredictor.from_bytes(refined.to_bytes() | {"calibration.json": json.dumps(described).encode()})


def test_adapted_rows_read_only_what_was_known(planted: Market, fitted: PricePredictor) -> None:
    """The planted fault: outcomes that end after a row are replaced, and nothing of that row may change."""
    late, row = planted[3010:3600], 300
    forecast = fitted.predict(late.X, late.scale)
    block = block_numbers(np.arange(len(late.X)), 1)
    honest = fitted.adapted(forecast, late.Y, block)
    poisoned = late.Y.copy()
    for j, h in enumerate(HORIZONS):
        poisoned[row - h + 1 :, j] = 9.0
    told = fitted.adapted(forecast, poisoned, block)
    for name, values in honest.columns().items():
        assert np.array_equal(getattr(told, name)[: row + 1], values[: row + 1]), name
    assert not np.array_equal(told.hi90[row + 1 :], honest.hi90[row + 1 :])
    assert np.array_equal(honest.log_return, forecast.log_return)
    assert not np.array_equal(honest.lo80, forecast.lo80)


def test_the_last_row_alone_is_the_row_of_the_batch(planted: Market, fitted: PricePredictor) -> None:
    assert fitted.lookback == 4504
    fitted = replace(fitted, calibrations=tuple(replace(c, lookback=2000) for c in fitted.calibrations))
    block = block_numbers(np.arange(len(planted.X)), 1)
    whole = fitted.adapted(fitted.predict(planted.X, planted.scale), planted.Y, block)
    window = slice(3500 - fitted.lookback, 3501)
    part = planted[window]
    forecast = fitted.predict(part.X, part.scale)
    live = fitted.adapted(forecast, part.Y, block[window], rows=1)
    assert len(live) == 1
    for name, values in whole.columns().items():
        assert np.array_equal(getattr(live, name)[0], values[3500]), name
    with pytest.raises(ConfigError, match="adapted: outcomes"):
        fitted.adapted(forecast, part.Y[:-1], block[window])


def test_attributions_sum_to_the_score(planted: Market, fitted: PricePredictor) -> None:
    part = planted[3000:3200]
    forecast = fitted.predict(part.X, part.scale)
    for j, horizon in enumerate(HORIZONS):
        shares = fitted.attributions(part.X, horizon)
        assert shares.shape == (200, 9)
        np.testing.assert_allclose(shares.sum(axis=1), forecast.raw[:, j] / part.scale[:, j], rtol=1e-4, atol=1e-6)
        assert np.abs(shares[:, :8]).mean(axis=0).argmax() == 2  # the driver
    with pytest.raises(ConfigError, match=r"horizon 7 is none of \(1, 5\)"):
        fitted.attributions(part.X, 7)


def test_files_that_do_not_belong_together(fitted: PricePredictor) -> None:
    files = fitted.to_bytes()
    with pytest.raises(BundleError, match=r"rf_5\.npz is missing"):
        PricePredictor.from_bytes({n: d for n, d in files.items() if n != "rf_5.npz"})
    described = json.loads(files["calibration.json"])
    for change, message in (
        ({"horizons": [1, 6]}, "contradict"),
        ({"weights": {"catboost": 1.0}}, "contradict"),
        ({"weights": {"xgboost": 0.5}}, "contradict"),
        ({"n_features": 9}, "takes 8 features, the bundle 9"),
        ({"calibrations": None}, "not a calibration"),
    ):
        foreign = files | {"calibration.json": json.dumps(described | change).encode()}
        with pytest.raises(BundleError, match=message):
            PricePredictor.from_bytes(foreign)
    with pytest.raises(BundleError, match="not a calibration"):
        PricePredictor.from_bytes(files | {"calibration.json": b"\x80\x04."})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"weights": {"xgboost": -1.0}}, "weights must be >= 0"),
        ({"weights": {"xgboost": 0.0}}, "not all zero"),
        ({"learning_rate": 0.0}, r"learning_rate must be in \(0, 1\], got 0.0"),
        ({"max_depth": 0}, "max_depth must be in 1"),
        ({"max_bin": 1000}, "max_bin must be in 2..255"),
        ({"depth": 3}, "no setting named depth"),
    ],
)
def test_settings_are_checked(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnsembleSettings.smoke(**bad)


def test_smoke_is_a_smaller_full() -> None:
    smoke, full = EnsembleSettings.smoke(), EnsembleSettings.full()
    assert smoke.weights == full.weights == {"xgboost": 0.4, "lightgbm": 0.4, "random_forest": 0.2}
    assert smoke.n_estimators < full.n_estimators
    assert EnsembleSettings.smoke(max_depth=7).max_depth == 7
