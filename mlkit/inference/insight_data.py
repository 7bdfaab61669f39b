"""The documented JSON of an insight as frozen models that refuse NaN and infinity; `Insight` adds the ways to show it.

`model_dump()` and `model_dump(mode="json")` give the same plain dict, the documented response. A number that does not
exist is ``None``, with the reason beside it (`reason` of a part, or `reasons`).
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from mlkit.models.bundle import PatternEvidence

NOT_TRAINED = "Models not trained yet"
# A forecast whose log return exceeds this (a factor of 22,000) is refused: exp() of it is no price.
MAX_LOG_RETURN = 10.0


def _without_zone(time: datetime) -> datetime:
    if time.tzinfo is not None:
        raise ValueError("timestamps are UTC without an offset")
    return time


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Price = Annotated[float, Field(gt=0.0)]
PriceInterval = Annotated[tuple[Price, Price], PlainSerializer(list, return_type=list[float])]
Strongest = Annotated[tuple[str, Probability], PlainSerializer(list, return_type=list[Any])]
UtcTime = Annotated[
    datetime,
    AfterValidator(_without_zone),
    PlainSerializer(lambda time: time.isoformat(timespec="seconds"), return_type=str),
]
SignalType = Literal["BUY", "SELL", "HOLD"]
EdgeVerdict = Literal["edge", "no edge"]  # measured out of sample, after costs


class _Part(BaseModel):
    """Base of all parts: frozen, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class PatternReading(_Part):
    """Output of the pattern CNN for the window that ends at this bar.

    ``detected`` holds the probabilities that reach the threshold of their pattern, highest first. A probability is
    that of the *shape*, not of a later price move; ``evidence`` measures the latter.
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

    ``prediction`` is ``current_price * exp(log_return)``, and so are the members. ``confidence`` is the calibrated
    probability that the direction of ``prediction`` is right: ``p_up`` for a rise, ``1 - p_up`` for a fall, the larger
    of the two where the forecast is no change. Below 0.5 the calibrated probability contradicts the point forecast.
    ``std`` is that of a log-normal price with the standard deviation of the log return; ``interval`` covers 90 %,
    ``interval_80`` 80 %. A further learner of the ensemble is one more key beside ``random_forest``, and one more
    attribute.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Price | None]

    prediction: Price | None = None
    xgboost: Price | None = None
    lightgbm: Price | None = None
    random_forest: Price | None = None
    confidence: Probability | None = None
    std: Annotated[float, Field(ge=0.0)] | None = None
    interval: PriceInterval | None = None
    interval_80: PriceInterval | None = None
    p_up: Probability | None = None
    log_return: float | None = None
    verdict: EdgeVerdict | None = None  # measured out of sample when the bundle was trained
    reason: str | None = None  # why a number of this horizon is missing

    @property
    def members(self) -> dict[str, float]:
        """Price that each learner predicts, by its name; those of weight 0 are left out."""
        found = {"xgboost": self.xgboost, "lightgbm": self.lightgbm, "random_forest": self.random_forest}
        found |= self.__pydantic_extra__
        return {name: price for name, price in found.items() if price is not None}

    @property
    def direction(self) -> int:
        """Direction that ``confidence`` refers to: +1 a rise, -1 a fall, 0 without a forecast."""
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
        verdict: EdgeVerdict | None = None,
    ) -> Self:
        """The distribution of a log return in units of the price, from the close of the bar.

        ``distribution`` holds log_return, std, lo80, hi80, lo90, hi90 (log returns) and p_up (probability), and
        ``members`` the log return of each learner. NaN, or a number beyond any price, gives an empty prediction with
        its reason.
        """
        moves = [value for name, value in distribution.items() if name != "p_up"]
        if not all(map(math.isfinite, distribution.values())):
            return cls(verdict=verdict, reason="no forecast: the features of this bar are not all known")
        if max(map(abs, [*moves, *members.values()])) > MAX_LOG_RETURN:
            return cls(verdict=verdict, reason="no forecast: it lies beyond any price")
        move, sigma, p_up = (distribution[name] for name in ("log_return", "std", "p_up"))
        prediction = price * math.exp(move)
        low80, high80, low90, high90 = (
            price * math.exp(distribution[name]) for name in ("lo80", "hi80", "lo90", "hi90")
        )
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
    """One trading signal with its source and reason.

    ``confidence`` is the probability that the price moves in the direction of the evidence: for a pattern the hit rate
    measured on the training bars, for a price forecast the calibrated probability of its direction. It is ``None``
    where nothing was measured; such evidence is a HOLD.
    """

    type: SignalType
    source: str
    reason: str
    confidence: Probability | None


class Drift(_Part):
    """Last result of `mlkit drift`: whether the market still resembles the training bars."""

    verdict: Literal["drift", "no drift", "not enough bars"]
    checked: UtcTime  # close of the newest bar in the check
    reasons: list[str] = []  # what drifted, or the findings


class ModelStatus(_Part):
    """Which models were used, and why one was not; ``models_loaded`` means all of them."""

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
    """Ages of the bar and the model; ``notes`` state in words what is stale.

    The fields that need the current time (``as_of``, ``data_age_seconds``, ``bars_stale``) are set by `mlkit.insights`,
    the command line and the endpoints only. `Predictor.insight` leaves them empty: it depends on the bars alone.
    """

    as_of: UtcTime | None = None
    data_age_seconds: Annotated[float, Field(ge=0.0)] | None = None  # as_of less known_at
    bars_stale: bool | None = None
    trained_until: UtcTime | None = None  # close of the last training bar
    model_age_seconds: Annotated[float, Field(ge=0.0)] | None = None  # known_at less trained_until, 0 inside
    model_stale: bool | None = None
    in_training_span: bool | None = None  # this bar is one of the training bars
    gap_bars: Annotated[int, Field(ge=0)] = 0  # grid steps without a bar just before this one
    notes: list[str] = []


class InsightData(_Part):
    """Patterns, price forecasts and signals of one closed bar.

    ``timestamp`` is the bar's **open** time in UTC (ISO, no offset); all fields are known at its close, ``known_at``.
    Horizons (the keys of ``price_predictions``) count bars.

    ``confidence`` is that of the leading signal, `signals[0]`: the probability that the price moves in its direction.
    The strongest BUY or SELL leads when all of them agree, the strongest HOLD when there is none. It is ``None``, with
    the reason in ``reasons``, when BUY and SELL contradict each other or nothing was measured.
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
    message: str | None = None  # NOT_TRAINED unless all models are loaded
    freshness: Freshness = Freshness()
    known_at: UtcTime | None = None
    reasons: dict[str, str] = {}  # part -> why it is empty
    bundle: str | None = None  # name of the model directory that was used
