"""The pattern CNN: 20 bars in, one probability a candlestick pattern out; its files and the shipped weights.

Prediction needs no torch, only training does.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from mlkit.config import write_atomic
from mlkit.errors import BundleError, ConfigError, DependencyError
from mlkit.evaluation import logistic
from mlkit.features import PATTERNS, STANDARDS, Standard
from mlkit.models.patterns.forward import Array, Forward, tensor_shapes
from mlkit.models.patterns.windows import LENGTH, Float32Array, Float64Array, windows
from mlkit.untrusted import read_regular

try:
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse_tensors
    from safetensors.numpy import save as dump_tensors
except ImportError as error:  # pragma: no cover - the extra is part of every development install
    raise DependencyError(f"the pattern CNN needs {error.name}; pip install 'mlkit[train]'") from error

_FILE_BYTES = 2**26
PRETRAINED = Path(__file__).parent / "pretrained"


class PatternMeta(BaseModel):
    """Metadata of a weight file; per-pattern tuples are in the order of ``patterns``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    standard: Standard
    sequence_length: int = LENGTH
    patterns: tuple[str, ...] = PATTERNS  # those that the network was trained on, one output each
    slope: tuple[float, ...] = (1.0,) * len(PATTERNS)  # calibrated log-odds = slope * logit + intercept
    intercept: tuple[float, ...] = (0.0,) * len(PATTERNS)
    thresholds: tuple[float, ...] = (0.5,) * len(PATTERNS)  # on calibrated probabilities
    seed: int = 0
    command: str = ""  # that trained the weights
    weights_sha256: str = ""  # over the tensors; set when saved


@dataclass(frozen=True, eq=False)
class PatternModel:
    """A trained network with its calibration and thresholds.

    ``tensors``: learned arrays by name, as `mlkit.models.patterns.weights_of` gives them.
    ``meta``: patterns, calibration and thresholds.
    """

    tensors: dict[str, Array]
    meta: PatternMeta

    @property
    def standard(self) -> Standard:
        """Standard of the rules that labelled its training bars."""
        return self.meta.standard

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of the outputs, (n_patterns,): the patterns it was trained on."""
        return self.meta.patterns

    @property
    def thresholds(self) -> Float64Array:
        """Probability from which a pattern counts as detected, (n_patterns,); best F1 on simulated bars."""
        return np.array(self.meta.thresholds)

    def probabilities(self, ohlcv: Float64Array) -> Float64Array:
        """Calibrated probability of every pattern at every bar, known at the bar's close.

        ``ohlcv``: (n_bars, 5) open, high, low, close, volume.

        Returns: (n_bars, n_patterns) float64, NaN in the first 19 rows and where any of the last 20 bars is not finite.
        Row ``t`` depends on bars ``t - 19 .. t`` only, bit for bit.
        Raises ConfigError: for an array of another shape.
        """
        x = windows(ohlcv)
        out = np.full((len(ohlcv), len(self.patterns)), np.nan)
        out[len(ohlcv) - len(x) :] = self.window_probabilities(x)
        return out

    def window_probabilities(self, x: Float32Array) -> Float64Array:
        """Calibrated probabilities, (n, n_patterns), of windows (n, 20, 5) made by :func:`windows`."""
        z = self._forward.logits(x)
        return logistic(np.array(self.meta.slope) * z + np.array(self.meta.intercept))

    @cached_property
    def _forward(self) -> Forward:
        return Forward(self.tensors)


def _digest(tensors: dict[str, Array]) -> str:
    """SHA-256 over names and bytes of tensors."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(name.encode())
        state.update(tensors[name].tobytes())
    return state.hexdigest()


def save_cnn(path: Path, model: PatternModel) -> None:
    """Write weights and metadata as one safetensors file, atomically."""
    meta = model.meta.model_copy(update={"weights_sha256": _digest(model.tensors)})
    write_atomic(path, dump_tensors(model.tensors, metadata={"mlkit": meta.model_dump_json()}))


def load_cnn(path: Path) -> PatternModel:
    """Read a file of :func:`save_cnn`; it may hold fewer patterns than there are rules for.

    Raises BundleError: when it is missing, damaged, altered, of another shape or sequence length, or holds a pattern
    without a rule.
    """
    return parse_cnn(_read(path), path)


def parse_cnn(data: bytes, path: Path) -> PatternModel:
    """The network in the bytes of a file of :func:`save_cnn`; errors as :func:`load_cnn`, which name ``path``."""
    try:
        tensors = parse_tensors(data)
        header = from_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = PatternMeta.model_validate_json(header["__metadata__"]["mlkit"])
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise BundleError(f"{path}: metadata: {field}: {error.errors()[0]['msg']}; restore it") from None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        kind = type(error).__name__
        raise BundleError(f"{path}: not a pattern CNN of mlkit ({kind}); restore or retrain it") from None
    fault = _fault(meta, tensors)
    if fault:
        raise BundleError(f"{path}: {fault}; restore or retrain it")
    return PatternModel(tensors, meta)


def _fault(meta: PatternMeta, tensors: dict[str, Array]) -> str:
    """First reason why the weights are not those of the metadata, or do not fit the network; empty if there is none."""
    n = len(meta.patterns)
    if meta.sequence_length != LENGTH:
        return f"made for {meta.sequence_length} bars, mlkit uses {LENGTH}"
    unknown = [name for name in meta.patterns if name not in PATTERNS]
    if unknown:
        return f"holds the pattern {unknown[0][:40]!r}, for which this mlkit has no rule"
    if not n or len(set(meta.patterns)) < n:
        return "its patterns are empty or repeat"
    if {len(meta.slope), len(meta.intercept), len(meta.thresholds)} != {n}:
        return f"slope, intercept and thresholds must have one number for each of its {n} patterns"
    expected = tensor_shapes(n)
    for name in sorted(expected.keys() | tensors.keys()):
        got = tensors[name].shape if name in tensors else None
        if expected.get(name) != got:
            return f"tensor {name}: want {expected.get(name)}, got {got}"
        if tensors[name].dtype != (np.int64 if name.endswith("num_batches_tracked") else np.float32):
            return f"tensor {name}: of {tensors[name].dtype}"
    return "" if _digest(tensors) == meta.weights_sha256 else "weights do not match their digest"


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _FILE_BYTES)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); train or restore it") from None


def weights_file(standard: Standard = "classic", folder: Path | None = None) -> bytes:
    """Content of the weight file of a standard, checked against its manifest.

    ``standard``: "classic" or "continuous".
    ``folder``: written by ``mlkit train --only patterns``; by default that of the weights that mlkit ships.

    Raises ConfigError: for an unknown standard.
    Raises BundleError: when the weights are missing or not those of the manifest.
    """
    if standard not in STANDARDS:
        raise ConfigError(f"standard: {standard!r} is unknown; use 'classic' or 'continuous'")
    path = _path(standard, folder)
    mend = "run mlkit train --only patterns again" if folder else "reinstall mlkit"
    try:
        manifest = from_json(read_regular(path.with_suffix(".json"), _FILE_BYTES))
        data = read_regular(path, _FILE_BYTES)
    except (OSError, ValueError):
        raise BundleError(f"{path}: weights or manifest cannot be read; {mend}") from None
    found = len(data), hashlib.sha256(data).hexdigest()
    if not isinstance(manifest, dict) or found != (manifest.get("size"), manifest.get("sha256")):
        raise BundleError(f"{path}: not the file its manifest describes; {mend}")
    return data


def _path(standard: Standard, folder: Path | None) -> Path:
    return (folder or PRETRAINED) / f"{standard}.safetensors"


def pretrained(standard: Standard = "classic", folder: Path | None = None) -> PatternModel:
    """The network that mlkit ships for a standard, or that of ``folder``; see :func:`weights_file`."""
    return parse_cnn(weights_file(standard, folder), _path(standard, folder))
