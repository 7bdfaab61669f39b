"""Files and frames as blocks of times and values: every value read by a rule, none by a guess."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from mlkit.errors import BarsError, ConfigError
from mlkit.market.bars import COLUMNS
from mlkit.market.reading.headers import Block, as_pandas, choose, joined_times, make_block

TEXT = (".csv", ".csv.gz", ".txt", ".tsv")
KINDS = (*TEXT, ".parquet", ".pq", ".feather", ".arrow")

_WHOLE = 1 << 27  # bytes of a text file that are parsed at once, on all cores; a larger one is streamed
_BATCH = 1 << 23  # bytes of one piece of a streamed file
_ROWS = 1 << 19  # rows of one piece of a Parquet file
_KLINE = ("timestamp", *COLUMNS)  # what a file without a header holds first: Binance, Kraken
_METATRADER = ("date", "time", *COLUMNS)
_CLOCK = r"\d{1,2}:\d{2}(:\d{2})?"
_ZONED = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.]\d+)?)?Z"
_NAIVE = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.]\d+)?)?)?"


def read_blocks(path: Path, tz: str | None) -> Iterator[Block]:
    """The rows of a file, in pieces of bounded size.

    Raises ConfigError for a file that is missing or of another kind, BarsError with path, column, line (row) and
    mend for what cannot be read as a time or a number. Whether they are bars is for the caller to say.
    """
    _check_kind(path)
    blocks = _text_blocks(path, tz) if path.name.lower().endswith(TEXT) else _column_blocks(path, tz)
    empty = True
    for block in blocks:
        empty = empty and not len(block.times)
        yield block
    if empty:
        raise BarsError(f"{path}: a header but no rows; export the bars again")


def _check_kind(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a .csv, .csv.gz, .parquet or .feather file")
    if not path.name.lower().endswith(KINDS):
        raise ConfigError(f"{path}: {path.suffix or 'no'} file type; mlkit reads {', '.join(KINDS)}")
    if path.stat().st_size == 0:
        raise BarsError(f"{path}: the file is empty; export the bars again")


def read_raw(path: Path, counts: dict[str, int]) -> Iterator[pd.DataFrame]:
    """The rows of a file as written, for `mlkit.market.reading.repair` to judge: columns by role, text as text.

    Lines of a text file with too few or too many fields are dropped, and counted in ``counts``.
    """
    _check_kind(path)
    if path.name.lower().endswith(TEXT):
        layout, dropped = _layout(path), "lines of another length dropped"
        counts.setdefault(dropped, 0)

        def skip(_: Any) -> str:
            counts[dropped] += 1
            return "skip"

        types = dict.fromkeys(layout.names, pa.string())
        try:
            for table in _text_tables(path, layout, types, skip):
                columns = {role: table.column(name) for role, name in layout.chosen.items()}
                yield pd.DataFrame(
                    {"timestamp": joined_times(columns)} | {name: as_pandas(columns[name]) for name in COLUMNS}
                )
        except (pa.ArrowException, OSError, EOFError) as error:
            reason = " ".join(str(error).split())
            raise BarsError(f"{path}: not a readable UTF-8 CSV file ({reason}); export it again") from error
        return
    for chosen, batch in _batches(path):
        columns = {role: batch.column(batch.schema.names.index(name)) for role, name in chosen.items()}
        yield pd.DataFrame({"timestamp": joined_times(columns)} | {name: as_pandas(columns[name]) for name in COLUMNS})


# --- text -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """How a text file is written, from its first two lines."""

    comma: str
    names: tuple[str, ...]
    chosen: Mapping[str, str]  # role -> column name
    headless: bool
    time: pa.DataType  # as which Arrow may read the times at once

    def options(self, types: Mapping[str, pa.DataType], skip: Callable[[Any], str] | None) -> dict[str, Any]:
        """Of pyarrow.csv; ``skip`` is told of lines with another number of fields, which are errors without it."""
        return {
            "read_options": pa.csv.ReadOptions(
                block_size=_BATCH, column_names=list(self.names) if self.headless else None
            ),
            "parse_options": pa.csv.ParseOptions(delimiter=self.comma, invalid_row_handler=skip),
            "convert_options": pa.csv.ConvertOptions(
                column_types=dict(types),
                include_columns=list(self.chosen.values()),
                null_values=[],
                strings_can_be_null=False,
            ),
        }


def _layout(path: Path) -> _Layout:
    try:
        with pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None) as file:
            head = file.read(1 << 16)
        lines = [line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
        first, second = (line.decode() for line in [*lines, b"", b""][:2])
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BarsError(f"{path}: not a readable UTF-8 CSV file ({error}); export it again") from error
    if not first:
        raise BarsError(f"{path}: Empty CSV file; export the bars again")
    comma = max(",;\t|", key=first.count)
    fields = [field.strip('" ') for field in first.split(comma)]
    dated = len(fields) > 1 and re.fullmatch(_CLOCK, fields[1]) is not None
    headless = dated or re.fullmatch(r"\d{9,}", fields[0]) is not None
    if headless:
        known = _METATRADER if dated else _KLINE
        if len(fields) < len(known):
            raise BarsError(f"{path}: no header and {len(fields)} columns; bars without one need {', '.join(known)}")
        names = (*known, *(f"column {number}" for number in range(len(known) + 1, len(fields) + 1)))
        chosen = (
            {role: role for role in _KLINE}
            if not dated
            else {"timestamp": "date", "clock": "time"} | {name: name for name in COLUMNS}
        )
        second = first
    else:
        names = tuple(field if quoted else raw for field, raw, quoted in _unquoted(first, comma))
        chosen = choose(list(names), path)
    values = [field.strip('" ') for field in second.split(comma)]
    at = names.index(chosen["timestamp"])
    text = values[at] if at < len(values) else ""
    return _Layout(comma, names, chosen, headless, pa.string() if "clock" in chosen else _time_type(text))


def _unquoted(line: str, comma: str) -> Iterator[tuple[str, str, bool]]:
    for raw in line.split(comma):
        quoted = len(raw) > 1 and raw[0] == raw[-1] == '"'
        yield raw.strip('"'), raw, quoted


def _time_type(text: str) -> pa.DataType:
    """What Arrow itself reads as we would; anything else comes as text."""
    if re.fullmatch(r"\d{9,}", text):
        return pa.int64()
    if re.fullmatch(_ZONED, text):
        return pa.timestamp("ns", tz="UTC")
    return pa.timestamp("ns") if re.fullmatch(_NAIVE, text) else pa.string()


def _text_blocks(path: Path, tz: str | None) -> Iterator[Block]:
    """Numbers read as such at once; from the piece where that fails on, as text, to say what is wrong."""
    layout = _layout(path)
    types = dict.fromkeys(layout.names, pa.string()) | {layout.chosen[name]: pa.float64() for name in COLUMNS}
    types[layout.chosen["timestamp"]] = layout.time
    done = 0
    try:
        for table in _text_tables(path, layout, types):
            yield _text_block(table, layout, path, tz, done)
            done += table.num_rows
        return
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # a value that Arrow does not take: below it is found, or read by the slower rules
    skip = done
    try:
        for table in _text_tables(path, layout, dict.fromkeys(layout.names, pa.string())):
            table, skip = table.slice(skip), max(0, skip - table.num_rows)
            if table.num_rows:
                yield _text_block(table, layout, path, tz, done)
                done += table.num_rows
    except pa.ArrowInvalid as error:
        raise BarsError(f"{path}: {' '.join(str(error).split())}; mend the line or export again") from error
    except (OSError, EOFError) as error:
        raise BarsError(f"{path}: not a readable UTF-8 CSV file ({error}); export it again") from error


def _text_tables(
    path: Path, layout: _Layout, types: Mapping[str, pa.DataType], skip: Callable[[Any], str] | None = None
) -> Iterator[pa.Table]:
    packed = path.name.lower().endswith(".gz")
    with pa.input_stream(str(path), compression="gzip" if packed else None) as file:
        if path.stat().st_size <= (_WHOLE >> 3 if packed else _WHOLE):
            yield pa.csv.read_csv(file, **layout.options(types, skip))
            return
        with pa.csv.open_csv(file, **layout.options(types, skip)) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])


def _text_block(table: pa.Table, layout: _Layout, path: Path, tz: str | None, first: int) -> Block:
    columns = {role: table.column(name) for role, name in layout.chosen.items()}
    where = 0 if layout.headless else 1
    return make_block(columns, layout.chosen, path, tz, first, lambda row: f"line {_line(path, row + where)}")


def _line(path: Path, filled: int) -> int:
    """Line of a text file, from 1, that is its ``filled``-th (from 0) without the blank ones."""
    with pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None) as file:
        rest, number = b"", 0
        while data := file.read(1 << 20):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number += 1
                filled -= bool(line.strip())
                if filled < 0:
                    return number
    return number + 1


# --- columns --------------------------------------------------------------------------------------


def _column_blocks(path: Path, tz: str | None) -> Iterator[Block]:
    done = 0
    for chosen, batch in _batches(path):
        columns = {role: batch.column(batch.schema.names.index(name)) for role, name in chosen.items()}
        yield make_block(columns, chosen, path, tz, done, lambda row: f"row {row}")
        done += batch.num_rows


def _batches(path: Path) -> Iterator[tuple[dict[str, str], pa.RecordBatch]]:
    """Parquet and Feather, batch by batch: role -> column name, and the columns."""
    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        yield from _parquet_batches(path) if parquet else _feather_batches(path)
    except (pa.ArrowException, OSError) as error:
        kind = "Parquet" if parquet else "Feather"
        reason = " ".join(str(error).split())[:200]
        raise BarsError(f"{path}: not a readable {kind} file ({reason}); write it again") from error


def _parquet_batches(path: Path) -> Iterator[tuple[dict[str, str], pa.RecordBatch]]:
    file = pa.parquet.ParquetFile(path, page_checksum_verification=True)  # not read_table: it reads labels off the path
    chosen = choose(file.schema_arrow.names, path)
    for batch in file.iter_batches(batch_size=_ROWS, columns=list(chosen.values())):
        yield chosen, batch


def _feather_batches(path: Path) -> Iterator[tuple[dict[str, str], pa.RecordBatch]]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        chosen = choose(file.schema.names, path)
        for number in range(file.num_record_batches):
            yield chosen, file.get_batch(number)
