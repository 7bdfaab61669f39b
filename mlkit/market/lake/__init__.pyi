"""The Parquet lake: committed months of bars that survive a crash."""

# A folder of files: local, or an object store; names are relative, with /.
from .folders import Folder as Folder

# The folder at a path, or at an fsspec URL such as s3://bucket/bars or memory://bars.
from .folders import open_folder as open_folder

# The committed state of a market: its months with their digests, and how many bars a later write changed.
from .index import LakeManifest as LakeManifest

# Bars kept by (symbol, timeframe) in a local folder or behind an fsspec URL.
from .store import BarStore as BarStore
