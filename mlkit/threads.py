"""One BLAS thread during a fit, so that its results do not depend on the number of threads."""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def one_blas_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a fit so that it gives the same bits for any number of threads.

    BLAS splits a long sum among its threads, which changes the last digits. While the function runs, the whole
    process has one BLAS thread; the threads of OpenMP, which the libraries of trees use, stay as they are.
    """

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        from threadpoolctl import threadpool_limits

        with suppress(ImportError):
            import scipy.linalg  # noqa: F401  it has a BLAS of its own, which must be loaded before the limit is set
        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
