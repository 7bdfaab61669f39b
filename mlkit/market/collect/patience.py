"""Another attempt after a request that failed: exponential waits, and the Retry-After of a server."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import tenacity

_T = TypeVar("_T")


class TemporaryError(Exception):
    """A request failed, and another attempt may succeed; ``after``: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Patience:
    """How often and after which waits a failed request is made again.

    ``attempts`` in all, with waits of ``first * 2**k`` seconds up to ``most``, each shortened by up to half at random
    so that many clients do not return at once. A Retry-After of the server is waited out when it is at most
    ``longest`` seconds, and ends the collection when it is longer.
    """

    attempts: int = 8
    first: float = 1.0
    most: float = 60.0
    longest: float = 600.0

    def call(
        self,
        request: Callable[[], _T],
        sleep: Callable[[float], None],
        notice: Callable[[str], None],
        retry_on: tuple[type[Exception], ...] = (TemporaryError,),
    ) -> _T:
        """The answer to ``request``, made again after an error of ``retry_on``; the last such error is raised.

        ``notice`` is called before each wait with its reason and length.
        """
        exponential = tenacity.wait_exponential(multiplier=self.first, max=self.most)

        def wait(state: tenacity.RetryCallState) -> float:
            shortened = exponential(state) * random.uniform(0.5, 1.0)
            return max(shortened, getattr(_error(state), "after", None) or 0.0)

        def before_sleep(state: tenacity.RetryCallState) -> None:
            following = f"attempt {state.attempt_number + 1} of {self.attempts} in {state.upcoming_sleep:,.1f} s"
            notice(f"{_error(state)}; {following}")

        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=wait,
            retry=tenacity.retry_if_exception_type(retry_on),
            sleep=sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        return attempts(request)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by the header Retry-After, a number or an HTTP date (RFC 9110, 10.2.3)."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None  # unreadable: the exponential wait is used


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
