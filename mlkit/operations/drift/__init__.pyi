"""Whether the market is still the one that the model was trained on."""

# Compare the bars after a bundle's training with that training.
from .checks import check_drift as check_drift

# Write the report for those who answer with the bundle: into the root of its market, atomically.
from .checks import save_drift as save_drift

# Two detectors: how often an interval misses, and how large the errors are in units of its half width.
from .stream import DriftStream as DriftStream
