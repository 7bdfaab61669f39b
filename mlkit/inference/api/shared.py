"""A cache whose misses are computed once, in a bounded pool, however many wait for them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from mlkit.errors import MlkitError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
ERROR_TTL = 1.0  # seconds a failure is remembered, so that a market that fails cannot keep the pool busy


class BusyError(MlkitError):
    """Every worker computes and every seat before them is taken."""


class _Entry(NamedTuple, Generic[Value]):
    value: Value | None
    error: BaseException | None
    expires: float


class Shared(Generic[Key, Value]):
    """Values by key, each computed by one thread and kept for ``ttl`` seconds; used from one event loop.

    Parameters
    ----------
    compute : called in a pool of ``jobs`` threads, never twice at a time for one key.
    fresh : whether a kept value still holds; asked before each use, so it must be quick.
    ttl : seconds.
    jobs, seats : computations at a time, and those that may wait; one more is refused at once.
    size : most values kept; those unused for longest are dropped.
    """

    def __init__(
        self,
        compute: Callable[[Key], Value],
        fresh: Callable[[Key, Value], bool],
        *,
        ttl: float,
        jobs: int,
        seats: int,
        size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute, self._fresh, self._ttl, self._clock = compute, fresh, ttl, clock
        self._room, self._size = jobs + seats, size
        self._jobs = jobs
        self._pool: ThreadPoolExecutor | None = None  # made when first needed: an application may be started again
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._flights: dict[Key, asyncio.Future[Value]] = {}
        self.hits = self.computed = self.refused = 0

    @property
    def flights(self) -> int:
        """Computations that run or wait."""
        return len(self._flights)

    def kept(self, key: Key) -> Value | None:
        """The value of a key where one is kept and still holds; a remembered failure is raised."""
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.expires:
            return None
        if entry.error is not None:
            raise entry.error
        if entry.value is None or not self._fresh(key, entry.value):
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry.value

    def last(self, key: Key) -> Value | None:
        """The newest value of a key, whether or not it still holds."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def remaining(self, key: Key) -> float:
        """Seconds for which the value of a key is kept."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else max(entry.expires - self._clock(), 0.0)

    async def get(self, key: Key) -> Value:
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
            flight.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(flight)

    def _land(self, key: Key, flight: "asyncio.Future[Value]") -> None:
        """Keep what a computation gave."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.cancelled():
            return
        error = flight.exception()
        ttl = self._ttl if error is None else min(ERROR_TTL, self._ttl)
        value = None if error is not None else flight.result()
        self._entries[key] = _Entry(value, error, self._clock() + ttl)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def close(self) -> None:
        """Let go of the threads; what runs is left to end, what is kept stays."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        self._flights.clear()
