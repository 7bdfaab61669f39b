"""A model as an immutable directory: manifest, digests, publishing, inspection."""

# Prefix of folders that are being written or deleted.
from .bundle import DRAFT as DRAFT

# A verified bundle on disk; its models load when first used.
from .bundle import ModelBundle as ModelBundle

# Write an immutable bundle into a root; it is not published yet.
from .bundle import write_bundle as write_bundle

# Folder of all pools below that of the models.
from .bundle_folders import POOLS as POOLS

# Folder of a market's own bundles; it need not exist.
from .bundle_folders import market_root as market_root

# Folder of a pool's bundles; it need not exist.
from .bundle_folders import pool_root as pool_root

# Verify a bundle from somebody else in a child process; BundleError in one line whatever its files do.
from .inspection import inspect_bundle as inspect_bundle

# Name of the file that holds the ids of the published bundles.
from .manifest import CURRENT as CURRENT

# Most bytes of a model file.
from .manifest import FILE_LIMIT as FILE_LIMIT

# Regular expression of a bundle's id.
from .manifest import ID as ID

# Name of the manifest's file.
from .manifest import MANIFEST as MANIFEST

# ISO 8601 time that a pandas Timestamp holds, as a type of pydantic.
from .manifest import IsoTime as IsoTime

# Contents, training and scores of a bundle.
from .manifest import Manifest as Manifest

# Returns after a pattern on the training bars.
from .manifest import PatternEvidence as PatternEvidence

# Ids of the bundles that were published in a root, the current one first; NotTrainedError if there is none.
from .manifest import read_current as read_current

# The manifest of a bundle, its digests checked; BundleError if it is damaged or of another schema.
from .manifest import read_manifest as read_manifest

# Content of a regular file of the expected size, or of a small one; never follows a link.
from .manifest import read_plain as read_plain

# Ids of the published bundles that are still there, the current one first; empty if none was published.
from .publishing import history as history

# Lock a root against other changes of its current bundle; RetrainingError where it is locked.
from .publishing import only_one as only_one

# Delete all published bundles except the newest, and return their ids.
from .publishing import prune as prune

# Make a bundle the current one of its root.
from .publishing import publish as publish

# Make the bundle published before the current one current again, and return it.
from .publishing import rollback as rollback

# Delete unused folders: drafts of a killed writer, and bundles that are not published.
from .publishing import sweep as sweep

# Take an earlier bundle out of the history, so that no rollback returns to it.
from .publishing import withdraw as withdraw

# Vectors as a compressed npz file; the same vectors give the same bytes.
from .vectors import pack_vectors as pack_vectors

# Vectors of an npz file, each of the expected name and dtype; BundleError for anything else.
from .vectors import unpack_vectors as unpack_vectors
