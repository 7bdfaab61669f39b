"""Vectors in one compressed npz file, read without trusting its headers."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlkit.errors import BundleError

_UNPACKED_LIMIT = 2**28  # bytes of all arrays


def pack_vectors(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The vectors as a compressed npz; the same vectors give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]  # the stubs take a name for an option
    return buffer.getvalue()


def unpack_vectors(data: bytes, kinds: Mapping[str, str], what: str) -> dict[str, Any]:
    """The vectors of an npz file, each of the expected name and dtype.

    ``np.load`` trusts headers: it allocates an array of any length, or unpickles objects. Here each header must be
    the one that the name, the dtype and the number of stored bytes give.

    Parameters
    ----------
    data : of `pack_vectors`
    kinds : name to dtype of the vectors that must be there, and no other
    what : what the file is, for messages

    Raises BundleError for anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            wanted, found = sorted(f"{name}.npy" for name in kinds), sorted(e.filename for e in entries)
            if found != wanted:
                raise BundleError(f"expected the arrays {', '.join(kinds)}, got {', '.join(found)[:200] or 'none'}")
            if sum(entry.file_size for entry in entries) > _UNPACKED_LIMIT:
                raise BundleError(f"unpacks to more than {_UNPACKED_LIMIT} bytes")
            unpacked = {entry.filename.removesuffix(".npy"): archive.read(entry) for entry in entries}
    # zipfile raises the last two for encryption and for methods that it does not know.
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"not {what} ({error})") from error
    return {name: _vector(name, kind, unpacked[name]) for name, kind in kinds.items()}


def _vector(name: str, kind: str, stored: bytes) -> npt.NDArray[Any]:
    """A vector in the npy format, version 1.0."""
    dtype = np.dtype(kind)
    room = len(stored) - 128  # header of a vector
    header = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": (room // dtype.itemsize,)}
    np.lib.format.write_array_header_1_0(header, described)
    if room < 0 or room % dtype.itemsize or not stored.startswith(header.getvalue()):
        raise BundleError(f"array {name} must be a vector of {dtype}")
    return np.frombuffer(stored, dtype=dtype, offset=128)
