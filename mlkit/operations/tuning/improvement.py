"""Default against tuned parameters on bars that tuning never saw, with an interval."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlkit.config import Settings
from mlkit.evaluation import FinalSpan, WalkForward, label_end_positions, metric_intervals
from mlkit.features import FeatureSet, fit_garch
from mlkit.labels import forward_returns
from mlkit.market import validate_bars
from mlkit.models.ensemble import FloatMatrix, Progress
from mlkit.operations.training.training import fit_price
from mlkit.operations.training.training_set import TrainingSet, ensemble_settings, prepare
from mlkit.operations.tuning.tuned import Answer, OutOfSample, Tuned

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.ensemble import PricePredictor
    from mlkit.operations.tracking.tracking import Run

LEVEL = 0.95


def losses_of(
    model: "PricePredictor", data: TrainingSet, rows: npt.NDArray[np.int64], clip: float
) -> dict[str, FloatMatrix]:
    """Squared error of each row and horizon in units of the expected deviation, (n, H) each.

    ``trees``: what the trees say, ``told``: the forecast after shrinkage, ``no change``: saying nothing.
    """
    forecast = model.predict(data.X[rows], data.scale[rows], data.terms[rows])
    y = np.clip(data.Y[rows] / forecast.scale, -clip, clip)
    said = {"trees": forecast.raw, "told": forecast.log_return, "no change": np.zeros_like(y)}
    return {name: (y - value / forecast.scale) ** 2 for name, value in said.items()}


def compare_held_back(
    span: FinalSpan, tuned: Tuned, settings: Settings, features: FeatureSet
) -> "tuple[pd.DataFrame, OutOfSample]":
    """Default and tuned parameters, both fitted on what tuning saw, on the held-back bars.

    The read is written to the ledger. Returns the table of `compare_losses` and what it comes to.
    """
    before = len(span.reads())
    with warnings.catch_warnings():  # that it is not the first read is part of the answer
        warnings.filterwarnings("ignore", message="the final span", category=UserWarning)
        bars = span.read(f"tuned against default parameters, study {tuned.study}", again=True)
    rows, losses = held_back_losses(bars, span.start, tuned.parameters, settings, features)
    table = compare_losses(losses, settings)
    line = table.loc["trees"].loc["all"].to_numpy(dtype=np.float64)
    ours, theirs, difference, low, high = (float(value) for value in line)
    default = {name: getattr(ensemble_settings(settings), name) for name in tuned.parameters}
    verdict = OutOfSample(
        answer=answer(low, high) if tuned.parameters != default else "same parameters",
        default=ours,
        tuned=theirs,
        difference=difference,
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
        level=LEVEL,
        start=bars.index[rows[0]].isoformat(),
        end=bars.index[rows[-1]].isoformat(),
        bars=len(rows),
        reads_before=before,
    )
    return table, verdict


def held_back_losses(
    bars: "pd.DataFrame",
    first: "pd.Timestamp",
    parameters: Mapping[str, int | float],
    settings: Settings,
    features: FeatureSet,
) -> tuple[npt.NDArray[np.int64], dict[str, dict[str, FloatMatrix]]]:
    """Rows from ``first`` on, and the `losses_of` them under ``default`` and ``tuned`` parameters.

    Both models and GARCH are fitted on bars whose labels end before ``first``.
    """
    labels = forward_returns(validate_bars(bars), settings.prediction_horizons)
    before = int(((label_end_positions(labels) >= 0).all(axis=1) & (labels.index < first)).sum())
    train_rows, test_rows = next(WalkForward(n_splits=1, min_train=before).split(labels))
    data = prepare(bars, settings.prediction_horizons, fit_garch(bars.iloc[: train_rows[-1] + 1]), features)
    test_rows = data.warm(test_rows)
    default = ensemble_settings(settings)
    losses: dict[str, dict[str, FloatMatrix]] = {}
    for name, changes in {"default": {}, "tuned": parameters}.items():
        ensemble = replace(default, **changes)  # type: ignore[arg-type]
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
        for name, chosen in {**{str(h): [j] for j, h in enumerate(horizons)}, "all": range(len(horizons))}.items():
            columns = {f"{who}{j}": losses[who][forecast][:, j] for who in ("default", "tuned") for j in chosen} | {
                f"base{j}": losses["default"]["no change"][:, j] for j in chosen
            }

            def relative(of: Mapping[str, Any], chosen: Any = tuple(chosen)) -> dict[str, float]:
                base = {j: of[f"base{j}"].mean() for j in chosen}
                mean = {w: np.mean([of[f"{w}{j}"].mean() / base[j] for j in chosen]) for w in ("default", "tuned")}
                return {**mean, "difference": mean["tuned"] - mean["default"]}

            horizon = max(horizons[j] for j in chosen)
            found = metric_intervals(relative, columns, horizon=horizon, level=LEVEL, reps=500, seed=settings.seed)
            parts[forecast, name] = {**found["value"], **found.loc["difference", ["low", "high"]]}
    table = pd.DataFrame.from_dict(parts, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["forecast", "horizon"])
    return table


def answer(low: float, high: float) -> Answer:
    """What an interval of a difference of losses says; NaN ends say nothing."""
    return "better" if high < 0 else "worse" if low > 0 else "not shown"


def sentence(found: OutOfSample | None) -> str:
    """Whether tuning helped, in one sentence."""
    if found is None:
        return "Not compared out of sample."
    if found.answer == "same parameters":
        return "No trial beat the default parameters: tuning changes nothing."
    told = {
        "better": "Tuning helped out of sample",
        "worse": "Tuning hurt out of sample",
        "not shown": "Out of sample it is not shown that tuning helps or hurts",
    }[found.answer]
    ends = "" if found.low is None else f", {found.level:.0%} interval [{found.low:+.4f}, {found.high:+.4f}]"
    reads = "" if not found.reads_before else f"; these bars had been read {found.reads_before} times before"
    return f"{told}: relative loss {found.difference:+.4f}{ends}, {found.bars:,} bars{reads}."


def teller(run: "Run", trials: int, progress: Progress | None) -> Callable[[int, float | None], None]:
    """Tells a tracked run and a progress bar how far a study is and how good its best trial."""

    def told(done: int, best: float | None) -> None:
        if best is not None:
            run.metrics({"best score": best}, step=done)
        if progress is not None:
            progress("trials" if best is None else f"trials, best {best:.5f}", done, max(trials, done))

    return told


def track(
    run: "Run",
    parameters: Mapping[str, int | float],
    trials: "pd.DataFrame",
    found: OutOfSample | None,
    comparison: "pd.DataFrame | None",
) -> None:
    """Tell a tracked run what a study found: a step a trial, the winner, and its comparison with the default."""
    for number, score in zip(trials.index.tolist(), trials["score"], strict=True):
        run.metrics({"score": score}, step=number)
    run.metrics({f"trials {state}": int(count) for state, count in trials["state"].value_counts().items()})
    run.parameters({f"tuned.{name}": value for name, value in parameters.items()})
    run.table("trials", trials)
    if found is not None:
        run.metrics({"difference": found.difference, "difference low": found.low, "difference high": found.high})
        run.tags({"out of sample": found.answer})
        run.text("comparison", sentence(found))
    if comparison is not None:
        run.table("comparison", comparison)
