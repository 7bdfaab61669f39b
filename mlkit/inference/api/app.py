"""The application: five endpoints over one cache of insights, a health check and metrics."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mlkit import __version__
from mlkit.config import Settings
from mlkit.errors import ConfigError, DependencyError, MlkitError, TooFewBarsError
from mlkit.inference.api.bodies import body_of, render, respond
from mlkit.inference.api.insight_service import InsightService
from mlkit.inference.api.options import ServeOptions
from mlkit.inference.api.panel_page import mount_page
from mlkit.inference.api.request_guard import RequestGuard, error_response
from mlkit.inference.api.request_metrics import METRICS_CONTENT_TYPE, RequestMetrics
from mlkit.inference.api.schemas import (
    ERRORS,
    Health,
    InsightAnswer,
    PatternsAnswer,
    PricePredictionAnswer,
    SignalsAnswer,
)
from mlkit.inference.api.single_flight import BusyError
from mlkit.inference.predictor import LIVE_BARS
from mlkit.inference.readiness import StatusAnswer
from mlkit.market import TIMEFRAMES

_log = logging.getLogger("mlkit.serve")

Symbol = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9^][A-Za-z0-9._/:=^+&@-]{0,31}$", description="Such as SP500, BTCUSDT or BTC/USDT")
]
Timeframe = Annotated[
    str, Query(description="Length of one bar", json_schema_extra={"enum": list(TIMEFRAMES)}, examples=["1m"])
]
Candles = Annotated[int, Query(ge=0, le=LIVE_BARS, description="Newest bars to send along")]


def create_app(
    settings: Settings | None = None,
    options: ServeOptions | None = None,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FastAPI:
    """The ASGI application of a lake and its bundles; an insight is kept for ``ml_cache_ttl`` seconds.

    ``clock`` returns the current time with a zone, for the ages in an insight. Raises ConfigError for options that
    would open the server to other machines without a token.
    """
    settings, options = settings or Settings(), options or ServeOptions()
    token, metrics = options.token(), RequestMetrics()
    service = InsightService(settings, options, metrics, clock)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="mlkit",
        version=__version__,
        description="Patterns, price forecasts and signals at the newest bar of a market.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_endpoints(app, service, metrics)
    _add_errors(app)
    mount_page(app)
    app.add_middleware(RequestGuard, hosts=options.hosts, token=token, in_flight=options.in_flight, metrics=metrics)
    app.state.service = service
    return app


def _add_endpoints(app: FastAPI, service: InsightService, metrics: RequestMetrics) -> None:
    async def part(model: type[BaseModel], request: Request, symbol: str, timeframe: str, candles: int = 0) -> Response:
        served, kept = await service.insight(symbol, timeframe)
        return respond(request, body_of(served, model, candles), kept)

    @app.get("/api/ml/insights/{symbol:path}", response_model=InsightAnswer, responses=ERRORS)
    async def insights(request: Request, symbol: Symbol, timeframe: Timeframe = "1m", candles: Candles = 0) -> Response:
        """Everything about the newest bar of a market."""
        return await part(InsightAnswer, request, symbol, timeframe, candles)

    @app.get("/api/ml/patterns/{symbol:path}", response_model=PatternsAnswer, responses=ERRORS)
    async def patterns(request: Request, symbol: Symbol, timeframe: Timeframe = "1m") -> Response:
        """Patterns at the newest bar."""
        return await part(PatternsAnswer, request, symbol, timeframe)

    @app.get("/api/ml/price-prediction/{symbol:path}", response_model=PricePredictionAnswer, responses=ERRORS)
    async def price_prediction(request: Request, symbol: Symbol, timeframe: Timeframe = "1m") -> Response:
        """Forecasts from the newest bar."""
        return await part(PricePredictionAnswer, request, symbol, timeframe)

    @app.get("/api/ml/signals/{symbol:path}", response_model=SignalsAnswer, responses=ERRORS)
    async def signals(request: Request, symbol: Symbol, timeframe: Timeframe = "1m") -> Response:
        """Signals at the newest bar."""
        return await part(SignalsAnswer, request, symbol, timeframe)

    @app.get("/api/ml/status", response_model=StatusAnswer, responses={code: ERRORS[code] for code in (400, 401, 503)})
    async def status(request: Request) -> Response:
        """Which markets and models are here."""
        return respond(request, render((await service.status()).model_dump(mode="json")), 0)

    @app.get("/healthz", response_model=Health, responses={code: ERRORS[code] for code in (400, 503)})
    async def health() -> dict[str, str]:
        """Whether the server is up; asks for no token."""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", include_in_schema=False)
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=METRICS_CONTENT_TYPE)


def _add_errors(app: FastAPI) -> None:
    """Answer every error with the documented JSON: a reason, without path or traceback."""

    async def http(request: Request, error: Any) -> Response:
        reason = error.detail if error.status_code != 404 or error.detail != "Not Found" else "there is no such address"
        return error_response(request.state.request_id, error.status_code, reason, error.headers)

    async def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"
        return error_response(request.state.request_id, 422, reason)

    async def mlkit_error(request: Request, error: Any) -> Response:
        request_id = request.state.request_id
        if isinstance(error, ConfigError | TooFewBarsError):
            return error_response(request_id, 422, str(error))
        if isinstance(error, BusyError | DependencyError):
            wait = "1" if isinstance(error, BusyError) else "60"
            return error_response(request_id, 503, str(error), {"Retry-After": wait})
        _log.error("unreadable", extra={"fields": {"request_id": request_id, "error": str(error)}})
        reason = "the models or bars of this market cannot be read; the log of the server says why"
        return error_response(request_id, 503, reason, {"Retry-After": "30"})

    async def late(request: Request, _: Any) -> Response:
        reason = "the answer took too long and is still being made; ask again"
        return error_response(request.state.request_id, 503, reason, {"Retry-After": "1"})

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(TimeoutError, late)
    app.add_exception_handler(MlkitError, mlkit_error)
    app.add_exception_handler(OSError, mlkit_error)
