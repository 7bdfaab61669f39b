"""Bars to a published bundle: features, labels, walk-forward evaluation, final fit.

The notebooks and ``mlkit train`` call the same three functions: `prepare`, `walk_forward` and `train`. Each takes one
history, or several of one timeframe that are pooled into one model.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.config import Settings
from mlkit.errors import BarsError
from mlkit.evaluation import Source, WalkForward, configuration_hash
from mlkit.features import DEFAULT_GARCH, MIN_BARS, FeatureSet, fit_garch
from mlkit.labels import forward_returns
from mlkit.models.bundle import publish as make_current
from mlkit.models.ensemble import MIN_ROWS, EnsembleSettings, IntVector, Progress
from mlkit.operations.tracking.tracking import tracked
from mlkit.operations.tracking.trials import configuration, feature_digest, recorded
from mlkit.operations.training.bundling import bundle_scores, write_trained
from mlkit.operations.training.forecasting import FORECAST_COLUMNS as FORECAST_COLUMNS
from mlkit.operations.training.forecasting import NAIVE as NAIVE
from mlkit.operations.training.forecasting import forecast_rows as forecast_rows
from mlkit.operations.training.forecasting import naive_intervals as naive_intervals
from mlkit.operations.training.forecasting import scored_rows
from mlkit.operations.training.panel_layout import Garch, Layout, demand_bars, lay_out, markets_of
from mlkit.operations.training.scoring import score as score
from mlkit.operations.training.stages import Stages
from mlkit.operations.training.training_set import TrainingSet as TrainingSet
from mlkit.operations.training.training_set import ensemble_settings as ensemble_settings
from mlkit.operations.training.training_set import in_files, label_ends
from mlkit.operations.training.training_set import prepare as prepare

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import PricePredictor
    from mlkit.operations.training.panel_layout import Bars

MIN_TEST = 200  # bars of out-of-sample evaluation
SPLITS = {"smoke": 3, "full": 5}


def fit_price(
    data: TrainingSet,
    rows: IntVector,
    settings: Settings,
    *,
    ensemble: EnsembleSettings | None = None,
    design: Mapping[str, Any] | None = None,
    purpose: str = "price",
    progress: Progress | None = None,
) -> "PricePredictor":
    """The price ensemble fitted on the warm ones of ``rows``, in time order, and on no other row.

    The feature matrix is not copied where the rows are consecutive; an outage or a test block between them
    leaves a hole that is not learned from. ``ensemble`` is `ensemble_settings` of the settings by default. The fit is
    written to the trial ledger before it begins, its ensemble too: ``design`` is what else was chosen for it, such as
    the number of folds, and ``purpose`` the question that it is tried on.
    """
    from mlkit.models.ensemble import ROWS_IN_MEMORY, DiskBatches, PricePredictor, TrainingArrays

    ensemble = ensemble or ensemble_settings(settings)
    warm = data.warm(rows)
    span = slice(int(warm[0]), int(warm[-1]) + 1) if len(warm) else slice(0, 0)
    end = np.full_like(data.end, -1)
    end[rows] = data.end[rows]
    tried = configuration(settings, ensemble, data.features, design)
    disk = None
    if isinstance(data.X, np.memmap):  # a set in files: see `prepare`
        disk = DiskBatches(Path(str(data.X.filename)).parent, ROWS_IN_MEMORY)
    with recorded(settings, data.sources, tried, purpose=purpose):
        arrays = TrainingArrays(
            X=data.X[span],
            Y=data.Y[span],
            end=end[span],
            scale=data.scale[span],
            horizons=settings.prediction_horizons,
            terms=data.terms[span],
            positions=data.position[span],
        )
        return PricePredictor.fit(arrays, ensemble, seed=settings.seed, progress=progress, disk=disk)


def folds(
    bars: "Bars",
    settings: Settings,
    *,
    n_splits: int | None = None,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    after: "pd.Timestamp | None" = None,
) -> list[tuple[IntVector, IntVector]]:
    """(train rows, test rows) of every walk-forward fold, rows of `prepare`, purged by label end time.

    Folds of several histories are common spans of time: what was open anywhere when a test block begins has its label
    purged, whatever market it is of. A test row has every feature; a fold without one is left out. With ``after`` every
    test bar opens later than that.

    Raises BarsError when there are too few bars: "need N, have M".
    """
    markets = markets_of(bars)
    layout, warm_up = lay_out(markets), (features or FeatureSet()).warm_up
    least = min((ensemble or ensemble_settings(settings)).fractions)
    first = _first_train(markets, layout, settings, warm_up, least, after)
    splitter = WalkForward(n_splits=n_splits or SPLITS[settings.profile], min_train=first)
    end = np.empty((len(layout.bar), len(settings.prediction_horizons)), dtype=np.int64)
    for market, one in enumerate(markets):
        labels = forward_returns(one, settings.prediction_horizons)
        end[layout.rows[market]] = label_ends(labels, layout.places(market))
    cut = splitter.split(None, groups=end, positions=layout.position)
    warm = ((train, test[layout.age[test] >= warm_up]) for train, test in cut)
    found = [(train, test) for train, test in warm if len(test)]
    if not found:
        raise BarsError(f"no bar after the first {first} has every feature: too many outages; load a longer history")
    return found


def _first_train(
    markets: "tuple[pd.DataFrame, ...]",
    layout: Layout,
    settings: Settings,
    warm_up: int,
    least_share: float,
    after: "pd.Timestamp | None",
) -> int:
    """Bar times before the first test block: half of them, or as many as its inner split and the purges take.

    At least those up to ``after``: the labelled ones among them are fewer, so no test bar is one of them.
    """
    longest = max(settings.prediction_horizons)
    places = np.setdiff1d(np.arange(len(layout.times)), layout.unknown(warm_up))  # the others teach and test nothing
    name = f"{', '.join(one.attrs['symbol'] for one in markets)} {markets[0].attrs['timeframe']}"
    if len(markets) > 1:
        demand_bars(markets, warm_up + longest + 1)
    learn = int(np.ceil((MIN_ROWS + longest) / least_share))
    least = warm_up + learn + longest
    need = least + MIN_TEST + longest
    if len(places) < need:
        lost = len(layout.times) - len(places)
        have = f"{len(places)} and {lost} without features after an outage" if lost else str(len(places))
        raise BarsError(
            f"{name}: need {need} bars to train and evaluate, have "
            f"{have} ({warm_up} warm-up, {learn} to learn from, {MIN_TEST} to test, the rest for labels of "
            f"{longest} bars); load a longer history"
        )
    seen = 0 if after is None else int(np.searchsorted(layout.times, after.as_unit("ns").value, side="right"))
    left = int((places >= seen).sum())
    if left < MIN_TEST + longest:
        raise BarsError(
            f"{name}: need {MIN_TEST + longest} bars after {after} to judge what was chosen on those up to then, "
            f"have {left}; load newer bars"
        )
    return max(len(layout.times) // 2, int(places[least - 1]) + 1, seen)


def walk_forward(
    bars: "Bars",
    settings: Settings | None = None,
    *,
    n_splits: int | None = None,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    after: "pd.Timestamp | None" = None,
    folder: Path | None = None,
    stages: Stages | None = None,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Out-of-sample forecasts of every test bar, from models that saw nothing of it.

    Every fold fits anew what is fitted: GARCH, trees, shrinkage and calibration, on bars whose labels end before
    the fold's first test bar. ``ensemble`` is `ensemble_settings` of the settings by default; where it was chosen on
    some of the bars, ``after`` is the last of them, and only later ones are forecast. ``folder`` is as in `train`.
    ``stages``, of `kept_stages` with the same arguments, keep finished folds for a run that takes over after a kill.

    Returns
    -------
    DataFrame, one row a test bar and horizon: timestamp, symbol (of a pool), bar (its number in the history), horizon,
    fold, log_return, p_up, std, lo80, hi80, lo90, hi90 (the forecast, log returns), xgboost, lightgbm, random_forest
    and further learners (members), outcome (realised log return), earned (from the next open), low80, high80, low90,
    high90 (quantiles of the training labels: the naive intervals). ``attrs["sources"]`` names the data, so that
    `score` can ask the trial ledger about them, ``attrs["configuration"]`` the trial.
    """
    import pandas as pd

    settings, markets = settings or Settings(), markets_of(bars)
    splits = folds(markets, settings, n_splits=n_splits, features=features, ensemble=ensemble, after=after)
    design = ({} if n_splits is None else {"n_splits": n_splits}) | _batched(markets, folder)
    sources, digest = tuple(Source.of(one) for one in markets), feature_digest(features or FeatureSet())
    tried = configuration(settings, ensemble or ensemble_settings(settings), digest, design)
    about = {"ensemble": asdict(ensemble or ensemble_settings(settings)), "folds": len(splits), "after": after}
    with tracked("evaluate", settings, name=_title(markets), parameters=about, sources=sources) as run:
        suffix = "" if after is None else f"-after-{after:%Y%m%dT%H%M%S}"
        how = (features, ensemble, folder, stages, progress)
        parts = _forecast_folds(markets, settings, splits, design, tried, suffix, *how)
        forecasts = pd.concat(parts, ignore_index=True)
        hashed = configuration_hash(tried)
        forecasts.attrs = {"sources": [asdict(source) for source in sources], "configuration": hashed}
        if run.key is not None and run.kind == "evaluate":  # else the run that this one is part of tells
            run.folds(forecasts)
            run.scores(score(forecasts, settings))
    return forecasts


def _title(markets: "tuple[pd.DataFrame, ...]", name: str | None = None) -> str:
    """What a run is called in the list of runs."""
    named = "+".join(one.attrs["symbol"] for one in markets) if name is None else name
    return f"{named[:60]}-{markets[0].attrs['timeframe']}"


def _forecast_folds(
    markets: "tuple[pd.DataFrame, ...]",
    settings: Settings,
    splits: "list[tuple[IntVector, IntVector]]",
    design: Mapping[str, Any],
    tried: Mapping[str, Any],
    suffix: str,
    features: FeatureSet | None,
    ensemble: EnsembleSettings | None,
    folder: Path | None,
    stages: Stages | None,
    progress: Progress | None,
) -> "list[pd.DataFrame]":
    """The forecasts of each fold, those of a run that was killed included."""
    layout, parts, sources = lay_out(markets), [], tuple(Source.of(one) for one in markets)
    for fold, (train_rows, test_rows) in enumerate(splits):
        told = _prefixed(progress, f"fold {fold + 1}/{len(splits)}")
        stage = f"fold-{fold + 1}-of-{len(splits)}{suffix}"
        part = None if stages is None else stages.frame(stage)
        if part is None:
            told("features", 0, 1)
            garch = fitted_garch(markets, layout, int(layout.position[train_rows[-1]]))
            with in_files(folder) as place:
                data = prepare(markets, settings.prediction_horizons, garch, features, folder=place)
                model = fit_price(data, train_rows, settings, ensemble=ensemble, design=design, progress=told)
                part = scored_rows(data, model, train_rows, test_rows, fold)
            if stages is not None:
                stages.keep_frame(stage, part)
        else:  # a trial of this run too, whoever did the work
            with recorded(settings, sources, tried):
                told("kept from an earlier run", 1, 1)
        parts.append(part)
    return parts


def _batched(markets: "tuple[pd.DataFrame, ...]", folder: Path | None) -> dict[str, Any]:
    """What was chosen for a fit by asking for files: nothing up to one batch, where the bits are those of memory."""
    from mlkit.models.ensemble import ROWS_IN_MEMORY

    more = folder is not None and sum(map(len, markets)) > ROWS_IN_MEMORY
    return {"batch": ROWS_IN_MEMORY} if more else {}


def fitted_garch(markets: "tuple[pd.DataFrame, ...]", layout: Layout, last: int) -> dict[str, Garch]:
    """GARCH of each market, fitted on its bars up to place ``last`` of the common time axis.

    A market of a pool with fewer than ``MIN_BARS`` bars by then takes ``DEFAULT_GARCH``, as one does that was not in
    the pool: it aims at the variance of the market's own last 200 bars, so it brings no unit of another.
    """
    fitted = {}
    for market, bars in enumerate(markets):
        past = bars.iloc[: int(np.searchsorted(layout.places(market), last, side="right"))]
        lone = len(markets) == 1  # too few bars are an error then
        fitted[bars.attrs["symbol"]] = fit_garch(past) if lone or len(past) >= MIN_BARS else DEFAULT_GARCH
    return fitted


def _prefixed(progress: Progress | None, prefix: str) -> Progress:
    def tell(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{prefix}: {stage}", done, total)

    return tell


def train(
    bars: "Bars",
    settings: Settings | None = None,
    *,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    after: "pd.Timestamp | None" = None,
    forecasts: "pd.DataFrame | None" = None,
    name: str | None = None,
    publish: bool = True,
    folder: Path | None = None,
    stages: Stages | None = None,
    progress: Progress | None = None,
) -> "ModelBundle":
    """Train on all bars, judge by walk-forward, write and publish a bundle.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), or several of one timeframe: {symbol: bars}, or a sequence of them
        The training history; the newest ones only train, their outcome is not known yet. Several are pooled into
        one bundle, whatever their order.
    settings : Settings
        Profile, seed, horizons, weights, threads, storage path.
    features : FeatureSet
        Own features beside the catalogue; the predictor of the bundle must be given the same.
    ensemble : EnsembleSettings
        `ensemble_settings` of the settings by default.
    after : Timestamp
        Last bar that the ensemble's settings were chosen on, such as ``Tuned.saw_until``: only later ones judge them.
    forecasts : DataFrame
        Of `walk_forward` on the same bars and settings, when it was computed already.
    name : str
        Of a pool's folder, written as a symbol is; by default made of its symbols.
    publish : bool
        False writes the bundle beside the current one and leaves that current: a challenger.
    folder : Path
        Where features and labels lie in files while they are needed, for histories that are together larger than
        memory: about twice the size of the matrix, 197 float32 a bar. In memory without; up to
        `mlkit.models.ensemble.ROWS_IN_MEMORY` rows both give the same bundle.
    stages : Stages
        Of `kept_stages` with the same arguments: finished folds and the final model, for a run after a kill.
    progress : callable(stage, done, total)

    Returns
    -------
    The ModelBundle: price models, the shipped pattern CNN, and the out-of-sample metrics and verdicts of
    every horizon in its manifest; of a pool, of every symbol too.

    Raises
    ------
    BarsError for too few bars; ConfigError for bars that cannot be pooled; DependencyError when a training library is
    missing.
    """
    settings, features, markets = settings or Settings(), features or FeatureSet(), markets_of(bars)
    about = {"ensemble": asdict(ensemble or ensemble_settings(settings)), "markets": len(markets)}
    sources = [Source.of(one) for one in markets]
    with tracked("train", settings, name=_title(markets, name), parameters=about, sources=sources) as run:
        if forecasts is None:
            chosen: dict[str, Any] = {"ensemble": ensemble, "after": after, "folder": folder, "stages": stages}
            forecasts = walk_forward(markets, settings, features=features, progress=progress, **chosen)
        with in_files(folder) as place:
            bundle = _final(markets, settings, features, ensemble, forecasts, name, place, stages, progress)
        if publish:
            make_current(bundle)
        if run.key is not None:
            run.folds(forecasts)
            run.scores(bundle_scores(bundle))
            run.bundle(bundle, "champion" if publish else "challenger")
    return bundle


def _final(
    markets: "tuple[pd.DataFrame, ...]",
    settings: Settings,
    features: FeatureSet,
    ensemble: EnsembleSettings | None,
    forecasts: "pd.DataFrame",
    name: str | None,
    folder: Path | None,
    stages: Stages | None,
    progress: Progress | None,
) -> "ModelBundle":
    """The model of all bars, written with what the forecasts are worth; not published."""
    from mlkit.models.ensemble import PricePredictor

    told, layout = _prefixed(progress, "final fit"), lay_out(markets)
    kept = None if stages is None else stages.files("final")
    told("features", 0, 1)
    garch = fitted_garch(markets, layout, len(layout.times) - 1)
    data = prepare(markets, settings.prediction_horizons, garch, features, folder=folder)
    if kept is None:
        rows = np.flatnonzero((data.end >= 0).all(axis=1))
        # Judged above: no trial of its own.
        model = fit_price(data, rows, settings, ensemble=ensemble, purpose="publish", progress=told)
        if stages is not None:
            stages.keep("final", model.to_bytes())
    else:
        model = PricePredictor.from_bytes(kept)
        told("kept from an earlier run", 1, 1)
    return write_trained(model, data, markets, settings, features, ensemble, garch, forecasts, name)
