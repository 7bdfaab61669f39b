"""The manifest of a market lists its files with their digests; replacing it is the commit of a write."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from mlkit.errors import LakeError
from mlkit.market.bars import Float64Array
from mlkit.market.times import Int64Array

# The leading underscore hides it from engines that list a folder for data.
MANIFEST_FILE = "_manifest.json"
_MANIFEST_SCHEMA = 2  # 1: without a calendar
_SECOND = 10**9
_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)


@dataclass(frozen=True)
class Partition:
    """One month of bars: ``<month>.parquet``."""

    month: str  # YYYY-MM of the open times
    rows: int
    first_ns: int  # open time of its first bar
    last_ns: int
    size: int  # bytes of the file
    sha256: str  # of the file
    values: str  # `values_digest` of the bars

    @property
    def name(self) -> str:
        """File name in the market's folder."""
        return f"{self.month}.parquet"

    @property
    def staged(self) -> str:
        """Name of the file before its manifest is committed; hidden from engines that list data."""
        return f".{self.month}.{self.sha256[:16]}.staged"


@dataclass(frozen=True)
class LakeManifest:
    """A market of the lake as of one commit."""

    symbol: str
    timeframe: str
    generation: int  # +1 with each commit; 0: made from the months that are there, as the file is missing
    files: tuple[Partition, ...]  # in order of time
    calendar: str  # name of the trading calendar
    revised: int = 0  # bars that a later write changed, over all commits
    source: str | None = None  # where bars came from, by the last commit that named it
    removes: tuple[str, ...] = ()  # files that this commit made stale

    @property
    def rows(self) -> int:
        """Number of bars."""
        return sum(part.rows for part in self.files)

    @property
    def first(self) -> pd.Timestamp:
        """Open time of the first bar, UTC."""
        return pd.Timestamp(self.files[0].first_ns, tz="UTC")

    @property
    def last(self) -> pd.Timestamp:
        """Open time of the last bar, UTC."""
        return pd.Timestamp(self.files[-1].last_ns, tz="UTC")

    @property
    def dataset(self) -> str:
        """Hex SHA-256 over timeframe, months and values: equal bars have the same, however they were written."""
        lines = [self.timeframe, *(f"{part.month} {part.rows} {part.values}" for part in self.files)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """Canonical JSON with its own digest, so that any changed bit is detected."""
        return _canonical(self)


def values_digest(times: Int64Array, data: Float64Array) -> str:
    """Hex SHA-256 of open times (n,) and values (5, n), independent of how a file encodes them."""
    digest = hashlib.sha256(times.astype("<i8", copy=False).tobytes())
    digest.update((data + 0.0).astype("<f8", copy=False).tobytes())  # + 0.0: -0.0 equals 0.0
    return digest.hexdigest()


def parse_manifest(raw: bytes, where: str) -> LakeManifest:
    """The manifest that `to_bytes` wrote. Raises LakeError, naming ``where``, for damage or another schema."""
    try:
        read = json.loads(raw)
        if read["schema"] != _MANIFEST_SCHEMA:
            raise LakeError(
                f"{where}: schema {read['schema']!r}, this mlkit reads {_MANIFEST_SCHEMA}; update mlkit, "
                "or delete the market's folder and import its bars again"
            )
        files = tuple(
            Partition(
                part["month"],
                int(part["rows"]),
                _ns(part["first"]),
                _ns(part["last"]),
                int(part["bytes"]),
                part["sha256"],
                part["values"],
            )
            for part in read["files"]
        )
        found = LakeManifest(
            read["symbol"],
            read["timeframe"],
            int(read["generation"]),
            files,
            read["calendar"],
            int(read["revised"]),
            read["source"],
            tuple(read["removes"]),
        )
        whole = bool(files) and all(_MONTH.fullmatch(part.month) for part in files) and _canonical(found) == raw
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        whole = False
    if not whole:
        raise LakeError(
            f"{where}: the manifest is damaged (its digest does not match); restore it from a copy, "
            "or delete it and import the bars again"
        )
    return found


def _canonical(manifest: LakeManifest) -> bytes:
    body: dict[str, Any] = {
        "schema": _MANIFEST_SCHEMA,
        "symbol": manifest.symbol,
        "timeframe": manifest.timeframe,
        "calendar": manifest.calendar,
        "generation": manifest.generation,
        "rows": manifest.rows,
        "first": _iso(manifest.files[0].first_ns),
        "last": _iso(manifest.files[-1].last_ns),
        "dataset": manifest.dataset,
        "revised": manifest.revised,
        "source": manifest.source,
        "removes": list(manifest.removes),
        "files": [
            {
                "month": part.month,
                "rows": part.rows,
                "first": _iso(part.first_ns),
                "last": _iso(part.last_ns),
                "bytes": part.size,
                "sha256": part.sha256,
                "values": part.values,
            }
            for part in manifest.files
        ],
    }
    body["digest"] = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return (json.dumps(body, indent=1) + "\n").encode()


def _iso(ns: int) -> str:
    """ISO 8601 to the second: bars open on whole minutes."""
    return datetime.fromtimestamp(ns // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * _SECOND
