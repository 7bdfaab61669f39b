"""A Dask cluster for jobs over a universe of markets: processes of this machine, or the workers of a given scheduler.

Workers must compute the bits that the caller would compute: they need the same versions of the libraries and the same
number of threads, since the last bits of a sum depend on how it is split. Both are ensured before any work is sent.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlkit.errors import ConfigError, DependencyError
from mlkit.models.ensemble import DISTRIBUTIONS

CONNECT_TIMEOUT = 15.0  # seconds to wait for a scheduler, and for its first worker
# Distributions whose versions decide the bits of a result.
CHECKED_LIBRARIES = ("numpy", "numba", "pandas", "scipy", "arch", *DISTRIBUTIONS)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_SET_BY_DASK = ("PYTHONHASHSEED", "__DASK_PARENT_PID", "MALLOC_TRIM_THRESHOLD_")
_OPTIONS = {
    "distributed.worker.memory.target": False,  # no spilling to disk: it would be pickled
    "distributed.worker.memory.spill": False,
    "distributed.comm.timeouts.connect": f"{CONNECT_TIMEOUT:g}s",
    "distributed.admin.tick.limit": "1h",  # no warning while a training blocks a worker's loop
}


@contextmanager
def connect(scheduler: str | None = None, *, workers: int = 2, n_threads: int = 2) -> Iterator[Any]:
    """A Dask client whose workers compute the bits that this process would; closed at the end of the block.

    Parameters
    ----------
    scheduler : address such as ``tcp://host:8786`` or ``tls://host:8786``; None starts a cluster on this machine
    workers : processes of the cluster on this machine
    n_threads : library threads of a worker where the caller's environment does not set them

    Raises ConfigError, within `CONNECT_TIMEOUT` seconds, where nothing answers at the address, there is no worker, or a
    worker has other versions than this machine; DependencyError where Dask is missing.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
        from distributed.security import Security
    except ImportError as error:
        raise DependencyError("several processes or machines need Dask: pip install 'mlkit[scale]'") from error
    if scheduler is not None:
        with dask.config.set(_OPTIONS):
            if scheduler.startswith("tls://") and Security().get_connection_args("client").get("ssl_context") is None:
                raise ConfigError(
                    f"scheduler {scheduler}: TLS needs certificates; set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
                    "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY"
                )
            try:
                client = Client(scheduler, timeout=CONNECT_TIMEOUT, set_as_default=False)
            except (OSError, ValueError, TimeoutError) as error:
                reason = " ".join(str(error).split())[:160] or type(error).__name__
                raise ConfigError(
                    f"scheduler {scheduler}: no answer ({reason}); start one with `dask scheduler`, or leave "
                    "--scheduler out"
                ) from error
            with client:
                _check_workers(client, scheduler)
                yield client
        return
    names = {name: os.environ.get(name, str(n_threads)) for name in _THREADS}
    held = {name: os.environ.get(name) for name in (*_THREADS, *_SET_BY_DASK)}
    try:
        with (
            dask.config.set(_OPTIONS | {"distributed.nanny.pre-spawn-environ": names}),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,  # the results say which worker died
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
    finally:  # Dask sets the workers' variables in this process too
        for name, value in held.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def versions() -> dict[str, str]:
    """Versions of the libraries that decide the bits of a result, in this process."""
    found = {}
    for name in CHECKED_LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name.removesuffix("-cpu")] = version(name)
    return found


def _check_workers(client: Any, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT)
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
