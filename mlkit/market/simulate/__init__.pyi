"""Seeded simulated markets whose truth is known."""

# A market without any edge: the log price is a martingale, so no direction can be predicted.
from .markets import null_market as null_market

# One continuous series to learn candlestick patterns on, its regime drawn from the seed.
from .markets import pattern_factory as pattern_factory

# A market (planted_edge) of n_bars whose character changes with bar at.
from .markets import regime_change as regime_change
