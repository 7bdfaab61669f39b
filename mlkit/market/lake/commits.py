"""One write to a market of the lake: merge, stage, commit, name, sweep."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, LakeError
from mlkit.market.bars import COLUMNS, Float64Array
from mlkit.market.lake.index import NAME, Manifest, Partition, values_digest
from mlkit.market.lake.partitions import Market, Month, Overtaken, Values, encode_month, months_of
from mlkit.market.times import Int64Array

Conflict = Literal["refuse", "keep", "replace"]


@dataclass(frozen=True)
class Commit:
    """What one write did to a market."""

    symbol: str
    timeframe: str
    folder: str  # path or URL
    added: int  # bars that were not there
    known: int  # bars that were there and are the same
    revised: int  # bars that were there with other values
    rows: int  # bars there now
    generation: int
    dataset: str

    def __str__(self) -> str:
        parts = [f"{self.added:,} new bars"]
        parts += [f"{self.known:,} already there"] if self.known else []
        parts += [f"{self.revised:,} that disagree"] if self.revised else []
        return f"{self.symbol} {self.timeframe}: {', '.join(parts)}; {self.rows:,} bars in {self.folder}"


class Merged(NamedTuple):
    """Two sets of bars of one month as one, and how they compared."""

    values: Values
    added: int
    known: int
    revised: int


class Write:
    """One write under the lock of its symbol. The manifest is replaced once, after all months are staged."""

    def __init__(self, market: Market, on_conflict: Conflict, source: str | None) -> None:
        self._market, self._on_conflict, self._source = market, on_conflict, source
        self._added = self._known = self._revised = 0
        self._staged: list[Partition] = []

    def run(self, months: Iterable[Month], *, exact: bool = False) -> Commit:
        """Merge ``months`` into what is there; ``exact``: they become all there is."""
        market = self._market
        before = market.manifest()
        old_files = [] if before is not None else market.old_files()
        if before is not None:
            finish(market, before)
        parts = {part.month: part for part in before.files} if before is not None else {}
        old_bars = months_of(market.read_old(old_files)) if old_files else ()
        old = {month: (times, data) for month, times, data in old_bars}
        after: dict[str, Partition] = {}
        try:
            for month, times, data in months:
                if month in after:
                    raise ValueError(f"month {month} comes twice")
                there = old.pop(month, None)
                if there is None and month in parts:
                    there = self._committed(parts[month])
                after[month] = self._month(month, there, (times, data), parts.get(month), exact)
            if not exact:
                after |= {month: self._stage(month, values) for month, values in old.items()}
                after |= {month: part for month, part in parts.items() if month not in after}
        except BaseException:
            with suppress(LakeError):  # what stays is swept by the next write
                for part in self._staged:
                    market.folder.remove(f"{market.place}/{part.staged}")
            raise
        if not after:
            raise BarsError(f"{market.symbol} {market.timeframe}: no bars to write")
        return self._commit(before, parts, after, old_files)

    def _committed(self, part: Partition) -> Values:
        try:
            return self._market.month(part)
        except Overtaken as damage:  # nobody else may write: it is damage
            raise LakeError(str(damage)) from None

    def _month(self, month: str, there: Values | None, new: Values, part: Partition | None, exact: bool) -> Partition:
        """What the month is after this write: the old file where nothing changes."""
        if there is None:
            self._added += len(new[0])
            return self._stage(month, new)
        merged = merge(there, new, self._on_conflict, f"{self._market.symbol} {self._market.timeframe}")
        self._added += merged.added
        self._known += merged.known
        self._revised += merged.revised
        values = new if exact else merged.values
        if part is not None and values_digest(*values) == part.values:
            return part
        return self._stage(month, values)

    def _stage(self, month: str, values: Values) -> Partition:
        times, data = values
        raw = encode_month(times, data)
        part = Partition(
            month, len(times), int(times[0]), int(times[-1]), len(raw), sha256(raw).hexdigest(), values_digest(*values)
        )
        self._staged.append(part)
        self._market.folder.stage(f"{self._market.place}/{part.staged}", raw)
        return part

    def _commit(
        self,
        before: Manifest | None,
        parts: dict[str, Partition],
        after: dict[str, Partition],
        old_files: list[str],
    ) -> Commit:
        market = self._market
        files = tuple(after[month] for month in sorted(after))
        manifest = before
        if before is None or before.files != files:
            gone = {*old_files, *(part.name for part in parts.values())} - {part.name for part in files}
            revised = self._revised if self._on_conflict == "replace" else 0
            manifest = Manifest(
                market.symbol,
                market.timeframe,
                before.generation + 1 if before else 1,
                files,
                revised + (before.revised if before else 0),
                self._source or (before.source if before else None),
                tuple(sorted(gone)),
            )
            market.folder.settle(market.place)
            market.folder.commit(f"{market.place}/{NAME}", manifest.to_bytes())
            finish(market, manifest)
        assert manifest is not None
        return Commit(
            market.symbol,
            market.timeframe,
            market.where,
            self._added,
            self._known,
            self._revised,
            manifest.rows,
            manifest.generation,
            manifest.dataset,
        )


def finish(market: Market, manifest: Manifest) -> None:
    """Give committed months their names, and remove what the commit made stale and what crashes left."""
    folder, place = market.folder, market.place
    names = set(folder.names(place))
    staged = {part.staged: part.name for part in manifest.files if part.staged in names}
    stale = {name for name in names if name.startswith(".") and name.endswith((".staged", ".tmp"))} - set(staged)
    stale |= names & set(manifest.removes) - {part.name for part in manifest.files}
    for name in sorted(stale):  # first: another engine shall never find a bar in two files
        folder.remove(f"{place}/{name}")
    for name, final in staged.items():
        folder.rename(f"{place}/{name}", f"{place}/{final}")
    if stale or staged:
        folder.settle(place)


def merge(there: Values, new: Values, on_conflict: Conflict, where: str) -> Merged:
    """Bars that are there and bars that come, both sorted, as one. Raises BarsError where that is refused."""
    (old_times, old_data), (times, data) = there, new
    at = np.searchsorted(old_times, times)
    both = at < len(old_times)
    both[both] = old_times[at[both]] == times[both]
    differ = both.copy()
    differ[both] = (old_data[:, at[both]] != data[:, both]).any(axis=0)
    revised = int(differ.sum())
    if revised and on_conflict == "refuse":
        raise BarsError(_refusal(times[differ], old_data[:, at[differ]], data[:, differ], where))
    if revised and on_conflict == "replace":
        old_data = old_data.copy()
        old_data[:, at[differ]] = data[:, differ]
    fresh = ~both
    if fresh.any():
        old_times = np.concatenate([old_times, times[fresh]])
        old_data = np.concatenate([old_data, data[:, fresh]], axis=1)
        order = np.argsort(old_times, kind="stable")
        old_times, old_data = old_times[order], np.ascontiguousarray(old_data[:, order])
    return Merged((old_times, old_data), int(fresh.sum()), int(both.sum()) - revised, revised)


def _refusal(times: Int64Array, old: Float64Array, new: Float64Array, where: str) -> str:
    """The first five bars that disagree, the column and both values."""
    rows = []
    for row in range(min(5, len(times))):
        column = int(np.argmax(old[:, row] != new[:, row]))
        time, theirs, ours = pd.Timestamp(int(times[row])), float(old[column, row]), float(new[column, row])
        rows.append(f"{time:%Y-%m-%d %H:%M} {COLUMNS[column]} {theirs!r} there, {ours!r} new")
    return (
        f"{where}: {len(times)} bars are in the lake with other values ({'; '.join(rows)}); "
        'nothing was written: pass on_conflict="replace" (mlkit import --replace) to take the new ones, or "keep"'
    )
