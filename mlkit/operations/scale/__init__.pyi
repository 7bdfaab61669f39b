"""The same functions over many markets and processes, on Dask."""

# A Dask client whose workers compute the bits that this process would; closed at the end of the block.
from .cluster import connect as connect

# Do the same work for every market of a universe: features, training or evaluation.
from .universe_jobs import run_universe as run_universe
