"""The pattern CNN: windows of bars in, one probability a pattern out."""

# Metadata of a weight file: patterns, calibration, thresholds, seed.
from .cnn import PatternMeta as PatternMeta

# A trained network with its calibration and thresholds; `probabilities(ohlcv)` is its answer.
from .cnn import PatternModel as PatternModel

# Read a weight file; BundleError if it is damaged or holds a pattern without a rule.
from .cnn import load_cnn as load_cnn

# The network in the bytes of a weight file; errors as `load_cnn`.
from .cnn import parse_cnn as parse_cnn

# The network that mlkit ships for a standard, or that of a folder.
from .cnn import pretrained as pretrained

# Write weights and metadata as one safetensors file, atomically.
from .cnn import save_cnn as save_cnn

# Content of the weight file of a standard, checked against its manifest.
from .cnn import weights_file as weights_file

# The network in torch, for training.
from .network import PatternCNN as PatternCNN

# The same network without batch normalisations, to predict in torch.
from .network import folded as folded

# Log-odds of windows by the network in torch.
from .network import net_logits as net_logits

# Network in torch from arrays by name.
from .network import net_of as net_of

# Arrays by name from a network in torch.
from .network import weights_of as weights_of

# Bars in one window.
from .windows import LENGTH as LENGTH

# float32 array.
from .windows import Float32Array as Float32Array

# float64 array.
from .windows import Float64Array as Float64Array

# Make raw windows (n, 20, 5) scale-free.
from .windows import scale_windows as scale_windows

# Scale-free window of the last 20 bars at every bar that has one.
from .windows import windows as windows
