"""One market of the lake: its manifest and its months."""

import io
import re
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from mlkit.errors import LakeError
from mlkit.market.bars import COLUMNS, BarArrays, bars_of, validate_bars
from mlkit.market.calendar_choice import timetable
from mlkit.market.lake.folders import Folder
from mlkit.market.lake.index import MANIFEST_FILE, LakeManifest, Partition, parse_manifest, values_digest
from mlkit.market.symbols import symbol_folder
from mlkit.market.times import month_slots, timeframe_delta

_MONTH_FILE = re.compile(r"\d{4}-\d{2}\.parquet", re.ASCII)
_MONTH_SCHEMA = pa.schema([("timestamp", pa.timestamp("ns", tz="UTC")), *((name, pa.float64()) for name in COLUMNS)])


class Overtaken(Exception):
    """The bytes of a month are not those of the manifest: another commit came first, or the file is damaged."""


class LakeMarket:
    """Reads one market of the lake."""

    def __init__(self, folder: Folder, symbol: str, timeframe: str) -> None:
        timeframe_delta(timeframe)
        self.folder, self.symbol, self.timeframe = folder, symbol, timeframe
        self.path = f"symbol={symbol_folder(symbol)}/timeframe={timeframe}"
        self.where = f"{folder.location}/{self.path}"

    def manifest(self) -> LakeManifest | None:
        """The committed state; None where there are no bars.

        Where the manifest was deleted, it is made from the months that are there, as they are.
        """
        raw = self.folder.read(f"{self.path}/{MANIFEST_FILE}")
        if raw is None:
            return self._without_manifest(self._months())
        manifest = parse_manifest(raw, f"{self.where}/{MANIFEST_FILE}")
        if (manifest.symbol, manifest.timeframe) != (self.symbol, self.timeframe):
            raise LakeError(
                f"{self.where} holds {manifest.symbol} {manifest.timeframe}, not {self.symbol} {self.timeframe}; "
                "give the bars another symbol (some disks do not tell upper from lower case)"
            )
        return manifest

    def month(self, part: Partition) -> BarArrays:
        """One committed month, compared with its digest.

        The file has its final name, or still the staged one while its writer is at work; it may be renamed between
        two reads, so the final name is tried again. Raises Overtaken where no file has the committed bytes.
        """
        seen = False
        for name in (part.name, part.staged, part.name):
            raw = self.folder.read(f"{self.path}/{name}")
            seen |= raw is not None
            if raw is not None and len(raw) == part.size and sha256(raw).hexdigest() == part.sha256:
                return decode_month(raw, f"{self.where}/{name}", month_slots(self.timeframe))
        fault = "is damaged (its digest is not the manifest's)" if seen else "is missing"
        raise Overtaken(
            f"{self.where}/{part.name} {fault}; restore it from a copy, or delete it with {MANIFEST_FILE} beside it "
            "and import or fetch that month again"
        )

    def has_bars(self) -> bool:
        """Whether there are bars, from the names of the files."""
        return MANIFEST_FILE in self.folder.names(self.path) or bool(self._months())

    def _months(self) -> list[str]:
        return [name for name in self.folder.names(self.path) if _MONTH_FILE.fullmatch(name)]

    def _without_manifest(self, names: list[str]) -> LakeManifest | None:
        """Made from the months themselves; the calendar is chosen from their open times."""
        if not names:
            return None
        slots, raws = month_slots(self.timeframe), (self.folder.read(f"{self.path}/{name}") or b"" for name in names)
        times = [decode_month(raw, f"{self.where}/{name}", slots)[0] for name, raw in zip(names, raws, strict=True)]
        calendar = timetable(np.concatenate(times), self.timeframe)
        found = tuple(self._found(name, calendar) for name in names)
        return LakeManifest(self.symbol, self.timeframe, 0, found, calendar)

    def _found(self, name: str, calendar: str) -> Partition:
        """A month without a manifest: its page checksums and its bars are verified."""
        raw = self.folder.read(f"{self.path}/{name}") or b""
        values = decode_month(raw, f"{self.where}/{name}", month_slots(self.timeframe))
        validate_bars(bars_of(values, symbol=self.symbol, timeframe=self.timeframe, calendar=calendar))
        return month_partition(name.removesuffix(".parquet"), values, raw)


def month_partition(month: str, values: BarArrays, raw: bytes) -> Partition:
    """The manifest's entry for a month: its values, and the bytes of its file."""
    times = values[0]
    digests = sha256(raw).hexdigest(), values_digest(*values)
    return Partition(month, len(times), int(times[0]), int(times[-1]), len(raw), *digests)


def encode_month(values: BarArrays) -> bytes:
    """Parquet with a checksum on each page; the same bytes for the same bars and pyarrow."""
    times, data = values
    columns = [pa.array(times).cast(_MONTH_SCHEMA.field(0).type), *(pa.array(row) for row in data)]
    sink = io.BytesIO()
    pa.parquet.write_table(
        pa.Table.from_arrays(columns, schema=_MONTH_SCHEMA), sink, compression="lz4", write_page_checksum=True
    )
    return sink.getvalue()


def decode_month(raw: bytes, where: str, most: int) -> BarArrays:
    """Open times and values of a month that `encode_month` wrote, its page checksums verified.

    Raises LakeError, also for more than ``most`` rows: a small file may hold billions of equal ones.
    """
    try:
        file = pa.parquet.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True)
        if not file.schema_arrow.equals(_MONTH_SCHEMA):
            raise TypeError(f"columns {file.schema_arrow.names}")
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        if max(file.metadata.num_rows, sum(groups)) > most:
            raise ValueError(f"more than {most:,} rows, which no month of this timeframe has")
        table = file.read(use_threads=False)
        times = table.column(0).cast(pa.int64()).to_numpy()
        data = np.stack([table.column(name).to_numpy() for name in COLUMNS])
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise LakeError(
            f"{where}: not a readable Parquet file of bars ({reason}); restore it or import it again"
        ) from error
    return np.asarray(times, dtype=np.int64), data
