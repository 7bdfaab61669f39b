"""Drift bar by bar: ADWIN over the misses and errors of a live forecaster.

ADWIN (Bifet and Gavaldà 2007, SIAM SDM; river's implementation) keeps a window of recent values and cuts it where the
means of its two parts differ more than chance allows. It assumes independent values, so of forecasts over ``horizon``
bars only every ``horizon``-th is used: their outcomes do not overlap.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

from mlkit.errors import ConfigError, DependencyError

MIN_KEPT = 4096  # values since its last change that a detector keeps, at least
CLIP_ERROR = 4.0  # half widths of the interval at which errors are clipped


class DriftStream:
    """Two detectors: how often an interval misses, and how large the errors are in units of its half width.

    ``horizon`` is that of the forecasts in bars, ``delta`` ADWIN's confidence, an upper bound of the share of false
    cuts at one look. Raises ConfigError for a parameter out of range, DependencyError where river is missing.
    """

    def __init__(self, horizon: int = 1, *, delta: float = 0.002) -> None:
        if horizon < 1 or not 0 < delta < 1:
            raise ConfigError(f"DriftStream: horizon {horizon} must be at least 1 and delta {delta} in (0, 1)")
        self.horizon, self.delta = horizon, delta
        self._seen = 0
        # river's state cannot be saved without pickle; a detector is rebuilt from its values since its last change.
        self._values: dict[str, list[float]] = {}
        self._adwin: dict[str, Any] = {}
        for name in ("coverage", "errors"):
            self._restore(name, [])

    def _restore(self, name: str, values: list[float]) -> None:
        if len(values) >= 2 * MIN_KEPT or not all(0.0 <= value <= 1.0 for value in values):
            raise ValueError("values must lie in [0, 1], and not be more than were kept")
        try:
            from river.drift import ADWIN
        except ModuleNotFoundError as error:
            raise DependencyError("drift streams need river: pip install 'mlkit[track]'") from error
        self._values[name], self._adwin[name] = values, ADWIN(delta=self.delta)
        for value in values:
            self._adwin[name].update(value)

    def push(self, outcome: float, low: float, high: float) -> tuple[str, ...]:
        """Take the outcome of the next forecast and its interval, in bar order.

        Returns the names of the detectors that found a change at this bar, of "coverage" and "errors"; mostly ``()``.
        A bar with a NaN has no outcome.
        """
        due, self._seen = self._seen % self.horizon == 0, self._seen + 1
        half = 0.5 * (high - low)
        if not due or not math.isfinite(outcome + half) or half <= 0:
            return ()
        error = min(abs(outcome - 0.5 * (low + high)) / half, CLIP_ERROR)
        values = {"coverage": float(not low <= outcome <= high), "errors": error / CLIP_ERROR}
        found = []
        for name, value in values.items():
            kept = self._values[name]
            kept.append(value)
            self._adwin[name].update(value)
            if self._adwin[name].drift_detected:
                self._restore(name, [])
                found.append(name)
            elif len(kept) >= 2 * MIN_KEPT:
                self._restore(name, kept[-MIN_KEPT:])
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """State as plain JSON; a stream restored from it goes on exactly as this one."""
        return {"horizon": self.horizon, "delta": self.delta, "seen": self._seen, "values": dict(self._values)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore `to_dict`; ConfigError for anything else."""
        try:
            stream = cls(int(state["horizon"]), delta=float(state["delta"]))
            stream._seen = int(state["seen"])
            for name in stream._values:
                stream._restore(name, [float(value) for value in state["values"][name]])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"DriftStream: not a saved state ({error!r:.80}); start a new stream") from error
        return stream
