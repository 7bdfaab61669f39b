"""The Parquet lake: committed months of bars that survive a crash."""

# The few operations that the store needs; names are relative, with /.
from .folders import Folder as Folder

# The folder at a path, or at an fsspec URL such as s3://bucket/bars or memory://bars.
from .folders import open_folder as open_folder

# A market of the lake as one commit left it.
from .index import Manifest as Manifest

# Bars kept by (symbol, timeframe) in a local folder or behind an fsspec URL.
from .store import BarStore as BarStore
