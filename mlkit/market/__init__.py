"""Level 1: bars in, checked once at the door."""
