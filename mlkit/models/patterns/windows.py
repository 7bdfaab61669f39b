"""Input of the pattern CNN: scale-free windows of bars."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlkit.errors import ConfigError

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]

LENGTH = 20  # bars in one window


def windows(ohlcv: Float64Array, length: int = LENGTH) -> Float32Array:
    """Scale-free window of ``length`` bars for every bar that has one.

    Row ``i`` holds bars ``i .. i + length - 1`` and is known at the close of the last of them. Prices are
    centred on that last close and divided by the window's mean high-low range, so candlestick rules, which
    compare bodies and shadows with mean ranges, keep their thresholds; volume ``v`` becomes
    ``log(1 + v / mean(v))``. Multiplying all prices, or all volumes, by a power of two changes no bit.

    ``ohlcv``: (n_bars, 5) open, high, low, close, volume.
    ``length``: bars in a window.

    Returns: (max(n_bars - length + 1, 0), length, 5) float32. A window whose ranges are all zero has all-zero prices,
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
