"""From the arrays of one bar to the parts of its insight: the one road that history and live bars both take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.features import PATTERNS, Standard
from mlkit.inference.freshness import model_freshness
from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import (
    NOT_TRAINED,
    EdgeVerdict,
    PatternReading,
    PricePrediction,
    Signal,
)
from mlkit.inference.loaded_models import Models
from mlkit.inference.signals import (
    CONTRADICTION,
    CONTRADICTORY,
    SignalRules,
    combine_signals,
    pattern_signals,
    price_signals,
)
from mlkit.labels import pattern_direction
from mlkit.market import timeframe_delta
from mlkit.models.ensemble import FORECAST_COLUMNS

if TYPE_CHECKING:
    from mlkit.models.ensemble import Forecast

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moment:
    """One closed bar as arrays, and what the models say about it."""

    market: str  # "symbol timeframe"
    opened: int  # open time, ns since the epoch
    before: int | None  # open time of the bar before
    close: float
    colours: tuple[int, int]  # +1 where the last bar, and the one before it, closes at or above its open
    standard: Standard
    flags: npt.NDArray[np.int8]  # (15,) direction of each written rule
    probabilities: Float64Array | None  # (n_patterns,) of the pattern CNN, None without one
    forecast: "Forecast | None"  # one row, None without a price model, or while it waits
    waiting: str | None = None  # why a price model says nothing of this bar


def read_moment(moment: Moment, models: Models, rules: SignalRules) -> Insight:
    """Everything about one bar."""
    patterns = pattern_reading(moment, models)
    prices = price_predictions(moment.forecast, moment.close, models.verdict)
    signals = read_signals(patterns, prices, moment, models, rules)
    symbol, timeframe = moment.market.rsplit(" ", 1)
    status = models.status(moment.standard, moment.market)
    reasons = {}
    if not patterns.probabilities:
        reasons["patterns"] = patterns.reason or ""
    if not prices:
        reasons["price_predictions"] = moment.waiting or models.why_no_prices(moment.market)
    if signals[0].confidence is None:
        reasons["confidence"] = CONTRADICTION if signals[0].source == CONTRADICTORY else signals[0].reason
    opened = pd.Timestamp(moment.opened, tz="UTC")
    bundle = models.bundle
    return Insight(
        symbol=symbol,
        timeframe=timeframe,
        patterns=patterns,
        price_predictions=prices,
        signals=signals,
        confidence=signals[0].confidence,
        timestamp=opened.tz_localize(None).to_pydatetime(),
        current_price=moment.close,
        model_status=status,
        message=None if status.models_loaded else NOT_TRAINED,
        freshness=model_freshness(moment.opened, moment.before, timeframe, models.span),
        known_at=(opened + timeframe_delta(timeframe)).tz_localize(None).to_pydatetime(),
        reasons=reasons,
        bundle=None if bundle is None else bundle.path.name,
    )


def read_signals(
    patterns: PatternReading,
    prices: dict[str, PricePrediction],
    moment: Moment,
    models: Models,
    rules: SignalRules,
) -> list[Signal]:
    """Signals of one bar, the leading one first."""
    evidence = pattern_signals(patterns, rules) + price_signals(prices, moment.close, rules)
    why = moment.waiting or models.why_no_prices(moment.market)
    return combine_signals(evidence, missing=f"{patterns.reason or 'no pattern detected'}; {why}")


def pattern_reading(moment: Moment, models: Models) -> PatternReading:
    """What the pattern CNN sees, or why it sees nothing."""
    cnn, reason = models.cnn(moment.standard)
    if cnn is None or moment.probabilities is None:
        return PatternReading(reason=reason)
    if not np.isfinite(moment.probabilities).all():
        return PatternReading(reason="the pattern CNN gives no number for this window")
    values = dict(zip(cnn.patterns, moment.probabilities.tolist(), strict=True))
    thresholds = dict(zip(cnn.patterns, cnn.thresholds.tolist(), strict=True))
    found = [name for name in cnn.patterns if values[name] >= thresholds[name]]
    detected = {name: values[name] for name in sorted(found, key=lambda name: -values[name])}
    return PatternReading(
        detected=detected,
        count=len(detected),
        strongest=next(iter(detected.items()), None),
        probabilities=values,
        thresholds=thresholds,
        directions={name: pattern_direction(name, *moment.colours) for name in detected},
        rules=dict(zip(PATTERNS, (moment.flags != 0).tolist(), strict=True)),
        evidence=models.pattern_evidence,
        standard=cnn.standard,
    )


def price_predictions(
    forecast: "Forecast | None", price: float, verdict: Callable[[int], EdgeVerdict | None]
) -> dict[str, PricePrediction]:
    """The last row of a forecast in units of the price, by horizon; empty without one."""
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
