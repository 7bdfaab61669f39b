"""Scores of out-of-sample forecasts, per horizon, beside the naive forecast; of one market or of a pool.

The rows of a pool are scored together: returns are in units of their forecast scale, so that volatile markets weigh as
much as quiet ones, and the verdict resamples bar times, with all markets at each. `score_symbols` scores each market
alone, at bounds that are wider because so many are tested.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.evaluation import (
    brier_skill,
    coverage,
    direction,
    expected_calibration_error,
    hit_rate,
    hit_rate_baseline,
    interval_score,
    metric_intervals,
    net_rows,
    pool_verdict,
    r2_no_change,
    rank_ic,
    verdict,
)
from mlkit.models.ensemble import FloatVector
from mlkit.operations.tracking.trials import count_trials

_SCORED = ("outcome", "earned", "log_return", "p_up", "lo80", "hi80", "lo90", "hi90", "low90", "high90")


def score(forecasts: pd.DataFrame, settings: Settings | None = None, *, trials: int | None = None) -> pd.DataFrame:
    """Scores of out-of-sample forecasts of `walk_forward`, per horizon, beside the naive forecast.

    ``trials`` is the number of configurations that were tried, which widens the verdict's intervals; by default what
    the trial ledger holds for these data (`mlkit.evaluation.ledger`).

    Returns
    -------
    DataFrame indexed by horizon: rows, r2 (against no change), rank_ic, hit_rate and hit_rate_naive (always the
    more frequent direction), brier_skill (against one half), ece, coverage_80, coverage_90, interval_ratio (90 %
    interval score over that of the training quantiles; under 1 is better), net_bps, lower_bps, trials, verdict, reason.
    """
    settings = settings or Settings()
    trials = count_trials(forecasts, settings) if trials is None else trials
    rows: dict[int, dict[str, Any]] = {}
    by_horizon = _columns(forecasts)
    for h, columns in by_horizon.items():
        options: dict[str, Any] = {
            "horizon": h,
            "cost_bps": settings.cost_bps,
            "trials": trials * len(by_horizon),
            "seed": settings.seed,
        }
        if "symbol" in forecasts:
            groups = forecasts[forecasts["horizon"] == h].groupby("symbol")
            judged = pool_verdict([_consecutive_bars(part) for _, part in groups], **options)
        else:
            judged = verdict(columns["outcome"], columns["log_return"], earned=columns["earned"], **options)
        found = {"net_bps": judged.mean_bps, "lower_bps": judged.lower_bps, "trials": trials}
        rows[h] = _metrics(columns) | found | {"verdict": judged.verdict, "reason": judged.reason}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("horizon")


def _consecutive_bars(part: pd.DataFrame) -> dict[str, Any]:
    """One market's rows of one horizon, NaN in bars without a label."""
    part = part.set_index("bar")
    part = part.reindex(range(int(part.index[0]), int(part.index[-1]) + 1))
    names = {"y": "outcome", "pred": "log_return", "earned": "earned", "scale": "scale"}
    times = pd.DatetimeIndex(part["timestamp"].ffill()).as_unit("ns").asi8
    return {"times": times} | {name: part[column].to_numpy() for name, column in names.items()}


def score_symbols(
    forecasts: pd.DataFrame, settings: Settings | None = None, *, trials: int | None = None
) -> pd.DataFrame:
    """`score` of each market of a pool, index (symbol, horizon), each a trial of its own; ConfigError without."""
    settings = settings or Settings()
    if "symbol" not in forecasts:
        raise ConfigError("score_symbols: these forecasts are of one market; score says what they are worth")
    trials = count_trials(forecasts, settings) if trials is None else trials
    groups = {str(symbol): part.drop(columns="symbol") for symbol, part in forecasts.groupby("symbol")}
    parts = {symbol: score(part, settings, trials=trials * len(groups)) for symbol, part in groups.items()}
    return pd.concat(parts, names=["symbol", "horizon"])


def fold_scores(forecasts: pd.DataFrame) -> pd.DataFrame:
    """The metrics of `score` of every fold alone, without a verdict: DataFrame, index (fold, horizon)."""
    rows = {
        (fold, h): _metrics(columns)
        for fold, part in forecasts.groupby("fold")
        for h, columns in _columns(part).items()
    }
    index = pd.MultiIndex.from_tuples(rows, names=["fold", "horizon"])
    return pd.DataFrame.from_dict(rows, orient="index").set_axis(index)


def intervals(
    forecasts: pd.DataFrame, settings: Settings | None = None, *, level: float = 0.95, reps: int = 300
) -> pd.DataFrame:
    """Block-bootstrap intervals, of coverage ``level``, of every headline metric of `score`, per horizon.

    Returns a DataFrame, index (horizon, metric): value, low, high. The metrics are those of `score`, and net_bps: mean
    net return of a position after ``settings.cost_bps`` a side, basis points. Each interval is for one number and is
    **not** widened for the number of metrics and horizons; the verdict's are.
    """

    def headline(of: Mapping[str, FloatVector]) -> dict[str, float]:
        net = of["net"][np.isfinite(of["net"])]
        metrics = {name: value for name, value in _metrics(of).items() if name != "rows"}
        return {**metrics, "net_bps": 1e4 * float(net.mean()) if len(net) else float("nan")}

    settings = settings or Settings()
    if "symbol" in forecasts:
        raise ConfigError("intervals: forecasts of several markets; pass those of one, without the column symbol")
    parts = {}
    for h, columns in _columns(forecasts).items():
        columns["net"] = net_rows(columns["outcome"], columns["log_return"], columns["earned"], h, settings.cost_bps)
        parts[h] = metric_intervals(headline, columns, horizon=h, level=level, reps=reps, seed=settings.seed)
    table = pd.concat(parts, names=["horizon", "metric"])
    share = table.index.get_level_values("metric").isin(["ece", "coverage_80", "coverage_90", "hit_rate"])
    table.loc[share, ["low", "high"]] = table.loc[share, ["low", "high"]].clip(0.0, 1.0)
    return table


def _columns(forecasts: pd.DataFrame) -> dict[int, dict[str, FloatVector]]:
    """Columns of each horizon: a row a bar; of a pool, a row a bar and market, returns in units of the scale."""
    horizons = sorted(int(h) for h in forecasts["horizon"].unique())
    if "symbol" not in forecasts:
        wide = forecasts.pivot(index="bar", columns="horizon", values=list(_SCORED))
        # One row a bar of the test span: NaN where an outage leaves no label.
        wide = wide.reindex(range(int(wide.index[0]), int(wide.index[-1]) + 1))
        return {h: {name: wide[name, h].to_numpy() for name in _SCORED} for h in horizons}
    found = {}
    for h in horizons:
        part = forecasts[forecasts["horizon"] == h]
        unit = part["scale"].to_numpy()
        found[h] = {name: part[name].to_numpy() / (1.0 if name == "p_up" else unit) for name in _SCORED}
    return found


def _metrics(of: Mapping[str, FloatVector]) -> dict[str, float]:
    y, pred, rise = of["outcome"], of["log_return"], direction(of["outcome"])
    return {
        "rows": int(np.isfinite(y).sum()),
        "r2": r2_no_change(y, pred),
        "rank_ic": rank_ic(y, pred),
        "hit_rate": hit_rate(y, np.where(of["p_up"] >= 0.5, 1.0, -1.0)),
        "hit_rate_naive": hit_rate_baseline(y),
        "brier_skill": brier_skill(rise, of["p_up"]),
        "ece": expected_calibration_error(rise, of["p_up"]),
        "coverage_80": coverage(y, of["lo80"], of["hi80"]),
        "coverage_90": coverage(y, of["lo90"], of["hi90"]),
        "interval_ratio": interval_score(y, of["lo90"], of["hi90"], 0.9)
        / interval_score(y, of["low90"], of["high90"], 0.9),
    }
