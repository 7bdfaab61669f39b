"""The study: what the price ensemble is worth on every file of a folder, one row a file and horizon.

Each file is cut to its newest ``cap`` bars and goes through `walk_forward` as any bars would: half of them train
first, the rest are test bars in three folds. The design of the intervals was chosen on those first halves and on
bars before the ones kept here; no number of the study went back into it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.config import Settings
from mlkit.evaluation import (
    brier_skill,
    calibration_noise,
    coverage,
    coverage_noise,
    direction,
    expected_calibration_error,
    hit_rate,
    hit_rate_baseline,
    interval_scores,
    r2_no_change,
    rank_ic,
    t_under_null,
    verdict,
)
from mlkit.market import read_bars
from mlkit.models.ensemble import FloatVector
from mlkit.operations.tracking.trials import count_trials
from mlkit.operations.training.training import NAIVE, walk_forward

if TYPE_CHECKING:
    import pandas as pd

CAP = 40_000  # newest bars of a file
LEVELS = (80, 90)
R2_FLOOR = -0.001
COVERAGE_GAP, TERCILE_GAP = 0.015, 0.04
CRITICAL = 1.96
WORSE = 1.02  # the most an interval score may be over the best rival's


def study_file(path: Path, settings: Settings, *, cap: int = CAP, skip: int = 0) -> "pd.DataFrame":
    """The cells of one file ``SYMBOL-TIMEFRAME.parquet``: a row a horizon.

    The newest ``cap`` bars are kept, or those before the newest ``skip``: the same study on bars of which no choice of
    the design knew. BarsError when there are too few.

    Returns
    -------
    DataFrame: file, horizon, bars (after the cap), rows (scored), r2 (against no change), rank_ic (of the forecast
    before shrinkage), hit_rate and hit_naive, brier_skill, ece and ece_noise (what perfect probabilities may come
    to); for 80 and 90: coverage, its noise (1.96 standard errors of an oracle's), terciles (coverage where the
    forecast scale is low, middle, high: three columns) and their noise, ratio to each rival's interval score and to
    the best one's with its t-statistics; verdict and reason.
    """
    import pandas as pd

    symbol, timeframe = path.stem.rsplit("-", 1)
    bars = read_bars(path, symbol=symbol, timeframe=timeframe)
    kept = bars.iloc[: max(len(bars) - skip, 0)].iloc[-cap:]
    kept.attrs.update(bars.attrs)
    forecasts = walk_forward(kept, settings)
    trials = count_trials(forecasts, settings)
    cells = []
    for horizon in settings.prediction_horizons:
        frame = forecasts[forecasts["horizon"] == horizon]
        known = frame[frame["outcome"].notna() & frame["scale"].notna()]
        of = {str(name): known[name].to_numpy() for name in known.columns if name not in ("timestamp",)}
        cell = {"file": path.stem, "horizon": horizon, "bars": len(kept), "rows": len(known)}
        judged = verdict(
            of["outcome"],
            of["log_return"],
            earned=of["earned"],
            horizon=horizon,
            cost_bps=settings.cost_bps,
            trials=trials * len(settings.prediction_horizons),
            seed=settings.seed,
        )
        cells.append(
            cell
            | direction_cell(of, horizon)
            | interval_cell(of, horizon)
            | {"verdict": judged.verdict, "reason": judged.reason}
        )
    return pd.DataFrame(cells)


def direction_cell(of: dict[str, FloatVector], horizon: int) -> dict[str, float]:
    """What the point forecast and the probability of a rise are worth."""
    y, rise = of["outcome"], direction(of["outcome"])
    return {
        "r2": r2_no_change(y, of["log_return"]),
        "rank_ic": rank_ic(y, of["raw"]),
        "hit_rate": hit_rate(y, np.where(of["p_up"] >= 0.5, 1.0, -1.0)),
        "hit_naive": hit_rate_baseline(y),
        "brier_skill": brier_skill(rise, of["p_up"]),
        "ece": expected_calibration_error(rise, of["p_up"]),
        "ece_noise": calibration_noise(rise, of["p_up"], horizon),
    }


def interval_cell(of: dict[str, FloatVector], horizon: int) -> dict[str, Any]:
    """Coverage, overall and by tercile of the forecast scale, and interval scores against the rivals'.

    ``t_90`` is the t-statistic of the score over the best rival's (Diebold and Mariano 1995, *J. Business & Economic
    Statistics* 13), ``t_worse_90`` that over 1.02 times it; the best rival is chosen with hindsight, which favours it.
    """
    y, cell = of["outcome"], {}
    third = np.searchsorted(np.quantile(of["scale"], [1 / 3, 2 / 3]), of["scale"])
    for level in LEVELS:
        share, low, high = level / 100, of[f"lo{level}"], of[f"hi{level}"]
        cell[f"coverage_{level}"] = coverage(y, low, high)
        cell[f"noise_{level}"] = 1.96 * coverage_noise(len(y), horizon, share)
        for k, name in enumerate(("low", "middle", "high")):
            rows = third == k
            cell[f"{name}_{level}"] = coverage(y[rows], low[rows], high[rows])
        cell[f"tercile_noise_{level}"] = 1.96 * coverage_noise(len(y) / 3, horizon, share)
        ours, rivals = interval_scores(y, low, high, share), {}
        for rival in NAIVE:
            tail = "" if rival == "unconditional" else f"_{rival}"
            rivals[rival] = interval_scores(y, of[f"low{level}{tail}"], of[f"high{level}{tail}"], share)
            cell[f"ratio_{level}_{rival}"] = float(ours.mean() / rivals[rival].mean())
        best = min(rivals.values(), key=np.mean)
        cell[f"ratio_{level}"] = float(ours.mean() / best.mean())
        overlap = max(int(1.5 * horizon) + 1, 20)
        cell[f"t_{level}"] = t_under_null(ours - best, overlap)
        cell[f"t_worse_{level}"] = t_under_null(ours - WORSE * best, overlap)
    return cell


def study_summary(cells: "pd.DataFrame") -> "pd.DataFrame":
    """How many cells keep each promise, and how many of the others miss it by more than noise explains.

    Returns
    -------
    DataFrame indexed by the promise: ``kept`` and ``cells``; ``beyond_noise``, misses larger than 1.96 standard
    errors, those of an oracle's coverage or of the difference of two scores (NaN where there is no such floor);
    ``oracle``, how many cells one who knows the true quantiles is expected to keep (NaN for scores; terciles as if
    independent); ``worst``, the cell that is furthest from it.
    """
    import pandas as pd

    rows: dict[str, dict[str, Any]] = {
        "R² against no change at least -0.001": _kept(cells, R2_FLOOR - cells["r2"]),
    }
    for level in LEVELS:
        gap = (cells[f"coverage_{level}"] - level / 100).abs()
        rows[f"{level} % coverage within 1.5 points"] = _kept(
            cells, gap - COVERAGE_GAP, gap > cells[f"noise_{level}"], _inside(COVERAGE_GAP, cells[f"noise_{level}"])
        )
        terciles = cells[[f"{name}_{level}" for name in ("low", "middle", "high")]]
        gap = (terciles - level / 100).abs().max(axis=1)
        beyond = gap > cells[f"tercile_noise_{level}"]
        oracle = _inside(TERCILE_GAP, cells[f"tercile_noise_{level}"]) ** 3
        rows[f"{level} % coverage within 4 points in each tercile"] = _kept(cells, gap - TERCILE_GAP, beyond, oracle)
        ratio = cells[f"ratio_{level}"]
        beyond = cells[f"t_{level}"] > CRITICAL
        rows[f"{level} % interval score at most the best rival's"] = _kept(cells, ratio - 1.0, beyond)
        beyond = cells[f"t_worse_{level}"] > CRITICAL
        rows[f"{level} % interval score at most 2 % over it"] = _kept(cells, ratio - WORSE, beyond)
    rows["ECE within what perfect probabilities may come to"] = _kept(cells, cells["ece"] - cells["ece_noise"])
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("promise")


def _inside(gap: float, noise: "pd.Series") -> FloatVector:
    """Chance that an oracle's coverage lies within a gap, from 1.96 of its standard errors."""
    from scipy.special import erf

    return np.asarray(erf(CRITICAL / np.sqrt(2.0) * gap / noise.to_numpy()))


def _kept(
    cells: "pd.DataFrame",
    excess: "pd.Series",
    beyond: "pd.Series | None" = None,
    oracle: FloatVector | None = None,
) -> dict[str, Any]:
    missed = ~(excess <= 1e-12)
    worst = cells.iloc[int(excess.to_numpy().argmax())]
    return {
        "kept": int((~missed).sum()),
        "cells": len(cells),
        "beyond_noise": float("nan") if beyond is None else int((missed & beyond).sum()),
        "oracle": float("nan") if oracle is None else round(float(oracle.sum()), 1),
        "worst": f"{worst['file']} at {worst['horizon']}",
    }
