"""Inspect a bundle from somebody else in a child process with limits on memory and time.

Digests first, then the arrays that forecasts are made from, then each library with its own file, which attributions
are made from: it must predict what the arrays do. XGBoost and LightGBM crash the process on some files; here that is
one line of refusal.

:func:`main` runs in the child. It prints one JSON object a line: ``{"step": ...}`` before each step and
``{"found": ...}`` or ``{"refused": ...}`` at the end.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import BundleError, MlkitError
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.ensemble.learners import LEARNERS
from mlkit.models.ensemble.settings import Float32Matrix
from mlkit.models.ensemble.trees import Trees, stump
from mlkit.models.patterns.cnn import parse_cnn

PROBES = 256  # rows on which a library and mlkit must agree


def inspect_bundle(folder: Path | str, *, seconds: int = 120, megabytes: int = 2048) -> dict[str, Any]:
    """Verify a bundle in a child process; BundleError in one line whatever its files do.

    Parameters
    ----------
    folder : of the bundle.
    seconds : for everything, the imports of the libraries included.
    megabytes : of memory, beyond what the libraries take by being imported.

    Returns
    -------
    ``path`` of the bundle, its ``files`` (number), ``market``, ``trees`` (number), ``read_alike`` (libraries
    that predict the same from their own files) and ``not_installed`` (libraries that could not be asked).
    """
    root = str(Path(__file__).parents[3])
    # Not -m: that would import from the working directory, whose files may be hostile too.
    code = f"import sys; sys.path.append({root!r}); from mlkit.models.bundle.inspection import main; main()"
    command = [sys.executable, "-P", "-c", code, str(folder), str(seconds), str(megabytes)]
    return _watch(command, Path(folder), seconds)


def _watch(command: Sequence[str], folder: Path, seconds: int) -> dict[str, Any]:
    """Run the child; its last line, a crash or a timeout becomes the result or a BundleError."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, env=os.environ | threads, **pipes)
    late = False
    try:
        out, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        late = True
        child.kill()
        out, _ = child.communicate()
    lines = [json.loads(line) for line in out.decode(errors="replace").splitlines() if line.startswith("{")]
    step = next((line["step"] for line in reversed(lines) if "step" in line), "the start")
    last = lines[-1] if lines else {}
    if "refused" in last:
        raise BundleError(last["refused"])
    if late or child.returncode == -signal.SIGXCPU:
        raise _unsafe(folder, f"{step} takes more than {seconds} seconds")
    if child.returncode or "found" not in last:
        how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit {child.returncode}"
        raise _unsafe(folder, f"{step} crashes the process ({how})")
    return dict(last["found"])


def main() -> None:
    """Inspect the bundle that the arguments name: folder, seconds, megabytes."""
    folder, seconds, megabytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _print(step="starting")
    warm_up()
    try:
        with _limited(seconds, megabytes):
            bundle = _open(folder)
        _print(step="importing the libraries")
        readers, missing = _readers()
        with _limited(seconds, megabytes):
            found = _compare(bundle, readers)
    except MlkitError as error:
        _print(refused=str(error))
    except MemoryError:
        _print(refused=str(_unsafe(folder, f"needs more than {megabytes} MB of memory")))
    else:
        _print(found=found | {"not_installed": missing})


def warm_up() -> None:
    """Load or compile the prediction of trees while files, and so numba's cache, can still be written."""
    Trees.join([stump()]).predict(np.zeros((1, 1), dtype=np.float32))


def _open(folder: Path) -> ModelBundle:
    """Check the digests, then read the models with mlkit's own readers."""
    _print(step="checking the digests")
    bundle = ModelBundle.open(folder)
    _print(step="reading the models")
    _ = bundle.price  # kept in the bundle
    if bundle.cnn_file is not None:
        parse_cnn(bundle.cnn_file, bundle.path / "cnn.safetensors")
    return bundle


def _compare(bundle: ModelBundle, readers: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """Let each library predict from its own file; what the bundle holds, or BundleError where predictions differ."""
    price, alike = bundle.price, []
    for name, learner in price.learners.items() if price else ():
        if name not in readers:
            continue
        X = _probes(learner.trees.nodes, learner.trees.n_features)
        expected = learner.predict(X)
        for column, (file, data) in enumerate(learner.native_files.items()):
            _print(step=f"{name} reading {file}")
            predicted = _ask(name, readers[name], data, X)
            if not np.array_equal(predicted, expected[:, column]):
                raise BundleError(f"{file}: {name} finds other trees in it than mlkit; do not use the bundle")
        alike.append(name)
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "files": len(manifest.files),
        "market": f"{manifest.symbol} {manifest.timeframe}",
        "trees": sum(sum(learner.rounds) for learner in price.learners.values()) if price else 0,
        "read_alike": alike,
    }


def _ask(name: str, read: Callable[..., Any], data: bytes, X: Float32Matrix) -> Any:
    """Prediction of a library; whatever it raises is a refusal, since each has errors of its own."""
    try:
        return read(data, X)
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{name} refuses its file ({type(error).__name__}: {reason}); do not use the bundle"
        ) from error


def _probes(nodes: Any, n_features: int) -> Float32Matrix:
    """Rows whose every feature is a threshold of the model or the next number on either side of one."""
    rng = np.random.default_rng(0)
    X = np.zeros((PROBES, n_features), dtype=np.float32)
    inner = np.isfinite(nodes["threshold"])
    for feature in np.unique(nodes["feature"][inner]):
        near = nodes["threshold"][inner & (nodes["feature"] == feature)]
        near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
        X[:, feature] = rng.choice(near[np.isfinite(near)], PROBES)
    return X


def _readers() -> tuple[dict[str, Callable[..., Any]], list[str]]:
    """How each library predicts from its own file, imported, and the names of those that are not installed."""
    readers: dict[str, Callable[..., Any]] = {}
    missing = []
    for name, learner in LEARNERS.items():
        if not learner.native:
            continue
        try:
            import_module(learner.module)
            readers[name] = learner.native_predictions
        except ImportError:
            missing.append(name)
    return readers, missing


@contextmanager
def _limited(seconds: int, megabytes: int) -> Iterator[None]:
    """Limit memory and processor time; allow no core dump and no written file."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: 0}
    with suppress(OSError):  # without /proc the memory in use is unknown, and not limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + megabytes * 2**20
    before = {kind: resource.getrlimit(kind) for kind in limits}
    for kind, most in limits.items():
        hard = before[kind][1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield
    finally:
        for kind, held in before.items():
            resource.setrlimit(kind, held)


def _unsafe(folder: Path, what: str) -> BundleError:
    return BundleError(f"bundle {folder}: {what}; do not use it")


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)
