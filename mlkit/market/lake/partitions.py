"""One market of the lake as it lies: its manifest, its months, and old lakes that have neither."""

import io
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from mlkit.errors import BarsError, LakeError
from mlkit.market.bars import COLUMNS, Float64Array, ohlcv_arrays, open_times, validate_bars
from mlkit.market.lake.folders import Folder
from mlkit.market.lake.index import NAME, Manifest, Partition, month_starts, parse_manifest
from mlkit.market.reading.headers import choose, make_block
from mlkit.market.symbols import symbol_folder
from mlkit.market.times import Int64Array, timeframe_delta

Values = tuple[Int64Array, Float64Array]  # open times (n,), values (5, n)
Month = tuple[str, Int64Array, Float64Array]  # YYYY-MM, open times (n,), values (5, n)

_SCHEMA = pa.schema([("timestamp", pa.timestamp("ns", tz="UTC")), *((name, pa.float64()) for name in COLUMNS)])


class Overtaken(Exception):
    """A month is not what the manifest says: a writer was faster, or the file is damaged."""


class Market:
    """Reads one market; what is there is judged by the caller's manifest alone."""

    def __init__(self, folder: Folder, symbol: str, timeframe: str) -> None:
        timeframe_delta(timeframe)
        self.folder, self.symbol, self.timeframe = folder, symbol, timeframe
        self.place = f"symbol={symbol_folder(symbol)}/timeframe={timeframe}"
        self.where = f"{folder.location}/{self.place}"

    def manifest(self) -> Manifest | None:
        """The committed state; None where none was ever committed."""
        raw = self.folder.read(f"{self.place}/{NAME}")
        if raw is None:
            return None
        found = parse_manifest(raw, f"{self.where}/{NAME}")
        if (found.symbol, found.timeframe) != (self.symbol, self.timeframe):
            raise LakeError(
                f"{self.where} holds {found.symbol} {found.timeframe}, not {self.symbol} {self.timeframe}; "
                "give the bars another symbol (some disks do not tell upper from lower case)"
            )
        return found

    def month(self, part: Partition) -> Values:
        """One committed month, compared with its digest.

        The file has its own name, or, where its writer has not come so far, the staged one; it may get its
        name between two looks. Raises Overtaken where the bytes are under none of them.
        """
        seen = False
        for name in (part.name, part.staged, part.name):
            raw = self.folder.read(f"{self.place}/{name}")
            seen |= raw is not None
            if raw is not None and len(raw) == part.size and sha256(raw).hexdigest() == part.sha256:
                return decode_month(raw, f"{self.where}/{name}")
        fault = "is damaged (its digest is not the manifest's)" if seen else "is missing"
        raise Overtaken(
            f"{self.where}/{part.name} {fault}; restore it from a copy, or delete it with {NAME} beside it "
            "and import or fetch that month again"
        )

    def old_files(self) -> list[str]:
        """Parquet files of a folder without a manifest: what mlkit wrote before, or a hand put there."""
        return [name for name in self.folder.names(self.place) if name.endswith(".parquet") and name[0] not in "._"]

    def has_bars(self) -> bool:
        """Whether there is anything to read, by a look at the names."""
        return NAME in self.folder.names(self.place) or bool(self.old_files())

    def read_old(self, names: list[str]) -> pd.DataFrame:
        """Bars of files without a manifest, as strictly checked as any file."""
        parts = []
        for name in names:
            where = f"{self.where}/{name}"
            raw = self.folder.read(f"{self.place}/{name}")
            if raw is None:
                raise LakeError(f"{where} is missing; try again")
            table = _parquet(raw, where).read(use_threads=False)
            chosen = choose(table.column_names, where)
            columns = {role: table.column(table.column_names.index(column)) for role, column in chosen.items()}
            block = make_block(columns, chosen, where, "UTC", 0, lambda row: f"row {row}")
            index = pd.DatetimeIndex(block.times, tz="UTC")
            parts.append(pd.DataFrame(block.data.T, index=index, columns=list(COLUMNS)))
        frame = pd.concat(parts) if len(parts) > 1 else parts[0]
        try:
            return validate_bars(frame, symbol=self.symbol, timeframe=self.timeframe)
        except BarsError as error:
            raise BarsError(f"{self.where} ({', '.join(names[:3])}): {error}") from None


def encode_month(times: Int64Array, data: Float64Array) -> bytes:
    """Parquet with a checksum on each page; the same bytes for the same bars and pyarrow."""
    columns = [pa.array(times).cast(_SCHEMA.field(0).type), *(pa.array(row) for row in data)]
    sink = io.BytesIO()
    pa.parquet.write_table(
        pa.Table.from_arrays(columns, schema=_SCHEMA), sink, compression="lz4", write_page_checksum=True
    )
    return sink.getvalue()


def decode_month(raw: bytes, where: str) -> Values:
    """Open times and values of a month that `encode_month` wrote, its page checksums verified. Raises LakeError."""
    file = _parquet(raw, where)
    try:
        if not file.schema_arrow.equals(_SCHEMA):
            raise TypeError(f"columns {file.schema_arrow.names}")
        table = file.read(use_threads=False)
        times = table.column(0).cast(pa.int64()).to_numpy()
        data = np.stack([table.column(name).to_numpy() for name in COLUMNS])
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise _unreadable(where, error) from error
    return np.asarray(times, dtype=np.int64), data


def _parquet(raw: bytes, where: str) -> pa.parquet.ParquetFile:
    try:
        return pa.parquet.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> LakeError:
    reason = " ".join(str(error).split())[:160]
    return LakeError(f"{where}: not a readable Parquet file of bars ({reason}); restore it or import it again")


def months_of(bars: pd.DataFrame) -> Iterator[Month]:
    """Valid bars month by month."""
    times = open_times(bars)
    data = np.stack(ohlcv_arrays(bars))
    months, starts = month_starts(times)
    for month, start, stop in zip(months, starts, starts[1:], strict=False):
        yield month, times[start:stop], data[:, start:stop]
