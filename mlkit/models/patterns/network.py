"""The network of the pattern CNN in torch, for training: fixed candle geometry, three blocks, a linear read-out.

Importing this module imports torch. Predictions of the trained network are made by `mlkit.models.patterns.forward`.
"""

from copy import deepcopy

import numpy as np

from mlkit.errors import DependencyError
from mlkit.features import PATTERNS
from mlkit.models.patterns.forward import (
    CHANNELS,
    CONTEXT,
    KERNEL,
    NEAR,
    ORDER_EPS,
    POSITIONS,
    RATIO_EPS,
    SHORT,
    STEM,
    WIDEN,
    Array,
    Arrays,
    fold,
)
from mlkit.models.patterns.windows import Float32Array, Float64Array

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as error:  # pragma: no cover - the extra is part of every development install
    raise DependencyError(f"training the pattern CNN needs {error.name}; pip install 'mlkit[train]'") from error

BATCH = 64  # windows in a forward pass


class CandleStem(nn.Module):
    """Fixed geometry of candles, without parameters; no rule is evaluated in it.

    For each of the last 7 bars: its body, shadows and range; the differences of its four prices with those
    of the bar before; of its close with the prices two bars before; the change of its body's size; and the
    mean body and range of the 5 and 10 bars before it. A ratio of two lengths is a difference of their
    logarithms, so every length ``d`` enters as ``sign(d) log(1 + |d| / 1e-3)``, and so do seven ratios of the
    candle's parts to each other and to those means. Every difference also enters as ``d / (|d| + 2e-6)``, which
    tells which of two prices is higher even by one tick, and as ``d / (|d| + 0.2 m)`` with ``m`` the mean range of
    the 5 bars before, which tells how near they are.
    """

    n_channels = STEM

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
        five = functional.avg_pool1d(sizes[..., CONTEXT - SHORT :], SHORT, 1)  # [batch, 2, 7]: mean body, mean range
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
    """Three convolutional blocks of 32, 64 and 128 channels over a window of bars, one sigmoid output a pattern.

    Each block also takes the stem's channels of its bars (dense connections: Huang et al. 2017), so that
    the narrow first block need not pass them all on. The convolutions are unpadded, and only the positions that
    reach the window's last bar are computed: 7 of the stem, then 5, 3 and 1. Older bars enter through the means
    of the stem, which reach 16 bars back, and through the window's scale.

    Parameters
    ----------
    n_outputs : number of patterns; training uses twice as many, for both standards at once.
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
        """Map windows ``[batch, 20, 5]`` to log-odds ``[batch, n_outputs]``."""
        candles = self.stem(x)  # [batch, 7, 82]
        y = candles
        for i, block in enumerate(self.blocks):
            y = block(torch.cat([y, candles[:, (KERNEL - 1) * i :]], dim=2) if i else y)
        out: Tensor = self.read_out(y.flatten(1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map windows ``[batch, 20, 5]`` to uncalibrated probabilities ``[batch, n_outputs]``."""
        return torch.sigmoid(self.logits(x))


def weights_of(net: PatternCNN) -> dict[str, Array]:
    """All learned arrays of a network by name."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in net.state_dict().items()}


def net_of(tensors: Arrays) -> PatternCNN:
    """Network with these weights, in evaluation mode; the caller's random state does not change."""
    with torch.device("meta"):  # allocates and initialises nothing
        net = PatternCNN(len(tensors["read_out.bias"]))
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, assign=True)
    return net.eval()


def folded(net: PatternCNN) -> PatternCNN:
    """The same function without batch normalisations (`mlkit.models.patterns.forward.fold`); only to predict."""
    out, layers = deepcopy(net), iter(fold(weights_of(net)))
    for block in out.blocks:
        assert isinstance(block, nn.Sequential)
        for conv in (0, 3):  # each followed by its normalisation
            weight, bias = (torch.from_numpy(values).to(net.read_out.weight.device) for values in next(layers))
            block[conv].weight, block[conv].bias = nn.Parameter(weight), nn.Parameter(bias)
            block[conv + 1] = nn.Identity()
    return out.eval()


def net_logits(net: PatternCNN, x: Float32Array, batch: int = BATCH) -> Float64Array:
    """Log-odds, (n, n_outputs) float64, of windows (n, 20, 5), in batches of one size; NaN for NaN."""
    device = net.read_out.weight.device
    out = np.empty((len(x), net.read_out.out_features))
    net.eval()
    with torch.inference_mode():
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            if len(part) < batch:  # the last one is padded, so that all batches have one size
                part = np.concatenate([part, np.zeros((batch - len(part), *x.shape[1:]), dtype=np.float32)])
            z = net.logits(torch.from_numpy(part).to(device))
            out[start : start + batch] = z[: len(x) - start].cpu().numpy()
    return out
