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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pandas as pd

from mlkit.config import Settings, fsync_folder
from mlkit.errors import ConfigError
from mlkit.market import fingerprint

RUN = uuid4().hex  # identifies this process in the ledger
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
        start = dict(about or {}) | {
            "fit": number,
            "purpose": purpose,
            "configuration": tried,
            "sources": [asdict(source) for source in sources],
        }
        self.write("start", **start, settings=dict(configuration))
        try:
            yield tried
        except BaseException as error:
            self.write("end", fit=number, status="failed", error=f"{type(error).__name__}: {error}"[:300])
            raise
        self.write("end", fit=number, status="done")

    def write(self, event: str, **fields: Any) -> None:
        """Append one entry under a lock, with fsync; an incomplete line of a crash is ended first."""
        entry = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), "run": RUN, **fields}
        line = json.dumps(entry, sort_keys=True, allow_nan=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            with self.path.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
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

    def entries(self) -> list[dict[str, Any]]:
        """Entries of the run in order; an incomplete line of a crash is left out with a logged warning."""
        if not self.path.exists():
            return []
        found = []
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                entry = json.loads(line)
            except ValueError:
                _log.warning("%s, line %d is torn and was left out", self.path, number)
                continue
            if self.run is None or entry["run"] == self.run:
                found.append(entry)
        return found

    def recall(self, sources: Sequence[Source], configurations: Sequence[str], *, purpose: str = "price") -> None:
        """Add trials of other processes to the count, such as those of the study that chose the parameters.

        ``configurations`` are the hashes that `trial` yields; each counts once.
        """
        about = {"purpose": purpose, "sources": [asdict(source) for source in sources]}
        self.write("recall", **about, configurations=sorted(configurations))

    def trials(self, sources: Sequence[Source], *, purpose: str = "price") -> int:
        """Number of distinct configurations started on any of the sources, failed and abandoned ones included."""
        started = {entry["configuration"] for entry in self._entries("start", sources, purpose)}
        return len(started.union(*(entry["configurations"] for entry in self._entries("recall", sources, purpose))))

    def write_sharpes(
        self, sources: Sequence[Source], configuration: str, sharpes: Mapping[int, float], *, purpose: str = "price"
    ) -> None:
        """Write a trial's out-of-sample Sharpe ratios (per bar, net of costs), by horizon.

        ``configuration`` is the hash that `trial` yields. ConfigError if the file cannot be written.
        """
        about = {"purpose": purpose, "sources": [asdict(source) for source in sources]}
        known = {str(horizon): float(value) for horizon, value in sharpes.items() if math.isfinite(value)}
        self.write("sharpe", **about, configuration=configuration, sharpes=known)

    def sharpes(self, sources: Sequence[Source], horizon: int, *, purpose: str = "price") -> list[float]:
        """Sharpe ratios of the trials on any of the sources, the newest of each configuration.

        Trials that never traded or were not evaluated have none.
        """
        found = {
            entry["configuration"]: entry["sharpes"][str(horizon)]
            for entry in self._entries("sharpe", sources, purpose)
            if str(horizon) in entry["sharpes"]
        }
        return list(found.values())

    def table(self, sources: Sequence[Source], *, purpose: str = "price") -> pd.DataFrame:
        """Number of fits on the sources per configuration that are ``done``, ``failed`` or ``abandoned``.

        Returns a DataFrame, one row a configuration in order of its first start: ``configuration`` (first 8 digits of
        the hash), ``done``, ``failed``, ``abandoned``. A fit that is still running counts as abandoned.
        """
        ends = {entry["fit"]: entry["status"] for entry in self.entries() if entry["event"] == "end"}
        counts: dict[str, dict[str, int]] = {}
        for entry in self._entries("start", sources, purpose):
            row = counts.setdefault(entry["configuration"][:8], {"done": 0, "failed": 0, "abandoned": 0})
            row[ends.get(entry["fit"], "abandoned")] += 1
        frame = pd.DataFrame.from_dict(counts, orient="index", columns=["done", "failed", "abandoned"])
        return frame.rename_axis("configuration").reset_index()

    def _entries(self, event: str, sources: Sequence[Source], purpose: str) -> list[dict[str, Any]]:
        return [
            entry
            for entry in self.entries()
            if entry["event"] == event
            and entry["purpose"] == purpose
            and any(mine.overlaps(Source(**theirs)) for mine in sources for theirs in entry["sources"])
        ]
