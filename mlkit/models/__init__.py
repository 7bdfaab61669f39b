"""Level 4: arrays in, predictions out."""
