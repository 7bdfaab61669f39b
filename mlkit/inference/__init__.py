"""Level 5: where bars meet models."""
