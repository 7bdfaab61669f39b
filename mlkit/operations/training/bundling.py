"""A trained model and all that is known about it, written as a bundle."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.config import Settings
from mlkit.evaluation import traded_patterns
from mlkit.features import FeatureSet
from mlkit.labels import claimed_directions, earned_returns, market_standard
from mlkit.market import COLUMNS, fingerprint
from mlkit.models.bundle import market_root, pool_root
from mlkit.models.ensemble import EnsembleSettings
from mlkit.operations.drift.reference import DRIFT_FILE, DriftReference
from mlkit.operations.training.panel_layout import Garch, pool_name
from mlkit.operations.training.scoring import score, score_symbols
from mlkit.operations.training.training_set import TrainingSet

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import PricePredictor


def write_trained(
    model: "PricePredictor",
    data: TrainingSet,
    markets: "tuple[pd.DataFrame, ...]",
    settings: Settings,
    features: FeatureSet,
    ensemble: EnsembleSettings | None,
    garch: Mapping[str, Garch],
    forecasts: "pd.DataFrame",
    name: str | None = None,
) -> "ModelBundle":
    """Score the forecasts and write the bundle into the root of its market, or of its pool; it is not published.

    The pattern CNN goes along where one standard fits all markets, and what `mlkit drift` will compare with. Evidence
    of the patterns is measured on one market's bars, never on a pool.
    """
    from mlkit.models.bundle import write_bundle
    from mlkit.models.patterns import weights_file

    timeframe, standards = markets[0].attrs["timeframe"], {market_standard(one) for one in markets}
    fields = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "timeframe": timeframe,
        "feature_names": list(features.names),
        "horizons": list(settings.prediction_horizons),
        "seed": settings.seed,
        "settings": _chosen(settings, ensemble),
        "metrics": _by_horizon(score(forecasts, settings)),
    }
    symbols = [one.attrs["symbol"] for one in markets]
    root = root_of(symbols, timeframe, settings, name)
    if len(markets) == 1:
        fields |= _one_market(markets[0], settings, garch)
    else:
        fields |= _pool(name or pool_name(symbols), markets, garch, score_symbols(forecasts, settings))
    cnn = weights_file(standards.pop(), settings.pattern_weights) if len(standards) == 1 else None
    reference = DriftReference.of(data, model, forecasts)
    return write_bundle(root, fields, price=model, cnn_file=cnn, extra={DRIFT_FILE: reference.to_bytes()})


def root_of(symbols: Sequence[str], timeframe: str, settings: Settings, name: str | None = None) -> Path:
    """Where the bundles of a training go: the folder of its market, or of the pool of that name."""
    if len(symbols) == 1:
        return market_root(symbols[0], timeframe, settings)
    return pool_root(name or pool_name(symbols), timeframe, settings)


def _one_market(bars: "pd.DataFrame", settings: Settings, garch: Mapping[str, Garch]) -> dict[str, Any]:
    symbol = bars.attrs["symbol"]
    return {
        "symbol": symbol,
        "training_span": _span(bars),
        "garch": list(garch[symbol]),
        "data_sha256": fingerprint(bars),
        "pattern_evidence": pattern_evidence(bars, settings),
    }


def pattern_evidence(bars: "pd.DataFrame", settings: Settings) -> dict[str, dict[str, Any]]:
    """What followed each pattern that the shipped CNN detects on the training bars, for a manifest.

    The CNN learned shapes from simulated bars alone, so the returns after them are out of sample; only the choice of
    pattern and horizon is a search, for which the lower bounds are corrected. Returns the fields of
    `mlkit.inference.insight.PatternEvidence` by pattern.
    """
    from mlkit.models.patterns import pretrained

    cnn = pretrained(market_standard(bars))
    with np.errstate(invalid="ignore"):  # the first bars have no window
        detected = cnn.probabilities(bars[list(COLUMNS)].to_numpy()) >= cnn.thresholds
    flags = claimed_directions(bars)[list(cnn.patterns)] * detected
    returns = earned_returns(bars, settings.prediction_horizons)
    return traded_patterns(flags, returns, cost_bps=settings.cost_bps)


def _pool(
    name: str, markets: "tuple[pd.DataFrame, ...]", garch: Mapping[str, Garch], scores: "pd.DataFrame"
) -> dict[str, Any]:
    """What a manifest says of several markets; the whole is known by the digests of all."""
    members: dict[str, Any] = {}
    for bars in markets:
        symbol = bars.attrs["symbol"]
        members[symbol] = {
            "training_span": _span(bars),
            "garch": list(garch[symbol]),
            "data_sha256": fingerprint(bars),
            "metrics": _by_horizon(scores.loc[symbol]) if symbol in scores.index else {},
        }
    spans = [member["training_span"] for member in members.values()]
    digest = hashlib.sha256("".join(f"{symbol} {m['data_sha256']}\n" for symbol, m in members.items()).encode())
    return {
        "symbol": name,
        "pool": members,
        "training_span": {
            "start": min(span["start"] for span in spans),
            "end": max(span["end"] for span in spans),
            "bars": sum(span["bars"] for span in spans),
        },
        "data_sha256": digest.hexdigest(),
    }


def _span(bars: "pd.DataFrame") -> dict[str, Any]:
    return {"start": bars.index[0].isoformat(), "end": bars.index[-1].isoformat(), "bars": len(bars)}


def _chosen(settings: Settings, ensemble: EnsembleSettings | None) -> dict[str, Any]:
    chosen = settings.chosen()
    return chosen if ensemble is None else chosen | {"ensemble": asdict(ensemble)}  # else the profile says it


def _by_horizon(scores: "pd.DataFrame") -> dict[str, Any]:
    return {str(horizon): row for horizon, row in scores.to_dict("index").items()}


def bundle_scores(bundle: "ModelBundle") -> "pd.DataFrame":
    """The table of `score` that a bundle carries: index the horizon in bars."""
    import pandas as pd

    rows = {}
    for horizon, row in sorted(bundle.manifest.metrics.items(), key=lambda one: int(one[0])):
        measured = row if isinstance(row, dict) else {}
        rows[int(horizon)] = {name: float("nan") if value is None else value for name, value in measured.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("horizon")
