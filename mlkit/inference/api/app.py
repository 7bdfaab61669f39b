"""The application: five endpoints over one cache of insights, a health check and metrics."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mlkit import __version__
from mlkit.config import Settings
from mlkit.errors import ConfigError, DependencyError, MlkitError, TooFewBarsError
from mlkit.inference.api.bodies import body_of, render, respond
from mlkit.inference.api.limits import Guard, error_body
from mlkit.inference.api.options import ServeOptions
from mlkit.inference.api.panel_page import mount_page
from mlkit.inference.api.request_metrics import CONTENT_TYPE, Metrics
from mlkit.inference.api.schemas import (
    ERRORS,
    Health,
    InsightAnswer,
    PatternsAnswer,
    PricePredictionAnswer,
    SignalsAnswer,
)
from mlkit.inference.api.shared import BusyError, Shared
from mlkit.inference.predictor import LIVE_BARS
from mlkit.inference.readiness import StatusAnswer, server_status
from mlkit.inference.served_markets import MarketKey, Markets, ServedInsight
from mlkit.market import TIMEFRAMES, check_symbol, timeframe_delta

NAMES_TTL = 2.0  # seconds for which the list of markets is kept
LOOK_AGAIN = 1.0  # seconds between two looks at which bundle is current
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
    """The ASGI application.

    Parameters
    ----------
    settings : names the lake and the bundles, and how long an insight is kept (``ml_cache_ttl``).
    options : who may ask, and how much work is taken on.
    clock : time with a zone, for the ages in an answer.

    Raises ConfigError for options that would open the server to others without a token.
    """
    settings, options = settings or Settings(), options or ServeOptions()
    token, metrics = options.token(), Metrics()
    desk = Desk(settings, options, metrics, clock)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="mlkit",
        version=__version__,
        description="Patterns, price forecasts and signals at the newest bar of a market.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_endpoints(app, desk, metrics)
    _add_errors(app)
    mount_page(app)
    app.add_middleware(Guard, hosts=options.hosts, token=token, in_flight=options.in_flight, metrics=metrics)
    app.state.desk = desk
    return app


class Desk:
    """Where requests for insights are answered: from the cache, by a computation that runs, or by a new one."""

    def __init__(
        self, settings: Settings, options: ServeOptions, metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        self._deadline, self._metrics = options.deadline, metrics
        self.markets = Markets(settings, size=options.markets, clock=clock)
        ttl = float(settings.ml_cache_ttl)
        self.insights: Shared[MarketKey, ServedInsight] = Shared(
            self._compute, self._current, ttl=ttl, jobs=options.jobs, seats=options.seats, size=4 * options.markets
        )
        self.statuses: Shared[str, StatusAnswer] = Shared(
            lambda _: server_status(settings), lambda *_: True, ttl=ttl, jobs=1, seats=0, size=1
        )
        self._names: Shared[str, frozenset[MarketKey]] = Shared(
            lambda _: self.markets.names(), lambda *_: True, ttl=NAMES_TTL, jobs=1, seats=0, size=1
        )
        self._looked: dict[MarketKey, tuple[float, bool]] = {}

    async def insight(self, symbol: str, timeframe: str) -> tuple[ServedInsight, float]:
        """The answer of a market and the seconds it is kept; the errors of `Shared.get`, of the market, a timeout."""
        key = check_symbol(symbol), timeframe
        timeframe_delta(timeframe)
        answer = self.insights.kept(key)
        self._metrics.cache.labels("miss" if answer is None else "hit").inc()
        if answer is None:
            async with asyncio.timeout(self._deadline):
                if key not in (self._names.last("names") or ()):  # one that was there before need not be looked for
                    await self._find(key)
                try:
                    answer = await self.insights.get(key)
                except ConfigError:
                    await self._find(key)  # it has gone
                    raise
        return answer, self.insights.remaining(key)

    async def _find(self, key: MarketKey) -> None:
        """Look for a market in the lake; HTTPException 404 where it is not."""
        if key not in await self._names.get("names"):
            raise HTTPException(404, f"there are no bars {key[0]} {key[1]}")

    async def status(self) -> StatusAnswer:
        """What this server can answer."""
        async with asyncio.timeout(self._deadline):
            return await self.statuses.get("status")

    def _compute(self, key: MarketKey) -> ServedInsight:
        begun = time.perf_counter()
        answer = self.markets.answer(key)
        self._metrics.computing.observe(time.perf_counter() - begun)
        return answer

    def _current(self, key: MarketKey, answer: ServedInsight) -> bool:
        """Whether an answer's bundle is still the current one; looked up once a second."""
        now = time.monotonic()
        looked = self._looked.get(key)
        if looked is not None and now - looked[0] < LOOK_AGAIN and looked[1]:
            return True
        same = self.markets.bundle_stamp(key) == answer.bundle
        if len(self._looked) > 1024:
            self._looked.clear()
        self._looked[key] = now, same
        return same

    def close(self) -> None:
        """Stop taking work."""
        for shared in (self.insights, self.statuses, self._names):
            shared.close()


def _add_endpoints(app: FastAPI, desk: Desk, metrics: Metrics) -> None:
    async def part(name: str, request: Request, symbol: str, timeframe: str, candles: int = 0) -> Response:
        answer, kept = await desk.insight(symbol, timeframe)
        return respond(request, body_of(answer, name, candles), kept)

    @app.get("/api/ml/insights/{symbol:path}", response_model=InsightAnswer, responses=ERRORS)
    async def insights(request: Request, symbol: Symbol, timeframe: Timeframe = "1m", candles: Candles = 0) -> Response:
        """Everything about the newest bar of a market."""
        return await part("insights", request, symbol, timeframe, candles)

    @app.get("/api/ml/patterns/{symbol:path}", response_model=PatternsAnswer, responses=ERRORS)
    async def patterns(request: Request, symbol: Symbol, timeframe: Timeframe = "1m") -> Response:
        """Patterns at the newest bar."""
        return await part("patterns", request, symbol, timeframe)

    @app.get("/api/ml/price-prediction/{symbol:path}", response_model=PricePredictionAnswer, responses=ERRORS)
    async def price_prediction(request: Request, symbol: Symbol, timeframe: Timeframe = "1m") -> Response:
        """Forecasts from the newest bar."""
        return await part("price-prediction", request, symbol, timeframe)

    @app.get("/api/ml/signals/{symbol:path}", response_model=SignalsAnswer, responses=ERRORS)
    async def signals(request: Request, symbol: Symbol, timeframe: Timeframe = "1m") -> Response:
        """Signals at the newest bar."""
        return await part("signals", request, symbol, timeframe)

    @app.get("/api/ml/status", response_model=StatusAnswer, responses=_errors(400, 401, 503))
    async def status(request: Request) -> Response:
        """Which markets and models are here."""
        return respond(request, render((await desk.status()).model_dump(mode="json")), 0)

    @app.get("/healthz", response_model=Health, responses=_errors(400, 503))
    async def health() -> dict[str, str]:
        """Whether the server is up; asks for no token."""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", include_in_schema=False)
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: ERRORS[code] for code in codes}


def _add_errors(app: FastAPI) -> None:
    """Every error as the one document: a reason, and no path or traceback."""

    def failed(request: Request, status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
        body = error_body(reason, status, request.state.request_id)
        return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")

    async def http(request: Request, error: Any) -> Response:
        reason = error.detail if error.status_code != 404 or error.detail != "Not Found" else "there is no such address"
        return failed(request, error.status_code, reason, error.headers)

    async def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        return failed(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    async def ours(request: Request, error: Any) -> Response:
        if isinstance(error, ConfigError | TooFewBarsError):
            return failed(request, 422, str(error))
        if isinstance(error, BusyError | DependencyError):
            return failed(request, 503, str(error), {"Retry-After": "1" if isinstance(error, BusyError) else "60"})
        fields = {"request_id": request.state.request_id, "error": str(error)}
        _log.error("unreadable", extra={"fields": fields})
        reason = "the models or bars of this market cannot be read; the log of the server says why"
        return failed(request, 503, reason, {"Retry-After": "30"})

    async def late(request: Request, _: Any) -> Response:
        return failed(request, 503, "the answer took too long and is still being made; ask again", {"Retry-After": "1"})

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(TimeoutError, late)
    app.add_exception_handler(MlkitError, ours)
    app.add_exception_handler(OSError, ours)
