"""What a run has to tell, on disk before it is sent anywhere: one folder a run under ``data/untracked``.

    data/untracked/<key>/journal.jsonl   one entry a line, in order
    data/untracked/<key>/files/...       artifacts, under the names that they will have

The folder is deleted once a tracking server has all of it. One whose process was killed, or whose server was down,
stays and is sent later; sending the same journal twice changes nothing. Its writer holds a lock on the journal.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mlkit.config import project_root

JOURNAL = "journal.jsonl"
FILES = "files"
REFUSED = "refused"  # journals that a server took in part and will never take whole


def untracked() -> Path:
    """Folder of the journals that were not sent yet."""
    return project_root() / "data" / "untracked"


class Journal:
    """The journal of one run, open and locked by this process. ``entries`` is what it holds."""

    def __init__(self, folder: Path, file: IO[str], entries: list[dict[str, Any]]) -> None:
        self.folder, self.entries, self._file = folder, entries, file

    @classmethod
    def create(cls, key: str) -> "Journal":
        """A new journal; OSError where it cannot be written."""
        folder = untracked() / key
        folder.mkdir(parents=True)
        file = (folder / JOURNAL).open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        return cls(folder, file, [])

    @classmethod
    def take(cls, folder: Path) -> "Journal | None":
        """A journal that its writer left; None while one still writes or sends it, or where there is none."""
        try:
            file = (folder / JOURNAL).open("r+", encoding="utf-8", errors="replace")
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return cls(folder, file, list(_whole_lines(file.read())))

    @property
    def files(self) -> Path:
        """Folder of the artifacts."""
        return self.folder / FILES

    def write(self, do: str, **fields: Any) -> None:
        """Append an entry; it outlives the process. OSError where it cannot be written."""
        entry = {"do": do, "time": int(time.time() * 1000), **fields}
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()
        self.entries.append(entry)

    def attach(self, source: Path | bytes, name: str) -> None:
        """Keep a file, or these bytes, as ``name``, a relative path; OSError where that fails."""
        target = self.files / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)

    def link(self, source: Path, name: str) -> None:
        """As `attach`, for a file that never changes: it takes no room beside the original."""
        target = self.files / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:  # the same bundle told twice: as a challenger, then as the champion
            return
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)

    def close(self, *, sent: bool, refused: bool = False) -> None:
        """Let go of the journal; what was ``sent`` is deleted, what was ``refused`` in part is set aside."""
        if refused:
            aside = self.folder.parent / REFUSED
            aside.mkdir(exist_ok=True)
            self.folder.rename(aside / self.folder.name)
        elif sent:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._file.close()


def waiting() -> list[Path]:
    """Folders of the journals on disk, the oldest first; some may belong to runs that go on."""
    folder = untracked()
    return sorted(path.parent for path in folder.glob(f"*/{JOURNAL}") if path.parent.name != REFUSED)


@contextmanager
def taken(folder: Path) -> Iterator[Journal | None]:
    """`Journal.take`, let go of at the end; it stays on disk unless it was closed otherwise."""
    journal = Journal.take(folder)
    try:
        yield journal
    finally:
        if journal is not None and not journal._file.closed:
            journal.close(sent=False)


def _whole_lines(text: str) -> Iterator[dict[str, Any]]:
    """Entries up to the first line that a crash tore."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            return
        yield entry
