"""The study over every file of ../shared/data/ohlcv: `make study`. Writes notebooks/study.csv after each file.

python tests/bench/study.py [--workers 2] [--cap 40000] [--skip 0] [--files PATTERN] [--out notebooks/study.csv]
    [--resume] [--tables]

``--resume`` keeps the files that the table holds already; ``--tables`` prints a finished table as STUDY.md shows it.

Each file is cut to its newest ``cap`` bars and goes through `walk_forward` as any bars would: half of them train
first, the rest are test bars in three folds. The design of the intervals was chosen on those first halves and on
bars before the ones kept here; no number of the study went back into it.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import mlkit
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
from mlkit.operations.training.forecasting import NAIVE
from mlkit.operations.training.training import walk_forward

ROOT = Path(__file__).resolve().parents[2]
CAP = 40_000  # newest bars of a file
LEVELS = (80, 90)
R2_FLOOR = -0.001
COVERAGE_GAP, TERCILE_GAP = 0.015, 0.04
CRITICAL = 1.96
WORSE = 1.02  # the most an interval score may be over the best rival's


def study_file(path: Path, settings: Settings, *, cap: int = CAP, skip: int = 0) -> pd.DataFrame:
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


def study_summary(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells keep each promise, and how many of the others miss it by more than noise explains.

    Returns
    -------
    DataFrame indexed by the promise: ``kept`` and ``cells``; ``beyond_noise``, misses larger than 1.96 standard
    errors, those of an oracle's coverage or of the difference of two scores (NaN where there is no such floor);
    ``oracle``, how many cells one who knows the true quantiles is expected to keep (NaN for scores; terciles as if
    independent); ``worst``, the cell that is furthest from it.
    """
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


def _inside(gap: float, noise: pd.Series) -> FloatVector:
    """Chance that an oracle's coverage lies within a gap, from 1.96 of its standard errors."""
    from scipy.special import erf

    return np.asarray(erf(CRITICAL / np.sqrt(2.0) * gap / noise.to_numpy()))


def _kept(
    cells: pd.DataFrame,
    excess: pd.Series,
    beyond: pd.Series | None = None,
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


def cells(path: Path, cap: int, skip: int) -> tuple[str, float, object]:
    """One file's rows, and the seconds they took."""
    start = time.perf_counter()
    table = study_file(path, mlkit.Settings(n_threads=1), cap=cap, skip=skip)
    return path.stem, time.perf_counter() - start, table


def tables(found: pd.DataFrame) -> str:
    """The two tables of STUDY.md."""
    lines = ["| criterion | met | oracle | significant misses | largest miss |", "| --- | --- | --- | --- | --- |"]
    for promise, row in study_summary(found).iterrows():
        beyond = "" if row["beyond_noise"] != row["beyond_noise"] else f"{row['beyond_noise']:.0f}"
        oracle = "" if row["oracle"] != row["oracle"] else f"{row['oracle']:.0f}"
        lines.append(f"| {promise} | {row['kept']} of {row['cells']} | {oracle} | {beyond} | {row['worst']} |")
    lines += [
        "",
        "| bars ahead | cells | 80 %: ratio, mean | at most 1 | over 1.02 | 90 %: ratio, mean | at most 1 | over 1.02 "
        "| 80 % within 1.5 points | 90 % within 1.5 points |",
        "| --- " * 10 + "|",
    ]
    for horizon, cell in found.groupby("horizon"):
        parts = [f"| {horizon} | {len(cell)}"]
        for level in (80, 90):
            ratio = cell[f"ratio_{level}"]
            parts.append(f"{ratio.mean():.3f} | {(ratio <= 1).sum()} | {(ratio > WORSE).sum()}")
        parts += [f"{((cell[f'coverage_{level}'] - level / 100).abs() <= 0.015).sum()}" for level in (80, 90)]
        lines.append(" | ".join(parts) + " |")
    alone = {rival: (found[f"ratio_90_{rival}"] < 1).mean() for rival in ("unconditional", "ewma", "garch")}
    large = found[found["rows"] > 10_000]
    lines += [
        "",
        "each rival alone loses at 90 % in " + ", ".join(f"{share:.0%} ({name})" for name, share in alone.items()),
        f"more than 10,000 rows: {len(large)} cells, within 1.5 points "
        + ", ".join(f"{((large[f'coverage_{k}'] - k / 100).abs() <= 0.015).sum()} at {k} %" for k in (80, 90)),
        "verdicts: " + ", ".join(f"{name} {count}" for name, count in found["verdict"].value_counts().items()),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cap", type=int, default=None, help="newest bars of a file")
    parser.add_argument("--skip", type=int, default=0, help="newest bars left out: a study of the bars before")
    parser.add_argument("--files", default="*", help="pattern of file names")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks" / "study.csv")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ohlcv")
    parser.add_argument("--resume", action="store_true", help="files that are in the table are not run again")
    parser.add_argument("--tables", action="store_true", help="print the finished table, run nothing")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the worker processes
    if options.tables:
        print(tables(pd.read_csv(options.out)))
        return
    cap = options.cap or CAP
    paths = sorted(options.data.glob(f"{options.files}.parquet"), key=lambda path: -path.stat().st_size)
    found = pd.read_csv(options.out) if options.resume and options.out.exists() else pd.DataFrame(columns=["file"])
    parts, start = [found] if len(found) else [], time.perf_counter()
    paths = [path for path in paths if path.stem not in set(found["file"])]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(cells, path, cap, options.skip): path.stem for path in paths}
        for job in as_completed(jobs):
            if error := job.exception():
                print(f"{jobs[job]}: {error}", flush=True)
                continue
            name, seconds, table = job.result()
            parts.append(table)
            found = pd.concat(parts).sort_values(["file", "horizon"])
            found.to_csv(options.out, index=False, float_format="%.7g")
            print(f"{name}: {seconds:.0f} s", flush=True)
    print(f"{len(paths)} files, {len(found)} cells, {(time.perf_counter() - start) / 60:.1f} minutes, {options.out}")
    with pd.option_context("display.width", 160, "display.max_colwidth", 60):
        print(study_summary(found).to_string())


if __name__ == "__main__":
    main()
