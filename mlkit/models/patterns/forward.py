"""The trained pattern network as one compiled function: windows in, log-odds out, without torch.

It equals the network of `mlkit.models.patterns.network`, batch normalisations folded, up to the rounding of float32.
Windows go through one at a time and every sum is taken in one order, so a window's answer has the same bits alone,
live, in any batch and under any number of threads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.compiled import cached
from mlkit.errors import ConfigError
from mlkit.features import announce_compilation
from mlkit.models.patterns.windows import LENGTH, Float32Array, Float64Array

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Layer = tuple[Float32Array, Float32Array]  # weight (outputs, inputs), bias (outputs,)

# The compiled code depends on these numbers: they stand here because numba compiles anew when this file changes.
CHANNELS = (32, 64, 128)  # of the three convolutional blocks
WIDEN = (1, 1, 2)  # channels between the two convolutions of a block, in units of its own
KERNEL = 3  # bars that a block's first convolution spans
POSITIONS = 1 + len(CHANNELS) * (KERNEL - 1)  # last bars of a window whose geometry is computed
CONTEXT = 10  # bars of context before a candle: the longest average of TA-Lib's candle settings
SHORT = 5  # bars of the shorter means
STEM = 82  # numbers that the fixed geometry gives for each bar
RATIO_EPS = 1e-3  # in window ranges: below this a difference has no magnitude worth a ratio
ORDER_EPS = 2e-6  # in window ranges: below one tick of any market, above float32 rounding
NEAR = 0.2  # in local ranges: where the saturating differences resolve best
NORM_EPS = 1e-5  # of torch's BatchNorm1d


def tensor_shapes(outputs: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a network with so many outputs."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (width, widen, before) in enumerate(zip(CHANNELS, WIDEN, (0, *CHANNELS[:-1]), strict=True)):
        for i, n_out, n_in in ((0, widen * width, KERNEL * (before + STEM)), (3, width, widen * width)):
            shapes[f"blocks.{k}.{i}.weight"] = (n_out, n_in)
            norm = ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"blocks.{k}.{i + 1}.{name}": (n_out,) for name in norm}
            shapes[f"blocks.{k}.{i + 1}.num_batches_tracked"] = ()
    return shapes | {"read_out.weight": (outputs, CHANNELS[-1]), "read_out.bias": (outputs,)}


def fold(tensors: Arrays) -> list[Layer]:
    """The six convolutions, each with its batch normalisation folded in, and the read-out.

    ``g (W x - mean) / s + b`` is ``(g / s) W x + (b - g mean / s)``. Computed in float64, rounded once.

    ``tensors``: as `mlkit.models.patterns.cnn.save_cnn` writes them.
    """
    layers = []
    for block in range(len(CHANNELS)):
        for conv in (0, 3):  # each followed by its normalisation
            norm = f"blocks.{block}.{conv + 1}"
            mean, variance, weight, bias = (
                tensors[f"{norm}.{name}"].astype(np.float64)
                for name in ("running_mean", "running_var", "weight", "bias")
            )
            gain = weight / np.sqrt(variance + NORM_EPS)
            kernel = gain[:, None] * tensors[f"blocks.{block}.{conv}.weight"].astype(np.float64)
            layers.append((kernel.astype(np.float32), (bias - gain * mean).astype(np.float32)))
    return [*layers, (tensors["read_out.weight"], tensors["read_out.bias"])]


class Forward:
    """Windows to log-odds.

    ``tensors``: of a trained network, as :func:`fold` takes them.

    Raises ConfigError: for arrays whose shapes are not those of :func:`tensor_shapes`; the compiled function does not
    check.
    """

    def __init__(self, tensors: Arrays) -> None:
        self._outputs = len(tensors["read_out.bias"])
        for name, shape in tensor_shapes(self._outputs).items():
            if tensors[name].shape != shape:
                raise ConfigError(f"tensor {name}: want {shape}, got {tensors[name].shape}")
        layers = fold(tensors)
        self._weights = tuple(np.array(weight.T, order="C") for weight, _ in layers)  # (inputs, outputs)
        self._biases = tuple(np.array(bias) for _, bias in layers)

    def logits(self, x: Float32Array) -> Float64Array:
        """Log-odds, (n, n_outputs) float64, of windows (n, 20, 5) of `windows`; NaN for NaN.

        Raises ConfigError for an array of another shape.
        """
        if x.ndim != 3 or x.shape[1:] != (LENGTH, 5):
            raise ConfigError(f"windows: want (n, {LENGTH}, 5), got {x.shape}")
        x = np.ascontiguousarray(x, dtype=np.float32).view()
        x.flags.writeable = False  # always: numba compiles once for each kind of argument
        out = np.empty((len(x), self._outputs), dtype=np.float32)
        announce_compilation(_network, "pattern network", 5)
        _network(x, self._weights, self._biases, out)
        return out.astype(np.float64)


# "contract" lets a product and a sum become one fused instruction; it changes no order of sums.
_compiled = cached(nogil=True, error_model="numpy", fastmath={"contract"})


@_compiled
def _network(x, weights, biases, logits):  # type: ignore[no-untyped-def]
    """Fill ``logits`` (n, outputs) for windows ``x`` (n, 20, 5), one window after the other."""
    seen_1 = np.empty((POSITIONS, STEM), np.float32)  # what each block sees of its bars
    seen_2 = np.empty((POSITIONS - 2, CHANNELS[0] + STEM), np.float32)
    seen_3 = np.empty((POSITIONS - 4, CHANNELS[1] + STEM), np.float32)
    last = np.empty((1, CHANNELS[2]), np.float32)
    for t in range(len(x)):
        _stem(x[t], seen_1)
        # Dense connections: later blocks also see the geometry of their bars. (Loops compile in a third of the time
        # that assignments of slices take.)
        for c in range(STEM):
            for p in range(2, POSITIONS):
                seen_2[p - 2, CHANNELS[0] + c] = seen_1[p, c]
            for p in range(4, POSITIONS):
                seen_3[p - 4, CHANNELS[1] + c] = seen_1[p, c]
        _block(seen_1, weights[0], biases[0], weights[1], biases[1], seen_2)
        _block(seen_2, weights[2], biases[2], weights[3], biases[3], seen_3)
        _block(seen_3, weights[4], biases[4], weights[5], biases[5], last)
        _layer(last[0], weights[6], biases[6], -np.inf, logits[t])


@_compiled
def _block(seen, weight, bias, mix_weight, mix_bias, out):  # type: ignore[no-untyped-def]
    """A convolution over three bars, then one that mixes channels; fills the first channels of ``out``."""
    bars, channels = seen.ravel(), seen.shape[1]
    hidden = np.empty(len(bias), np.float32)
    for p in range(len(out)):
        _layer(bars[p * channels : (p + KERNEL) * channels], weight, bias, 0.0, hidden)
        _layer(hidden, mix_weight, mix_bias, 0.0, out[p, : len(mix_bias)])


@_compiled
def _layer(x, weight, bias, floor, out):  # type: ignore[no-untyped-def]
    """``out = max(x @ weight + bias, floor)``, the inputs added one after the other; NaN stays NaN."""
    for j in range(len(out)):
        out[j] = bias[j]
    whole = len(x) - len(x) % 4
    # Four inputs in a pass over the outputs: an output is read and written once for four products.
    for k in range(0, whole, 4):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        w0, w1, w2, w3 = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        for j in range(len(out)):
            out[j] = out[j] + x0 * w0[j] + x1 * w1[j] + x2 * w2[j] + x3 * w3[j]
    for k in range(whole, len(x)):
        for j in range(len(out)):
            out[j] = out[j] + x[k] * weight[k, j]
    least = np.float32(floor)
    for j in range(len(out)):
        out[j] = least if out[j] < least else out[j]


_SIGNED = 22  # differences of prices and bodies
_LOGS = _SIGNED + 8  # and eight lengths
_EPS, _ORDER, _NEAR = np.float32(RATIO_EPS), np.float32(ORDER_EPS), np.float32(NEAR)
_HALF, _TWO = np.float32(0.5), np.float32(2.0)


@_compiled
def _stem(bars, out):  # type: ignore[no-untyped-def]
    """Fixed geometry (7, 82) of the last bars of a window (20, 5), as `CandleStem` in `network.py` describes it."""
    d, size = np.empty(_LOGS, np.float32), np.empty(_LOGS, np.float32)
    for p in range(POSITIONS):
        bar, row = len(bars) - POSITIONS + p, out[p]
        o, h, low, c = bars[bar, 0], bars[bar, 1], bars[bar, 2], bars[bar, 3]
        d[0] = c - o
        for i in range(4):
            for j in range(4):
                d[1 + 4 * i + j] = bars[bar, i] - bars[bar - 1, j]
            d[17 + i] = c - bars[bar - 2, i]
        d[21] = abs(c - o) - abs(bars[bar - 1, 3] - bars[bar - 1, 0])
        d[22], d[23], d[24], d[25] = h - max(o, c), min(o, c) - low, h - low, abs(c - o)
        d[26], d[27] = _mean_body_and_range(bars[bar - SHORT : bar])
        d[28], d[29] = _mean_body_and_range(bars[bar - CONTEXT : bar])
        near = _NEAR * d[27]
        for k in range(_LOGS):
            size[k] = _HALF * np.float32(np.log1p(abs(d[k]) / _EPS))
            row[k] = -size[k] if k < _SIGNED and not d[k] >= 0 else size[k]
        top, tail, span, middle, mean_body, mean_range = size[22], size[23], size[24], size[25], size[28], size[29]
        row[30], row[31], row[32] = _TWO * (top - mean_range), _TWO * (tail - mean_range), _TWO * (middle - mean_range)
        row[33], row[34] = _TWO * (top - middle), _TWO * (tail - middle)
        row[35], row[36] = _TWO * (span - mean_range), _TWO * (middle - mean_body)
        for k in range(_SIGNED):
            row[37 + k] = d[k] / (abs(d[k]) + _ORDER)
            row[59 + k] = d[k] / (abs(d[k]) + near + _ORDER)
        row[81] = bars[bar, 4]


@_compiled
def _mean_body_and_range(bars):  # type: ignore[no-untyped-def]
    """Mean body and mean high-low range of bars (n, 5)."""
    body, span = np.float32(0.0), np.float32(0.0)
    for k in range(len(bars)):
        body += abs(bars[k, 3] - bars[k, 0])
        span += bars[k, 1] - bars[k, 2]
    return body / np.float32(len(bars)), span / np.float32(len(bars))
