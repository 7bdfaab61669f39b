"""A cache that computes a missing value once, in a bounded thread pool, however many requests wait for it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from mlkit.errors import MlkitError

CacheKey = TypeVar("CacheKey", bound=Hashable)
Cached = TypeVar("Cached")
# Seconds for which an error is kept, so that a market that fails cannot keep the pool busy.
ERROR_TTL = 1.0


class BusyError(MlkitError):
    """All threads are computing and the queue before them is full."""


class _Entry(NamedTuple, Generic[Cached]):
    value: Cached | None
    error: BaseException | None
    expires: float


class SingleFlightCache(Generic[CacheKey, Cached]):
    """Values by key, each computed by one thread; used from one event loop.

    Parameters
    ----------
    compute : called in the thread pool, never twice at a time for one key.
    ttl : seconds for which a value is kept.
    jobs, seats : computations at a time, and those that may wait; one more is refused.
    size : values kept; those unused for longest are dropped.
    fresh : whether a kept value still holds; called in the event loop before each use, so it must be quick.
    """

    def __init__(
        self,
        compute: Callable[[CacheKey], Cached],
        *,
        ttl: float,
        jobs: int = 1,
        seats: int = 0,
        size: int = 1,
        fresh: Callable[[CacheKey, Cached], bool] = lambda *_: True,
    ) -> None:
        self._compute, self._fresh = compute, fresh
        self._ttl, self._jobs, self._room, self._size = ttl, jobs, jobs + seats, size
        # Created when first needed: an application may be started again after `close`.
        self._pool: ThreadPoolExecutor | None = None
        self._entries: OrderedDict[CacheKey, _Entry[Cached]] = OrderedDict()
        self._flights: dict[CacheKey, asyncio.Future[Cached]] = {}
        self.computed = self.refused = 0

    @property
    def flights(self) -> int:
        """Number of computations that run or wait."""
        return len(self._flights)

    def kept(self, key: CacheKey) -> Cached | None:
        """The value of a key where one is kept and still holds; raises a kept error."""
        entry = self._entries.get(key)
        if entry is None or time.monotonic() >= entry.expires:
            return None
        if entry.error is not None:
            raise entry.error
        if entry.value is None or not self._fresh(key, entry.value):
            return None
        self._entries.move_to_end(key)
        return entry.value

    def last(self, key: CacheKey) -> Cached | None:
        """The newest value of a key, whether or not it still holds."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def remaining(self, key: CacheKey) -> float:
        """Seconds for which the value of a key is still kept."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else max(entry.expires - time.monotonic(), 0.0)

    async def get(self, key: CacheKey) -> Cached:
        """The value of a key; BusyError where it would have to be computed and there is no room."""
        kept = self.kept(key)
        if kept is not None:
            return kept
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= self._room:
                self.refused += 1
                raise BusyError("busy: every worker is computing; ask again in a second")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._jobs, thread_name_prefix="mlkit-serve")
            flight = asyncio.get_running_loop().run_in_executor(self._pool, self._compute, key)
            self._flights[key] = flight
            self.computed += 1
            flight.add_done_callback(lambda done: self._finish(key, done))
        # Shielded: a request that gives up does not stop the computation that others wait for.
        return await asyncio.shield(flight)

    def _finish(self, key: CacheKey, flight: "asyncio.Future[Cached]") -> None:
        """Keep the value or error of a computation."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.cancelled():
            return
        error = flight.exception()
        value, ttl = (flight.result(), self._ttl) if error is None else (None, min(ERROR_TTL, self._ttl))
        self._entries[key] = _Entry(value, error, time.monotonic() + ttl)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def close(self) -> None:
        """Release the threads; running computations end by themselves, kept values stay."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        self._flights.clear()
