"""The trained pattern network as one compiled function of arrays: what every answer of the pattern CNN is made by.

It equals the network of `mlkit.models.patterns.network`, batch normalisations folded, up to the rounding of float32. A
window's numbers are added in one order whatever its company and however many threads there are, so its answer is
the same to the bit alone, live and in any batch. The same file needs no torch: that only trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from mlkit.errors import ConfigError
from mlkit.features import announce_compilation, sources_stamp
from mlkit.models.patterns.windows import (
    CHANNELS,
    CONTEXT,
    KERNEL,
    LENGTH,
    NEAR,
    ORDER_EPS,
    POSITIONS,
    RATIO_EPS,
    SHORT,
    STEM,
    WIDEN,
    Float32Array,
    Float64Array,
)

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Layer = tuple[Float32Array, Float32Array]  # weight (outputs, inputs), bias (outputs,)

WIDTH = 16  # outputs that one product works on: a vector of the processor, or two or four smaller ones
ROWS = 6  # positions that share a read of the weights: with WIDTH they fill AVX2's registers
TILE = 12  # windows that go through the network together, a multiple of ROWS
NORM_EPS = 1e-5  # of torch's BatchNorm1d


def tensor_shapes(outputs: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array of a network with so many outputs."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (width, widen, before) in enumerate(zip(CHANNELS, WIDEN, (0, *CHANNELS[:-1]), strict=True)):
        layers = ((0, widen * width, KERNEL * (before + STEM)), (3, width, widen * width))
        for place, n_out, n_in in layers:
            shapes[f"blocks.{k}.{place}.weight"] = (n_out, n_in)
            norm = ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"blocks.{k}.{place + 1}.{name}": (n_out,) for name in norm}
            shapes[f"blocks.{k}.{place + 1}.num_batches_tracked"] = ()
    return shapes | {"read_out.weight": (outputs, CHANNELS[-1]), "read_out.bias": (outputs,)}


def fold(tensors: Arrays) -> list[Layer]:
    """The six convolutions, every batch normalisation folded into the one before it, and the read-out.

    ``g (W x - mean) / s + b`` is ``(g / s) W x + (b - g mean / s)``. Computed in float64, rounded once.

    Parameters
    ----------
    tensors : as `mlkit.models.patterns.cnn.save_cnn` writes them.
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

    Parameters
    ----------
    tensors : of a trained network, as :func:`fold` takes them.

    Raises
    ------
    ConfigError
        For arrays of other shapes than :func:`tensor_shapes` tells; the compiled function does not look.
    """

    def __init__(self, tensors: Arrays) -> None:
        expected = tensor_shapes(len(tensors["read_out.bias"]))
        wrong = next((name for name, shape in expected.items() if tensors[name].shape != shape), None)
        if wrong is not None:
            raise ConfigError(f"tensor {wrong}: want {expected[wrong]}, got {tensors[wrong].shape}")
        layers = fold(tensors)
        self._outputs = len(layers[-1][1])
        self._weights = np.concatenate([_packed(*layer) for layer in layers])
        self._weights.flags.writeable = False

    def logits(self, x: Float32Array) -> Float64Array:
        """Log-odds, (n, n_outputs) float64, of windows (n, 20, 5) of `windows`; NaN for NaN.

        Raises ConfigError for an array of another shape.
        """
        if x.ndim != 3 or x.shape[1:] != (LENGTH, 5):
            raise ConfigError(f"windows: want (n, {LENGTH}, 5), got {x.shape}")
        x = np.ascontiguousarray(x, dtype=np.float32).view()
        x.flags.writeable = False  # with the weights' flag: one compiled function serves every caller
        out = np.empty((len(x), -(-self._outputs // WIDTH) * WIDTH), dtype=np.float32)
        announce_compilation(_network, "pattern network", 10)
        _network(x, self._weights, out)
        return out[:, : self._outputs].astype(np.float64)


def _packed(weight: Float32Array, bias: Float32Array) -> Float32Array:
    """One layer as the product reads it: for every 16 outputs their biases, then their weights, input by input."""
    n_out, n_in = weight.shape
    groups = -(-n_out // WIDTH)
    table = np.zeros((groups * WIDTH, 1 + n_in), dtype=np.float32)
    table[:n_out, 0], table[:n_out, 1:] = bias, weight
    return table.reshape(groups, WIDTH, 1 + n_in).transpose(0, 2, 1).ravel()


_INDEX, _VECTOR = ir.IntType(64), ir.VectorType(ir.FloatType(), WIDTH)


def _wide(builder: Any, number: Any) -> Any:
    """A number in all lanes of a vector."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), lanes)


def _chains(builder: Any, sums: Any, sources: Any, weights: Any, depth: Any) -> None:
    """``sums[i] += sources[i][k] * weights[k]`` for every k, upwards; each step fused where the processor can."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{WIDTH}f32")
    with cgutils.for_range(builder, depth) as loop:
        row = builder.gep(weights, [builder.mul(loop.index, _INDEX(WIDTH))])
        weight = builder.load(builder.bitcast(row, _VECTOR.as_pointer()), align=4)
        for total, source in zip(sums, sources, strict=True):
            number = _wide(builder, builder.load(builder.gep(source, [loop.index])))
            builder.store(builder.call(fused, [number, weight, builder.load(total)]), total)


def _product(rows: int) -> Any:
    """An intrinsic: 16 outputs of a layer at ``rows`` positions, in registers.

    ``out[to[i] + column :][:16] = max(bias + sum over k of x[at[i] + k] * weight[k], floor)`` for ``i`` from
    ``first`` on; biases, then weights, stand at ``w[place:]``. NaN stays NaN.
    """

    @intrinsic
    def product(_, out, to, x, at, first, w, place, depth, column, floor):  # type: ignore[no-untyped-def]
        kinds = (out, to, x, at, types.intp, w, types.intp, types.intp, types.intp, types.float32)

        def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            out, to, x, at, w = (
                make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 1, 2, 3, 5)
            )
            first, place, depth, column, floor = (arguments[n] for n in (4, 6, 7, 8, 9))
            numbers = [builder.add(first, _INDEX(i)) for i in range(rows)]
            sources = [builder.gep(x, [builder.load(builder.gep(at, [i]))]) for i in numbers]
            starts = [builder.add(builder.load(builder.gep(to, [i])), column) for i in numbers]
            biases = builder.bitcast(builder.gep(w, [place]), _VECTOR.as_pointer())
            sums = [cgutils.alloca_once_value(builder, builder.load(biases, align=4)) for _ in numbers]
            _chains(builder, sums, sources, builder.gep(w, [builder.add(place, _INDEX(WIDTH))]), depth)
            least = _wide(builder, floor)
            for total, start in zip(sums, starts, strict=True):
                value = builder.load(total)
                kept = builder.select(builder.fcmp_ordered("<", value, least), least, value)
                builder.store(kept, builder.bitcast(builder.gep(out, [start]), _VECTOR.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(*kinds), build

    return product


_several, _single = _product(ROWS), _product(1)
_JIT: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_called = njit(no_cpython_wrapper=True, **_JIT)


@_called
def _layer(out, to, x, at, rows, w, place, depth, width, floor):  # type: ignore[no-untyped-def]
    """All outputs of a layer at ``rows`` positions; returns where the next layer's weights begin."""
    for column in range(0, width, WIDTH):
        for first in range(0, rows - ROWS + 1, ROWS):
            _several(out, to, x, at, first, w, place, depth, column, floor)
        for first in range(rows - rows % ROWS, rows):
            _single(out, to, x, at, first, w, place, depth, column, floor)
        place += (1 + depth) * WIDTH
    return place


@_called
def _place(at, count, positions, window, position):  # type: ignore[no-untyped-def]
    """Where each position of each window begins in a buffer; returns how many there are."""
    for t in range(count):
        for p in range(positions):
            at[t * positions + p] = t * window + p * position
    return count * positions


_NO_FLOOR = np.float32(-np.inf)
_ZERO = np.float32(0.0)
_IN = tuple(n + STEM for n in (0, *CHANNELS[:-1]))  # channels that a block sees at each bar
_HIDDEN = tuple(n * k for n, k in zip(CHANNELS, WIDEN, strict=True))
_BARS = tuple(POSITIONS - (KERNEL - 1) * k for k in range(len(CHANNELS) + 1))  # 7, 5, 3, 1


@njit(cache=True, **_JIT)
def _network(x, w, out):  # type: ignore[no-untyped-def]
    """Fill the log-odds (n, 16 or 32) of windows (n, 20, 5)."""
    at, to = np.empty(TILE * POSITIONS, np.int64), np.empty(TILE * POSITIONS, np.int64)
    stem = np.empty(TILE * _BARS[0] * _IN[0], np.float32)
    second = np.empty(TILE * _BARS[1] * _IN[1], np.float32)
    third = np.empty(TILE * _BARS[2] * _IN[2], np.float32)
    last, hidden = np.empty(TILE * CHANNELS[2], np.float32), np.empty(TILE * _BARS[1] * _HIDDEN[2], np.float32)
    answers = out.reshape(-1)
    for start in range(0, x.shape[0], TILE):
        count = min(TILE, x.shape[0] - start)
        for t in range(count):
            _stem(x[start + t], stem, t * _BARS[0] * _IN[0])
        place = _block(stem, second, hidden, at, to, count, w, 0, 0, _IN[1])
        _dense(stem, second, count, 1)
        place = _block(second, third, hidden, at, to, count, w, place, 1, _IN[2])
        _dense(stem, third, count, 2)
        place = _block(third, last, hidden, at, to, count, w, place, 2, CHANNELS[2])
        _place(at, count, 1, CHANNELS[2], 0)
        _place(to, count, 1, out.shape[1], 0)
        for t in range(count):
            to[t] += start * out.shape[1]
        _layer(answers, to, last, at, count, w, place, CHANNELS[2], out.shape[1], _NO_FLOOR)


@_called
def _block(x, out, hidden, at, to, count, w, place, k, pitch):  # type: ignore[no-untyped-def]
    """Block ``k`` into the first channels of ``out``, whose bars are ``pitch`` numbers apart."""
    bars = _BARS[k + 1]
    rows = _place(at, count, bars, _BARS[k] * _IN[k], _IN[k])  # bars are neighbours: three of them are one row
    _place(to, count, bars, bars * _HIDDEN[k], _HIDDEN[k])
    place = _layer(hidden, to, x, at, rows, w, place, KERNEL * _IN[k], _HIDDEN[k], _ZERO)
    _place(at, count, bars, bars * pitch, pitch)
    return _layer(out, at, hidden, to, rows, w, place, _HIDDEN[k], CHANNELS[k], _ZERO)


@_called
def _dense(stem, out, count, k):  # type: ignore[no-untyped-def]
    """The stem's channels behind those of block ``k - 1``, bar by bar."""
    skipped = _BARS[0] - _BARS[k]
    for t in range(count):
        for p in range(_BARS[k]):
            source = (t * _BARS[0] + skipped + p) * STEM
            goal = (t * _BARS[k] + p) * _IN[k] + _IN[k] - STEM
            for c in range(STEM):
                out[goal + c] = stem[source + c]


_EPS, _ORDER, _NEAR = np.float32(RATIO_EPS), np.float32(ORDER_EPS), np.float32(NEAR)
_HALF, _TWO = np.float32(0.5), np.float32(2.0)
_FIRST = LENGTH - POSITIONS
_DIFFERENCES = 22  # of prices and bodies, with a sign
_LOGS = 30  # those and eight lengths


@_called
def _stem(bars, out, place):  # type: ignore[no-untyped-def]
    """The fixed geometry of one window's last bars, as `mlkit.models.patterns.network.CandleStem` describes it."""
    d, size = np.empty(_LOGS, np.float32), np.empty(_LOGS, np.float32)
    for bar in range(_FIRST, LENGTH):
        o, h, low, c = bars[bar, 0], bars[bar, 1], bars[bar, 2], bars[bar, 3]
        d[0] = c - o
        for i in range(4):
            for j in range(4):
                d[1 + 4 * i + j] = bars[bar, i] - bars[bar - 1, j]
            d[17 + i] = c - bars[bar - 2, i]
        d[21] = abs(c - o) - abs(bars[bar - 1, 3] - bars[bar - 1, 0])
        d[22], d[23], d[24], d[25] = h - max(o, c), min(o, c) - low, h - low, abs(c - o)
        d[26], d[27] = _means(bars, bar, SHORT)
        d[28], d[29] = _means(bars, bar, CONTEXT)
        near = _NEAR * d[27]
        for k in range(_LOGS):
            size[k] = _HALF * np.float32(math.log1p(abs(d[k]) / _EPS))
        for k in range(_DIFFERENCES):
            out[place + k] = size[k] if d[k] >= _ZERO else -size[k]
        for k in range(_DIFFERENCES, _LOGS):
            out[place + k] = size[k]
        top, tail, span, middle, mean_body, mean_range = size[22], size[23], size[24], size[25], size[28], size[29]
        out[place + 30], out[place + 31] = _TWO * (top - mean_range), _TWO * (tail - mean_range)
        out[place + 32], out[place + 33] = _TWO * (middle - mean_range), _TWO * (top - middle)
        out[place + 34], out[place + 35] = _TWO * (tail - middle), _TWO * (span - mean_range)
        out[place + 36] = _TWO * (middle - mean_body)
        for k in range(_DIFFERENCES):
            out[place + 37 + k] = d[k] / (abs(d[k]) + _ORDER)
            out[place + 59 + k] = d[k] / (abs(d[k]) + near + _ORDER)
        out[place + 81] = bars[bar, 4]
        place += STEM


@_called
def _means(bars, bar, count):  # type: ignore[no-untyped-def]
    """Mean body and mean range of the ``count`` bars before one."""
    body, span = _ZERO, _ZERO
    for k in range(bar - count, bar):
        body += abs(bars[k, 3] - bars[k, 0])
        span += bars[k, 1] - bars[k, 2]
    return body / np.float32(count), span / np.float32(count)


_network._cache._cache_file._source_stamp = sources_stamp(
    Path(__file__).with_name(f"{name}.py") for name in ("forward", "windows")
)
