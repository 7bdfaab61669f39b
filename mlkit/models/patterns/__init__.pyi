"""The pattern CNN: windows of bars in, 15 probabilities out."""

# What a weight file says about itself; per-pattern tuples are in the order of patterns.
from .cnn import PatternMeta as PatternMeta

# A trained network with its calibration and thresholds.
from .cnn import PatternModel as PatternModel

# Read a file of :func:save_cnn.
from .cnn import load_cnn as load_cnn

# 1 / (1 + exp(-z)) without overflow.
from .cnn import logistic as logistic

# The network that mlkit ships for a standard, or that of folder; see :func:weights_file.
from .cnn import pretrained as pretrained

# Write weights and metadata as one safetensors file, atomically.
from .cnn import save_cnn as save_cnn

# Weight file of a standard, checked against its manifest.
from .cnn import weights_file as weights_file

# Three convolutional blocks of 32, 64 and 128 channels over a window of bars, 15 sigmoid outputs.
from .network import PatternCNN as PatternCNN

# The same function without batch normalisations (mlkit.models.patterns.forward.fold); only to predict.
from .network import folded as folded

# Log-odds, (n, n_outputs) float64, of windows (n, 20, 5), in batches of one size; NaN for NaN.
from .network import net_logits as net_logits

# Network with these weights, ready to predict; the caller's random state is left alone.
from .network import net_of as net_of

# Everything that a network has learned, as arrays by name.
from .network import weights_of as weights_of

# Bars in one window
from .windows import LENGTH as LENGTH
from .windows import Float32Array as Float32Array

# Make raw windows (n, length, 5) scale-free, as :func:windows describes; float32, same shape.
from .windows import scale_windows as scale_windows

# Scale-free window of length bars for every bar that has one.
from .windows import windows as windows
