"""Bars to a published bundle: walk-forward evaluation, final fit, publication.

Notebooks and ``mlkit train`` call the same functions. Each takes one market, or several of one timeframe, which are
pooled into one model.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError
from mlkit.evaluation import WalkForward, configuration_hash
from mlkit.features import DEFAULT_GARCH, MIN_BARS, FeatureSet, fit_garch
from mlkit.labels import forward_returns
from mlkit.models.bundle import ModelBundle
from mlkit.models.bundle import publish as make_current
from mlkit.models.ensemble import (
    MIN_ROWS,
    DiskBatches,
    EnsembleSettings,
    IntVector,
    PricePredictor,
    Progress,
    TrainingArrays,
)
from mlkit.operations.tracking.tracking import tracked
from mlkit.operations.tracking.trials import configuration, feature_digest, recorded
from mlkit.operations.training.execution import Execution
from mlkit.operations.training.forecasting import scored_rows
from mlkit.operations.training.panel_layout import Bars, Garch, Layout, lay_out, markets_of
from mlkit.operations.training.scoring import fold_scores, score
from mlkit.operations.training.training_bundle import bundle_scores, write_trained
from mlkit.operations.training.training_set import TrainingPlan, TrainingSet, ensemble_settings, label_ends, prepare

MIN_TEST = 200  # bars of out-of-sample evaluation
SPLITS = {"smoke": 3, "full": 5}  # walk-forward folds of a profile


def fit_price(
    data: TrainingSet,
    rows: IntVector,
    settings: Settings,
    *,
    ensemble: EnsembleSettings | None = None,
    design: Mapping[str, Any] | None = None,
    purpose: str = "price",
    progress: Progress | None = None,
) -> PricePredictor:
    """The price ensemble fitted on those of ``rows`` that have every feature, in time order, and on no other row.

    The fit is written to the trial ledger before it begins: ``design`` is what else was chosen for it, such as the
    number of folds, ``purpose`` the question that it is a trial of. ``ensemble`` is `ensemble_settings` by default.
    """
    from mlkit.models.ensemble import ROWS_IN_MEMORY

    ensemble = ensemble or ensemble_settings(settings)
    warm = data.warm(rows)
    # A slice of consecutive rows is not copied; rows of an outage or a test block within it get no label.
    span = slice(int(warm[0]), int(warm[-1]) + 1) if len(warm) else slice(0, 0)
    end = np.full_like(data.end, -1)
    end[rows] = data.end[rows]
    arrays = TrainingArrays(
        X=data.X[span],
        Y=data.Y[span],
        end=end[span],
        scale=data.scale[span],
        horizons=settings.prediction_horizons,
        terms=data.terms[span],
        positions=data.position[span],
    )
    disk = None
    if isinstance(data.X, np.memmap):  # arrays in files: see `prepare`
        disk = DiskBatches(Path(str(data.X.filename)).parent, ROWS_IN_MEMORY)
    tried = configuration(settings, ensemble, data.features, design)
    with recorded(settings, data.sources, tried, purpose=purpose):
        return PricePredictor.fit(arrays, ensemble, seed=settings.seed, progress=progress, disk=disk)


def folds(
    bars: Bars,
    settings: Settings,
    *,
    n_splits: int | None = None,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    after: pd.Timestamp | None = None,
) -> list[tuple[IntVector, IntVector]]:
    """(train rows, test rows) of every walk-forward fold, rows of `prepare`, purged by label end time.

    Folds of several markets are common spans of time: a label of any market that is not known when a test block
    begins is purged. A test row has every feature; a fold without such a row is left out. Parameters are those of
    `walk_forward`. Raises BarsError when there are too few bars: "need N, have M".
    """
    plan = TrainingPlan(markets_of(bars), settings, features or FeatureSet(), ensemble)
    layout, warm_up = lay_out(plan.markets), plan.features.warm_up
    first = _first_test(plan, layout, after)
    splitter = WalkForward(n_splits=n_splits or SPLITS[settings.profile], min_train=first)
    end = np.empty((len(layout.bar), len(settings.prediction_horizons)), dtype=np.int64)
    for market, one in enumerate(plan.markets):
        labels = forward_returns(one, settings.prediction_horizons)
        end[layout.rows[market]] = label_ends(labels, layout.positions(market))
    cut = splitter.split(None, groups=end, positions=layout.position)
    warm = ((train, test[layout.age[test] >= warm_up]) for train, test in cut)
    found = [(train, test) for train, test in warm if len(test)]
    if not found:
        raise BarsError(f"no bar after the first {first} has every feature: too many outages; load a longer history")
    return found


def _first_test(plan: TrainingPlan, layout: Layout, after: pd.Timestamp | None) -> int:
    """Position of the first test block: half of the times, or as many as the inner split and the purges need.

    With ``after`` at least all times up to then: those that carry a label are fewer, so none of them is tested.
    """
    markets, warm_up, longest = plan.markets, plan.features.warm_up, max(plan.settings.prediction_horizons)
    # Times at which every market lacks features because of a long outage, not because of its start, are not usable.
    missing, warm = np.zeros((2, len(layout.times)), dtype=np.bool_)
    missing[layout.position[(layout.age < warm_up) & (layout.bar >= warm_up)]] = True
    warm[layout.position[layout.age >= warm_up]] = True
    usable = np.flatnonzero(~missing | warm)
    name = f"{', '.join(plan.symbols)} {plan.timeframe}"
    short = [f"{one.attrs['symbol']} has {len(one)}" for one in markets if len(one) < warm_up + longest + 1]
    if short and len(markets) > 1:
        shown = ", ".join(short[:8]) + (f" and {len(short) - 8} more" if len(short) > 8 else "")
        raise BarsError(
            f"pool: each symbol needs {warm_up + longest + 1} bars (warm-up and labels), {shown}; leave them out or "
            "load more"
        )
    fractions = (plan.ensemble or ensemble_settings(plan.settings)).fractions
    learn = int(np.ceil((MIN_ROWS + longest) / min(fractions)))
    least = warm_up + learn + longest
    need = least + MIN_TEST + longest
    if len(usable) < need:
        lost = len(layout.times) - len(usable)
        have = f"{len(usable)} and {lost} without features after an outage" if lost else str(len(usable))
        raise BarsError(
            f"{name}: need {need} bars to train and evaluate, have "
            f"{have} ({warm_up} warm-up, {learn} to learn from, {MIN_TEST} to test, the rest for labels of "
            f"{longest} bars); load a longer history"
        )
    seen = 0 if after is None else int(np.searchsorted(layout.times, after.as_unit("ns").value, side="right"))
    left = int((usable >= seen).sum())
    if left < MIN_TEST + longest:
        raise BarsError(
            f"{name}: need {MIN_TEST + longest} bars after {after} to judge what was chosen on those up to then, "
            f"have {left}; load newer bars"
        )
    return max(len(layout.times) // 2, int(usable[least - 1]) + 1, seen)


def walk_forward(
    bars: Bars,
    settings: Settings | None = None,
    *,
    n_splits: int | None = None,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    after: pd.Timestamp | None = None,
    execution: Execution | None = None,
) -> pd.DataFrame:
    """Out-of-sample forecasts of every test bar, from models that were fitted on earlier bars only.

    Every fold fits GARCH, trees, shrinkage and calibration anew, on bars whose labels end before the fold's first test
    bar. ``n_splits`` folds, `SPLITS` of the profile by default; the other parameters are as in `train`.

    Returns
    -------
    DataFrame, one row a test bar and horizon: timestamp, symbol (of a pool), bar (its number in the market), horizon,
    fold, log_return, p_up, std, lo80, hi80, lo90, hi90 (the forecast, log returns), xgboost, lightgbm, random_forest
    and further learners (members), outcome (realised log return), earned (from the next open), low80, high80, low90,
    high90 (quantiles of the training labels: the naive intervals). ``attrs["sources"]`` names the data, so that
    `score` can ask the trial ledger about them, ``attrs["configuration"]`` the trial.
    """
    from mlkit.models.ensemble import ROWS_IN_MEMORY

    settings, execution = settings or Settings(), execution or Execution()
    plan = TrainingPlan(markets_of(bars), settings, features or FeatureSet(), ensemble)
    splits = folds(plan.markets, settings, n_splits=n_splits, features=features, ensemble=ensemble, after=after)
    design = {} if n_splits is None else {"n_splits": n_splits}
    if execution.arrays is not None and sum(map(len, plan.markets)) > ROWS_IN_MEMORY:
        design["batch"] = ROWS_IN_MEMORY  # up to one batch the bits are those of arrays in memory
    chosen, sources = ensemble or ensemble_settings(settings), plan.sources
    tried = configuration(settings, chosen, feature_digest(plan.features), design)
    about = {"ensemble": asdict(chosen), "folds": len(splits), "after": after}
    with tracked("evaluate", settings, name=plan.title(), parameters=about, sources=sources) as run:
        suffix = "" if after is None else f"-after-{after:%Y%m%dT%H%M%S}"
        parts = []
        for fold, (train_rows, test_rows) in enumerate(splits):
            stage = f"fold-{fold + 1}-of-{len(splits)}{suffix}"
            report = execution.named(f"fold {fold + 1}/{len(splits)}")
            kept = execution.load(stage)
            if kept is None:
                part = _forecast_fold(plan, execution, train_rows, test_rows, fold, design, report)
                if execution.stages is not None:
                    execution.save(stage, {"table.parquet": part.to_parquet()})
            else:
                part = pd.read_parquet(io.BytesIO(kept["table.parquet"]))
                with recorded(settings, sources, tried):  # a trial of this run too, although nothing is fitted
                    report("kept from an earlier run", 1, 1)
            parts.append(part)
        forecasts = pd.concat(parts, ignore_index=True)
        hashed = configuration_hash(tried)
        forecasts.attrs = {"sources": [asdict(source) for source in sources], "configuration": hashed}
        if run.key is not None and run.kind == "evaluate":  # a run that this one is part of logs its own scores
            run.folds(fold_scores(forecasts))
            run.scores(score(forecasts, settings))
    return forecasts


def _forecast_fold(
    plan: TrainingPlan,
    execution: Execution,
    train_rows: IntVector,
    test_rows: IntVector,
    fold: int,
    design: Mapping[str, Any],
    report: Progress,
) -> pd.DataFrame:
    """Fit the models of one fold and forecast its test rows."""
    with _prepared(plan, execution, report, int(train_rows[-1])) as data:
        model = fit_price(data, train_rows, plan.settings, ensemble=plan.ensemble, design=design, progress=report)
        return scored_rows(data, model, train_rows, test_rows, fold)


@contextmanager
def _prepared(plan: TrainingPlan, execution: Execution, report: Progress, row: int = -1) -> Iterator[TrainingSet]:
    """The arrays of a training while the block runs, with GARCH fitted on the bars up to the time of a row."""
    report("features", 0, 1)
    layout = lay_out(plan.markets)
    garch = fitted_garch(plan.markets, layout, int(layout.position[row]))
    with execution.array_folder() as folder:
        yield prepare(plan.markets, plan.settings.prediction_horizons, garch, plan.features, folder=folder)


def fitted_garch(markets: tuple[pd.DataFrame, ...], layout: Layout, last: int) -> dict[str, Garch]:
    """GARCH of each market, fitted on its bars up to position ``last`` of the common time axis.

    A market of a pool with fewer than ``MIN_BARS`` bars by then takes ``DEFAULT_GARCH``, as does one that was not in
    the pool. Its target is the variance of the market's own last 200 bars, so it needs no scale of another market.
    """
    fitted = {}
    for market, bars in enumerate(markets):
        past = bars.iloc[: int(np.searchsorted(layout.positions(market), last, side="right"))]
        alone = len(markets) == 1  # then too few bars are an error
        fitted[bars.attrs["symbol"]] = fit_garch(past) if alone or len(past) >= MIN_BARS else DEFAULT_GARCH
    return fitted


def train(
    bars: Bars,
    settings: Settings | None = None,
    *,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    after: pd.Timestamp | None = None,
    forecasts: pd.DataFrame | None = None,
    name: str | None = None,
    publish: bool = True,
    execution: Execution | None = None,
) -> ModelBundle:
    """Train on all bars, judge by walk-forward, write and publish a bundle.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), or several of one timeframe: {symbol: bars}, or a sequence of them
        The newest bars have no label yet and are inputs only. Several markets are pooled into one bundle.
    settings : profile, seed, horizons, weights, threads, storage path
    features : own features beside the catalogue; the predictor of the bundle must be given the same
    ensemble : `ensemble_settings` of the settings by default
    after : last bar that ``ensemble`` was chosen on, such as ``Tuned.saw_until``: only later ones judge it
    forecasts : of `walk_forward` on the same bars and settings, when it was computed already
    name : of a pool's folder, written as a symbol is; by default made of its symbols
    publish : False writes the bundle beside the current one and leaves that current: a challenger
    execution : progress, arrays in files, and finished stages of an earlier run (`resumable`); in memory and silent by
        default

    Returns
    -------
    The ModelBundle: price models, the shipped pattern CNN, and the out-of-sample metrics and verdicts of
    every horizon in its manifest; of a pool, of every symbol too.

    Raises
    ------
    BarsError for too few bars; ConfigError for bars that cannot be pooled; DependencyError when a training library is
    missing.
    """
    settings, execution = settings or Settings(), execution or Execution()
    plan = TrainingPlan(markets_of(bars), settings, features or FeatureSet(), ensemble)
    about = {"ensemble": asdict(ensemble or ensemble_settings(settings)), "markets": len(plan.markets)}
    with tracked("train", settings, name=plan.title(name), parameters=about, sources=plan.sources) as run:
        if forecasts is None:
            options: dict[str, Any] = {"features": features, "ensemble": ensemble, "after": after}
            forecasts = walk_forward(plan.markets, settings, execution=execution, **options)
        bundle = _fit_all(plan, execution, forecasts, name)
        if publish:
            make_current(bundle)
        if run.key is not None:
            run.folds(fold_scores(forecasts))
            run.scores(bundle_scores(bundle))
            run.bundle(bundle, "champion" if publish else "challenger")
    return bundle


def _fit_all(plan: TrainingPlan, execution: Execution, forecasts: pd.DataFrame, name: str | None) -> ModelBundle:
    """Fit the model of all bars and write it with the scores of the forecasts; it is not published."""
    report, kept = execution.named("final fit"), execution.load("final")
    with _prepared(plan, execution, report) as data:
        if kept is None:
            rows = np.flatnonzero((data.end >= 0).all(axis=1))
            # The walk-forward judged this configuration: under another purpose the fit is no further trial.
            model = fit_price(data, rows, plan.settings, ensemble=plan.ensemble, purpose="publish", progress=report)
            execution.save("final", model.to_bytes())
        else:
            model = PricePredictor.from_bytes(kept)
            report("kept from an earlier run", 1, 1)
        return write_trained(plan, model, data, forecasts, name)
