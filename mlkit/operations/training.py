"""Bars to a published bundle: features, labels, walk-forward evaluation, final fit.

The notebooks and ``mlkit train`` call the same three functions: `prepare`, `walk_forward` and `train`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlkit.config import Settings
from mlkit.errors import BarsError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.evaluation.splits import WalkForward, label_end_positions
from mlkit.features.engine import volatility_scale
from mlkit.features.feature_set import FeatureSet
from mlkit.features.garch import fit_garch
from mlkit.features.volatility import volatility_terms
from mlkit.inference.predictor import market_standard
from mlkit.labels import earned_returns, forward_returns
from mlkit.market.bars import fingerprint, validate_bars
from mlkit.market.symbols import symbol_folder
from mlkit.models.base import EnsembleSettings, Float32Matrix, FloatMatrix, IntMatrix, Progress
from mlkit.models.calibration import MIN_ROWS
from mlkit.operations.pattern_evidence import measure_patterns
from mlkit.operations.scoring import score as score
from mlkit.operations.trials import configuration, feature_digest

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.base import Forecast
    from mlkit.models.bundle import ModelBundle
    from mlkit.models.price_predictor import PricePredictor

MIN_TEST = 200  # bars of out-of-sample evaluation
SPLITS = {"smoke": 3, "full": 5}


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Arrays of one history; row t is bar t, its features known at its close."""

    index: "pd.DatetimeIndex"  # (n,) bar open times
    X: Float32Matrix  # (n, F)
    scale: FloatMatrix  # (n, H) deviation of the log return over each horizon that GARCH expects
    terms: FloatMatrix  # (n, K) what the forecast of the scale looks at
    Y: FloatMatrix  # (n, H) forward log returns, NaN where the future does not exist
    end: IntMatrix  # (n, H) bar at whose close a label is known, -1 where there is none
    earned: FloatMatrix  # (n, H) log return from the open of t + 1 to the open of t + 1 + h: what a trader gets
    warm_up: int  # rows at the start without every feature
    sources: tuple[Source, ...]  # which data these are, for the trial ledger
    features: str  # digest of the feature definitions


def ensemble_settings(settings: Settings) -> EnsembleSettings:
    """The ensemble's settings for a profile, with the weights and threads of ``settings``."""
    make = EnsembleSettings.smoke if settings.profile == "smoke" else EnsembleSettings.full
    return make(
        xgboost_weight=settings.xgboost_weight,
        lightgbm_weight=settings.lightgbm_weight,
        random_forest_weight=settings.random_forest_weight,
        n_threads=settings.n_threads,
    )


def prepare(
    bars: "pd.DataFrame",
    horizons: tuple[int, ...],
    garch: tuple[float, float, float],
    features: FeatureSet | None = None,
) -> TrainingSet:
    """Features and labels of a history as arrays.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
    horizons : bars ahead
    garch : GARCH parameters, fitted on bars before any that will be scored
    features : the catalogue, and own features if any; the catalogue by default
    """
    import pandas as pd

    bars = validate_bars(bars)
    features = features or FeatureSet()
    table = features.build(bars, garch=garch)
    labels = forward_returns(bars, horizons)
    return TrainingSet(
        index=pd.DatetimeIndex(bars.index),
        X=table.to_numpy(),
        scale=volatility_scale(table, horizons, garch),
        terms=volatility_terms(table, bars.attrs["timeframe"]),
        Y=labels["log_return"].to_numpy(dtype=np.float64),
        end=label_end_positions(labels),
        earned=earned_returns(bars, horizons).to_numpy(),
        warm_up=features.warm_up,
        sources=(Source.of(bars),),
        features=feature_digest(features),
    )


def fit_price(
    data: TrainingSet,
    rows: npt.NDArray[np.int64],
    settings: Settings,
    *,
    design: Mapping[str, Any] | None = None,
    purpose: str = "price",
    progress: Progress | None = None,
) -> "PricePredictor":
    """The price ensemble fitted on the warm ones of ``rows``, positions of bars in time order, and on no other row.

    The feature matrix is not copied where the rows are consecutive; an outage or a test block between them
    leaves a hole that is not learned from. The fit is written to the trial ledger before it begins: ``design`` is
    what else was chosen for it, such as the number of folds, and ``purpose`` the question that it is tried on.
    """
    from mlkit.models.price_predictor import PricePredictor

    ensemble = ensemble_settings(settings)
    span = slice(max(int(rows[0]), data.warm_up), int(rows[-1]) + 1)
    end = np.full_like(data.end, -1)
    end[rows] = data.end[rows]
    tried = configuration(settings, ensemble, data.features, design)
    with Ledger.of(settings).trial(data.sources, tried, purpose=purpose):
        return PricePredictor.fit(
            data.X[span],
            data.Y[span],
            end[span],
            data.scale[span],
            data.terms[span],
            horizons=settings.prediction_horizons,
            settings=ensemble,
            seed=settings.seed,
            progress=progress,
        )


def folds(
    bars: "pd.DataFrame", settings: Settings, *, n_splits: int | None = None, features: FeatureSet | None = None
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(train rows, test rows) of every walk-forward fold, purged by label end time.

    Raises BarsError when there are too few bars: "need N, have M".
    """
    warm_up = (features or FeatureSet()).warm_up
    splitter = WalkForward(
        n_splits=n_splits or SPLITS[settings.profile], min_train=_first_train(bars, settings, warm_up)
    )
    return list(splitter.split(forward_returns(bars, settings.prediction_horizons)))


def _first_train(bars: "pd.DataFrame", settings: Settings, warm_up: int) -> int:
    """Bars before the first test block: half of them, or as many as its inner split and the purges take."""
    longest = max(settings.prediction_horizons)
    learn = int(np.ceil((MIN_ROWS + longest) / min(ensemble_settings(settings).fractions)))
    least = warm_up + learn + longest
    need = least + MIN_TEST + longest
    if len(bars) < need:
        raise BarsError(
            f"{bars.attrs['symbol']} {bars.attrs['timeframe']}: need {need} bars to train and evaluate, have "
            f"{len(bars)} ({warm_up} warm-up, {learn} to learn from, {MIN_TEST} to test, the rest for labels of "
            f"{longest} bars); load a longer history"
        )
    return max(len(bars) // 2, least)


def walk_forward(
    bars: "pd.DataFrame",
    settings: Settings | None = None,
    *,
    n_splits: int | None = None,
    features: FeatureSet | None = None,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Out-of-sample forecasts of every test bar, from models that saw nothing of it.

    Every fold fits anew what is fitted: GARCH, trees, shrinkage and calibration, on bars whose labels end before
    the fold's first test bar.

    Returns
    -------
    DataFrame, one row a test bar and horizon: timestamp, bar (its position), horizon, fold, log_return, p_up, std,
    lo80, hi80, lo90, hi90 (the forecast, log returns), xgboost, lightgbm, random_forest (members), outcome (realised
    log return), earned (from the next open), low80, high80, low90, high90 (quantiles of the training labels: the
    naive intervals). ``attrs["sources"]`` names the data, so that `score` can ask the trial ledger about them.
    """
    import pandas as pd

    settings = settings or Settings()
    horizons = settings.prediction_horizons
    splits = folds(bars, settings, n_splits=n_splits, features=features)
    design = {} if n_splits is None else {"n_splits": n_splits}
    parts: list[pd.DataFrame] = []
    for fold, (train_rows, test_rows) in enumerate(splits):
        data = prepare(bars, horizons, fit_garch(bars.iloc[: train_rows[-1] + 1]), features)
        told = _prefixed(progress, f"fold {fold + 1}/{len(splits)}")
        model = fit_price(data, train_rows, settings, design=design, progress=told)
        parts.append(_scored(data, model, train_rows, test_rows, fold))
    forecasts = pd.concat(parts, ignore_index=True)
    forecasts.attrs = {"sources": [asdict(source) for source in data.sources]}
    return forecasts


def _prefixed(progress: Progress | None, prefix: str) -> Progress | None:
    if progress is None:
        return None

    def tell(stage: str, done: int, total: int) -> None:
        progress(f"{prefix}: {stage}", done, total)

    return tell


def forecast_rows(data: TrainingSet, model: "PricePredictor", rows: npt.NDArray[np.int64]) -> "Forecast":
    """The forecast of rows in time order, each as a live predictor makes it at that bar's close.

    Intervals follow the outcomes known by then, so the forecast starts ``model.memory`` bars before the first row.
    """
    first, last = int(rows[0]), int(rows[-1])
    span = slice(max(first - model.memory, 0), last + 1)
    forecast = model.predict(data.X[span], data.scale[span], data.terms[span])
    return model.adapted(forecast, data.Y[span], last + 1 - first).rows(rows - first)


def _scored(
    data: TrainingSet,
    model: "PricePredictor",
    train_rows: npt.NDArray[np.int64],
    test_rows: npt.NDArray[np.int64],
    fold: int,
) -> "pd.DataFrame":
    """Forecasts, outcomes and naive intervals of one fold, long."""
    import pandas as pd

    forecast = forecast_rows(data, model, test_rows)
    naive = naive_intervals(data, train_rows, test_rows)
    frames = []
    for j, horizon in enumerate(forecast.horizons):
        columns: dict[str, Any] = {
            "timestamp": data.index[test_rows],
            "bar": test_rows,
            "horizon": horizon,
            "fold": fold,
            **{name: getattr(forecast, name)[:, j] for name in FORECAST_COLUMNS},
            **{name: member[:, j] for name, member in forecast.members.items()},
            "outcome": data.Y[test_rows, j],
            "earned": data.earned[test_rows, j],
            "raw": forecast.raw[:, j],
            "scale": forecast.scale[:, j],
            **{name: values[:, j] for name, values in naive.items()},
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


NAIVE = ("unconditional", "ewma", "garch")
_QUANTILES = {"low80": 0.1, "high80": 0.9, "low90": 0.05, "high90": 0.95}


def naive_intervals(
    data: TrainingSet, train_rows: npt.NDArray[np.int64], test_rows: npt.NDArray[np.int64]
) -> dict[str, FloatMatrix]:
    """What an interval must beat: quantiles of the training labels over a scale, times the scale of the test row.

    The scale is 1 (columns ``low80`` ... ``high90``), the RiskMetrics average (``low80_ewma`` ...) or GARCH(1,1) with
    its term structure, fitted on the training bars (``low80_garch`` ...). Each value is (n_test, H).
    """
    warm = train_rows[train_rows >= data.warm_up]
    ewma = np.exp(data.terms[:, :1]) * np.ones_like(data.scale)
    scales = {"unconditional": np.ones_like(data.scale), "ewma": ewma, "garch": data.scale}
    return {
        name if rival == "unconditional" else f"{name}_{rival}": np.nanquantile(
            data.Y[warm] / unit[warm], level, axis=0
        )
        * unit[test_rows]
        for rival, unit in scales.items()
        for name, level in _QUANTILES.items()
    }


FORECAST_COLUMNS = ("log_return", "p_up", "std", "lo80", "hi80", "lo90", "hi90")


def train(
    bars: "pd.DataFrame",
    settings: Settings | None = None,
    *,
    features: FeatureSet | None = None,
    forecasts: "pd.DataFrame | None" = None,
    progress: Progress | None = None,
) -> "ModelBundle":
    """Train on all bars, judge by walk-forward, write and publish a bundle.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        The training history; the newest ones only train, their outcome is not known yet.
    settings : Settings
        Profile, seed, horizons, weights, threads, storage path.
    features : FeatureSet
        Own features beside the catalogue; the predictor of the bundle must be given the same.
    forecasts : DataFrame
        Of `walk_forward` on the same bars and settings, when it was computed already.
    progress : callable(stage, done, total)

    Returns
    -------
    The published ModelBundle: price models, the shipped pattern CNN, and the out-of-sample metrics and verdicts of
    every horizon in its manifest.

    Raises
    ------
    BarsError for too few bars; DependencyError when a training library is missing.
    """
    from mlkit.models.bundle import write_bundle
    from mlkit.models.pattern_cnn import weights_file
    from mlkit.models.publishing import publish

    settings, features = settings or Settings(), features or FeatureSet()
    bars = validate_bars(bars)
    if forecasts is None:
        forecasts = walk_forward(bars, settings, features=features, progress=progress)
    scores = score(forecasts, settings)
    garch = fit_garch(bars)
    data = prepare(bars, settings.prediction_horizons, garch, features)
    rows = np.flatnonzero((data.end >= 0).all(axis=1))
    told = _prefixed(progress, "final fit")
    model = fit_price(data, rows, settings, purpose="publish", progress=told)  # judged above: no trial of its own
    bundle = write_bundle(
        settings.models / f"{symbol_folder(bars.attrs['symbol'])}-{bars.attrs['timeframe']}",
        _manifest(bars, settings, features, garch, scores)
        | {"pattern_evidence": measure_patterns(bars, settings.prediction_horizons, cost_bps=settings.cost_bps)},
        price=model,
        cnn_file=weights_file(market_standard(bars), settings.pattern_weights),
    )
    publish(bundle)
    return bundle


# They say nothing about the model.
_FOLDERS = {"model_storage_path", "training_data_path", "ledger_path", "pattern_weights_path"}


def _manifest(
    bars: "pd.DataFrame",
    settings: Settings,
    features: FeatureSet,
    garch: tuple[float, float, float],
    scores: "pd.DataFrame",
) -> dict[str, Any]:
    first, last = bars.index[0].isoformat(), bars.index[-1].isoformat()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "symbol": bars.attrs["symbol"],
        "timeframe": bars.attrs["timeframe"],
        "feature_names": list(features.names),
        "horizons": list(settings.prediction_horizons),
        "training_span": {"start": first, "end": last, "bars": len(bars)},
        "garch": list(garch),
        "data_sha256": fingerprint(bars),
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json", exclude=_FOLDERS),
        "metrics": {str(horizon): row for horizon, row in scores.to_dict("index").items()},
    }
