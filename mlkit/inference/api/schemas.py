"""The documents of the endpoints, as OpenAPI shows them."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from mlkit.inference.insight_data import (
    Freshness,
    InsightData,
    ModelStatus,
    PatternReading,
    Price,
    PricePrediction,
    Probability,
    Signal,
    UtcTime,
)
from mlkit.inference.show.chart_data import CandleRow, PatternMark


class InsightAnswer(InsightData):
    """An insight, and the newest bars with their patterns where they were asked for."""

    candles: list[CandleRow] | None = None  # [epoch seconds of the open, open, high, low, close, volume], oldest first
    marks: list[PatternMark] | None = None  # [epoch seconds, pattern, direction] of each pattern detected at these bars


class InsightPart(BaseModel):
    """The fields that every part of an insight repeats: bar, models, ages."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    symbol: str
    timeframe: str
    timestamp: UtcTime
    known_at: UtcTime | None
    current_price: Price
    model_status: ModelStatus
    message: str | None
    freshness: Freshness
    reasons: dict[str, str]
    bundle: str | None


class PatternsAnswer(InsightPart):
    """Patterns at the newest bar."""

    patterns: PatternReading


class PricePredictionAnswer(InsightPart):
    """Forecasts from the newest bar."""

    price_predictions: dict[str, PricePrediction]


class SignalsAnswer(InsightPart):
    """Signals at the newest bar, the leading one first, and the confidence of that one."""

    signals: list[Signal]
    confidence: Probability | None


class Health(BaseModel):
    """The server is up."""

    status: str = "ok"
    version: str


class ErrorDetail(BaseModel):
    """Why there is no answer."""

    reason: str
    status: int
    request_id: str


class ErrorAnswer(BaseModel):
    """The document of every error."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in (
        (400, "The Host header is not one that this server answers to."),
        (401, "The token is missing or wrong."),
        (404, "There are no bars of this symbol and timeframe."),
        (422, "The symbol or a parameter is not well-formed, or there are too few bars."),
        (503, "Busy, or the models or bars cannot be read; see Retry-After."),
    )
}
