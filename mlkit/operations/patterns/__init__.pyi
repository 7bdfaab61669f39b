"""Training of the pattern CNN on simulated bars."""

# Epochs of a profile, the most that a training reports.
from .cnn_training import epochs_of as epochs_of

# Train once and write the weights of both standards with their manifests.
from .cnn_training import ship_patterns as ship_patterns

# Train the pattern CNN on simulated bars, labelled by the rules; returns the model and the history of its epochs.
from .cnn_training import train_patterns as train_patterns
