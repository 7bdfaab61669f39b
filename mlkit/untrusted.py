"""What others made: files read with a limit, text without control characters, addresses without passwords.

``SECURITY.md`` lists which file is parsed where and under which limits.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import StringConstraints

# Text of one line that a terminal shows as it is: no control, format or private characters.
Line = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]
Text = Annotated[str, StringConstraints(max_length=20_000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; OSError for anything else, such as a pipe, a device or a link, without waiting for it."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """Content of a regular file of at most ``most`` bytes; OSError as `open_regular`, and for a longer one."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # The size may grow after the check.
        data = file.read(most + 1) if size <= most else b""
    if max(size, len(data)) > most:
        raise OSError(errno.EFBIG, f"too long, over {most:,} bytes", str(path))
    return data


def printable(text: str, most: int = 300) -> str:
    """Text of at most ``most`` characters in which a ``?`` stands for each that is not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def without_password(url: str) -> str:
    """An address of a server, database or store without user, password and query, which may hold a key."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def one_line(text: str, most: int = 300) -> str:
    """Text, such as that of an error, on one line of at most ``most`` characters, its addresses without passwords."""
    return " ".join(map(without_password, text.split()))[:most]
