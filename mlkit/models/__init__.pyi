"""Level 4: arrays in, predictions out."""

# Ids of the published bundles that are still there, the current one first; empty if none was published.
from .bundle import history as history

# Folder of a market's own bundles; it need not exist.
from .bundle import market_root as market_root

# Delete all published bundles except the newest, and return their ids.
from .bundle import prune as prune

# Make a bundle the current one of its root.
from .bundle import publish as publish

# Make the bundle published before the current one current again, and return it.
from .bundle import rollback as rollback

# The network that mlkit ships for a standard, or that of a folder.
from .patterns import pretrained as pretrained

# Write weights and metadata as one safetensors file, atomically.
from .patterns import save_cnn as save_cnn
