"""The bundle of a training: models, scores, pattern evidence and drift reference in one directory."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlkit.config import Settings
from mlkit.evaluation import traded_patterns
from mlkit.labels import claimed_directions, earned_returns, market_standard
from mlkit.market import COLUMNS, fingerprint
from mlkit.models.bundle import ModelBundle, market_root, pool_root, write_bundle
from mlkit.models.ensemble import PricePredictor
from mlkit.models.patterns import pretrained, weights_file
from mlkit.operations.training.drift_reference import DRIFT_FILE, DriftReference
from mlkit.operations.training.panel_layout import pool_name
from mlkit.operations.training.scoring import score, score_symbols
from mlkit.operations.training.training_set import TrainingPlan, TrainingSet


def root_of(symbols: Sequence[str], timeframe: str, settings: Settings, name: str | None = None) -> Path:
    """Folder of the bundles of a training: that of its market, or of the pool of that name."""
    if len(symbols) == 1:
        return market_root(symbols[0], timeframe, settings)
    return pool_root(name or pool_name(symbols), timeframe, settings)


def write_trained(
    plan: TrainingPlan,
    model: PricePredictor,
    data: TrainingSet,
    forecasts: pd.DataFrame,
    name: str | None = None,
) -> ModelBundle:
    """Score the forecasts and write a bundle into the folder of its market or pool; it is not published.

    The pattern CNN goes along where one standard of the patterns fits all markets. The evidence of the patterns is
    measured on one market's bars, never on a pool.
    """

    def metrics_of(scores: pd.DataFrame) -> dict[str, Any]:
        return {str(horizon): row for horizon, row in scores.to_dict("index").items()}

    settings, chosen = plan.settings, plan.settings.chosen()
    fields: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "timeframe": plan.timeframe,
        "feature_names": list(plan.features.names),
        "horizons": list(settings.prediction_horizons),
        "seed": settings.seed,
        # Without an ensemble of its own the profile, which is among the settings, says which one was trained.
        "settings": chosen if plan.ensemble is None else chosen | {"ensemble": asdict(plan.ensemble)},
        "metrics": metrics_of(score(forecasts, settings)),
    }
    members: dict[str, dict[str, Any]] = {}
    for symbol, one in zip(plan.symbols, plan.markets, strict=True):
        span = {"start": one.index[0].isoformat(), "end": one.index[-1].isoformat(), "bars": len(one)}
        parameters = {"garch": list(data.garch[symbol]), "calendar": one.attrs["calendar"]}
        members[symbol] = {"training_span": span, **parameters, "data_sha256": fingerprint(one)}
    if len(members) == 1:
        evidence = pattern_evidence(plan.markets[0], settings)
        fields |= {"symbol": plan.symbols[0], **members[plan.symbols[0]], "pattern_evidence": evidence}
    else:
        scores: Any = score_symbols(forecasts, settings)
        for symbol, member in members.items():
            member["metrics"] = metrics_of(scores.loc[symbol]) if symbol in scores.index else {}
        fields |= {"symbol": name or pool_name(plan.symbols), "pool": members, **_pool_fields(members)}
    standards = {market_standard(one) for one in plan.markets}
    cnn = weights_file(standards.pop(), settings.pattern_weights) if len(standards) == 1 else None
    reference = DriftReference.of(data, model, forecasts)
    root = root_of(plan.symbols, plan.timeframe, settings, name)
    return write_bundle(root, fields, price=model, cnn_file=cnn, extra={DRIFT_FILE: reference.to_bytes()})


def _pool_fields(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Span of all markets together, and the digest of their digests."""
    spans = [member["training_span"] for member in members.values()]
    digests = "".join(f"{symbol} {member['data_sha256']}\n" for symbol, member in members.items())
    start, end = min(span["start"] for span in spans), max(span["end"] for span in spans)
    return {
        "training_span": {"start": start, "end": end, "bars": sum(span["bars"] for span in spans)},
        "data_sha256": hashlib.sha256(digests.encode()).hexdigest(),
    }


def pattern_evidence(bars: pd.DataFrame, settings: Settings) -> dict[str, dict[str, Any]]:
    """Returns after each pattern that the shipped CNN detects on the training bars: fields of `PatternEvidence`.

    The CNN learned shapes from simulated bars alone, so the returns after them are out of sample; only the choice of
    pattern and horizon is a search, for which the lower bounds are corrected.
    """
    cnn = pretrained(market_standard(bars))
    with np.errstate(invalid="ignore"):  # the first bars have no window
        detected = cnn.probabilities(bars[list(COLUMNS)].to_numpy()) >= cnn.thresholds
    flags = claimed_directions(bars)[list(cnn.patterns)] * detected
    returns = earned_returns(bars, settings.prediction_horizons)
    return traded_patterns(flags, returns, cost_bps=settings.cost_bps)


def bundle_scores(bundle: ModelBundle) -> pd.DataFrame:
    """The table of `score` that a bundle carries: index the horizon in bars."""
    rows = {
        int(horizon): {name: float("nan") if value is None else value for name, value in row.items()}
        for horizon, row in sorted(bundle.manifest.metrics.items(), key=lambda one: int(one[0]))
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("horizon")
