"""The same computation for many symbols at once, in threads: the kernels release the GIL."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from mlkit.errors import DependencyError, MlkitError

if TYPE_CHECKING:
    import pandas as pd

FEW = 4  # symbols that need no progress bar


def each_symbol(
    build: Callable[["pd.DataFrame"], "pd.DataFrame"],
    bars: Mapping[str, "pd.DataFrame"],
    progress: bool | None = None,
) -> dict[str, "pd.DataFrame"]:
    """``build`` of every symbol's bars, over all cores; equal to calling it for one after the other.

    Parameters
    ----------
    build : callable, bars to a frame
    bars : {symbol: DataFrame (n_bars, 5)}
    progress : whether to show a bar; by default for more than 4 symbols where standard error is a terminal

    Returns
    -------
    {symbol: frame} in the order of ``bars``.

    Raises
    ------
    What ``build`` raises, naming the symbol; DependencyError for ``progress=True`` without tqdm.
    """
    if not bars:
        return {}
    build(next(iter(bars.values())).iloc[:1])  # compiles, where that is still to do, once and not in each thread
    with ThreadPoolExecutor(min(len(bars), _cores())) as pool:
        jobs = {pool.submit(build, frame): symbol for symbol, frame in bars.items()}
        try:
            for job in _watched(as_completed(jobs), len(jobs), progress):
                _result(job, jobs[job])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {symbol: job.result() for job, symbol in jobs.items()}


def _result(job: "Future[pd.DataFrame]", symbol: str) -> None:
    try:
        job.result()
    except MlkitError as error:
        if str(error).startswith(f"{symbol} "):
            raise
        raise type(error)(f"{symbol}: {error}") from error


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watched(
    jobs: "Iterable[Future[pd.DataFrame]]", total: int, progress: bool | None
) -> "Iterable[Future[pd.DataFrame]]":
    if progress is None:
        progress = total > FEW and sys.stderr.isatty()
    if not progress:
        return jobs
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise DependencyError("a progress bar needs tqdm: pip install 'mlkit[lab]', or progress=False") from error
    watched: Iterable[Future[pd.DataFrame]] = tqdm(jobs, total=total, desc="features", unit="symbol")
    return watched
