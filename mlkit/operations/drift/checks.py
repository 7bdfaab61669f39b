"""Five drift tests of the bars after a bundle's training, each at its own level, and one verdict.

- *features*: PSI and Kolmogorov-Smirnov of every input over the newest window (`training.binned_reference`);
- *predictions*: the same for the forecasts, against rows of the training that the trees were not fitted on;
- *errors*: the same for the standardised errors, against those of the walk-forward;
- *calibration*: whether the Brier score is worse than the probabilities promise (`outcomes`);
- *coverage*: whether the 80 % and 90 % intervals hold as often as their level.

A family drifts when its smallest p-value, corrected for all its tests, is under its share of ``Settings.drift_level``;
a family of distributions only if, in addition, no window of the reference itself strays as far. Old bars and an old
model are reported beside the verdict and do not change it. The measured rates are in the README of operations.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mlkit.config import Settings, write_atomic
from mlkit.errors import ConfigError
from mlkit.features import DEFAULT_GARCH, FeatureSet
from mlkit.inference import bars_late, drift_file, model_freshness
from mlkit.market import calendar_of, open_times, validate_bars
from mlkit.models.bundle import ModelBundle
from mlkit.models.ensemble import FORECAST_COLUMNS, PricePredictor, usable_rows
from mlkit.operations.drift.outcomes import calibration_table, coverage_table
from mlkit.operations.training.binned_reference import BLOCK_ROWS, MIN_BLOCKS, MIN_WINDOWS, BinnedReference, WindowShift
from mlkit.operations.training.drift_reference import DriftReference, standardised_errors
from mlkit.operations.training.forecasting import forecast_rows
from mlkit.operations.training.training_set import TrainingSet, prepare

DriftVerdict = Literal["drift", "no drift", "not enough bars"]
JUDGED_ROWS = 1000  # newest forecasts whose outcomes are judged
# Shares of ``Settings.drift_level`` by family.
LEVEL_SHARES = {"features": 0.5, "predictions": 0.125, "errors": 0.125, "calibration": 0.125, "coverage": 0.125}


@dataclass(frozen=True, eq=False)
class DriftReport:
    """The result of one check, made at the close of the newest bar."""

    bundle: str  # id
    symbol: str
    timeframe: str
    checked: pd.Timestamp  # close of the newest bar
    bars: int  # after the training
    level: float  # of all tests together
    verdict: DriftVerdict
    reasons: tuple[str, ...]  # the families that drifted; without drift those of all; then what is stale
    stale: bool  # whether the bars or the model are old
    table: pd.DataFrame  # one row a family: rows, p (corrected), level, verdict, reason
    features: pd.DataFrame  # psi, usual_psi, ks, p, adjusted_p by feature, least likely first; may be empty
    predictions: pd.DataFrame  # the same of the forecasts
    errors: pd.DataFrame  # the same of the standardised errors
    calibration: pd.DataFrame  # of `calibration_table`
    coverage: pd.DataFrame  # of `coverage_table`
    monitored: pd.DataFrame  # long: timestamp, horizon, the forecast's columns, scale, outcome (NaN where unknown)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, bounded: the families, the 20 most moved features, calibration and coverage."""
        return {
            **{name: getattr(self, name) for name in ("bundle", "symbol", "timeframe")},
            "checked": self.checked.tz_localize(None).isoformat(timespec="seconds"),
            **{name: getattr(self, name) for name in ("bars", "level", "verdict")},
            "reasons": list(self.reasons),
            "stale": self.stale,
            "families": _records(self.table.reset_index()),
            "features": _records(self.features.head(20).reset_index()),
            **{name: _records(getattr(self, name).reset_index()) for name in ("predictions", "errors")},
            **{name: _records(getattr(self, name)) for name in ("calibration", "coverage")},
        }

    def __str__(self) -> str:
        """A few lines for a terminal."""
        head = f"{self.symbol} {self.timeframe}, bundle {self.bundle}: {self.verdict}"
        since = f"{self.bars:,} bars after the training, checked at {self.checked:%Y-%m-%d %H:%M} UTC"
        return "\n".join([head, f"  {since}", *(f"  - {reason}" for reason in self.reasons)])

    def _repr_html_(self) -> str:
        import html

        shown = self.table.assign(
            p=[f"{p:.2g}" for p in self.table["p"]], level=[f"{v:g}" for v in self.table["level"]]
        )
        title = f"{self.symbol} {self.timeframe}: <b>{self.verdict}</b> at {self.checked:%Y-%m-%d %H:%M} UTC"
        stale = "".join(f"<p>{html.escape(reason)}</p>" for reason in self.reasons if " stale: " in reason)
        return f"<p>{title}, {self.bars:,} bars after the training</p>{shown.to_html(border=0)}{stale}"


def check_drift(
    bundle: ModelBundle,
    bars: pd.DataFrame,
    settings: Settings | None = None,
    *,
    features: FeatureSet | None = None,
    now: datetime | None = None,
) -> DriftReport:
    """Compare the bars after a bundle's training with that training.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5)
        A history of the bundle's market, or of one of its pool, and timeframe, that reaches beyond its training span,
        and back by the features' warm-up and the intervals' lookback. The result is known at the close of its last bar.
    settings : ``drift_level``: probability of a false alarm at one check, all tests together
    features : what the bundle was trained with, where that held own features
    now : time with a zone against which the age of the bars is reported; without it that is left out.

    Raises ConfigError for bars of another market or timeframe or a bundle without price models; BarsError for bars that
    break the contract; BundleError for a damaged bundle.
    """
    settings, bars, manifest = settings or Settings(), validate_bars(bars), bundle.manifest
    model, symbol = _model_for(bundle, bars), bars.attrs["symbol"]
    reference = DriftReference.read(bundle)
    if reference is not None and manifest.pool:
        reference = reference.of_market(manifest.symbols.index(symbol))
    data = prepare(bars, manifest.horizons, manifest.garch_of(symbol) or DEFAULT_GARCH, features)
    after = np.flatnonzero(bars.index > pd.to_datetime(manifest.training_span.end, utc=True))
    after = after[usable_rows(data.X[after], data.scale[after])]
    monitored = _monitored(data, model, after[-JUDGED_ROWS:])
    shifts: dict[str, WindowShift | None] = {}
    if reference is not None and len(after):
        by_horizon = [part for _, part in monitored.groupby("horizon", sort=False)]
        predictions = np.column_stack([part[name] for name in ("p_up", "plain_std") for part in by_horizon])
        errors = np.column_stack([standardised_errors(part) for part in by_horizon])
        shifts = {
            "features": reference.features.compare(data.X[after]),
            "predictions": reference.predictions.compare(predictions[np.isfinite(predictions).all(axis=1)]),
            "errors": reference.errors.compare(errors[np.isfinite(errors).all(axis=1)]),
        }
    outcomes = {
        "calibration": calibration_table(monitored, {} if reference is None else reference.excess),
        "coverage": coverage_table(monitored, manifest),
    }
    table = _families(reference, shifts, outcomes, len(after), settings.drift_level)
    verdict, reasons = _verdict(table)
    stale = _stale(bundle, bars, now)
    empty = pd.DataFrame(columns=["psi", "usual_psi", "ks", "p", "adjusted_p"], index=pd.Index([], name="name"))
    names = ("features", "predictions", "errors")
    return DriftReport(
        bundle=bundle.id,
        symbol=symbol,
        timeframe=bars.attrs["timeframe"],
        checked=pd.Timestamp(int(calendar_of(bars).bar_closes(open_times(bars)[-1:], manifest.timeframe)[0]), tz="UTC"),
        bars=len(after),
        level=settings.drift_level,
        verdict=verdict,
        reasons=(*reasons, *stale),
        stale=bool(stale),
        table=table,
        **outcomes,
        monitored=monitored,
        **{name: empty if (shift := shifts.get(name)) is None else shift.table() for name in names},
    )


def save_drift(report: DriftReport, root: Path | str) -> Path:
    """Write the report into the root of its market, atomically; insights, status and panel read it there.

    Returns the file; see `mlkit.inference.drift_note` for how it is read.
    """
    path = drift_file(Path(root), report.symbol, report.timeframe)
    write_atomic(path, json.dumps(report.to_dict(), indent=1, allow_nan=False).encode())
    return path


def _model_for(bundle: ModelBundle, bars: pd.DataFrame) -> PricePredictor:
    """The price model; ConfigError unless it was trained on this market and timeframe."""
    model, timeframe = bundle.price, bundle.manifest.timeframe
    if model is None:
        raise ConfigError(f"bundle {bundle.path}: holds no price models, so nothing can drift; run mlkit train")
    if bars.attrs["timeframe"] != timeframe:
        raise ConfigError(f"bars are {bars.attrs['timeframe']}, bundle {bundle.id} was trained on {timeframe}")
    symbol, known = bars.attrs["symbol"], bundle.manifest.symbols
    if symbol not in known:
        named = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        raise ConfigError(
            f"bars are of {symbol}, bundle {bundle.id} was trained on {named}: it has no reference of {symbol} that "
            "could have drifted; train on it too"
        )
    bundle.manifest.check_calendar(symbol, bars.attrs["calendar"])
    return model


def _monitored(data: TrainingSet, model: PricePredictor, rows: Any) -> pd.DataFrame:
    """Forecasts of some rows as they were made at each bar's close, with the outcomes known by now; long."""
    columns = ["timestamp", "horizon", *FORECAST_COLUMNS, "scale", "plain_std", "outcome"]
    if not len(rows):
        return pd.DataFrame({name: pd.Series(dtype=np.float64) for name in columns})
    forecast = forecast_rows(data, model, rows)
    plain = forecast.scale * np.array([c.std for c in model.calibrations])
    frames = []
    for j, horizon in enumerate(model.horizons):
        part: dict[str, Any] = {"timestamp": data.index[rows], "horizon": horizon}
        part |= {name: getattr(forecast, name)[:, j] for name in (*FORECAST_COLUMNS, "scale")}
        frames.append(pd.DataFrame(part | {"plain_std": plain[:, j], "outcome": data.Y[rows, j]}))
    return pd.concat(frames, ignore_index=True)[columns]


Family = tuple[int, float, DriftVerdict, str]  # rows, corrected p, verdict, reason


def _families(
    reference: DriftReference | None,
    shifts: dict[str, WindowShift | None],
    outcomes: dict[str, pd.DataFrame],
    after: int,
    drift_level: float,
) -> pd.DataFrame:
    """One row a family of tests."""
    found = {}
    for name, share in LEVEL_SHARES.items():
        level = share * drift_level
        if name in outcomes:
            rows, p, verdict, reason = _judge_outcomes(outcomes[name], level)
        elif reference is None:
            reason = "the bundle holds no drift reference; train it again"
            rows, p, verdict = 0, np.nan, "not enough bars"
        else:
            rows, p, verdict, reason = _judge_shift(shifts.get(name), getattr(reference, name), after, level)
        found[name] = rows, p, level, verdict, f"{name}: {reason}"
    table = pd.DataFrame.from_dict(found, orient="index", columns=["rows", "p", "level", "verdict", "reason"])
    return table.rename_axis("family")


def _judge_shift(shift: WindowShift | None, reference: BinnedReference, after: int, level: float) -> Family:
    """Verdict of a family of distributions."""
    if shift is None:
        least, kept = MIN_BLOCKS * BLOCK_ROWS, len(reference.counts) * BLOCK_ROWS
        if reference.blocks(10**9):
            return 0, np.nan, "not enough bars", f"need {least} bars with a forecast after the training, have {after}"
        why = f"need {least * MIN_WINDOWS} reference rows, have {kept}; train on a longer history"
        return 0, np.nan, "not enough bars", why
    ranked = shift.table()
    first, worst = ranked.iloc[0], ranked.index[0]
    p, over = float(first["adjusted_p"]), f"over {shift.rows} bars"
    what = f"PSI {first['psi']:.2g} where {first['usual_psi']:.2g} is usual, KS {first['ks']:.2f}"
    if p > level:
        return shift.rows, p, "no drift", f"within their usual range {over} (smallest corrected p {p:.2g})"
    if not shift.farthest:
        return shift.rows, p, "no drift", f"{worst} moved ({what}), but a window of the training strayed as far"
    moved = int((shift.adjusted <= level).sum())
    reason = f"{moved} of {len(shift.names)} moved {over}, {worst} most ({what}; corrected p {p:.1g})"
    return shift.rows, p, "drift", reason


def _judge_outcomes(table: pd.DataFrame, level: float) -> Family:
    """Verdict of calibration or coverage, corrected by Bonferroni over horizons and levels."""
    if table.empty:
        return 0, np.nan, "not enough bars", "too few outcomes are known"
    worst = table.sort_values("p").iloc[0]
    p, rows, ahead = min(float(worst["p"]) * len(table), 1.0), int(worst["rows"]), f"{int(worst['horizon'])} bars ahead"
    if "level" in table:
        what = f"the {worst['level']:.0%} interval {ahead} held {worst['realised']:.1%} of {rows} outcomes"
    else:
        what = f"Brier score {ahead} {worst['brier']:.4f} where {worst['promised']:.4f} was promised, {rows} outcomes"
    if p > level:
        return rows, p, "no drift", f"as promised, up to noise (smallest corrected p {p:.2g})"
    return rows, p, "drift", f"{what} (corrected p {p:.1g})"


def _verdict(table: pd.DataFrame) -> tuple[DriftVerdict, list[str]]:
    """Drift where one family drifts; no drift only where the features could be compared."""
    drifted = table[table["verdict"] == "drift"]
    if len(drifted):
        return "drift", list(drifted["reason"])
    if table.loc["features", "verdict"] == "not enough bars":
        return "not enough bars", [str(table.loc["features", "reason"])]
    return "no drift", list(table["reason"])


def _stale(bundle: ModelBundle, bars: pd.DataFrame, now: datetime | None) -> list[str]:
    """One sentence for the model and one for the bars, where they are old."""
    span = bundle.manifest.training_span
    first, last = pd.to_datetime([span.start, span.end], utc=True)
    timeframe, calendar, opened = bars.attrs["timeframe"], calendar_of(bars), open_times(bars)[-1:]
    notes = model_freshness(opened, timeframe, (first, last), calendar).notes
    if now is not None:
        known = pd.Timestamp(int(calendar.bar_closes(opened, timeframe)[0])).to_pydatetime()
        late = bars_late(known, now.astimezone(UTC).replace(tzinfo=None), timeframe, calendar)
        notes = [*notes, *([late] if late else [])]
    return list(notes)


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Rows as plain JSON; NaN becomes None."""
    plain = frame.replace([np.inf, -np.inf], np.nan).astype(object)
    return plain.where(plain.notna(), None).to_dict("records")
