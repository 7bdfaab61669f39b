"""The models of a predictor: loaded when first needed, and the reason where one is missing."""

import logging
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from mlkit.errors import DependencyError
from mlkit.features import Standard
from mlkit.inference.drift_note import read_drift
from mlkit.inference.insight_data import NOT_TRAINED, EdgeVerdict, ModelStatus
from mlkit.models.bundle import PatternEvidence

if TYPE_CHECKING:
    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import PricePredictor
    from mlkit.models.patterns import PatternModel

Model = TypeVar("Model")
_warn_once = cache(logging.getLogger("mlkit").warning)


class LoadedModels:
    """The pattern CNN and the price ensemble of one bundle.

    A missing optional package gives None and the reason, and one warning in the log; a damaged bundle is a
    BundleError. The pattern CNN is ``cnn``, else the bundle's, else the one of the market's standard in ``weights``
    (``Settings.pattern_weights``) or as shipped.
    """

    def __init__(
        self, bundle: "ModelBundle | None", cnn: "PatternModel | None" = None, weights: Path | None = None
    ) -> None:
        self.bundle, self._given, self._weights = bundle, cnn, weights
        self._cnns: dict[Standard, tuple[PatternModel | None, str]] = {}

    def cnn(self, standard: Standard) -> "tuple[PatternModel | None, str]":
        """The pattern CNN, or None and the reason."""
        if self._given is not None:
            return self._given, ""

        def load() -> "PatternModel":
            from mlkit.models.patterns import parse_cnn, pretrained

            own = None if self.bundle is None else self.bundle.cnn_file
            if self.bundle is None or own is None:
                return pretrained(standard, self._weights)
            return parse_cnn(own, self.bundle.path / "cnn.safetensors")

        if standard not in self._cnns:
            self._cnns[standard] = _load(load)
        return self._cnns[standard]

    @cached_property
    def price(self) -> "tuple[PricePredictor | None, str]":
        """The price ensemble, or None and the reason."""
        bundle = self.bundle
        model, reason = (None, "") if bundle is None else _load(lambda: bundle.price)
        if model is None and not reason:
            reason = NOT_TRAINED
            _warn_once(f"{NOT_TRAINED}: no price forecasts")
        return model, reason

    def status(self, standard: Standard, market: str | None = None) -> ModelStatus:
        """Which models are available, and why one is not; loads them. ``market`` is "symbol timeframe"."""
        (cnn, no_cnn), price = self.cnn(standard), self.price[0]
        reasons = {} if cnn is not None else {"pattern_cnn": no_cnn}
        if price is None:
            reasons["price_predictor"] = self.why_no_prices(market)
        drift = None
        if self.bundle is not None and market is not None:
            symbol, timeframe = market.rsplit(" ", 1)
            drift = read_drift(self.bundle.path.parent, symbol, timeframe, self.bundle.id)
        return ModelStatus(
            pattern_cnn_loaded=cnn is not None,
            price_predictor_loaded=price is not None,
            models_loaded=cnn is not None and price is not None,
            reasons=reasons,
            drift=drift,
        )

    def why_no_prices(self, market: str | None = None) -> str:
        """Reason of missing price predictions, with the command that trains them; empty where there is a model."""
        reason = self.price[1]
        if reason != NOT_TRAINED or market is None:
            return reason
        symbol, timeframe = market.rsplit(" ", 1)
        return f"{reason}: run mlkit train --symbol {symbol} --timeframe {timeframe}"

    def verdict(self, horizon: int) -> EdgeVerdict | None:
        """Verdict of the walk-forward for a horizon when the bundle was trained."""
        value = None if self.bundle is None else self.bundle.manifest.metrics.get(str(horizon), {}).get("verdict")
        return "edge" if value == "edge" else "no edge" if value == "no edge" else None

    @cached_property
    def span(self) -> tuple[pd.Timestamp, pd.Timestamp] | None:
        """Open times of the first and last training bar; None without a bundle."""
        if self.bundle is None:
            return None
        span = self.bundle.manifest.training_span
        return pd.to_datetime(span.start, utc=True), pd.to_datetime(span.end, utc=True)

    @property
    def pattern_evidence(self) -> dict[str, PatternEvidence]:
        """Returns after each pattern on the training bars; empty where they were not measured."""
        return {} if self.bundle is None else self.bundle.manifest.pattern_evidence


def _load(load: Callable[[], Model]) -> tuple[Model | None, str]:
    """A model, or None and the reason where an optional package is missing; one warning for each reason."""
    try:
        return load(), ""
    except DependencyError as error:
        reason = str(error)
    except ModuleNotFoundError as error:
        if (error.name or "mlkit").split(".")[0] == "mlkit":
            raise
        reason = f"{error.name} is not installed: pip install 'mlkit[train]'"
    _warn_once("%s", reason)
    return None, reason
