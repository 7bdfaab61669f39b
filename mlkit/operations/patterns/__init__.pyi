"""Training of the pattern CNN, and returns after patterns."""

# Epochs of a profile, the most that a training reports; ConfigError for an unknown one.
from .cnn_training import epochs_of as epochs_of

# Train once and write the weights of both standards with the manifests that :func:pretrained checks.
from .cnn_training import ship_patterns as ship_patterns

# Train the pattern CNN on simulated bars, labelled by the rules.
from .cnn_training import train_patterns as train_patterns
