"""Prometheus metrics of a server; with several worker processes, `/metrics` of any of them covers all."""

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector  # type: ignore[no-untyped-call,unused-ignore]

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # must be set before prometheus_client is imported
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RequestMetrics:
    """Counts and durations of requests and computations."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        of: Any = {"registry": self._registry, "namespace": "mlkit"}
        self.requests = Counter("requests", "Requests answered", ["route", "status"], **of)
        self.seconds = Histogram("request_seconds", "Time to answer", ["route"], buckets=_SECONDS, **of)
        self.cache = Counter("cache_lookups", "Insights from the cache or not", ["result"], **of)
        self.computing = Histogram("compute_seconds", "Time to compute an insight", buckets=_SECONDS, **of)
        self.refused = Counter("refused", "Requests turned away", ["why"], **of)

    def text(self) -> bytes:
        """The metrics in the text format of Prometheus."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call,unused-ignore]
        return generate_latest(shared)
