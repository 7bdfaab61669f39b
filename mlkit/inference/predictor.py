"""Where bars meet models: validated bars in, `Insight`, pattern probabilities and forecasts out."""

import logging
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError, BundleError, ConfigError, DependencyError, NotTrainedError
from mlkit.features.rules import PATTERNS, Standard
from mlkit.inference.insight import (
    NOT_TRAINED,
    Insight,
    ModelStatus,
    PatternReading,
    PricePrediction,
    Signal,
    Verdict,
)
from mlkit.inference.signals import (
    CONTRADICTION,
    SignalRules,
    combine_signals,
    pattern_direction,
    pattern_signals,
    price_signals,
)
from mlkit.labels import never_closes
from mlkit.market.bars import COLUMNS, timeframe_delta, validate_bars
from mlkit.market.sources import load_bars
from mlkit.market.symbols import symbol_folder

if TYPE_CHECKING:
    from mlkit.features.feature_set import FeatureSet
    from mlkit.models.bundle import ModelBundle
    from mlkit.models.pattern_cnn import PatternModel
    from mlkit.models.price_predictor import PricePredictor

Float64Array = npt.NDArray[np.float64]
Model = TypeVar("Model")
FORECAST_COLUMNS = ("log_return", "p_up", "std", "lo80", "hi80", "lo90", "hi90")
_log = logging.getLogger("mlkit")


def market_standard(bars: pd.DataFrame) -> Standard:
    """Which definition of the patterns fits a market: "continuous" where it trades without closes.

    That is `mlkit.labels.never_closes`, which reads open times only, never a price.
    """
    return "continuous" if never_closes(bars) else "classic"


class Predictor:
    """Turns bars into insights with the models of one bundle.

    Parameters
    ----------
    bundle : ModelBundle, optional
        Trained models. Without one, or where it holds no pattern CNN, the shipped CNN of
        `market_standard` reads the patterns; without one there are no price forecasts.
    settings : Settings, optional
        Confidence threshold and trading cost of the signals; ``Settings()`` by default.
    cnn : PatternModel, optional
        A pattern CNN to use instead of the bundle's or the shipped one.
    features : FeatureSet, optional
        What the bundle was trained with, where that held own features.

    Models are loaded when first needed and kept. An optional package that is missing gives the same
    answers with empty parts and a reason, and one warning in the log; a damaged bundle is a BundleError.

    Execution timing: everything about bar t is known at its close and depends on bars up to t only.
    """

    def __init__(
        self,
        bundle: "ModelBundle | None" = None,
        settings: Settings | None = None,
        *,
        cnn: "PatternModel | None" = None,
        features: "FeatureSet | None" = None,
    ) -> None:
        self._bundle = bundle
        self._features = features
        self._settings = settings or Settings()
        self._given_cnn = cnn
        self._cnns: dict[Standard, tuple[PatternModel | None, str]] = {}
        self._price: tuple[PricePredictor | None, str] | None = None

    # --- one bar ----------------------------------------------------------------------------------

    def insight(self, bars: pd.DataFrame) -> Insight:
        """Everything about the last bar.

        Parameters
        ----------
        bars : DataFrame (n_bars, 5), valid bars, of the bundle's timeframe.

        Raises BarsError for bars that break the contract or are too few for the models loaded, ConfigError
        for another timeframe than the bundle's, BundleError for a damaged bundle or one of other features.
        """
        bars = self._checked(bars)
        patterns, prices, signals = self._read(bars)
        status = self._status(market_standard(bars))
        lead = signals[0]
        reasons = {}
        if not prices:
            reasons["price_predictions"] = self._why_no_prices(bars)
        if lead.confidence is None:
            reasons["confidence"] = CONTRADICTION if lead.source == "Agreement" else lead.reason
        opened = bars.index[-1]
        return Insight(
            symbol=bars.attrs["symbol"],
            timeframe=bars.attrs["timeframe"],
            patterns=patterns,
            price_predictions=prices,
            signals=signals,
            confidence=lead.confidence,
            timestamp=_naive(opened),
            current_price=float(bars["close"].iloc[-1]),
            model_status=status,
            message=NOT_TRAINED if self._price_model()[1] == NOT_TRAINED else None,
            known_at=_naive(opened + timeframe_delta(bars.attrs["timeframe"])),
            reasons=reasons,
            bundle=None if self._bundle is None else self._bundle.path.name,
        )

    def patterns(self, bars: pd.DataFrame) -> PatternReading:
        """Patterns in the window that ends at the last bar; see `insight` for parameters and errors."""
        return self._patterns(self._checked(bars))

    def price_prediction(self, bars: pd.DataFrame) -> dict[str, PricePrediction]:
        """Forecast per horizon from the last bar, empty without a price model; errors as `insight`."""
        return self._prices(self._checked(bars))

    def signals(self, bars: pd.DataFrame) -> list[Signal]:
        """Signals at the last bar, the leading one first; errors as `insight`."""
        return self._read(self._checked(bars))[2]

    def status(self) -> ModelStatus:
        """Which models can answer; loads them."""
        return self._status("classic")

    # --- every bar --------------------------------------------------------------------------------

    def pattern_probabilities(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Calibrated probability of each pattern at each bar, float64 (n_bars, 15), NaN in the warm-up.

        Raises DependencyError where torch is missing; else as `insight`.
        """
        bars = self._checked(bars)
        cnn, reason = self._cnn(market_standard(bars))
        if cnn is None:
            raise DependencyError(reason)
        values = cnn.probabilities(bars[list(COLUMNS)].to_numpy())
        return _labelled(pd.DataFrame(values, index=bars.index, columns=list(PATTERNS)), bars)

    def forecasts(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Forecast of each horizon at each bar, known at the bar's close; the last bar's are `insight`'s.

        Returns
        -------
        DataFrame (n_bars * n_horizons, 9), ordered by time, then horizon: timestamp (bar open, UTC), horizon
        (bars), log_return, p_up, std, lo80, hi80, lo90, hi90 (log returns; p_up a probability). NaN in
        the warm-up of the features.

        Raises NotTrainedError without a price model; else as `insight`.
        """
        bars = self._checked(bars)
        model, reason = self._price_model()
        if model is None:
            raise (NotTrainedError if reason == NOT_TRAINED else DependencyError)(self._why_no_prices(bars))
        forecast = model.predict(*self._inputs(bars))
        horizons = np.array(forecast.horizons, dtype=np.int64)
        columns = {name: getattr(forecast, name).ravel() for name in FORECAST_COLUMNS}
        times = {"timestamp": bars.index.repeat(len(horizons)), "horizon": np.tile(horizons, len(bars))}
        return _labelled(pd.DataFrame({**times, **columns}), bars)

    # --- parts ------------------------------------------------------------------------------------

    def _checked(self, bars: pd.DataFrame) -> pd.DataFrame:
        bars = validate_bars(bars)
        if self._bundle is not None and bars.attrs["timeframe"] != self._bundle.manifest.timeframe:
            raise ConfigError(
                f"bars are {bars.attrs['timeframe']}, the bundle {self._bundle.path.name} was trained on "
                f"{self._bundle.manifest.timeframe}; pass such bars or train on these"
            )
        return bars

    def _read(self, bars: pd.DataFrame) -> tuple[PatternReading, dict[str, PricePrediction], list[Signal]]:
        patterns, prices = self._patterns(bars), self._prices(bars)
        rules = SignalRules(self._settings.min_confidence_threshold, self._settings.cost_bps)
        evidence = pattern_signals(patterns, rules) + price_signals(prices, float(bars["close"].iloc[-1]), rules)
        missing = f"{patterns.reason or 'no pattern detected'}; {self._why_no_prices(bars)}"
        return patterns, prices, combine_signals(evidence, missing=missing)

    def _patterns(self, bars: pd.DataFrame) -> PatternReading:
        standard = market_standard(bars)
        cnn, reason = self._cnn(standard)
        if cnn is None:
            return PatternReading(reason=reason)
        need = cnn.meta.sequence_length
        _require(bars, need, "the pattern CNN")
        tail = bars.iloc[-need:]
        row = cnn.probabilities(tail[list(COLUMNS)].to_numpy())[-1]
        if not np.isfinite(row).all():
            return PatternReading(reason="the pattern CNN gives no number for this window")
        values = dict(zip(PATTERNS, row.tolist(), strict=True))
        thresholds = dict(zip(PATTERNS, cnn.thresholds.tolist(), strict=True))
        found = [name for name in PATTERNS if values[name] >= thresholds[name]]
        detected = {name: values[name] for name in sorted(found, key=lambda name: -values[name])}
        colours = np.where(tail["close"].to_numpy() >= tail["open"].to_numpy(), 1, -1)
        return PatternReading(
            detected=detected,
            count=len(detected),
            strongest=next(iter(detected.items()), None),
            probabilities=values,
            thresholds=thresholds,
            directions={name: pattern_direction(name, int(colours[-1]), int(colours[-2])) for name in detected},
            standard=cnn.standard,
        )

    def _prices(self, bars: pd.DataFrame) -> dict[str, PricePrediction]:
        model, _ = self._price_model()
        if model is None:
            return {}
        features, scale = self._inputs(bars)
        forecast = model.predict(features[-1:], scale[-1:])
        price = float(bars["close"].iloc[-1])
        return {
            str(horizon): PricePrediction.from_log_returns(
                price,
                {name: float(getattr(forecast, name)[0, column]) for name in FORECAST_COLUMNS},
                members={name: float(values[0, column]) for name, values in forecast.members.items()},
                verdict=self._verdict(horizon),
            )
            for column, horizon in enumerate(forecast.horizons)
        }

    def _inputs(self, bars: pd.DataFrame) -> tuple[npt.NDArray[np.float32], Float64Array]:
        """Feature rows in the bundle's order, float32 (n_bars, n_features), and the spread expected per horizon."""
        from mlkit.features.engine import DEFAULT_GARCH, volatility_scale
        from mlkit.features.feature_set import FeatureSet

        assert self._bundle is not None
        features = self._features or FeatureSet()
        _require(bars, features.warm_up + 1, "the price forecast")
        garch = self._bundle.manifest.garch or DEFAULT_GARCH
        frame = features.build(bars, garch=garch)
        names = list(self._bundle.manifest.feature_names)
        unknown = [name for name in names if name not in frame.columns]
        if unknown:
            raise BundleError(
                f"bundle {self._bundle.path}: its feature {unknown[0]!r} is not one of this version "
                f"({len(unknown)} of {len(names)} unknown); pass Predictor(features=...) as in training, or train again"
            )
        return frame[names].to_numpy(dtype=np.float32), volatility_scale(frame, self._bundle.manifest.horizons, garch)

    # --- models -----------------------------------------------------------------------------------

    def _cnn(self, standard: Standard) -> "tuple[PatternModel | None, str]":
        """The pattern CNN that answers, or None and why."""
        if self._given_cnn is not None:
            return self._given_cnn, ""
        if standard not in self._cnns:
            self._cnns[standard] = _load(lambda: self._find_cnn(standard))
        return self._cnns[standard]

    def _find_cnn(self, standard: Standard) -> "PatternModel":
        from mlkit.models.pattern_cnn import load_cnn, pretrained

        own = None if self._bundle is None else self._bundle.cnn_path
        return pretrained(standard) if own is None else load_cnn(own)

    def _price_model(self) -> "tuple[PricePredictor | None, str]":
        """The price ensemble, or None and why."""
        if self._price is None:
            bundle = self._bundle
            model, reason = (None, "") if bundle is None else _load(lambda: bundle.price)
            self._price = model, reason or ("" if model else NOT_TRAINED)
        return self._price

    def _status(self, standard: Standard) -> ModelStatus:
        cnn, price = self._cnn(standard)[0] is not None, self._price_model()[0] is not None
        return ModelStatus(pattern_cnn_loaded=cnn, price_predictor_loaded=price, models_loaded=cnn and price)

    def _why_no_prices(self, bars: pd.DataFrame) -> str:
        """Reason of empty price predictions, with the command that mends it."""
        reason = self._price_model()[1]
        command = f"mlkit train --symbol {bars.attrs['symbol']} --timeframe {bars.attrs['timeframe']}"
        return f"{reason}: run {command}" if reason == NOT_TRAINED else reason

    def _verdict(self, horizon: int) -> Verdict | None:
        """What the walk-forward found for a horizon when the bundle was trained."""
        assert self._bundle is not None
        measured = self._bundle.manifest.metrics.get(str(horizon))
        value = measured.get("verdict") if isinstance(measured, dict) else None
        return "edge" if value == "edge" else "no edge" if value == "no edge" else None


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


def _require(bars: pd.DataFrame, need: int, what: str) -> None:
    if len(bars) < need:
        name = f"{bars.attrs['symbol']} {bars.attrs['timeframe']}"
        raise BarsError(f"{name}: need {need} bars for {what}, have {len(bars)}; load a longer history")


def _naive(time: pd.Timestamp) -> datetime:
    return time.tz_convert("UTC").tz_localize(None).to_pydatetime()


def _labelled(frame: pd.DataFrame, bars: pd.DataFrame) -> pd.DataFrame:
    frame.attrs.update(bars.attrs)
    return frame


def insights(symbol: str, timeframe: str = "1m", settings: Settings | None = None) -> Insight:
    """The insight of the latest bar that `load_bars` knows, by the current bundle of its market.

    The bundle is the one that ``CURRENT`` names in ``<model_storage_path>/<symbol>-<timeframe>``, with the symbol
    as `symbol_folder` writes it; without it the shipped pattern CNN answers alone, and the price part says how to
    train.

    Raises ConfigError for a symbol or timeframe without bars; else as `Predictor.insight`.
    """
    settings = settings or Settings()
    bars = load_bars(symbol, timeframe, settings=settings)
    return Predictor(current_bundle(symbol, timeframe, settings), settings).insight(bars)


def current_bundle(symbol: str, timeframe: str, settings: Settings) -> "ModelBundle | None":
    """The published bundle of a market, or None where nothing was trained; BundleError when damaged."""
    folder = settings.models / f"{symbol_folder(symbol)}-{timeframe}"
    if not (folder / "CURRENT").exists():
        return None
    from mlkit.models.bundle import ModelBundle

    return ModelBundle.open(folder)
