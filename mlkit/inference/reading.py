"""From the model outputs at one bar to its insight, for historical and live bars alike."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlkit.errors import TooFewBarsError
from mlkit.features import PATTERNS
from mlkit.inference.freshness import model_freshness
from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import NOT_TRAINED, EdgeVerdict, PatternReading, PricePrediction
from mlkit.inference.loaded_models import LoadedModels
from mlkit.inference.recent_bars import RecentBars
from mlkit.inference.signals import (
    CONTRADICTION,
    CONTRADICTORY,
    SignalRules,
    combine_signals,
    pattern_signals,
    price_signals,
)
from mlkit.labels import pattern_direction
from mlkit.models.ensemble import FORECAST_COLUMNS

if TYPE_CHECKING:
    from mlkit.models.ensemble import Forecast


def read_insight(
    bars: RecentBars, forecast: "Forecast | None", waiting: str | None, models: LoadedModels, rules: SignalRules
) -> Insight:
    """The insight of the newest bar from its forecast, or ``waiting``: why there is none after an outage."""
    close, timeframe = float(bars.ohlcv[-1, 3]), bars.timeframe
    patterns = pattern_reading(bars, models)
    prices = price_predictions(forecast, close, models.verdict)
    no_prices = waiting or models.why_no_prices(bars.market)
    signals = combine_signals(
        pattern_signals(patterns, rules) + price_signals(prices, close, rules),
        missing=f"{patterns.reason or 'no pattern detected'}; {no_prices}",
    )
    status = models.status(bars.standard, bars.market)
    reasons = {} if patterns.probabilities else {"patterns": patterns.reason or ""}
    if not prices:
        reasons["price_predictions"] = no_prices
    if signals[0].confidence is None:
        reasons["confidence"] = CONTRADICTION if signals[0].source == CONTRADICTORY else signals[0].reason
    opened = pd.Timestamp(bars.opened)
    closed = pd.Timestamp(int(bars.calendar.bar_closes(bars.times[-1:], timeframe)[0]))
    return Insight(
        symbol=bars.symbol,
        timeframe=timeframe,
        patterns=patterns,
        price_predictions=prices,
        signals=signals,
        confidence=signals[0].confidence,
        timestamp=opened.to_pydatetime(),
        current_price=close,
        model_status=status,
        message=None if status.models_loaded else NOT_TRAINED,
        freshness=model_freshness(bars.times[-2:], timeframe, models.span, bars.calendar),
        known_at=closed.to_pydatetime(),
        reasons=reasons,
        bundle=None if models.bundle is None else models.bundle.path.name,
    )


def pattern_reading(bars: RecentBars, models: LoadedModels) -> PatternReading:
    """The detected patterns of the newest bar, or why there are none."""
    cnn, reason = models.cnn(bars.standard)
    if cnn is None:
        return PatternReading(reason=reason)
    need = cnn.meta.sequence_length
    require_bars(len(bars.ohlcv), need, "the pattern CNN", bars.market)
    probabilities = cnn.probabilities(bars.ohlcv[-need:])[-1]
    if not np.isfinite(probabilities).all():
        return PatternReading(reason="the pattern CNN gives no number for this window")
    values = dict(zip(cnn.patterns, probabilities.tolist(), strict=True))
    thresholds = dict(zip(cnn.patterns, cnn.thresholds.tolist(), strict=True))
    found = [name for name in cnn.patterns if values[name] >= thresholds[name]]
    detected = {name: values[name] for name in sorted(found, key=lambda name: -values[name])}
    # +1 where the bar before and the newest one close at or above their open, else -1.
    colours = np.where(bars.ohlcv[-2:, 3] >= bars.ohlcv[-2:, 0], 1, -1).tolist()
    return PatternReading(
        detected=detected,
        count=len(detected),
        strongest=next(iter(detected.items()), None),
        probabilities=values,
        thresholds=thresholds,
        directions={name: pattern_direction(name, colours[-1], colours[0]) for name in detected},
        rules=dict(zip(PATTERNS, (bars.flags != 0).tolist(), strict=True)),
        evidence=models.pattern_evidence,
        standard=cnn.standard,
    )


def price_predictions(
    forecast: "Forecast | None", price: float, verdict: Callable[[int], EdgeVerdict | None]
) -> dict[str, PricePrediction]:
    """The last row of a forecast in units of the price, by horizon; empty without a forecast."""
    if forecast is None:
        return {}
    return {
        str(horizon): PricePrediction.from_log_returns(
            price,
            {name: float(getattr(forecast, name)[-1, column]) for name in FORECAST_COLUMNS},
            members={name: float(values[-1, column]) for name, values in forecast.members.items()},
            verdict=verdict(horizon),
        )
        for column, horizon in enumerate(forecast.horizons)
    }


def require_bars(have: int, need: int, what: str, market: str) -> None:
    """TooFewBarsError where a model needs more bars than there are."""
    if have < need:
        raise TooFewBarsError(f"{market}: need {need} bars for {what}, have {have}; load a longer history")
