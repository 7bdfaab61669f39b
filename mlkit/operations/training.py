"""Bars to a published bundle: features, labels, walk-forward evaluation, final fit.

The notebooks and ``mlkit train`` call the same three functions: `prepare`, `walk_forward` and `train`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlkit.config import Settings
from mlkit.errors import BarsError
from mlkit.evaluation.splits import WalkForward
from mlkit.features.feature_set import FeatureSet
from mlkit.features.garch import fit_garch
from mlkit.inference.predictor import market_standard
from mlkit.labels import forward_returns
from mlkit.market.bars import fingerprint, validate_bars
from mlkit.market.symbols import symbol_folder
from mlkit.models.base import EnsembleSettings, Progress
from mlkit.models.calibration import MIN_ROWS
from mlkit.operations.forecasting import FORECAST_COLUMNS as FORECAST_COLUMNS
from mlkit.operations.forecasting import NAIVE as NAIVE
from mlkit.operations.forecasting import forecast_rows as forecast_rows
from mlkit.operations.forecasting import naive_intervals as naive_intervals
from mlkit.operations.forecasting import scored_rows
from mlkit.operations.pattern_evidence import measure_patterns
from mlkit.operations.scoring import score as score
from mlkit.operations.training_set import TrainingSet as TrainingSet
from mlkit.operations.training_set import ensemble_settings as ensemble_settings
from mlkit.operations.training_set import prepare as prepare
from mlkit.operations.trials import configuration, recorded

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.bundle import ModelBundle
    from mlkit.models.price_predictor import PricePredictor

MIN_TEST = 200  # bars of out-of-sample evaluation
SPLITS = {"smoke": 3, "full": 5}


def fit_price(
    data: TrainingSet,
    rows: npt.NDArray[np.int64],
    settings: Settings,
    *,
    ensemble: EnsembleSettings | None = None,
    design: Mapping[str, Any] | None = None,
    purpose: str = "price",
    progress: Progress | None = None,
) -> "PricePredictor":
    """The price ensemble fitted on the warm ones of ``rows``, positions of bars in time order, and on no other row.

    The feature matrix is not copied where the rows are consecutive; an outage or a test block between them
    leaves a hole that is not learned from. ``ensemble`` is `ensemble_settings` of the settings by default. The fit is
    written to the trial ledger before it begins, its ensemble too: ``design`` is what else was chosen for it, such as
    the number of folds, and ``purpose`` the question that it is tried on.
    """
    from mlkit.models.price_predictor import PricePredictor

    ensemble = ensemble or ensemble_settings(settings)
    span = slice(max(int(rows[0]), data.warm_up), int(rows[-1]) + 1)
    end = np.full_like(data.end, -1)
    end[rows] = data.end[rows]
    tried = configuration(settings, ensemble, data.features, design)
    with recorded(settings, data.sources, tried, purpose=purpose):
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
    bars: "pd.DataFrame",
    settings: Settings,
    *,
    n_splits: int | None = None,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(train rows, test rows) of every walk-forward fold, purged by label end time.

    Raises BarsError when there are too few bars: "need N, have M".
    """
    warm_up = (features or FeatureSet()).warm_up
    shares = (ensemble or ensemble_settings(settings)).fractions
    splitter = WalkForward(
        n_splits=n_splits or SPLITS[settings.profile], min_train=_first_train(bars, settings, warm_up, min(shares))
    )
    return list(splitter.split(forward_returns(bars, settings.prediction_horizons)))


def _first_train(bars: "pd.DataFrame", settings: Settings, warm_up: int, least_share: float) -> int:
    """Bars before the first test block: half of them, or as many as its inner split and the purges take."""
    longest = max(settings.prediction_horizons)
    learn = int(np.ceil((MIN_ROWS + longest) / least_share))
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
    ensemble: EnsembleSettings | None = None,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Out-of-sample forecasts of every test bar, from models that saw nothing of it.

    Every fold fits anew what is fitted: GARCH, trees, shrinkage and calibration, on bars whose labels end before
    the fold's first test bar. ``ensemble`` is `ensemble_settings` of the settings by default.

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
    splits = folds(bars, settings, n_splits=n_splits, features=features, ensemble=ensemble)
    design = {} if n_splits is None else {"n_splits": n_splits}
    parts: list[pd.DataFrame] = []
    for fold, (train_rows, test_rows) in enumerate(splits):
        data = prepare(bars, horizons, fit_garch(bars.iloc[: train_rows[-1] + 1]), features)
        told = _prefixed(progress, f"fold {fold + 1}/{len(splits)}")
        model = fit_price(data, train_rows, settings, ensemble=ensemble, design=design, progress=told)
        parts.append(scored_rows(data, model, train_rows, test_rows, fold))
    forecasts = pd.concat(parts, ignore_index=True)
    forecasts.attrs = {"sources": [asdict(source) for source in data.sources]}
    return forecasts


def _prefixed(progress: Progress | None, prefix: str) -> Progress | None:
    if progress is None:
        return None

    def tell(stage: str, done: int, total: int) -> None:
        progress(f"{prefix}: {stage}", done, total)

    return tell


def train(
    bars: "pd.DataFrame",
    settings: Settings | None = None,
    *,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    forecasts: "pd.DataFrame | None" = None,
    publish: bool = True,
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
    ensemble : EnsembleSettings
        `ensemble_settings` of the settings by default.
    forecasts : DataFrame
        Of `walk_forward` on the same bars and settings, when it was computed already.
    publish : bool
        False writes the bundle beside the current one and leaves that current: a challenger.
    progress : callable(stage, done, total)

    Returns
    -------
    The ModelBundle: price models, the shipped pattern CNN, and the out-of-sample metrics and verdicts of
    every horizon in its manifest.

    Raises
    ------
    BarsError for too few bars; DependencyError when a training library is missing.
    """
    from mlkit.models.bundle import write_bundle
    from mlkit.models.pattern_cnn import weights_file
    from mlkit.models.publishing import publish as make_current

    settings, features = settings or Settings(), features or FeatureSet()
    bars = validate_bars(bars)
    if forecasts is None:
        forecasts = walk_forward(bars, settings, features=features, ensemble=ensemble, progress=progress)
    scores = score(forecasts, settings)
    garch = fit_garch(bars)
    data = prepare(bars, settings.prediction_horizons, garch, features)
    rows = np.flatnonzero((data.end >= 0).all(axis=1))
    told = _prefixed(progress, "final fit")
    # Judged above: no trial of its own.
    model = fit_price(data, rows, settings, ensemble=ensemble, purpose="publish", progress=told)
    bundle = write_bundle(
        settings.models / f"{symbol_folder(bars.attrs['symbol'])}-{bars.attrs['timeframe']}",
        _manifest(bars, settings, features, ensemble, garch, scores)
        | {"pattern_evidence": measure_patterns(bars, settings.prediction_horizons, cost_bps=settings.cost_bps)},
        price=model,
        cnn_file=weights_file(market_standard(bars), settings.pattern_weights),
    )
    if publish:
        make_current(bundle)
    return bundle


def _manifest(
    bars: "pd.DataFrame",
    settings: Settings,
    features: FeatureSet,
    ensemble: EnsembleSettings | None,
    garch: tuple[float, float, float],
    scores: "pd.DataFrame",
) -> dict[str, Any]:
    first, last = bars.index[0].isoformat(), bars.index[-1].isoformat()
    chosen = settings.chosen()
    if ensemble is not None:  # else the profile says it
        chosen["ensemble"] = asdict(ensemble)
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
        "settings": chosen,
        "metrics": {str(horizon): row for horizon, row in scores.to_dict("index").items()},
    }
