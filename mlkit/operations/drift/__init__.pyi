"""Whether the market is still the one that the model was trained on."""

# Compare the bars after a bundle's training with that training: five tests, one verdict.
from .checks import check_drift as check_drift

# Write the report into the root of its market, where insights, status and panel read it.
from .checks import save_drift as save_drift

# Drift bar by bar: detectors of the interval's misses and of the size of the errors.
from .stream import DriftStream as DriftStream
