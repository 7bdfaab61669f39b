"""The pattern CNN: 20 bars in, 15 candlestick-pattern probabilities out.

Importing this module imports torch; the rest of mlkit imports it where it is used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from mlkit.config import sha256_file, write_atomic
from mlkit.errors import BundleError, ConfigError, DependencyError
from mlkit.features.rules import PATTERNS

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as parse_tensors
    from safetensors.torch import save as dump_tensors
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:  # pragma: no cover - the extra is part of every development install
    raise DependencyError(f"the pattern CNN needs {error.name}; pip install 'mlkit[train]'") from error

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Standard = Literal["classic", "continuous"]

LENGTH = 20  # bars in one window
CHANNELS = (32, 64, 128)  # of the three convolutional blocks
BATCH = 512  # windows in every forward pass; fixed, so that a window's answer never depends on its company
PRETRAINED = Path(__file__).parent / "pretrained"

CONTEXT = 10  # bars of context before a candle: the longest average of TA-Lib's candle settings
RATIO_EPS = 1e-3  # in window ranges: below this a difference has no magnitude worth a ratio
ORDER_EPS = 2e-6  # in window ranges: below one tick of any market, above float32 rounding


def windows(ohlcv: Float64Array, length: int = LENGTH) -> Float32Array:
    """Scale-free window of ``length`` bars for every bar that has one.

    Row ``i`` holds bars ``i .. i + length - 1`` and is known at the close of the last of them. Prices are
    centred on that last close and divided by the window's mean high-low range, so candlestick rules, which
    compare bodies and shadows with mean ranges, keep their thresholds; volume ``v`` becomes
    ``log(1 + v / mean(v))``. Multiplying all prices, or all volumes, by a power of two changes no bit.

    Parameters
    ----------
    ohlcv : (n_bars, 5) open, high, low, close, volume.
    length : bars in a window.

    Returns
    -------
    (max(n_bars - length + 1, 0), length, 5) float32. A window whose ranges are all zero has all-zero prices,
    one without volume has all-zero volume, one with a value that is not finite is all NaN.
    """
    if ohlcv.ndim != 2 or ohlcv.shape[1] != 5:
        raise ConfigError(f"windows: want (n_bars, 5): open, high, low, close, volume; got {ohlcv.shape}")
    if len(ohlcv) < length:
        return np.empty((0, length, 5), dtype=np.float32)
    return scale_windows(sliding_window_view(ohlcv, length, axis=0).transpose(0, 2, 1))  # no copy


def scale_windows(raw: Float64Array) -> Float32Array:
    """Make raw windows ``(n, length, 5)`` scale-free, as :func:`windows` describes; float32, same shape."""
    out = np.empty(raw.shape, dtype=np.float32)
    for start in range(0, len(raw), 2048):  # a chunk stays in the processor's cache
        view = raw[start : start + 2048].astype(np.float64)
        view[~np.isfinite(view).all(axis=(1, 2))] = np.nan
        scale = (view[:, :, 1] - view[:, :, 2]).mean(axis=1)
        level = view[:, :, 4].mean(axis=1)
        view[:, :, :4] -= view[:, -1:, 3:4]
        view[:, :, :4] /= np.where(scale == 0.0, np.inf, scale)[:, None, None]
        view[:, :, 4] = np.log1p(view[:, :, 4] / np.where(level == 0.0, np.inf, level)[:, None])
        out[start : start + 2048] = view
    return out


class CandleStem(nn.Module):
    """Fixed, parameter-free geometry of candles; nothing in it is learned and no rule is evaluated.

    For each of the last ``length - 10`` bars: its body, shadows and range; the differences of its four
    prices with those of the bar before; of its close with the prices two bars before; the change of its
    body's size; and the mean body and range of the 5 and 10 bars before it. A ratio of two lengths is a
    difference of their logarithms, so every length ``d`` enters as ``sign(d) log(1 + |d| / 1e-3)``, and
    every difference, where a single tick decides a comparison, also as ``d / (|d| + 2e-6)``: which of two
    prices is the higher.
    """

    n_channels = 53

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, length, 5]`` to ``[batch, length - 10, 53]``."""
        x = x.transpose(1, 2)  # [batch, 5, length]
        o, h, low, c = (x[:, i : i + 1] for i in range(4))
        prices = x[:, :4]
        body, rng = c - o, h - low
        size = body.abs()
        now = slice(CONTEXT, None)
        before, earlier = slice(CONTEXT - 1, -1), slice(CONTEXT - 2, -2)
        lag1 = prices[:, :, None, now] - prices[:, None, :, before]  # [batch, 4, 4, length - 10]
        differences = torch.cat(
            [
                body[..., now],
                lag1.flatten(1, 2),
                c[..., now] - prices[..., earlier],
                size[..., now] - size[..., before],
            ],
            dim=1,
        )  # [batch, 22, length - 10]
        upper, lower = h - torch.maximum(o, c), torch.minimum(o, c) - low
        sizes = torch.cat([size, rng], dim=1)[..., :-1]
        lengths = torch.cat(
            [
                upper[..., now],
                lower[..., now],
                rng[..., now],
                size[..., now],
                functional.avg_pool1d(sizes[..., CONTEXT - 5 :], 5, 1),
                functional.avg_pool1d(sizes, CONTEXT, 1),
            ],
            dim=1,
        )  # [batch, 8, length - 10]
        d = torch.cat([differences, lengths], dim=1)
        ratio = torch.sign(d) * torch.log1p(d.abs() / RATIO_EPS) / 2.0
        order = differences / (differences.abs() + ORDER_EPS)
        return torch.cat([ratio, order, x[:, 4:, now]], dim=1).transpose(1, 2)


class BarConv(nn.Conv1d):
    """Unpadded convolution over bars with channels last, ``[batch, bars, channels]``: one matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, n, n_in]`` to ``[batch, n - kernel + 1, n_out]``."""
        kernel = self.kernel_size[0]
        n = x.shape[1] - kernel + 1
        if kernel > 1:
            x = torch.cat([x[:, i : i + n] for i in range(kernel)], dim=2)  # [batch, n, kernel * n_in]
        return functional.linear(x, self.weight.transpose(1, 2).flatten(1), self.bias)


class BarNorm(nn.BatchNorm1d):
    """Batch normalisation of ``[batch, bars, channels]`` per channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over batch and bars."""
        return super().forward(x.flatten(0, 1)).view(x.shape)


def _block(n_in: int, n_out: int) -> nn.Sequential:
    """One convolutional block: a convolution over three bars, then one that mixes channels at each bar."""
    return nn.Sequential(
        BarConv(n_in, n_out, 3, bias=False),
        BarNorm(n_out),
        nn.ReLU(inplace=True),
        BarConv(n_out, n_out, 1, bias=False),
        BarNorm(n_out),
        nn.ReLU(inplace=True),
    )


class PatternCNN(nn.Module):
    """Three convolutional blocks of 32, 64 and 128 channels over a window of bars, 15 sigmoid outputs.

    Each block also sees the stem's channels of its bars (dense connections: Huang et al. 2017), so that
    the narrow first block need not carry them all. The convolutions are unpadded: time shrinks from 10 stem
    positions to 4, and the read-out sees each of them in its place, because the answer concerns the window's
    last bars, which pooling would blur.

    Parameters
    ----------
    n_outputs : 15; training teaches both standards at once to a network of 30.
    """

    def __init__(self, n_outputs: int = len(PATTERNS)) -> None:
        super().__init__()
        self.stem = CandleStem()
        inputs = (0, *CHANNELS[:-1])
        self.blocks = nn.ModuleList(
            _block(n + CandleStem.n_channels, width) for n, width in zip(inputs, CHANNELS, strict=True)
        )
        self.read_out = nn.Linear(CHANNELS[-1] * (LENGTH - CONTEXT - 2 * len(CHANNELS)), n_outputs)

    def logits(self, x: Tensor) -> Tensor:
        """Map windows ``[batch, 20, 5]`` to log-odds ``[batch, 15]``."""
        candles = self.stem(x)  # [batch, 10, 53]
        y = candles
        for i, block in enumerate(self.blocks):
            y = block(torch.cat([y, candles[:, 2 * i :]], dim=2) if i else y)
        out: Tensor = self.read_out(y.flatten(1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map windows ``[batch, 20, 5]`` to uncalibrated probabilities ``[batch, 15]``."""
        return torch.sigmoid(self.logits(x))


class PatternMeta(BaseModel):
    """What a weight file says about itself; per-pattern tuples are in the order of ``patterns``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    standard: Standard
    sequence_length: int = LENGTH
    patterns: tuple[str, ...] = PATTERNS
    slope: tuple[float, ...] = (1.0,) * len(PATTERNS)  # calibrated log-odds = slope * logit + intercept
    intercept: tuple[float, ...] = (0.0,) * len(PATTERNS)
    thresholds: tuple[float, ...] = (0.5,) * len(PATTERNS)  # on calibrated probabilities
    seed: int = 0
    command: str = ""  # what made the weights
    weights_sha256: str = ""  # over the tensors; set when saved


@dataclass(frozen=True)
class PatternModel:
    """A trained network with its calibration and thresholds."""

    net: PatternCNN
    meta: PatternMeta

    @property
    def standard(self) -> Standard:
        """Standard of the rules that taught it."""
        return self.meta.standard

    @property
    def thresholds(self) -> Float64Array:
        """Probability from which a pattern counts as detected, (15,); best F1 on simulated bars."""
        return np.array(self.meta.thresholds)

    def probabilities(self, ohlcv: Float64Array) -> Float64Array:
        """Calibrated probability of every pattern at every bar, known at the bar's close.

        Parameters
        ----------
        ohlcv : (n_bars, 5) open, high, low, close, volume.

        Returns
        -------
        (n_bars, 15) float64, NaN in the first 19 rows and where any of the last 20 bars is not finite. Row
        ``t`` depends on bars ``t - 19 .. t`` only, bit for bit.

        Raises
        ------
        ConfigError
            For an array of another shape.
        """
        x = windows(ohlcv)
        out = np.full((len(ohlcv), len(PATTERNS)), np.nan)
        out[len(ohlcv) - len(x) :] = self.window_probabilities(x)
        return out

    def window_probabilities(self, x: Float32Array) -> Float64Array:
        """Calibrated probabilities, (n, 15), of windows (n, 20, 5) made by :func:`windows`."""
        return logistic(np.array(self.meta.slope) * net_logits(self.net, x) + np.array(self.meta.intercept))


def logistic(z: Float64Array) -> Float64Array:
    """``1 / (1 + exp(-z))`` without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def net_logits(net: PatternCNN, x: Float32Array) -> Float64Array:
    """Log-odds, (n, n_outputs) float64, of windows (n, 20, 5), in batches of one size; NaN for NaN."""
    device = next(net.parameters()).device
    out = np.empty((len(x), net.read_out.out_features))
    net.eval()
    with torch.inference_mode():
        for start in range(0, len(x), BATCH):
            part = x[start : start + BATCH]
            full = np.zeros((BATCH, *x.shape[1:]), dtype=np.float32)
            full[: len(part)] = part
            z = net.logits(torch.from_numpy(full).to(device))
            out[start : start + len(part)] = z[: len(part)].cpu().numpy()
    return out


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of tensors."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        state.update(name.encode())
        state.update(tensors[name].contiguous().numpy().tobytes())
    return state.hexdigest()


def save_cnn(path: Path, model: PatternModel) -> None:
    """Write weights and metadata as one safetensors file, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    meta = model.meta.model_copy(update={"weights_sha256": _digest(tensors)})
    write_atomic(path, dump_tensors(tensors, metadata={"mlkit": meta.model_dump_json()}))


def load_cnn(path: Path) -> PatternModel:
    """Read a file of :func:`save_cnn`.

    Raises
    ------
    BundleError
        When it is missing, damaged, altered, or of another shape, sequence length or set of patterns.
    """
    try:
        data = path.read_bytes()
        tensors = parse_tensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = PatternMeta.model_validate_json(header["__metadata__"]["mlkit"])
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); train or restore it") from None
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise BundleError(f"{path}: metadata: {field}: {error.errors()[0]['msg']}; restore it") from None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        kind = type(error).__name__
        raise BundleError(f"{path}: not a pattern CNN of mlkit ({kind}); restore or retrain it") from None
    _check(path, meta, tensors)
    return PatternModel(net_of(tensors), meta)


def net_of(tensors: dict[str, Tensor]) -> PatternCNN:
    """Network of 15 outputs with these tensors, ready to predict; the caller's random state is left alone."""
    with torch.device("meta"):  # allocates and initialises nothing
        net = PatternCNN()
    net.load_state_dict(tensors, assign=True)
    return net.eval()


def _check(path: Path, meta: PatternMeta, tensors: dict[str, Tensor]) -> None:
    """Refuse weights that are not the ones described, or that do not fit the network."""
    if meta.sequence_length != LENGTH:
        raise BundleError(f"{path}: made for {meta.sequence_length} bars, mlkit uses {LENGTH}; retrain it")
    sizes = {len(meta.slope), len(meta.intercept), len(meta.thresholds)}
    if meta.patterns != PATTERNS or sizes != {len(PATTERNS)}:
        raise BundleError(f"{path}: its patterns are not the {len(PATTERNS)} of this version; retrain it")
    with torch.device("meta"):  # shapes only
        expected = {name: tuple(tensor.shape) for name, tensor in PatternCNN().state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            shapes = f"want {expected.get(name)}, got {got.get(name)}"
            raise BundleError(f"{path}: tensor {name}: {shapes}; restore or retrain it")
    if _digest(tensors) != meta.weights_sha256:
        raise BundleError(f"{path}: weights do not match their digest; restore or retrain it")


def pretrained(standard: Standard = "classic") -> PatternModel:
    """The network that mlkit ships for a standard, checked against its manifest.

    Raises
    ------
    ConfigError
        For an unknown standard.
    BundleError
        When the weights are missing or not those of the manifest.
    """
    if standard not in ("classic", "continuous"):
        raise ConfigError(f"standard: {standard!r} is unknown; use 'classic' or 'continuous'")
    path = PRETRAINED / f"{standard}.safetensors"
    try:
        manifest = json.loads(path.with_suffix(".json").read_bytes())
        size, digest = path.stat().st_size, sha256_file(path)
    except (OSError, ValueError):
        raise BundleError(f"{path}: weights or manifest cannot be read; reinstall mlkit") from None
    if (size, digest) != (manifest.get("size"), manifest.get("sha256")):
        raise BundleError(f"{path}: not the file its manifest describes; reinstall mlkit")
    return load_cnn(path)
