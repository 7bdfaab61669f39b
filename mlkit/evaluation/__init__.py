"""Level 3: splits, metrics and what may be claimed."""
