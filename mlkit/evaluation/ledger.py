"""The trial ledger: an append-only log of every fit, from which verdicts take the number of trials.

A result selected from many trials needs a correction by their number, failed and abandoned ones included. So each fit
appends a line when it starts and another when it ends (``Settings.ledger``: JSON lines, a file lock, fsync).

What counts
-----------
A **trial** is a distinct configuration, identified by the hash of its settings, features, horizons and seed, fitted to
data of the same market: the same symbol and timeframe with a span that overlaps, or bars with the same fingerprint.
Five folds of one walk-forward, or the same notebook run again, are one trial; another seed is a second one. A fit
that was abandoned or failed counts too. So a second run of the same work finds the same number.

The ``smoke`` profile counts the trials of its own process only, so that the committed notebooks print the same on
every machine; a choice made in another process adds its trials (`Ledger.recall`). The ``full`` profile counts all.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

import pandas as pd
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from mlkit.config import Settings, fsync_folder
from mlkit.errors import ConfigError
from mlkit.market import fingerprint
from mlkit.untrusted import Line, open_regular

RUN = uuid4().hex  # identifies this process in the ledger
LOCK_SECONDS = 20.0  # that a writer waits for the lock of another process
_LINE_BYTES = 2**20  # of one entry
_log = logging.getLogger(__name__)


def join_run(run: str) -> None:
    """Write and count under the run of another process, such as the one that started this worker."""
    global RUN
    RUN = run


@dataclass(frozen=True)
class Source:
    """Data of a fit: market, span and content."""

    symbol: str
    timeframe: str
    start: str  # open time of the first bar, ISO 8601 UTC
    end: str  # of the last one
    sha256: str  # mlkit.market.fingerprint

    @classmethod
    def of(cls, bars: pd.DataFrame) -> Self:
        """The source of validated bars."""
        first, last = (pd.Timestamp(bars.index[i]).isoformat() for i in (0, -1))
        return cls(bars.attrs["symbol"], bars.attrs["timeframe"], first, last, fingerprint(bars))

    def overlaps(self, other: "Source") -> bool:
        """Whether both are the same data, or parts of the same market that overlap in time."""
        same_market = (self.symbol, self.timeframe) == (other.symbol, other.timeframe)
        shared = max(self.start, other.start) <= min(self.end, other.end)
        return self.sha256 == other.sha256 or (same_market and shared)


@with_config(ConfigDict(extra="allow", allow_inf_nan=False))
class _Entry(TypedDict):
    """A line of a ledger; the records of retrainings have further events with texts of their own."""

    event: Line
    run: Line
    time: Line


class _End(_Entry):
    fit: Line
    status: Literal["done", "failed"]


class _About(_Entry):
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]


class _Start(_About):
    purpose: Line
    configuration: Line
    fit: Line


class _Recall(_About):
    purpose: Line
    configurations: tuple[Line, ...]


class _Sharpe(_About):
    purpose: Line
    configuration: Line
    sharpes: dict[Line, float]


class _Read(_About):
    reason: str


_ANY: TypeAdapter[Any] = TypeAdapter(_Entry)
_TYPES: dict[str, TypeAdapter[Any]] = {
    "start": TypeAdapter(_Start),
    "end": TypeAdapter(_End),
    "recall": TypeAdapter(_Recall),
    "sharpe": TypeAdapter(_Sharpe),
    "read": TypeAdapter(_Read),
}


class _Lines:
    """The lines of a ledger file that may hold one of the events (all by default), one in memory at a time."""

    def __init__(self, path: Path, events: Sequence[str]) -> None:
        self._path, self._events = path, events
        self._number, self._left_out = 0, list[int]()

    def __iter__(self) -> Iterator[bytes]:
        first = b'{"event": "'
        wanted = tuple(first + event.encode() + b'"' for event in self._events) or (first,)
        with open_regular(self._path) as file:
            for self._number, line in enumerate(iter(partial(file.readline, _LINE_BYTES), b""), start=1):
                # Most lines are of another event, which their first bytes show.
                if line.startswith(wanted) or not line.startswith(first):
                    yield line
        if self._left_out:
            lines = f"line {self._left_out[0]}" + (f" and {len(self._left_out) - 1} more" if self._left_out[1:] else "")
            _log.warning("%s: %s cannot be read and was left out", self._path, lines)

    def parse(self, line: bytes) -> dict[str, Any] | None:
        """The entry of the current line; None for a line that is none, which is counted."""
        try:
            entry = _ANY.validate_json(line)
            kind = _TYPES.get(entry["event"])
            found: dict[str, Any] = entry if kind is None else kind.validate_json(line)
        except ValidationError:
            self._left_out.append(self._number)
            return None
        return found if not self._events or found["event"] in self._events else None


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a configuration of plain JSON values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Ledger:
    """A file of trials, one JSON object a line, shared by processes.

    Parameters
    ----------
    path : file, made with its folder at the first entry.
    run : count the entries of this run only; None counts all.
    """

    def __init__(self, path: Path, *, run: str | None = None) -> None:
        self.path, self.run = path, run

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The ledger of the settings: all of it for the full profile, this process's part for smoke."""
        return cls(settings.ledger, run=RUN if settings.profile == "smoke" else None)

    @contextmanager
    def trial(
        self,
        sources: Sequence[Source],
        configuration: Mapping[str, Any],
        *,
        purpose: str = "price",
        about: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """Write a start, run the block, write its end; yields the configuration's hash.

        Parameters
        ----------
        sources : data that are fitted, one a market
        configuration : all choices, as plain JSON values
        purpose : kind of selection; trials are counted for each purpose
        about : further plain values for the start, such as the tracked run of the fit

        An exception, KeyboardInterrupt included, is written as the end and raised again; of a killed process
        only the start remains. ConfigError if the file cannot be written, so that no fit goes unrecorded.
        """
        tried, number = configuration_hash(configuration), uuid4().hex
        start = {"configuration": tried, "fit": number, **dict(about or {}), "settings": dict(configuration)}
        self.write("start", **_about(sources, purpose), **start)
        try:
            yield tried
        except BaseException as error:
            self.write("end", fit=number, status="failed", error=f"{type(error).__name__}: {error}"[:300])
            raise
        self.write("end", fit=number, status="done")

    def write(self, event: str, **fields: Any) -> None:
        """Append one entry under a lock, with fsync; an incomplete line of a crash is ended first.

        ConfigError if the file cannot be written, or is locked by another process for `LOCK_SECONDS`.
        """
        # `_Lines` and `trials` read the first fields without the rest, so their order matters.
        entry = {"event": event, "run": RUN, **fields, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            with self.path.open("ab+") as file:
                self._lock(file.fileno())
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            if new:
                fsync_folder(self.path.parent)
        except OSError as error:
            raise ConfigError(
                f"the trial ledger {self.path} cannot be written ({error}); point MLKIT_LEDGER_PATH at a file that can"
            ) from error

    def _lock(self, handle: int) -> None:
        """Lock the open file; the system frees the lock when it is closed."""
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise ConfigError(
                        f"{self.path} is locked by another process for more than {LOCK_SECONDS:g} s; end that process, "
                        "or point MLKIT_LEDGER_PATH at another file"
                    ) from None
                time.sleep(0.02)

    def entries(self) -> list[dict[str, Any]]:
        """Entries of the run in order, their ``sources`` as `Source`.

        Lines that are no entries, such as one that a crash left incomplete, are left out with one logged warning.
        """
        return list(self._entries())

    def _entries(self, *events: str) -> Iterator[dict[str, Any]]:
        lines = _Lines(self.path, events)
        entries = map(lines.parse, lines if self.path.exists() else ())
        return (entry for entry in entries if entry is not None and self.run in (None, entry["run"]))

    def recall(self, sources: Sequence[Source], configurations: Sequence[str], *, purpose: str = "price") -> None:
        """Add trials of other processes to the count, such as those of the study that chose the parameters.

        ``configurations`` are the hashes that `trial` yields; each counts once.
        """
        self.write("recall", **_about(sources, purpose), configurations=sorted(configurations))

    def trials(self, sources: Sequence[Source], *, purpose: str = "price") -> int:
        """Number of distinct configurations started on any of the sources, failed and abandoned ones included."""
        found: set[bytes] = set()
        # First bytes of a start, up to its configuration -> whether it counts: few differ, of a million lines.
        known: dict[bytes, bool] = {}
        lines, mark = _Lines(self.path, ("start", "recall")), b'"configuration": "'
        for line in lines if self.path.exists() else ():
            cut = line.find(mark)
            first, one = line[:cut], line[cut + len(mark) : cut + len(mark) + 64]
            if first in known and line.endswith(b"}\n"):
                counts, tried = known[first], [one]
            elif (entry := lines.parse(line)) is None:
                continue
            else:
                counts = self.run in (None, entry["run"]) and _concerns(entry, sources, purpose)
                tried = [each.encode() for each in entry.get("configurations", [entry.get("configuration", "")])]
                if line.startswith(b'{"event": "start"') and tried == [one]:
                    known[first] = counts
            found.update(tried if counts else ())
        return len(found)

    def write_sharpes(
        self, sources: Sequence[Source], configuration: str, sharpes: Mapping[int, float], *, purpose: str = "price"
    ) -> None:
        """Write a trial's out-of-sample Sharpe ratios (per bar, net of costs), by horizon.

        ``configuration`` is the hash that `trial` yields. ConfigError if the file cannot be written.
        """
        known = {str(horizon): float(value) for horizon, value in sharpes.items() if math.isfinite(value)}
        self.write("sharpe", **_about(sources, purpose), configuration=configuration, sharpes=known)

    def sharpes(self, sources: Sequence[Source], horizon: int, *, purpose: str = "price") -> list[float]:
        """Sharpe ratios of the trials on any of the sources, the newest of each configuration.

        Trials that never traded or were not evaluated have none.
        """
        found = {
            entry["configuration"]: entry["sharpes"][str(horizon)]
            for entry in self._entries("sharpe")
            if _concerns(entry, sources, purpose) and str(horizon) in entry["sharpes"]
        }
        return list(found.values())

    def table(self, sources: Sequence[Source], *, purpose: str = "price") -> pd.DataFrame:
        """Number of fits on the sources per configuration that are ``done``, ``failed`` or ``abandoned``.

        Returns a DataFrame, one row a configuration in order of its first start: ``configuration`` (first 8 digits of
        the hash), ``done``, ``failed``, ``abandoned``. A fit that is still running counts as abandoned.
        """
        ends = {entry["fit"]: entry["status"] for entry in self._entries("end")}
        counts: dict[str, dict[str, int]] = {}
        for entry in (entry for entry in self._entries("start") if _concerns(entry, sources, purpose)):
            row = counts.setdefault(entry["configuration"][:8], {"done": 0, "failed": 0, "abandoned": 0})
            row[ends.get(entry["fit"], "abandoned")] += 1
        frame = pd.DataFrame.from_dict(counts, orient="index", columns=["done", "failed", "abandoned"])
        return frame.rename_axis("configuration").reset_index()


def _about(sources: Sequence[Source], purpose: str) -> dict[str, Any]:
    return {"purpose": purpose, "sources": [asdict(source) for source in sources]}


def _concerns(entry: Mapping[str, Any], sources: Sequence[Source], purpose: str) -> bool:
    """Whether an entry is of this purpose and of data that overlap."""
    return entry["purpose"] == purpose and any(mine.overlaps(theirs) for mine in sources for theirs in entry["sources"])
