"""Insights, market names and status of a server, each behind a cache."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

from starlette.exceptions import HTTPException

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.inference.api.options import ServeOptions
from mlkit.inference.api.request_metrics import RequestMetrics
from mlkit.inference.api.single_flight import SingleFlightCache
from mlkit.inference.readiness import StatusAnswer, server_status
from mlkit.inference.served_markets import MarketKey, Markets, ServedInsight
from mlkit.market import available, check_symbol, timeframe_delta

NAMES_TTL = 2.0  # seconds for which the list of markets is kept
BUNDLE_TTL = 1.0  # seconds for which a bundle counts as current after it was looked up


class InsightService:
    """Answers requests from the cache, from a running computation, or by a new one."""

    def __init__(
        self, settings: Settings, options: ServeOptions, metrics: RequestMetrics, clock: Callable[[], datetime]
    ) -> None:
        self._deadline, self._metrics = options.deadline, metrics
        self.markets = Markets(settings, size=options.markets, clock=clock)
        ttl = float(settings.ml_cache_ttl)
        self.insights = SingleFlightCache[MarketKey, ServedInsight](
            self._compute,
            ttl=ttl,
            jobs=options.jobs,
            seats=options.seats,
            size=4 * options.markets,
            fresh=self._is_current,
        )
        self.statuses = SingleFlightCache[str, StatusAnswer](lambda _: server_status(settings), ttl=ttl)
        self.names = SingleFlightCache[str, frozenset[MarketKey]](
            lambda _: frozenset(available(settings)), ttl=NAMES_TTL
        )
        self._current: dict[MarketKey, float] = {}  # when a kept insight's bundle was last found to be current

    async def insight(self, symbol: str, timeframe: str) -> tuple[ServedInsight, float]:
        """The insight of a market and the seconds for which it is kept.

        Raises HTTPException 404 for a market without bars, TimeoutError after the deadline, BusyError, and the errors
        of `Markets.answer`.
        """
        key = check_symbol(symbol), timeframe
        timeframe_delta(timeframe)
        served = self.insights.kept(key)
        self._metrics.cache.labels("miss" if served is None else "hit").inc()
        if served is None:
            async with asyncio.timeout(self._deadline):
                # The list of markets is read only for a market that the last list does not hold.
                if key not in (self.names.last("names") or ()):
                    await self._find(key)
                try:
                    served = await self.insights.get(key)
                except ConfigError:
                    await self._find(key)  # 404 where its bars were deleted meanwhile
                    raise
        return served, self.insights.remaining(key)

    async def _find(self, key: MarketKey) -> None:
        """HTTPException 404 where the lake has no such market."""
        if key not in await self.names.get("names"):
            raise HTTPException(404, f"there are no bars {key[0]} {key[1]}")

    async def status(self) -> StatusAnswer:
        """Markets and models of this server."""
        async with asyncio.timeout(self._deadline):
            return await self.statuses.get("status")

    def _compute(self, key: MarketKey) -> ServedInsight:
        start = time.perf_counter()
        served = self.markets.answer(key)
        self._metrics.computing.observe(time.perf_counter() - start)
        return served

    def _is_current(self, key: MarketKey, served: ServedInsight) -> bool:
        """Whether an insight's bundle is still the current one; looked up once a second."""
        now = time.monotonic()
        if now - self._current.get(key, -BUNDLE_TTL) < BUNDLE_TTL:
            return True
        if self.markets.bundle_stamp(key) != served.bundle:
            self._current.pop(key, None)
            return False
        if len(self._current) > 1024:
            self._current.clear()
        self._current[key] = now
        return True

    def close(self) -> None:
        """Accept no more work."""
        for cache in (self.insights, self.statuses, self.names):
            cache.close()
