"""A study as a tracked run, and whether its best parameters beat the default ones on data that tuning did not use."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.evaluation import FinalSpan, Source, WalkForward, label_end_positions, metric_intervals
from mlkit.features import FeatureSet, fit_garch
from mlkit.labels import forward_returns
from mlkit.market import validate_bars
from mlkit.models.ensemble import FloatMatrix, Progress
from mlkit.operations.tracking.tracking import tracked
from mlkit.operations.training.training import fit_price
from mlkit.operations.training.training_set import TrainingSet, ensemble_settings, prepare
from mlkit.operations.tuning.study import Study, StudyResult
from mlkit.operations.tuning.tuned import OutOfSample, TunedT, Tuning
from mlkit.untrusted import without_password

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.ensemble import PricePredictor

INTERVAL_LEVEL = 0.95
_Parameters = Mapping[str, int | float]


def run_study(
    study: Study,
    settings: Settings,
    choose: "Callable[[StudyResult], tuple[TunedT, pd.DataFrame | None]]",
    *,
    trials: int,
    workers: int,
    sources: Sequence[Source],
    progress: Progress | None,
) -> Tuning[TunedT]:
    """Run a study as a tracked run of kind ``tune``.

    Parameters
    ----------
    choose : makes the record of the chosen parameters from the result, and the table of their comparison
    trials, workers, progress : as `tune`
    sources : which data the run used
    """
    if trials < 1 or workers < 1:
        raise ConfigError(f"tune: trials and workers must be at least 1, got {trials} and {workers}")
    about = {"study": study.name, "trials": trials, "workers": workers, **study.objective.search.about}
    with tracked("tune", settings, name=study.name, parameters=about, sources=sources) as run:

        def report(done: int, best: float | None) -> None:
            if best is not None:
                run.metrics({"best score": best}, step=done)
            if progress is not None:
                progress("trials" if best is None else f"trials, best {best:.5f}", done, max(trials, done))

        study.run(trials, workers=workers, report=report)
        result = study.result()
        tuned, comparison = choose(result)
        for number, score in zip(result.trials.index.tolist(), result.trials["score"], strict=True):
            run.metrics({"score": score}, step=number)
        run.metrics({f"trials {state}": int(count) for state, count in result.trials["state"].value_counts().items()})
        run.parameters({f"tuned.{name}": value for name, value in result.parameters.items()})
        run.table("trials", result.trials)
        if (found := tuned.out_of_sample) is not None:
            run.metrics({"difference": found.difference, "difference low": found.low, "difference high": found.high})
            run.tags({"out of sample": found.answer})
            run.text("comparison", found.sentence())
        if comparison is not None:
            run.table("comparison", comparison)
    return Tuning(tuned, result.trials, result.importance, comparison)


def chosen(study: Study, settings: Settings, result: StudyResult) -> dict[str, Any]:
    """The fields of ``tuned.json`` that do not depend on what was tuned."""
    return {
        "profile": settings.profile,
        "seed": settings.seed,
        "parameters": result.parameters,
        "study": study.name,
        "storage": without_password(study.storage),
        "score": result.score,
        "default_score": result.default_score,
        "trials": result.counts,
        "configurations": result.configurations,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def losses_of(
    model: "PricePredictor", data: TrainingSet, rows: npt.NDArray[np.int64], clip: float
) -> dict[str, FloatMatrix]:
    """Squared error of each row and horizon in units of the expected deviation, (n, H) each.

    ``trees``: the raw forecast of the trees; ``told``: the forecast after shrinkage; ``no change``: a forecast of 0.
    """
    forecast = model.predict(data.X[rows], data.scale[rows], data.terms[rows])
    y = np.clip(data.Y[rows] / forecast.scale, -clip, clip)
    forecasts = {"trees": forecast.raw, "told": forecast.log_return, "no change": np.zeros_like(y)}
    return {name: (y - value / forecast.scale) ** 2 for name, value in forecasts.items()}


def compare_held_back(
    span: FinalSpan, parameters: _Parameters, study: str, settings: Settings, features: FeatureSet
) -> "tuple[pd.DataFrame, OutOfSample]":
    """Compare default and tuned parameters, both fitted on the bars that tuning used, on the held-back bars.

    The read of the held-back bars is written to the ledger. Returns the table of `compare_losses`, and its row of the
    trees over all horizons with the answer.
    """
    before = len(span.reads())
    with warnings.catch_warnings():
        # A repeated read is part of the answer: reads_before.
        warnings.filterwarnings("ignore", message="the final span", category=UserWarning)
        bars = span.read(f"tuned against default parameters, study {study}", again=True)
    rows, losses = held_back_losses(bars, span.start, parameters, settings, features)
    table = compare_losses(losses, settings)
    default, tuned, difference, low, high = map(float, table.loc["trees"].loc["all"])
    ensemble = ensemble_settings(settings)
    same = all(getattr(ensemble, name) == value for name, value in parameters.items())
    return table, OutOfSample(
        answer="same parameters" if same else answer(low, high),
        default=default,
        tuned=tuned,
        difference=difference,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
        level=INTERVAL_LEVEL,
        start=bars.index[rows[0]].isoformat(),
        end=bars.index[rows[-1]].isoformat(),
        bars=len(rows),
        reads_before=before,
    )


def held_back_losses(
    bars: "pd.DataFrame", first: "pd.Timestamp", parameters: _Parameters, settings: Settings, features: FeatureSet
) -> tuple[npt.NDArray[np.int64], dict[str, dict[str, FloatMatrix]]]:
    """Rows from ``first`` on, and their `losses_of` under ``default`` and ``tuned`` parameters.

    Both models and GARCH are fitted on bars whose labels end before ``first``.
    """
    labels = forward_returns(validate_bars(bars), settings.prediction_horizons)
    before = int(((label_end_positions(labels) >= 0).all(axis=1) & (labels.index < first)).sum())
    train_rows, test_rows = next(WalkForward(n_splits=1, min_train=before).split(labels))
    data = prepare(bars, settings.prediction_horizons, fit_garch(bars.iloc[: train_rows[-1] + 1]), features)
    test_rows = data.warm(test_rows)
    default = ensemble_settings(settings)
    tuned = replace(default, **parameters)  # type: ignore[arg-type]
    losses: dict[str, dict[str, FloatMatrix]] = {}
    for name, ensemble in {"default": default, "tuned": tuned}.items():
        if name == "tuned" and ensemble == default:
            losses[name] = losses["default"]
            continue
        model = fit_price(data, train_rows, settings, ensemble=ensemble)
        losses[name] = losses_of(model, data, test_rows, ensemble.target_clip)
    return test_rows, losses


def compare_losses(losses: Mapping[str, Mapping[str, FloatMatrix]], settings: Settings) -> "pd.DataFrame":
    """Relative loss under default and tuned parameters, and the paired interval of their difference.

    Returns a DataFrame, index (forecast, horizon), ``all`` being the mean of the horizons: default, tuned (no change =
    1), difference (tuned minus default: under 0 is better), low, high (block bootstrap over the same rows).
    """
    import pandas as pd

    horizons = list(settings.prediction_horizons)
    parts = {}
    for forecast in ("trees", "told"):
        for name, columns_of in {**{str(h): [j] for j, h in enumerate(horizons)}, "all": range(len(horizons))}.items():
            columns = {f"{who}{j}": losses[who][forecast][:, j] for who in ("default", "tuned") for j in columns_of} | {
                f"base{j}": losses["default"]["no change"][:, j] for j in columns_of
            }

            def relative(of: Mapping[str, Any], js: Any = tuple(columns_of)) -> dict[str, float]:
                base = {j: of[f"base{j}"].mean() for j in js}
                mean = {who: np.mean([of[f"{who}{j}"].mean() / base[j] for j in js]) for who in ("default", "tuned")}
                return {**mean, "difference": mean["tuned"] - mean["default"]}

            options = {"horizon": max(horizons[j] for j in columns_of), "level": INTERVAL_LEVEL, "seed": settings.seed}
            found = metric_intervals(relative, columns, reps=500, **options)  # type: ignore[arg-type]
            parts[forecast, name] = {**found["value"], **found.loc["difference", ["low", "high"]]}
    table = pd.DataFrame.from_dict(parts, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["forecast", "horizon"])
    return table


def answer(low: float, high: float) -> Literal["better", "worse", "not shown"]:
    """Answer of an interval of a difference of losses; ``not shown`` for NaN bounds."""
    return "better" if high < 0 else "worse" if low > 0 else "not shown"
