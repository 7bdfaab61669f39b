"""The models behind a predictor: loaded when first needed, and the reason where one cannot be."""

import logging
import threading
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlkit.errors import DependencyError
from mlkit.features import Standard
from mlkit.inference.insight_data import NOT_TRAINED, Drift, EdgeVerdict, ModelStatus, PatternEvidence

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import PricePredictor
    from mlkit.models.patterns import PatternModel

Model = TypeVar("Model")
_log = logging.getLogger("mlkit")


class LoadedModels:
    """The pattern CNN and the price ensemble of one bundle; safe to ask from several threads.

    Parameters
    ----------
    bundle : ModelBundle or None
        Without one, or where it holds no pattern CNN, the shipped CNN of the market's standard reads patterns.
    cnn : PatternModel or None
        Used instead of the bundle's or the shipped one.
    weights : Path or None
        Folder of weights that take the place of the shipped ones (``Settings.pattern_weights``).

    A missing optional package gives None and the reason, and one warning in the log; a damaged bundle is a
    BundleError.
    """

    def __init__(
        self, bundle: "ModelBundle | None", cnn: "PatternModel | None" = None, weights: Path | None = None
    ) -> None:
        self.bundle = bundle
        self._weights = weights
        self._given = cnn
        self._lock = threading.RLock()
        self._cnns: dict[Standard, tuple[PatternModel | None, str]] = {}
        self._price: tuple[PricePredictor | None, str] | None = None

    def cnn(self, standard: Standard) -> "tuple[PatternModel | None, str]":
        """The pattern CNN that answers, or None and why."""
        if self._given is not None:
            return self._given, ""
        with self._lock:
            if standard not in self._cnns:
                self._cnns[standard] = _load(lambda: self._find_cnn(standard))
            return self._cnns[standard]

    def _find_cnn(self, standard: Standard) -> "PatternModel":
        from mlkit.models.patterns import load_cnn, pretrained

        own = None if self.bundle is None else self.bundle.cnn_path
        return pretrained(standard, self._weights) if own is None else load_cnn(own)

    def price(self) -> "tuple[PricePredictor | None, str]":
        """The price ensemble, or None and why."""
        with self._lock:
            if self._price is None:
                bundle = self.bundle
                model, reason = (None, "") if bundle is None else _load(lambda: bundle.price)
                if model is None and not reason:
                    reason = NOT_TRAINED
                    _warn_once(f"{NOT_TRAINED}: no price forecasts")
                self._price = model, reason
            return self._price

    def status(self, standard: Standard, market: str | None = None) -> ModelStatus:
        """Which models answer, and why one does not; loads them. ``market`` is "symbol timeframe"."""
        (cnn, no_cnn), price = self.cnn(standard), self.price()[0]
        reasons = {} if cnn is not None else {"pattern_cnn": no_cnn}
        if price is None:
            reasons["price_predictor"] = self.why_no_prices(market)
        both = cnn is not None and price is not None
        return ModelStatus(
            pattern_cnn_loaded=cnn is not None,
            price_predictor_loaded=price is not None,
            models_loaded=both,
            reasons=reasons,
            drift=self.drift(market),
        )

    def drift(self, market: str | None) -> Drift | None:
        """What `mlkit drift` last found for the bundle on this market; read again when the file changes."""
        from mlkit.inference.drift_note import read_drift

        if self.bundle is None or market is None:
            return None
        symbol, timeframe = market.rsplit(" ", 1)
        return read_drift(self.bundle.path.parent, symbol, timeframe, self.bundle.id)

    def why_no_prices(self, market: str | None = None) -> str:
        """Reason of empty price predictions, with the command that mends it; empty where there is a model."""
        reason = self.price()[1]
        if reason != NOT_TRAINED or market is None:
            return reason
        symbol, timeframe = market.rsplit(" ", 1)
        return f"{reason}: run mlkit train --symbol {symbol} --timeframe {timeframe}"

    def verdict(self, horizon: int) -> EdgeVerdict | None:
        """What the walk-forward found for a horizon when the bundle was trained."""
        measured = None if self.bundle is None else self.bundle.manifest.metrics.get(str(horizon))
        value = measured.get("verdict") if isinstance(measured, dict) else None
        return "edge" if value == "edge" else "no edge" if value == "no edge" else None

    @cached_property
    def span(self) -> "tuple[pd.Timestamp, pd.Timestamp] | None":
        """Open times of the first and last training bar; None without a bundle."""
        import pandas as pd

        if self.bundle is None:
            return None
        span = self.bundle.manifest.training_span
        first, last = pd.to_datetime([span.start, span.end], utc=True)
        return first, last

    @cached_property
    def pattern_evidence(self) -> dict[str, PatternEvidence]:
        """What followed each pattern on the training bars; empty where it was not measured."""
        measured = {} if self.bundle is None else self.bundle.manifest.pattern_evidence
        return {name: PatternEvidence.model_validate(value) for name, value in measured.items()}


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
    _warn_once(reason)
    return None, reason


@cache
def _warn_once(reason: str) -> None:
    _log.warning("%s", reason)
