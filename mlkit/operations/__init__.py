"""Level 6: the life of the models."""
