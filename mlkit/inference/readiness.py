"""Status of a server and of its markets, from manifests, without loading a price model."""

from importlib.util import find_spec

from pydantic import BaseModel, ConfigDict, JsonValue

from mlkit import __version__
from mlkit.config import Settings
from mlkit.errors import BundleError
from mlkit.inference.bundle_roots import answering_root, check_market
from mlkit.inference.drift_note import read_drift
from mlkit.inference.insight_data import NOT_TRAINED, Drift, ModelStatus
from mlkit.inference.loaded_models import LoadedModels
from mlkit.market import available
from mlkit.models.bundle import read_current, read_manifest
from mlkit.models.ensemble import MODULES

REPORTED_PACKAGES = ("safetensors", "torch", *MODULES, "arch")


class MarketStatus(BaseModel):
    """One market: its current bundle and the metrics measured when that was trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    symbol: str
    timeframe: str
    bundle: str | None = None
    created: str | None = None
    trained_from: str | None = None  # open time of the first training bar
    trained_until: str | None = None  # of the last
    training_bars: int | None = None
    metrics: dict[str, JsonValue] = {}  # horizon -> metrics out of sample, with the verdict
    pattern_evidence: dict[str, JsonValue] = {}
    drift: Drift | None = None  # None: not monitored
    reason: str | None = None  # why there is no bundle


class StatusAnswer(ModelStatus):
    """Models, packages and markets of this server."""

    message: str | None = None
    version: str
    packages: dict[str, bool]  # optional package -> whether it is installed
    markets: list[MarketStatus]


def server_status(settings: Settings) -> StatusAnswer:
    """Every market that has bars, with its bundle; ``price_predictor_loaded`` if at least one market has one."""
    markets = [market_status(*key, settings) for key in available(settings)]
    cnn, why = LoadedModels(None).cnn("classic")
    trained = any(market.bundle for market in markets)
    reasons = {} if cnn is not None else {"pattern_cnn": why}
    if not trained:
        reasons["price_predictor"] = f"{NOT_TRAINED}: run mlkit train --symbol SP500 --timeframe 1d"
    loaded = cnn is not None and trained
    return StatusAnswer(
        pattern_cnn_loaded=cnn is not None,
        price_predictor_loaded=trained,
        models_loaded=loaded,
        reasons=reasons,
        message=None if loaded else NOT_TRAINED,
        version=__version__,
        packages={name: find_spec(name) is not None for name in REPORTED_PACKAGES},
        markets=markets,
    )


def market_status(symbol: str, timeframe: str, settings: Settings) -> MarketStatus:
    """One market, from the manifest of its current bundle."""
    try:
        root = answering_root(symbol, timeframe, settings)
        if root is None:
            return MarketStatus(symbol=symbol, timeframe=timeframe, reason=NOT_TRAINED)
        manifest = check_market(read_manifest(root / read_current(root)[0]), symbol, timeframe, root)
    except BundleError:
        reason = "the bundle is damaged; mlkit bundle verify says where"
        return MarketStatus(symbol=symbol, timeframe=timeframe, reason=reason)
    span, described = manifest.training_span, manifest.model_dump(mode="json", include={"metrics", "pattern_evidence"})
    return MarketStatus(
        symbol=symbol,
        timeframe=timeframe,
        bundle=manifest.bundle_id,
        created=manifest.created,
        trained_from=span.start,
        trained_until=span.end,
        training_bars=span.bars,
        **described,
        drift=read_drift(root, symbol, timeframe, manifest.bundle_id),
    )
