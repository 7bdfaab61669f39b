"""Look at a bundle from a stranger: in another process, with little memory and little time.

Digests first, then the arrays that forecasts are made from, then each library with its own file, which attributions
are made from: it must predict what the arrays do. XGBoost and LightGBM crash the process on some files; here that is
one line of refusal.

Run as ``python -c "from mlkit.models.bundle.inspection import main; main()" FOLDER SECONDS MEGABYTES``, this module is
the child: one JSON object a line, ``{"step": ...}`` before each thing it tries and ``{"found": ...}`` or
``{"refused": ...}`` at the end.
"""

import json
import os
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
from mlkit.models.patterns.cnn import load_cnn

SECONDS = 120  # for everything, the imports of the libraries included
MEGABYTES = 2048  # beyond what the libraries take by being imported
PROBES = 256  # rows on which a library and mlkit must agree


def inspect_bundle(folder: Path | str, *, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> dict[str, Any]:
    """Verify a bundle in a child process; what was found, or BundleError in one line whatever the files do.

    Returns
    -------
    ``path`` of the bundle, its ``files`` (number), ``market``, ``trees`` (number), ``read_alike`` (names of the
    libraries that found the same trees) and ``not_installed`` (those that could not be asked).
    """
    root = str(Path(__file__).parents[3])
    # Not -m: that would import from the working directory, which a stranger may have filled.
    code = f"import sys; sys.path.append({root!r}); from mlkit.models.bundle.inspection import main; main()"
    command = [sys.executable, "-P", "-c", code, str(folder), str(seconds), str(megabytes)]
    return _watch(command, Path(folder), seconds)


def _watch(command: Sequence[str], folder: Path, seconds: int) -> dict[str, Any]:
    """Run the child and translate whatever becomes of it."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | threads,
    )
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
    if late or child.returncode == -getattr(signal, "SIGXCPU", 0) != 0:
        raise _unsafe(folder, f"{step} takes more than {seconds} seconds")
    if child.returncode or "found" not in last:
        how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit {child.returncode}"
        raise _unsafe(folder, f"{step} crashes the process ({how})")
    return dict(last["found"])


def main() -> None:
    """The child."""
    folder, seconds, megabytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _tell(step="starting")
    warm_up()
    try:
        with _limited(seconds, megabytes):
            bundle = _open(folder)
        _tell(step="importing the libraries")
        readers, missing = _readers()
        with _limited(seconds, megabytes):
            found = _compare(bundle, readers)
    except MlkitError as error:
        _tell(refused=str(error))
    except MemoryError:
        _tell(refused=str(_unsafe(folder, f"needs more than {megabytes} MB of memory")))
    else:
        _tell(found=found | {"not_installed": missing})


def warm_up() -> None:
    """Load the compiled walk, or compile it, while files can still be written."""
    Trees.join([stump()]).predict(np.zeros((1, 1), dtype=np.float32))


def _open(folder: Path) -> ModelBundle:
    """Digests, then mlkit's own readers."""
    _tell(step="checking the digests")
    bundle = ModelBundle.open(folder)
    _tell(step="reading the models")
    _ = bundle.price  # kept in the bundle
    if bundle.cnn_path:
        load_cnn(bundle.cnn_path)
    return bundle


def _compare(bundle: ModelBundle, readers: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """The libraries' turn: each must find the trees that mlkit found."""
    price, alike = bundle.price, []
    for name, learner in price.learners.items() if price else ():
        if name not in readers:
            continue
        X = _probes(learner.trees.nodes, learner.trees.n_features)
        expected = learner.predict(X)
        for column, (file, data) in enumerate(learner.native_files.items()):
            _tell(step=f"{name} reading {file}")
            said = _ask(name, readers[name], data, X)
            if not np.array_equal(said, expected[:, column]):
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
    """What a library predicts; whatever it raises is a refusal, and each has errors of its own."""
    try:
        return read(data, X)
    except MemoryError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise BundleError(f"{name} refuses its file ({type(error).__name__}: {said}); do not use the bundle") from error


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
    """No more memory and processor time than that, no core dump and no written file, where the system can."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock remains
        yield
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: 0}
    with suppress(OSError):  # without /proc the memory in use is unknown
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


def _tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)
