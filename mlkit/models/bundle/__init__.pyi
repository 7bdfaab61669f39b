"""A model as an immutable directory: manifest, digests, publishing, inspection."""

# Prefix of folders that are being written or deleted
from .bundle import DRAFT as DRAFT

# A verified bundle on disk. open one, or write one; models load when first asked for.
from .bundle import ModelBundle as ModelBundle

# Write an immutable bundle into root; it is not published yet.
from .bundle import write_bundle as write_bundle

# Folder of all pools below that of the models.
from .bundle_folders import POOLS as POOLS

# Folder of a market's own bundles; it need not exist.
from .bundle_folders import market_root as market_root

# Folder of a pool's bundles; it need not exist.
from .bundle_folders import pool_root as pool_root

# Verify a bundle in a child process; what was found, or BundleError in one line whatever the files do.
from .inspection import inspect_bundle as inspect_bundle
from .manifest import CURRENT as CURRENT

# Bytes of a model file
from .manifest import FILE_LIMIT as FILE_LIMIT
from .manifest import ID as ID
from .manifest import MANIFEST as MANIFEST

# What a bundle says about itself.
from .manifest import Manifest as Manifest

# Ids of the bundles that were published in a root, the current one first.
from .manifest import read_current as read_current

# The manifest of a bundle, its digests checked; BundleError if it is none of this schema.
from .manifest import read_manifest as read_manifest

# Content of a regular file of the expected size, or of a small one; never follows a link.
from .manifest import read_plain as read_plain

# Ids of the published bundles that are still there, the current one first; empty if none was published.
from .publishing import history as history

# Delete published bundles but the newest keep, and return their ids.
from .publishing import prune as prune

# Make a bundle the current one of its root: verify it, then replace CURRENT atomically.
from .publishing import publish as publish

# Make the bundle published before the current one current again, and return it.
from .publishing import rollback as rollback
from .publishing import sweep as sweep
from .publishing import withdraw as withdraw

# The vectors as a compressed npz; the same vectors give the same bytes.
from .vectors import pack_vectors as pack_vectors

# The vectors of an npz whose every header is the one that its vector's name and length ask for.
from .vectors import unpack_vectors as unpack_vectors
