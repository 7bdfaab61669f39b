"""A Dask cluster for jobs over a universe of markets: one of this machine's own, or one whose scheduler is named.

Workers must compute what the caller would have: the same releases of the libraries and the same number of threads,
as a sum over threads has other last bits than a sum in one. Both are seen to before any work is sent.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlkit.errors import ConfigError, DependencyError
from mlkit.models.ensemble import DISTRIBUTIONS

PATIENCE = 15.0  # seconds to wait for a scheduler, and for its first worker
# Bits depend on them.
LIBRARIES = ("numpy", "numba", "pandas", "scipy", "arch", *DISTRIBUTIONS)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_DASKS_OWN = ("PYTHONHASHSEED", "__DASK_PARENT_PID", "MALLOC_TRIM_THRESHOLD_")  # what it sets beside them
_QUIET = {
    "distributed.worker.memory.target": False,  # nothing is spilled: what Dask spills is pickled
    "distributed.worker.memory.spill": False,
    "distributed.comm.timeouts.connect": f"{PATIENCE:g}s",
    "distributed.admin.tick.limit": "1h",  # a training may hold a worker's loop for a while
}


@contextmanager
def connect(scheduler: str | None = None, *, workers: int = 2, n_threads: int = 2) -> Iterator[Any]:
    """A Dask client whose workers compute what this process would; closed at the end of the block.

    Parameters
    ----------
    scheduler : address such as ``tcp://host:8786`` or ``tls://host:8786``; None starts a cluster on this machine
    workers : processes of the cluster on this machine
    n_threads : library threads of a worker where the caller's environment does not say how many

    Raises
    ------
    ConfigError, within `PATIENCE` seconds, where nothing answers at the address, there is no worker, or a worker
    has other versions than this machine; DependencyError where Dask is missing.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise DependencyError("several processes or machines need Dask: pip install 'mlkit[scale]'") from error
    if scheduler is not None:
        with dask.config.set(_QUIET):
            _check_certificates(scheduler)
            with _told(scheduler):
                client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
            with client:
                _check_workers(client, scheduler)
                yield client
        return
    names = {name: os.environ.get(name, str(n_threads)) for name in _THREADS}
    held = {name: os.environ.get(name) for name in (*_THREADS, *_DASKS_OWN)}
    try:
        with (
            dask.config.set(_QUIET | {"distributed.nanny.pre-spawn-environ": names}),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                silence_logs=_CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
    finally:  # Dask sets the workers' variables in this process too
        for name, value in held.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


_CRITICAL = 50  # of logging: a worker that dies is told by its results


@contextmanager
def _told(scheduler: str) -> Iterator[None]:
    """A scheduler that does not answer, as one ConfigError."""
    try:
        yield
    except (OSError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigError(
            f"scheduler {scheduler}: no answer ({reason}); start one with `dask scheduler`, or leave --scheduler out"
        ) from error


def _check_certificates(scheduler: str) -> None:
    from distributed.security import Security

    if scheduler.startswith("tls://") and Security().get_connection_args("client").get("ssl_context") is None:
        raise ConfigError(
            f"scheduler {scheduler}: TLS needs certificates; set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"
        )


def versions() -> dict[str, str]:
    """Releases of the libraries that bits depend on, of this process."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name.removesuffix("-cpu")] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _check_workers(client: Any, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise ConfigError(f"scheduler {scheduler}: has no worker; start some with `dask worker {scheduler}`") from error
    ours = versions()
    try:
        theirs: dict[str, dict[str, str]] = client.run(versions)
    except ImportError as error:
        raise ConfigError(f"scheduler {scheduler}: a worker cannot import mlkit ({error}); install it there") from error
    for worker, found in theirs.items():
        other = sorted(name for name in ours.keys() | found.keys() if ours.get(name) != found.get(name))
        if other:
            name = other[0]
            raise ConfigError(
                f"worker {worker} has {name} {found.get(name, 'not')}, this machine {ours.get(name, 'has not')}: its "
                "results would differ; install the same constraints.txt everywhere"
            )
