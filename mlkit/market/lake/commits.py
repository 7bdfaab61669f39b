"""One write to a market of the lake: merge, stage, commit, rename, remove what was replaced."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, LakeError
from mlkit.market.bars import COLUMNS, BarArrays, Float64Array, Month
from mlkit.market.lake.index import MANIFEST_FILE, LakeManifest, Partition, values_digest
from mlkit.market.lake.partitions import LakeMarket, Overtaken, encode_month, month_partition
from mlkit.market.times import Int64Array

Conflict = Literal["refuse", "keep", "replace"]


@dataclass(frozen=True)
class Commit:
    """The result of one write to a market."""

    symbol: str
    timeframe: str
    folder: str  # path or URL
    added: int  # bars that were not there
    known: int  # bars that were there and are the same
    revised: int  # bars that were there with other values
    rows: int  # bars there now
    generation: int
    dataset: str
    calendar: str  # of the market now
    note: str = ""  # how an import chose the calendar; empty where it was given or known

    def __str__(self) -> str:
        parts = [f"{self.added:,} new bars"]
        parts += [f"{self.known:,} already there"] if self.known else []
        parts += [f"{self.revised:,} that disagree"] if self.revised else []
        return f"{self.symbol} {self.timeframe}: {', '.join(parts)}; {self.rows:,} bars in {self.folder}"


class Merged(NamedTuple):
    """The bars of one month after a merge, and how many were new, equal and different."""

    values: BarArrays
    added: int
    known: int
    revised: int


class Write:
    """One write under the lock of its symbol. The manifest is replaced once, after all months are staged."""

    def __init__(self, market: LakeMarket, calendar: str, on_conflict: Conflict, source: str | None) -> None:
        self._market, self._calendar = market, calendar
        self._on_conflict, self._source = on_conflict, source
        self._added = self._known = self._revised = 0
        self._staged: list[Partition] = []

    def run(self, months: Iterable[Month], *, exact: bool = False) -> Commit:
        """Merge ``months`` into what is there; ``exact``: they become all there is."""
        market = self._market
        before = market.manifest()
        parts = {}
        if before is not None:
            finish(market, before)
            parts = {part.month: part for part in before.files}
        after: dict[str, Partition] = {}
        try:
            for month, times, data in months:
                if month in after:
                    raise ValueError(f"month {month} comes twice")
                after[month] = self._month(month, parts.get(month), (times, data), exact)
        except BaseException:
            with suppress(LakeError):  # the next write removes what stays
                for part in self._staged:
                    market.folder.remove(f"{market.path}/{part.staged}")
            raise
        after = after if exact else parts | after
        if not after:
            raise BarsError(f"{market.symbol} {market.timeframe}: no bars to write")
        return self._commit(before, tuple(after[month] for month in sorted(after)))

    def _month(self, month: str, part: Partition | None, new: BarArrays, exact: bool) -> Partition:
        """The month after this write: the old file where nothing changes, else a staged one."""
        values = new
        if part is None:
            self._added += len(new[0])
        else:
            try:
                there = self._market.month(part)
            except Overtaken as damage:  # this write holds the lock, so no other writer was faster
                raise LakeError(str(damage)) from None
            merged = merge(there, new, self._on_conflict, f"{self._market.symbol} {self._market.timeframe}")
            self._added += merged.added
            self._known += merged.known
            self._revised += merged.revised
            values = new if exact else merged.values
            if values_digest(*values) == part.values:
                return part
        raw = encode_month(values)
        staged = month_partition(month, values, raw)
        self._staged.append(staged)
        self._market.folder.stage(f"{self._market.path}/{staged.staged}", raw)
        return staged

    def _commit(self, before: LakeManifest | None, files: tuple[Partition, ...]) -> Commit:
        market, manifest = self._market, before
        same = manifest is not None and (manifest.files, manifest.calendar) == (files, self._calendar)
        if manifest is None or manifest.generation == 0 or not same:
            old = before or LakeManifest(market.symbol, market.timeframe, 0, (), self._calendar)
            gone = {part.name for part in old.files} - {part.name for part in files}
            revised = self._revised if self._on_conflict == "replace" else 0
            manifest = replace(
                old,
                generation=old.generation + 1,
                files=files,
                calendar=self._calendar,
                revised=old.revised + revised,
                source=self._source or old.source,
                removes=tuple(sorted(gone)),
            )
            market.folder.settle(market.path)
            market.folder.commit(f"{market.path}/{MANIFEST_FILE}", manifest.to_bytes())
            finish(market, manifest)
        return Commit(
            market.symbol,
            market.timeframe,
            market.where,
            added=self._added,
            known=self._known,
            revised=self._revised,
            rows=manifest.rows,
            generation=manifest.generation,
            dataset=manifest.dataset,
            calendar=manifest.calendar,
        )


def finish(market: LakeMarket, manifest: LakeManifest) -> None:
    """Rename committed months to their names; remove files that the commit replaced and that crashes left."""
    folder, path = market.folder, market.path
    names = set(folder.names(path))
    staged = {part.staged: part.name for part in manifest.files if part.staged in names}
    stale = {name for name in names if name.startswith(".") and name.endswith((".staged", ".tmp"))} - set(staged)
    stale |= names & set(manifest.removes) - {part.name for part in manifest.files}
    for name in sorted(stale):  # before the renames, so that another engine never finds a bar in two files
        folder.remove(f"{path}/{name}")
    for name, final in staged.items():
        folder.rename(f"{path}/{name}", f"{path}/{final}")
    if stale or staged:
        folder.settle(path)


def merge(there: BarArrays, new: BarArrays, on_conflict: Conflict, where: str) -> Merged:
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
