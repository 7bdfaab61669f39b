"""One `Insight` per bar: the documented JSON as frozen models that refuse NaN and infinity.

`model_dump()` and `model_dump(mode="json")` are the same plain dict, the documented response. A number
that does not exist is ``None`` and the reason stands beside it (`reason` of a part, or `reasons`).
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

if TYPE_CHECKING:
    import pandas as pd

NOT_TRAINED = "Models not trained yet"
FARTHEST = 10.0  # a log return beyond this (a factor of 22,000) is no forecast
ENDS = ("lo80", "hi80", "lo90", "hi90")

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Price = Annotated[float, Field(gt=0.0)]
Interval = Annotated[tuple[Price, Price], PlainSerializer(list, return_type=list[float])]
Strongest = Annotated[tuple[str, Probability], PlainSerializer(list, return_type=list[Any])]
UtcTime = Annotated[datetime, PlainSerializer(lambda time: time.isoformat(timespec="seconds"), return_type=str)]
SignalType = Literal["BUY", "SELL", "HOLD"]
Verdict = Literal["edge", "no edge"]


class _Part(BaseModel):
    """Frozen, closed and finite: no attribute can be set, no key invented, no NaN or infinity stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class PatternEvidence(_Part):
    """What followed a pattern on the training bars, over the horizon at which it did best.

    A case is a bar at which the CNN detects the pattern. It is a hit when the price then moves its way, from
    the next open to the open ``horizon`` bars later. ``edge_bps`` is the mean of that move beyond the market's own
    drift, less a round trip; ``lower_bps`` its lower bound, corrected for all patterns and horizons looked at.
    """

    horizon: Annotated[int, Field(ge=1)]
    cases: Annotated[int, Field(ge=0)]
    hit_rate: Probability
    low: Probability  # 95 % interval of the hit rate
    high: Probability
    base_rate: Probability  # hit rate of the same directions at any bar
    edge_bps: float
    lower_bps: float
    verdict: Verdict


class PatternReading(_Part):
    """What the pattern CNN sees in the window that ends at this bar.

    ``detected`` holds the probabilities that reach their pattern's threshold, highest first; a probability
    is that of the *shape* being there, not of the price following it: that is what ``evidence`` is about.
    """

    detected: dict[str, Probability] = {}
    count: int = 0
    strongest: Strongest | None = None
    probabilities: dict[str, Probability] = {}  # all patterns of the model, detected or not
    thresholds: dict[str, Probability] = {}
    directions: dict[str, Literal[-1, 0, 1]] = {}  # of the detected: bearish, neutral, bullish
    rules: dict[str, bool] = {}  # whether the written rule of a pattern finds it too
    evidence: dict[str, PatternEvidence] = {}  # of all patterns with enough cases
    standard: str | None = None  # "classic" or "continuous"
    reason: str | None = None  # why there is no reading

    @model_validator(mode="after")
    def _summary_matches(self) -> "PatternReading":
        best = max(self.detected.items(), key=lambda item: item[1]) if self.detected else None
        if self.count != len(self.detected) or self.strongest != best:
            raise ValueError("count and strongest must summarise detected")
        return self


class PricePrediction(_Part):
    """Predictive distribution of the close one horizon ahead, in units of the price.

    ``prediction`` is ``current_price * exp(log_return)``, and so are the members. ``confidence`` is the
    calibrated probability that the direction of ``prediction`` is right: ``p_up`` for a rise, ``1 - p_up``
    for a fall, the larger of the two where the forecast is no change. Below 0.5 it says that the calibrated
    probability contradicts the point forecast. ``std`` is that of a log-normal price with the standard
    deviation of the log return; ``interval`` covers 90 %, ``interval_80`` 80 %.
    """

    prediction: Price | None = None
    xgboost: Price | None = None
    lightgbm: Price | None = None
    random_forest: Price | None = None
    confidence: Probability | None = None
    std: Annotated[float, Field(ge=0.0)] | None = None
    interval: Interval | None = None
    interval_80: Interval | None = None
    p_up: Probability | None = None
    log_return: float | None = None
    verdict: Verdict | None = None  # measured out of sample when the bundle was trained
    reason: str | None = None  # why a number of this horizon is missing

    @property
    def direction(self) -> int:
        """Side that ``confidence`` is about: +1 a rise, -1 a fall, 0 without a forecast."""
        if self.log_return is None:
            return 0
        lean = self.log_return or (self.p_up or 0.5) - 0.5
        return 1 if lean >= 0 else -1

    @classmethod
    def from_log_returns(
        cls,
        price: float,
        distribution: Mapping[str, float],
        *,
        members: Mapping[str, float],
        verdict: Verdict | None = None,
    ) -> Self:
        """The distribution of a log return in units of the price.

        Parameters
        ----------
        price : current price, the close of the bar.
        distribution : log_return, std, lo80, hi80, lo90, hi90 (log returns) and p_up (probability); numbers
            that are NaN, or beyond any price, give an empty prediction with its reason.
        members : log return of each library.
        verdict : measured out of sample, or None where it was not.
        """
        moves = [value for name, value in distribution.items() if name != "p_up"]
        if not all(map(math.isfinite, distribution.values())):
            return cls(verdict=verdict, reason="no forecast: the features of this bar are not all known")
        if max(map(abs, [*moves, *members.values()])) > FARTHEST:
            return cls(verdict=verdict, reason="no forecast: it lies beyond any price")
        move, sigma, p_up = (distribution[name] for name in ("log_return", "std", "p_up"))
        prediction = price * math.exp(move)
        low80, high80, low90, high90 = (price * math.exp(distribution[end]) for end in ENDS)
        return cls(
            prediction=prediction,
            confidence=p_up if move > 0 else 1.0 - p_up if move < 0 else max(p_up, 1.0 - p_up),
            std=prediction * math.exp(0.5 * sigma**2) * math.sqrt(math.expm1(sigma**2)),
            interval=(low90, high90),
            interval_80=(low80, high80),
            p_up=p_up,
            log_return=move,
            verdict=verdict,
            reason=None if verdict else "verdict: not measured out of sample",
            **{name: price * math.exp(value) for name, value in members.items()},
        )


class Signal(_Part):
    """One trading signal with where it comes from and why.

    ``confidence`` is the probability that the price moves the way of the evidence: of a pattern the hit rate
    measured on the training bars, of a price forecast the calibrated probability of its direction. ``None``
    where nothing was measured; such evidence is a HOLD.
    """

    type: SignalType
    source: str
    reason: str
    confidence: Probability | None


class Drift(_Part):
    """Whether the market still is the one that the models learned, as `mlkit drift` last found it."""

    verdict: Literal["drift", "no drift", "not enough bars"]
    checked: UtcTime  # close of the newest bar that was looked at
    reasons: list[str] = []  # what drifted, or what was found


class ModelStatus(_Part):
    """Which models answered, and why one did not; ``models_loaded`` means all of them."""

    pattern_cnn_loaded: bool = False
    price_predictor_loaded: bool = False
    models_loaded: bool = False
    reasons: dict[str, str] = {}  # "pattern_cnn", "price_predictor" -> why it is not loaded
    drift: Drift | None = None  # None: not monitored

    @model_validator(mode="after")
    def _all_loaded(self) -> "ModelStatus":
        if self.models_loaded != (self.pattern_cnn_loaded and self.price_predictor_loaded):
            raise ValueError("models_loaded must say that both models are loaded")
        return self


class Freshness(_Part):
    """How old the bar and the model are; ``notes`` say in words what is stale.

    Ages by the clock (``as_of``, ``data_age_seconds``, ``bars_stale``) stand only in answers about now: those of
    `mlkit.insights`, the command line and the endpoints. An insight of historical bars reads no clock.
    """

    as_of: UtcTime | None = None
    data_age_seconds: Annotated[float, Field(ge=0.0)] | None = None  # as_of less known_at
    bars_stale: bool | None = None
    trained_until: UtcTime | None = None  # close of the last training bar
    model_age_seconds: Annotated[float, Field(ge=0.0)] | None = None  # known_at less trained_until, 0 inside
    model_stale: bool | None = None
    in_training_span: bool | None = None  # the model has learned from this bar
    gap_bars: Annotated[int, Field(ge=0)] = 0  # grid steps without a bar just before this one
    notes: list[str] = []


class Insight(_Part):
    """Everything mlkit says about one closed bar: patterns, prices, signals.

    ``timestamp`` is the bar's **open** time in UTC (ISO, no offset); everything here is known at its
    close, ``known_at``. Horizons (the keys of ``price_predictions``) count bars.

    ``confidence`` is that of the leading signal, `signals[0]`: the probability that the price moves its way.
    The strongest BUY or SELL leads when they all point one way, the strongest HOLD when there is none. It is
    ``None``, with the reason in ``reasons``, when BUY and SELL contradict each other or nothing was measured.
    """

    symbol: str
    timeframe: str
    patterns: PatternReading = PatternReading()
    price_predictions: dict[str, PricePrediction] = {}
    signals: list[Signal] = []
    confidence: Probability | None = None
    timestamp: UtcTime
    current_price: Price
    model_status: ModelStatus = ModelStatus()
    message: str | None = None  # NOT_TRAINED unless all models answered
    freshness: Freshness = Freshness()
    known_at: UtcTime | None = None
    reasons: dict[str, str] = {}  # part -> why it is empty
    bundle: str | None = None  # name of the model directory that answered

    @model_validator(mode="after")
    def _utc_without_offset(self) -> "Insight":
        checked = None if self.model_status.drift is None else self.model_status.drift.checked
        for time in (self.timestamp, self.known_at, self.freshness.as_of, self.freshness.trained_until, checked):
            if time is not None and time.tzinfo is not None:
                raise ValueError("timestamps are UTC without an offset")
        return self

    def __str__(self) -> str:
        """A few lines for a terminal."""
        from mlkit.inference.show.card import format_price

        price = format_price(self.current_price, plain=True)
        lines = [f"{self.symbol} {self.timeframe}  {self.timestamp:%Y-%m-%d %H:%M} UTC  {price}"]
        lines += [f"  {_horizon_line(h, p)}" for h, p in self.price_predictions.items()]
        if not self.price_predictions:
            lines.append(f"  prices: {self.reasons.get('price_predictions') or self.message}")
        found = ", ".join(f"{name} {p:.0%}" for name, p in self.patterns.detected.items())
        lines.append(f"  patterns: {found or self.patterns.reason or 'none detected'}")
        for signal in self.signals:
            sure = "" if signal.confidence is None else f" ({signal.confidence:.0%})"
            lines.append(f"  {signal.type:<4} {signal.source}{sure}: {signal.reason}")
        lines += [f"  note: {note}" for note in self.freshness.notes]
        return "\n".join(lines)

    def card(self, bars: "pd.DataFrame | None" = None) -> str:
        """The insight as self-contained HTML without script, with the candles of ``bars``, which end with its bar."""
        from mlkit.inference.show.card import render_card
        from mlkit.inference.show.chart_data import SHOWN, candles_of

        return render_card(self, [] if bars is None else candles_of(bars, SHOWN))

    def panel(self, bars: "pd.DataFrame | None" = None) -> Any:
        """The insight as an interactive widget, with the candles of ``bars``, which end with its bar.

        Raises DependencyError where anywidget is missing.
        """
        from mlkit.inference.show.live_panel import show_panel

        return show_panel(self, bars)

    def _repr_html_(self) -> str:
        return self.card()


def _horizon_line(horizon: str, price: PricePrediction) -> str:
    """One horizon in words: forecast, change, 90% interval, confidence, verdict."""
    from mlkit.inference.show.card import format_prices

    ahead = f"+{horizon} bar" if horizon == "1" else f"+{horizon} bars"
    if price.prediction is None or price.log_return is None:
        return f"{ahead}: {price.reason}"
    change = f"{math.expm1(price.log_return):+.2%}" if price.log_return else "no change"
    text = f"{ahead}: {format_prices(price.prediction, step=price.std, plain=True)} ({change})"
    if price.interval is not None:
        text += f", 90% in {format_prices(*price.interval, step=price.std, plain=True)}"
    if price.confidence is not None:
        text += f", P({'rise' if price.direction > 0 else 'fall'}) {price.confidence:.0%}"
    return f"{text}, {price.verdict or 'not measured'}"
