"""The folder that holds the lake: local, written durably, or an object store behind an fsspec URL."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlkit.config import fsync_folder, write_all, write_atomic
from mlkit.errors import DependencyError, LakeError
from mlkit.untrusted import one_line, read_regular, without_password

_FILE_BYTES = 2**30


class LocalFolder:
    """A folder of this machine; names are relative, with ``/``. Commits survive a crash: file and folder are synced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)

    def read(self, name: str) -> bytes | None:
        """The whole file, or None where there is none."""
        with _lake_errors("read", f"{self.location}/{name}"):
            try:
                return read_regular(self.path / name, _FILE_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def stage(self, name: str, data: bytes) -> None:
        """Write a file that nothing refers to yet; durable only after `settle` of its folder."""
        target = self.path / name
        with _lake_errors("write", str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                write_all(handle, data)
                os.fsync(handle)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            finally:
                os.close(handle)

    def commit(self, name: str, data: bytes) -> None:
        """Replace a file in one step, durably."""
        with _lake_errors("write", f"{self.location}/{name}"):
            write_atomic(self.path / name, data)

    def rename(self, old: str, new: str) -> None:
        """Give a staged file its name, replacing what was there in one step."""
        with _lake_errors("rename", f"{self.location}/{old}"):
            os.replace(self.path / old, self.path / new)

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens where there is none."""
        with _lake_errors("remove", f"{self.location}/{name}"):
            (self.path / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; empty where there is none."""
        with _lake_errors("list", f"{self.location}/{folder}"):
            try:
                return sorted(os.listdir(self.path / folder))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def settle(self, folder: str) -> None:
        """Make the names in a folder durable. Its parents may be new: they are synced up to the lake's own parent."""
        place = self.path / folder
        with _lake_errors("sync", str(place)):
            for each in (place, *place.parents):
                fsync_folder(each)
                if each == self.path.parent:
                    return

    def lock_path(self, name: str) -> Path:
        """The local file whose lock stands for ``name``."""
        folder = self.path / ".locks"
        with _lake_errors("write", str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.lock"


class RemoteFolder:
    """An object store. One object is replaced in one step; a rename is a copy and a delete.

    Locks hold between the processes of this machine only: see `BarStore`.
    """

    def __init__(self, url: str) -> None:
        self.location = without_password(url).rstrip("/")
        try:
            import fsspec
        except ImportError as error:
            raise DependencyError(f'{self.location} needs fsspec; install it: pip install "mlkit[data]"') from error
        try:
            self._fs, path = fsspec.core.url_to_fs(url.rstrip("/"), use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise DependencyError(f"{self.location}: {one_line(str(error))}") from error
        self._root = str(path).rstrip("/")

    def read(self, name: str) -> bytes | None:
        with _lake_errors("read", f"{self.location}/{name}", Exception):
            try:
                data: bytes = self._fs.cat_file(self._path(name))
                return data
            except FileNotFoundError:
                return None

    def stage(self, name: str, data: bytes) -> None:
        with _lake_errors("write", f"{self.location}/{name}", Exception):
            self._fs.pipe_file(self._path(name), data)

    def commit(self, name: str, data: bytes) -> None:
        self.stage(name, data)

    def rename(self, old: str, new: str) -> None:
        with _lake_errors("rename", f"{self.location}/{old}", Exception):
            self._fs.copy(self._path(old), self._path(new))
            self._fs.rm_file(self._path(old))

    def remove(self, name: str) -> None:
        with _lake_errors("remove", f"{self.location}/{name}", Exception):
            try:
                self._fs.rm_file(self._path(name))
            except (FileNotFoundError, KeyError):
                return

    def names(self, folder: str) -> list[str]:
        with _lake_errors("list", f"{self.location}/{folder}", Exception):
            try:
                found: list[Any] = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found} - {""})

    def settle(self, folder: str) -> None:
        """Nothing to do: an object that was written is durable."""

    def lock_path(self, name: str) -> Path:
        folder = Path(tempfile.gettempdir()) / f"mlkit-locks-{os.getuid()}"
        with _lake_errors("write", str(folder)):
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{hashlib.sha256(f'{self.location} {name}'.encode()).hexdigest()[:32]}.lock"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


Folder = LocalFolder | RemoteFolder


def open_folder(location: str | Path) -> Folder:
    """The folder at a path, or at an fsspec URL such as ``s3://bucket/bars`` or ``memory://bars``."""
    text = str(location)
    if "://" not in text:
        return LocalFolder(Path(location))
    return LocalFolder(Path(text.removeprefix("file://"))) if text.startswith("file://") else RemoteFolder(text)


@contextmanager
def _lake_errors(deed: str, where: str, refusals: type[Exception] = OSError) -> Iterator[None]:
    """Turn an error of the system or the object store into one LakeError that says what is kept."""
    try:
        yield
    except refusals as error:
        reason = getattr(error, "strerror", None) or one_line(str(error), 200) or type(error).__name__
        raise LakeError(
            f"{where}: cannot {deed} ({reason}); the last committed bars are kept, mend the cause and run again"
        ) from error
