"""Files as pieces of rows: CSV by its first two lines, Parquet and Feather by their schema."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from mlkit.errors import BarsError, ConfigError
from mlkit.market.bars import COLUMNS, listing
from mlkit.market.reading.headers import Piece, choose

TEXT = (".csv", ".csv.gz", ".txt", ".tsv")
KINDS = (*TEXT, ".parquet", ".pq", ".feather", ".arrow")

_WHOLE = 1 << 27  # bytes of a text file that are parsed at once, on all cores; a larger one is streamed
_BATCH = 1 << 23  # bytes of one piece of a streamed file
_ROWS = 1 << 19  # rows of one piece of a Parquet file
_KLINE = ("timestamp", *COLUMNS)  # what a file without a header holds first: Binance, Kraken
_METATRADER = ("date", "time", *COLUMNS)
_OTHER_LENGTH = "lines of another length dropped"
_CLOCK = r"\d{1,2}:\d{2}(:\d{2})?"
_ISO_UTC = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.]\d+)?)?Z"
_ISO_NAIVE = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.]\d+)?)?)?"


def file_pieces(path: Path, counts: dict[str, int] | None = None) -> Iterator[Piece]:
    """The rows of a file, in pieces of bounded size.

    With ``counts`` (repair), text stays text, and lines with too few or too many fields are dropped and counted.

    Raises ConfigError for a file that is missing or of another kind, BarsError for one that cannot be read.
    """
    path = path.expanduser()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a .csv, .csv.gz, .parquet or .feather file")
    if not path.name.lower().endswith(KINDS):
        raise ConfigError(f"{path}: {path.suffix or 'no'} file type; mlkit reads {', '.join(KINDS)}")
    if path.stat().st_size == 0:
        raise BarsError(f"{path}: the file is empty; export the bars again")
    rows = 0
    for piece in _text_pieces(path, counts) if path.name.lower().endswith(TEXT) else _column_pieces(path):
        rows += len(piece)
        if len(piece):
            yield piece
    if not rows:
        raise BarsError(f"{path}: a header but no rows; export the bars again")


# --- text -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Separator, columns and type of the times of a text file, from its first two lines."""

    comma: str
    names: tuple[str, ...]
    chosen: Mapping[str, str]  # role -> column name
    headless: bool
    time: pa.DataType  # type as which Arrow reads the times

    def options(self, types: Mapping[str, pa.DataType], skip: Callable[[Any], str] | None) -> dict[str, Any]:
        """Options of pyarrow.csv; ``skip`` is called for a line with another number of fields, else an error."""
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
        with _opened(path) as file:
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
        second = first
    else:
        names = tuple(re.sub(r'^"(.*)"$', r"\1", field) for field in first.split(comma))
        if fields[0] in ("Price", "") and second and not re.search(r"\d", second):
            raise BarsError(
                f"{path}: two rows of column names and no number in the second, as of yfinance (Price, Ticker); save "
                "one market with frame.xs(ticker, axis=1, level='Ticker').to_csv(...)"
            )
    chosen = choose(list(names), path)
    values = [field.strip('" ') for field in second.split(comma)]
    at = names.index(chosen["timestamp"])
    text = values[at] if at < len(values) else ""
    return _Layout(comma, names, chosen, headless, pa.string() if "clock" in chosen else _time_type(text))


def _time_type(text: str) -> pa.DataType:
    """The type as which Arrow reads the times by the same rules as `parse_times`; else text."""
    if re.fullmatch(r"\d{9,}", text):
        return pa.int64()
    if re.fullmatch(_ISO_UTC, text):
        return pa.timestamp("ns", tz="UTC")
    return pa.timestamp("ns") if re.fullmatch(_ISO_NAIVE, text) else pa.string()


def _text_pieces(path: Path, counts: dict[str, int] | None) -> Iterator[Piece]:
    layout = _layout(path)
    as_text = dict.fromkeys(layout.names, pa.string())
    # Arrow parses times and numbers fast; from the piece where it cannot, the fields are read as text by our rules.
    typed = (
        as_text | {layout.chosen[name]: pa.float64() for name in COLUMNS} | {layout.chosen["timestamp"]: layout.time}
    )
    header = 0 if layout.headless else 1

    def line(row: int) -> str:
        return f"line {_line(path, row + header)}" if counts is None else f"row {row}"

    done = 0
    for types in (as_text,) if counts is not None else (typed, as_text):
        skip = done
        try:
            for table in _text_tables(path, layout, types, counts):
                table, skip = table.slice(skip), max(0, skip - table.num_rows)
                columns = {role: table.column(name) for role, name in layout.chosen.items()}
                yield Piece(columns, layout.chosen, str(path), line, done)
                done += table.num_rows
            if counts and not done and (lines := counts[_OTHER_LENGTH]):
                raise BarsError(
                    f"{path}: none of its {lines} lines has the {len(layout.names)} fields of the header "
                    f"({listing(list(layout.names))}); export the file again"
                )
            return
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            if types is as_text:
                raise BarsError(f"{path}: {' '.join(str(error).split())}; mend the line or export again") from error
        except (OSError, EOFError) as error:
            raise BarsError(f"{path}: not a readable UTF-8 CSV file ({error}); export it again") from error


def _text_tables(
    path: Path, layout: _Layout, types: Mapping[str, pa.DataType], counts: dict[str, int] | None
) -> Iterator[pa.Table]:
    def skip(_: Any) -> str:
        assert counts is not None
        counts[_OTHER_LENGTH] += 1
        return "skip"

    if counts is not None:
        counts.setdefault(_OTHER_LENGTH, 0)
    options = layout.options(types, None if counts is None else skip)
    with _opened(path) as file:
        # A compressed file is always streamed: its size says nothing about that of its text.
        if path.stat().st_size <= _WHOLE and not path.name.lower().endswith(".gz"):
            yield pa.csv.read_csv(file, **options)
            return
        with pa.csv.open_csv(file, **options) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])


def _opened(path: Path) -> Any:
    return pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None)


def _line(path: Path, filled: int) -> int:
    """Line of a text file, from 1, that is its ``filled``-th (from 0) without the blank ones."""
    with _opened(path) as file:
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


def _column_pieces(path: Path) -> Iterator[Piece]:
    """Parquet and Feather, batch by batch."""
    parquet = path.suffix.lower() in (".parquet", ".pq")
    done = 0
    try:
        for chosen, batch in _parquet_batches(path) if parquet else _feather_batches(path):
            columns = {role: batch.column(name) for role, name in chosen.items()}
            yield Piece(columns, chosen, str(path), first_row=done)
            done += batch.num_rows
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
