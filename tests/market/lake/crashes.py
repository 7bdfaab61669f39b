"""Faults for the lake: processes that kill themselves, disks that refuse, flipped bits, crowds.

Run as a script it prints one JSON line of counts; any broken promise is an AssertionError:

    python tests/market/lake/crashes.py {kill,moments,refusals,full,flips,crowd} [COUNT]
    python tests/market/lake/crashes.py sample    # a few of each

Children are forked from one quiet process, so that a kill costs milliseconds and not an import.
"""

import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from mlkit.errors import LakeError
from mlkit.market.bars import validate_bars
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market
from tests.forks import forked

BARS = null_market(3 * 31 * 24, seed=3, timeframe="1h", symbol="BTC/USDT")  # January to April 2024
MARKET = ("BTC/USDT", "1h")
CALLS = ("write", "fsync", "replace")  # of module os; everything durable goes through them


def revised(bars: pd.DataFrame, volume: float) -> pd.DataFrame:
    """The same bars, each with another volume."""
    return bars.assign(volume=volume)


def without_manifest(store: BarStore) -> None:
    store.append(BARS.iloc[:1000])
    (Path(store.location) / "symbol=BTC%2FUSDT" / "timeframe=1h" / "_manifest.json").unlink()


# name: how the lake was, what is written, what it is afterwards
Operation = tuple[Callable[[BarStore], object], Callable[[BarStore], object], pd.DataFrame]
OPERATIONS: dict[str, Operation] = {
    "first write": (lambda s: None, lambda s: s.append(BARS), BARS),
    "append to one month": (lambda s: s.append(BARS.iloc[:-9]), lambda s: s.append(BARS.iloc[-12:]), BARS),
    "append of months": (lambda s: s.append(BARS.iloc[:800]), lambda s: s.append(BARS.iloc[700:]), BARS),
    "revision of months": (
        lambda s: s.append(BARS),
        lambda s: s.append(revised(BARS, 7.0), on_conflict="replace"),
        revised(BARS, 7.0),
    ),
    "replacement": (lambda s: s.append(BARS), lambda s: s.replace(BARS.iloc[900:990]), BARS.iloc[900:990]),
    "lost manifest": (without_manifest, lambda s: s.append(BARS), BARS),
}


@contextmanager
def fault_at(k: int, fault: Callable[[str], None]) -> Iterator[list[int]]:
    """Call ``fault`` in place of the k-th call of write, fsync or replace; a write does half of its work first."""
    real = {name: getattr(os, name) for name in CALLS}
    calls = [0]

    def wrap(name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            calls[0] += 1
            if calls[0] == k:
                if name == "write":
                    real["write"](arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])  # type: ignore[arg-type]
                fault(name)
            return real[name](*arguments)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name))
    try:
        yield calls
    finally:
        for name in CALLS:
            setattr(os, name, real[name])


def read(store: BarStore) -> pd.DataFrame | None:
    return store.read(*MARKET) if store.has_bars(*MARKET) else None


def same(left: pd.DataFrame | None, right: pd.DataFrame | None) -> bool:
    if left is None or right is None:
        return left is right
    return left.shape == right.shape and bool((left.index == right.index).all()) and left.equals(right)


def check_files(store: BarStore) -> None:
    """What another engine would read: whole files, and no bar in two of them."""
    times: list[int] = []
    for path in Path(store.location).glob("symbol=*/timeframe=*/*.parquet"):
        table = pa.parquet.ParquetFile(path, page_checksum_verification=True).read(use_threads=False)
        times += table.column("timestamp").cast(pa.int64()).to_pylist()
    assert len(times) == len(set(times)), "a bar lies in two files"


def check_whole(store: BarStore, expected: pd.DataFrame) -> None:
    """After the write that follows a crash: the bars, the files, and no leftovers."""
    assert same(read(store), expected)
    check_files(store)
    manifest = store.manifest(*MARKET)
    assert manifest is not None
    folder = Path(store.location) / "symbol=BTC%2FUSDT" / "timeframe=1h"
    assert {path.name for path in folder.iterdir()} == {"_manifest.json", *(part.name for part in manifest.files)}


@contextmanager
def prepared(operation: Operation) -> Iterator[tuple[BarStore, pd.DataFrame | None, Callable[[], BarStore]]]:
    """A lake as the operation finds it, what is in it, and a way to put it back."""
    with tempfile.TemporaryDirectory() as scratch:
        first, lake = Path(scratch) / "first", Path(scratch) / "lake"
        first.mkdir()
        operation[0](BarStore(first))
        before = read(BarStore(first))

        def again() -> BarStore:
            shutil.rmtree(lake, ignore_errors=True)
            shutil.copytree(first, lake)
            return BarStore(lake)

        yield again(), before, again


def kill(step: int = 1) -> dict[str, int]:
    """SIGKILL at every ``step``-th write, fsync and rename of every operation."""
    counts = dict.fromkeys(OPERATIONS, 0)
    survived = {"old": 0, "new": 0}
    for name, operation in OPERATIONS.items():
        _, write, after = operation
        with prepared(operation) as (_, before, again):
            k = 1
            while True:
                store = again()

                def work(store: BarStore = store, k: int = k, write: Callable[[BarStore], object] = write) -> None:
                    with fault_at(k, lambda _: os.kill(os.getpid(), signal.SIGKILL)):
                        write(store)

                ended = forked(work)
                found = read(store)
                assert same(found, before) or same(found, after), f"{name}, call {k}: neither the old nor the new bars"
                check_files(store)
                if not ended:
                    assert same(found, after)
                    break
                survived["new" if same(found, after) else "old"] += 1
                counts[name] += 1
                write(store)  # the next writer finishes or repeats it
                check_whole(store, after)
                k += step
    return {**counts, **survived}


def moments(count: int = 200, seed: int = 7) -> dict[str, int]:
    """SIGKILL at random moments of a writer that commits as fast as it can; every commit it told of is there."""
    rng = random.Random(seed)
    pieces = [BARS.iloc[max(0, stop - 200) : stop] for stop in range(40, len(BARS), 40)]
    told, kept = 0, 0
    for _ in range(count):
        with tempfile.TemporaryDirectory() as scratch:
            store = BarStore(scratch)
            ours, theirs = os.pipe()
            child = os.fork()
            if child == 0:
                for number, piece in enumerate(pieces):
                    store.append(piece)
                    os.write(theirs, number.to_bytes(2, "big"))
                os._exit(0)
            os.close(theirs)
            time.sleep(rng.uniform(0.0, 0.8))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            with os.fdopen(ours, "rb") as pipe:
                acknowledged = len(pipe.read()) // 2
            found = read(store)
            rows = 0 if found is None else len(found)
            assert rows >= acknowledged * 40, "a committed bar is lost"
            assert rows % 40 == 0 and (found is None or same(found, BARS.iloc[:rows])), "not a state that was written"
            check_files(store)
            store.append(BARS)
            check_whole(store, BARS)
            told, kept = told + acknowledged, kept + rows // 40
    return {"kills": count, "commits told": told, "commits kept": kept}


def refusals(step: int = 1) -> dict[str, int]:
    """ENOSPC and EIO at every ``step``-th call: one clear error, the old state or the new one, no debris."""
    counts = {"ENOSPC": 0, "EIO": 0, "old": 0, "new": 0}
    for name, operation in OPERATIONS.items():
        _, write, after = operation
        for code in (errno.ENOSPC, errno.EIO):
            with prepared(operation) as (_, before, again):
                k, refused = 1, True
                while refused:
                    store, refused = again(), False

                    def fault(_: str, code: int = code) -> None:
                        raise OSError(code, os.strerror(code))

                    try:
                        with fault_at(k, fault):
                            write(store)
                    except LakeError as error:
                        refused = True
                        text = str(error)
                        assert "\n" not in text and os.strerror(code) in text and "are kept" in text, text
                        counts[errno.errorcode[code]] += 1
                    found = read(store)
                    assert same(found, before) or same(found, after), f"{name}, call {k}: neither old nor new bars"
                    if refused:
                        counts["new" if same(found, after) else "old"] += 1
                        check_files(store)
                    write(store)
                    check_whole(store, after)
                    k += step
    return counts


def full() -> dict[str, int]:
    """A real disk of 300 KB that runs full: one clear error, the old state, and room again after it."""
    with tempfile.TemporaryDirectory() as scratch:
        if os.system(f"mount -t tmpfs -o size=300k tmpfs {scratch} 2>/dev/null"):
            return {"tmpfs": 0}  # only an administrator may
        try:
            store = BarStore(scratch)
            store.append(BARS.iloc[:1000])
            try:
                store.append(null_market(40_000, seed=1, timeframe="1h", symbol=MARKET[0]), on_conflict="replace")
            except LakeError as error:
                assert "No space left on device" in str(error), error
            else:
                raise AssertionError("300 KB cannot hold 40,000 bars")
            check_whole(store, BARS.iloc[:1000])
            store.append(BARS.iloc[:1100])
            check_whole(store, BARS.iloc[:1100])
        finally:
            os.system(f"umount {scratch}")
    return {"tmpfs": 1}


def flips(count: int = 1000, seed: int = 7) -> dict[str, int]:
    """Single flipped bits anywhere in the months and the manifest: each is refused by the reader."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        store = BarStore(scratch)
        store.append(BARS.iloc[600:900])
        files = sorted(Path(scratch).glob("symbol=*/timeframe=*/*.*"))
        whole = {path: path.read_bytes() for path in files}
        hit = {path.name: 0 for path in files}
        sizes = np.array([len(raw) for raw in whole.values()], dtype=float)
        for number in range(count):
            # half of them by size, half evenly over the files; one in four in a Parquet footer
            path = files[rng.choice(len(files), p=sizes / sizes.sum() if number % 2 else None)]
            raw = bytearray(whole[path])
            low = max(0, len(raw) - 1500) if number % 4 == 0 else 0
            at = int(rng.integers(low, len(raw)))
            raw[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(raw)
            try:
                store.read(*MARKET)
            except LakeError:
                hit[path.name] += 1
            else:
                raise AssertionError(f"{path.name}, byte {at}: a flipped bit was read as bars")
            path.write_bytes(whole[path])
        assert same(read(store), BARS.iloc[600:900])
    return {"flips": count, "detected": sum(hit.values()), **hit}


def crowd(rounds: int = 12) -> dict[str, int]:
    """4 writers of one symbol, 4 readers: no commit is lost, and no reader sees a mix of two commits."""
    with tempfile.TemporaryDirectory() as scratch:
        store = BarStore(scratch)
        store.append(revised(BARS, 1.0))
        stop = Path(scratch) / "stop"

        def writer(number: int) -> None:
            for turn in range(rounds):
                value = float(10 + number + 4 * turn)
                store.append(revised(BARS, value), on_conflict="replace")
                own = validate_bars(BARS.iloc[number::4].iloc[turn::rounds], symbol="OTHER", timeframe="1h")
                store.append(own)

        def reader() -> None:
            seen = 0
            while not stop.exists() or not seen:
                found = store.read(*MARKET)
                assert len(found) == len(BARS) and found["volume"].nunique() == 1, "a mix of two commits"
                seen += 1
            Path(f"{scratch}/reads-{os.getpid()}").write_text(str(seen))

        children = []
        for number, work in enumerate([*(lambda n=n: writer(n) for n in range(4)), *[reader] * 4]):
            child = os.fork()
            if child == 0:
                try:
                    work()
                    os._exit(0)
                except BaseException as error:
                    print(f"child: {error!r}", file=sys.stderr)
                    os._exit(1)
            children.append((number, child))
        failed = 0
        for number, child in children:
            if number == 4:
                stop.touch()  # the writers are done
            failed += os.waitpid(child, 0)[1] != 0
        assert not failed, f"{failed} of 8 processes failed"
        assert same(store.read("OTHER", "1h"), validate_bars(BARS, symbol="OTHER", timeframe="1h"))
        manifest = store.manifest(*MARKET)
        assert manifest is not None and manifest.generation == 1 + 4 * rounds
        reads = sum(int(path.read_text()) for path in Path(scratch).glob("reads-*"))
        return {"writers": 4, "readers": 4, "commits": 8 * rounds, "reads": reads}


def sample() -> dict[str, dict[str, int]]:
    """A few of each, in seconds."""
    return {
        "kill": kill(5),
        "moments": moments(6),
        "refusals": refusals(12),
        "flips": flips(300),
        "crowd": crowd(2),
    }


MODES: dict[str, Callable[..., object]] = {
    each.__name__: each for each in (kill, moments, refusals, full, flips, crowd, sample)
}


def main() -> None:
    """Command line."""
    pa.set_cpu_count(1)
    print(json.dumps(MODES[sys.argv[1]](*map(int, sys.argv[2:]))))


if __name__ == "__main__":
    main()
