"""Is the market still the one that the model learned? Five tests, each with its level, and one verdict.

``check_drift`` compares the bars after a bundle's training with what the bundle remembers of it:

- *features*: PSI and Kolmogorov-Smirnov of every input over the newest window (``drift_panel``);
- *predictions*: the same for what the model says, against rows of its training that its trees did not see;
- *errors*: the same for the standardised errors, against those of the walk-forward;
- *calibration*: whether the Brier score is worse than the probabilities promise (``drift_outcomes``);
- *coverage*: whether the 80 % and 90 % intervals hold as often as they say.

A family drifts when its smallest p-value, corrected for all its tests, is under its share of ``Settings.drift_level``;
of a distribution also only when no window of the reference itself strays as far. Old bars and an old model are told
beside the verdict and do not change it. The measured rates are in ``README.md`` beside this file.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlkit.config import Settings, write_atomic
from mlkit.errors import ConfigError
from mlkit.features import DEFAULT_GARCH
from mlkit.inference import bars_late, drift_file, model_freshness
from mlkit.market import never_closes, open_times, timeframe_delta, validate_bars
from mlkit.models.ensemble import FORECAST_COLUMNS, usable_rows
from mlkit.operations.drift.distribution import BLOCK, SHORTEST, WINDOWS, Comparison, Panel, comparison_table
from mlkit.operations.drift.outcomes import calibration_table, coverage_table
from mlkit.operations.drift.reference import DriftReference
from mlkit.operations.training.forecasting import forecast_rows
from mlkit.operations.training.training_set import TrainingSet, prepare

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.features import FeatureSet
    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import PricePredictor

Verdict = Literal["drift", "no drift", "not enough bars"]
OUTCOMES = 1000  # newest forecasts whose outcomes are judged
SHARES = {"features": 0.5, "predictions": 0.125, "errors": 0.125, "calibration": 0.125, "coverage": 0.125}


@dataclass(frozen=True, eq=False)
class DriftReport:
    """What was found at the close of one bar."""

    bundle: str  # id
    symbol: str
    timeframe: str
    checked: "pd.Timestamp"  # close of the newest bar
    bars: int  # after the training
    level: float  # of all tests together
    verdict: Verdict
    reasons: tuple[str, ...]  # of a drift what drifted; else what was found; then what is stale
    stale: bool  # the bars or the model are old
    table: "pd.DataFrame"  # one row a family: rows, p (corrected), level, verdict, reason
    features: "pd.DataFrame"  # psi, usual_psi, ks, p, adjusted_p by feature, least likely first; may be empty
    predictions: "pd.DataFrame"  # the same of the forecasts
    errors: "pd.DataFrame"  # the same of the standardised errors
    calibration: "pd.DataFrame"  # of `calibration_table`
    coverage: "pd.DataFrame"  # of `coverage_table`
    monitored: "pd.DataFrame"  # long: timestamp, horizon, the forecast's columns, scale, outcome (NaN where unknown)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, bounded: the families, the 20 most moved features, calibration and coverage."""
        return {
            "bundle": self.bundle,
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "checked": self.checked.tz_localize(None).isoformat(timespec="seconds"),
            "bars": self.bars,
            "level": self.level,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "stale": self.stale,
            "families": _records(self.table.reset_index()),
            "features": _records(self.features.head(20).reset_index()),
            "predictions": _records(self.predictions.reset_index()),
            "errors": _records(self.errors.reset_index()),
            "calibration": _records(self.calibration),
            "coverage": _records(self.coverage),
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
    bundle: "ModelBundle",
    bars: "pd.DataFrame",
    settings: Settings | None = None,
    *,
    features: "FeatureSet | None" = None,
    now: datetime | None = None,
) -> DriftReport:
    """Compare the bars after a bundle's training with that training.

    Parameters
    ----------
    bundle : ModelBundle
    bars : DataFrame (n_bars, 5)
        A history of the bundle's market, or of one of its pool, and timeframe, that reaches beyond its training span,
        and back by the features' warm-up and the intervals' memory. What is said is known at the close of its last bar.
    settings : Settings
        ``drift_level``: probability of a false alarm at one check, all tests together.
    features : FeatureSet
        What the bundle was trained with, where that held own features.
    now : time with a zone at which the age of the bars is told; no clock is read without.

    Raises ConfigError for bars of another market or timeframe or a bundle without price models; BarsError for bars that
    break the contract; BundleError for a damaged bundle.
    """
    settings, bars = settings or Settings(), validate_bars(bars)
    model = _demand_model(bundle, bars)
    reference, manifest = DriftReference.read(bundle), bundle.manifest
    if reference is not None and manifest.pool:
        reference = reference.of_market(manifest.symbols.index(bars.attrs["symbol"]))
    data = prepare(bars, manifest.horizons, manifest.garch_of(bars.attrs["symbol"]) or DEFAULT_GARCH, features)
    after = np.flatnonzero(bars.index > _trained_until(bundle))
    after = after[usable_rows(data.X[after], data.scale[after])]
    monitored = _monitored(data, model, after[-OUTCOMES:])
    compared = _compare(reference, data, model, after, monitored)
    excess = {} if reference is None else reference.excess
    calibration = calibration_table(monitored, excess)
    coverage = coverage_table(monitored, manifest)
    table = _families(reference, compared, calibration, coverage, len(after), settings.drift_level)
    stale = _stale(bundle, bars, now)
    verdict, reasons = _verdict(table)
    return DriftReport(
        bundle=bundle.id,
        symbol=bars.attrs["symbol"],
        timeframe=bars.attrs["timeframe"],
        checked=bars.index[-1] + timeframe_delta(manifest.timeframe),
        bars=len(after),
        level=settings.drift_level,
        verdict=verdict,
        reasons=(*reasons, *stale),
        stale=bool(stale),
        table=table,
        calibration=calibration,
        coverage=coverage,
        monitored=monitored,
        **{name: comparison_table(found) for name, found in compared.items()},
    )


def save_drift(report: DriftReport, root: Path | str) -> Path:
    """Write the report for those who answer with the bundle: into the root of its market, atomically.

    Returns the file; see `mlkit.inference.drift_note` for who reads it.
    """
    path = drift_file(Path(root), report.symbol, report.timeframe)
    write_atomic(path, json.dumps(report.to_dict(), indent=1, allow_nan=False).encode())
    return path


def _demand_model(bundle: "ModelBundle", bars: "pd.DataFrame") -> "PricePredictor":
    """The price model that fits these bars."""
    model, timeframe = bundle.price, bundle.manifest.timeframe
    if model is None:
        raise ConfigError(f"bundle {bundle.path}: holds no price models, so nothing can drift; run mlkit train")
    if bars.attrs["timeframe"] != timeframe:
        raise ConfigError(f"bars are {bars.attrs['timeframe']}, bundle {bundle.id} was trained on {timeframe}")
    symbol, known = bars.attrs["symbol"], bundle.manifest.symbols
    if symbol not in known:
        named = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        raise ConfigError(
            f"bars are of {symbol}, bundle {bundle.id} was trained on {named}: it remembers nothing of {symbol} that "
            "could have drifted; train on it too"
        )
    return model


def _trained_until(bundle: "ModelBundle") -> "pd.Timestamp":
    """Open time of the last training bar."""
    import pandas as pd

    return pd.to_datetime([bundle.manifest.training_span.end], utc=True)[0]


def _monitored(data: TrainingSet, model: "PricePredictor", rows: Any) -> "pd.DataFrame":
    """Forecasts of some rows as they were made at each bar's close, with the outcomes known by now; long."""
    import pandas as pd

    columns = ["timestamp", "horizon", *FORECAST_COLUMNS, "scale", "plain_std", "outcome"]
    if not len(rows):
        return pd.DataFrame({name: pd.Series(dtype=np.float64) for name in columns})
    said = forecast_rows(data, model, rows)
    plain = said.scale * np.array([c.std for c in model.calibrations])
    frames = []
    for j, horizon in enumerate(model.horizons):
        part: dict[str, Any] = {"timestamp": data.index[rows], "horizon": horizon}
        part |= {name: getattr(said, name)[:, j] for name in (*FORECAST_COLUMNS, "scale")}
        frames.append(pd.DataFrame(part | {"plain_std": plain[:, j], "outcome": data.Y[rows, j]}))
    return pd.concat(frames, ignore_index=True)[columns]


def _compare(
    reference: DriftReference | None, data: TrainingSet, model: "PricePredictor", after: Any, monitored: "pd.DataFrame"
) -> dict[str, Comparison | None]:
    """The three distributions against their references."""
    if reference is None or not len(after):
        return dict.fromkeys(("features", "predictions", "errors"))
    wide = {
        name: monitored.pivot(index="timestamp", columns="horizon", values=name)
        for name in ("p_up", "plain_std", "outcome", "log_return", "scale")
    }
    said = np.column_stack([wide["p_up"].to_numpy(), wide["plain_std"].to_numpy()])
    errors = ((wide["outcome"] - wide["log_return"]) / wide["scale"]).to_numpy()

    def judge(panel: Panel, values: Any) -> Comparison | None:
        return panel.judge(values[np.isfinite(values).all(axis=1)])

    return {
        "features": reference.features.judge(data.X[after]),
        "predictions": judge(reference.predictions, said),
        "errors": judge(reference.errors, errors),
    }


def _families(
    reference: DriftReference | None,
    compared: dict[str, Comparison | None],
    calibration: "pd.DataFrame",
    coverage: "pd.DataFrame",
    after: int,
    level: float,
) -> "pd.DataFrame":
    """One row a family of tests."""
    import pandas as pd

    rows = {}
    for name, share in SHARES.items():
        if name in compared:
            panel = None if reference is None else getattr(reference, name)
            rows[name] = _distribution(name, compared[name], panel, after, share * level)
        else:
            rows[name] = _outcomes(name, calibration if name == "calibration" else coverage, share * level)
    columns = ["rows", "p", "level", "verdict", "reason"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table.index.name = "family"
    return table


Row = tuple[int, float, float, Verdict, str]


def _distribution(name: str, found: Comparison | None, panel: Panel | None, after: int, level: float) -> Row:
    """Verdict of a family of distributions."""
    if panel is None:
        return 0, float("nan"), level, "not enough bars", f"{name}: the bundle holds no drift reference; train it again"
    if found is None:
        least, kept = SHORTEST * BLOCK, len(panel.counts) * BLOCK
        why = f"need {least} bars with a forecast after the training, have {after}"
        if not panel.blocks(10**9):
            why = f"need {least * WINDOWS} reference rows, have {kept}; train on a longer history"
        return 0, float("nan"), level, "not enough bars", f"{name}: {why}"
    ranked = comparison_table(found)
    first, worst = ranked.iloc[0], ranked.index[0]
    p = float(first["adjusted_p"])
    what = f"PSI {first['psi']:.2g} where {first['usual_psi']:.2g} is usual, KS {first['ks']:.2f}"
    over = f"over {found.rows} bars"
    if p > level:
        return (
            found.rows,
            p,
            level,
            "no drift",
            f"{name}: within their usual range {over} (smallest corrected p {p:.2g})",
        )
    if not found.farthest:
        text = f"{name}: {worst} moved ({what}), but a window of the training strayed as far"
        return found.rows, p, level, "no drift", text
    moved = int((found.adjusted <= level).sum())
    text = f"{name}: {moved} of {len(found.names)} moved {over}, {worst} most ({what}; corrected p {p:.1g})"
    return found.rows, p, level, "drift", text


def _outcomes(name: str, table: "pd.DataFrame", level: float) -> Row:
    """Verdict of calibration or coverage, corrected by Bonferroni over horizons and levels."""
    if table.empty:
        return 0, float("nan"), level, "not enough bars", f"{name}: too few outcomes are known"
    worst = table.sort_values("p").iloc[0]
    p, rows, ahead = min(float(worst["p"]) * len(table), 1.0), int(worst["rows"]), f"{int(worst['horizon'])} bars ahead"
    if name == "coverage":
        what = f"the {worst['level']:.0%} interval {ahead} held {worst['realised']:.1%} of {rows} outcomes"
    else:
        what = f"Brier score {ahead} {worst['brier']:.4f} where {worst['promised']:.4f} was promised, {rows} outcomes"
    if p > level:
        return rows, p, level, "no drift", f"{name}: as promised, up to noise (smallest corrected p {p:.2g})"
    return rows, p, level, "drift", f"{name}: {what} (corrected p {p:.1g})"


def _verdict(table: "pd.DataFrame") -> tuple[Verdict, list[str]]:
    """Of all families: one drift is enough; without the features nothing is said to be in order."""
    drifted = table[table["verdict"] == "drift"]
    if len(drifted):
        return "drift", list(drifted["reason"])
    if table.loc["features", "verdict"] == "not enough bars":
        return "not enough bars", [str(table.loc["features", "reason"])]
    return "no drift", list(table["reason"])


def _stale(bundle: "ModelBundle", bars: "pd.DataFrame", now: datetime | None) -> list[str]:
    """What is old, in words."""
    import pandas as pd

    span = bundle.manifest.training_span
    first, last = pd.to_datetime([span.start, span.end], utc=True)
    timeframe, opened = bars.attrs["timeframe"], bars.index[-1]
    notes = model_freshness(int(open_times(bars)[-1]), None, timeframe, (first, last)).notes
    if now is not None:
        known = (opened + timeframe_delta(timeframe)).tz_localize(None).to_pydatetime()
        late = bars_late(known, now.astimezone(UTC).replace(tzinfo=None), timeframe, never_closes(bars))
        notes = [*notes, *([late] if late else [])]
    return list(notes)


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows as plain JSON; NaN becomes None."""

    def plain(value: Any) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return [{str(key): plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
