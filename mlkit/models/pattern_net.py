"""The network of the pattern CNN: a fixed geometry of candles, three convolutional blocks, a linear read-out.

Importing this module imports torch.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlkit.errors import ConfigError, DependencyError
from mlkit.features.rules import PATTERNS

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:  # pragma: no cover - the extra is part of every development install
    raise DependencyError(f"the pattern CNN needs {error.name}; pip install 'mlkit[train]'") from error

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]

LENGTH = 20  # bars in one window
CHANNELS = (32, 64, 128)  # of the three convolutional blocks
WIDEN = (1, 1, 2)  # channels between the two convolutions of a block, in units of its own
KERNEL = 3  # bars that a block's first convolution spans

CONTEXT = 10  # bars of context before a candle: the longest average of TA-Lib's candle settings
POSITIONS = 1 + len(CHANNELS) * (KERNEL - 1)  # last bars of a window that the answer at its end looks at
RATIO_EPS = 1e-3  # in window ranges: below this a difference has no magnitude worth a ratio
ORDER_EPS = 2e-6  # in window ranges: below one tick of any market, above float32 rounding
NEAR = 0.2  # in local ranges: where the saturating differences resolve best


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

    For each of the last 7 bars: its body, shadows and range; the differences of its four prices with those
    of the bar before; of its close with the prices two bars before; the change of its body's size; and the
    mean body and range of the 5 and 10 bars before it. A ratio of two lengths is a difference of their
    logarithms, so every length ``d`` enters as ``sign(d) log(1 + |d| / 1e-3)``, and seven ratios of the
    candle's parts to each other and to those means enter as such. Every difference enters also as
    ``d / (|d| + 2e-6)``, where a single tick decides a comparison: which of two prices is the higher; and as
    ``d / (|d| + 0.2 m)`` with ``m`` the mean range of the 5 bars before: how near they are.
    """

    n_channels = 82

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, length, 5]`` to ``[batch, 7, 82]``."""
        x = x[:, -(CONTEXT + POSITIONS) :].transpose(1, 2)  # [batch, 5, 17]
        o, h, low, c = (x[:, i : i + 1] for i in range(4))
        prices = x[:, :4]
        body, rng = c - o, h - low
        size = body.abs()
        now = slice(CONTEXT, None)
        before, earlier = slice(CONTEXT - 1, -1), slice(CONTEXT - 2, -2)
        lag1 = prices[:, :, None, now] - prices[:, None, :, before]  # [batch, 4, 4, 7]
        differences = torch.cat(
            [
                body[..., now],
                lag1.flatten(1, 2),
                c[..., now] - prices[..., earlier],
                size[..., now] - size[..., before],
            ],
            dim=1,
        )  # [batch, 22, 7]
        distances = differences.abs()
        upper, lower = h - torch.maximum(o, c), torch.minimum(o, c) - low
        sizes = torch.cat([size, rng], dim=1)[..., :-1]
        five = functional.avg_pool1d(sizes[..., CONTEXT - 5 :], 5, 1)  # [batch, 2, 7]: mean body, mean range
        ten = functional.avg_pool1d(sizes, CONTEXT, 1)
        lengths = torch.cat([upper, lower, rng, size], dim=1)[..., now]
        logs = torch.log1p(torch.cat([distances, lengths, five, ten], dim=1) / RATIO_EPS) / 2.0  # [batch, 30, 7]
        top, tail, span, middle, _, _, mean_body, mean_range = (logs[:, i : i + 1] for i in range(22, 30))
        ratios = [top - mean_range, tail - mean_range, middle - mean_range, top - middle, tail - middle]
        ratios += [span - mean_range, middle - mean_body]
        return torch.cat(
            [
                torch.sign(differences) * logs[:, :22],
                logs[:, 22:],
                2.0 * torch.cat(ratios, dim=1),
                differences / (distances + ORDER_EPS),
                differences / (distances + NEAR * five[:, 1:] + ORDER_EPS),
                x[:, 4:, now],
            ],
            dim=1,
        ).transpose(1, 2)


class BarConv(nn.Linear):
    """Unpadded convolution over ``kernel`` bars, channels last: one matrix product of stacked bars."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, bias: bool = False) -> None:
        super().__init__(kernel * n_in, n_out, bias=bias)
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, n, n_in]`` to ``[batch, n - kernel + 1, n_out]``."""
        n = x.shape[1] - self.kernel + 1
        if n == 1:
            x = x.flatten(1).unsqueeze(1)  # no copy
        elif self.kernel > 1:
            x = torch.cat([x[:, i : i + n] for i in range(self.kernel)], dim=2)  # [batch, n, kernel * n_in]
        return functional.linear(x, self.weight, self.bias)


class BarNorm(nn.BatchNorm1d):
    """Batch normalisation of ``[batch, bars, channels]`` per channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over batch and bars."""
        return super().forward(x.flatten(0, 1)).view(x.shape)


def _block(n_in: int, n_out: int, widen: int) -> nn.Sequential:
    """One convolutional block: a convolution over three bars, then one that mixes channels at each bar."""
    return nn.Sequential(
        BarConv(n_in, widen * n_out, KERNEL),
        BarNorm(widen * n_out),
        nn.ReLU(inplace=True),
        BarConv(widen * n_out, n_out, 1),
        BarNorm(n_out),
        nn.ReLU(inplace=True),
    )


class PatternCNN(nn.Module):
    """Three convolutional blocks of 32, 64 and 128 channels over a window of bars, 15 sigmoid outputs.

    Each block also sees the stem's channels of its bars (dense connections: Huang et al. 2017), so that
    the narrow first block need not carry them all. The convolutions are unpadded, and only the positions that
    the answer at the window's last bar rests on are computed: 7 of the stem, then 5, 3 and 1. Older bars
    enter through the means of the stem, which reach 16 bars back, and through the window's scale.

    Parameters
    ----------
    n_outputs : 15; training teaches both standards at once to a network of 30.
    """

    def __init__(self, n_outputs: int = len(PATTERNS)) -> None:
        super().__init__()
        self.stem = CandleStem()
        inputs = (0, *CHANNELS[:-1])
        self.blocks = nn.ModuleList(
            _block(n + CandleStem.n_channels, width, widen)
            for n, width, widen in zip(inputs, CHANNELS, WIDEN, strict=True)
        )
        self.read_out = nn.Linear(CHANNELS[-1], n_outputs)

    def logits(self, x: Tensor) -> Tensor:
        """Map windows ``[batch, 20, 5]`` to log-odds ``[batch, 15]``."""
        candles = self.stem(x)  # [batch, 7, 82]
        y = candles
        for i, block in enumerate(self.blocks):
            y = block(torch.cat([y, candles[:, (KERNEL - 1) * i :]], dim=2) if i else y)
        out: Tensor = self.read_out(y.flatten(1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map windows ``[batch, 20, 5]`` to uncalibrated probabilities ``[batch, 15]``."""
        return torch.sigmoid(self.logits(x))


def folded(net: PatternCNN) -> PatternCNN:
    """The same function with every batch normalisation folded into the convolution before it; only to predict.

    ``g (W x - mean) / s + b`` is ``(g / s) W x + (b - g mean / s)``. Computed in float64, rounded once.
    """
    with torch.device("meta"):  # allocates nothing, draws nothing
        out = PatternCNN(net.read_out.out_features)
    out.stem, out.read_out = net.stem, net.read_out
    for i, block in enumerate(net.blocks):
        conv, norm, relu, mix, last_norm, _ = block.children()
        out.blocks[i] = nn.Sequential(_merged(conv, norm), relu, _merged(mix, last_norm), relu)
    return out.eval()


def _merged(conv: nn.Module, norm: nn.Module) -> BarConv:
    """One convolution with bias for a convolution and the normalisation after it."""
    assert isinstance(conv, BarConv) and isinstance(norm, BarNorm)
    assert norm.running_mean is not None and norm.running_var is not None
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - gain * norm.running_mean.double()
    with torch.device("meta"):
        merged = BarConv(conv.in_features // conv.kernel, conv.out_features, conv.kernel, bias=True)
    merged.weight = nn.Parameter((gain[:, None] * conv.weight.double()).float(), requires_grad=False)
    merged.bias = nn.Parameter(shift.float(), requires_grad=False)
    return merged
