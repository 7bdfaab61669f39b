"""The receipt of a report: inputs, headline numbers, and the digests of its files."""

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from mlkit.config import Settings, project_root, sha256_file
from mlkit.errors import ReportError
from mlkit.operations.tracking import git_state, package_versions
from mlkit.report.headlines import (
    Headline,
    collect_headlines,
    collect_insight,
    headline_digest,
    shown_value,
)
from mlkit.untrusted import Digest, Line, Text, printable, read_regular

RECEIPT = "receipt.json"
INSIGHT = "insight.json"
PAGE = "index.html"
HASH_SEED = "PYTHONHASHSEED"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# The only settings that a receipt holds: those that determine a model. No folder, address or secret is among them.
SETTINGS = {f"MLKIT_{name.upper()}": name for name in Settings.model_construct().chosen()}
_LONGEST = 500  # characters of a setting
_RECEIPT_BYTES = 2**22
_FILE_BYTES = 2**26  # of a file of a report
_FILES = 100  # of a report

_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@with_config(_CLOSED)
class _Data(TypedDict):
    """The bars of a report."""

    sha256: Digest  # mlkit.market.fingerprint
    bars: Annotated[int, Field(ge=1)]
    first: Line  # open time, ISO 8601 UTC
    last: Line
    since: NotRequired[Line]
    until: NotRequired[Line]


@with_config(_CLOSED)
class _Git(TypedDict):
    commit: Line
    dirty: bool


@with_config(_CLOSED)
class _Platform(TypedDict):
    machine: Line
    system: Line
    cpus: int | None


@with_config(_CLOSED)
class Receipt(TypedDict):
    """The content of ``receipt.json``; it may come from a stranger, so every field is typed and bounded."""

    schema: Literal[1]
    created: Line
    symbol: Line
    timeframe: Line
    profile: Line
    seed: Annotated[int, Field(ge=0)]
    parameters: dict[Line, dict[Line, JsonValue]]  # notebook -> parameter -> value
    data: _Data
    git: _Git | None
    versions: dict[Line, Line]
    threads: dict[Line, Line | None]
    settings: dict[Line, Line]
    platform: _Platform
    seconds: dict[Line, float]  # of each notebook
    headlines: Annotated[list[Headline], Field(max_length=5000)]
    headline_digest: Digest
    reused: NotRequired[list[Line]]
    failure: NotRequired[Text | None]
    files: Annotated[dict[Line, Digest], Field(max_length=_FILES)]


_RECEIPT: TypeAdapter[Receipt] = TypeAdapter(Receipt)


def json_bytes(data: Any) -> bytes:
    """Indented JSON in the order of its keys; ValueError for NaN."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def build_receipt(inputs: Mapping[str, Any], notebooks: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt without the digests of the files, which are added when these are written.

    Parameters
    ----------
    inputs: symbol, timeframe, profile, seed, parameters and data of the run.
    notebooks: executed notebooks by file name.
    """
    headlines = collect_headlines(notebooks)
    return {
        "schema": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **inputs,
        "git": git_state(project_root()),
        "versions": package_versions(),
        "threads": {name: os.environ.get(name) for name in (*THREADS, HASH_SEED)},
        "settings": {name: value for name, value in os.environ.items() if name in SETTINGS},
        "platform": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "seconds": {
            name: round(nb["metadata"].get("papermill", {}).get("duration") or 0.0, 1) for name, nb in notebooks.items()
        },
        "headlines": headlines,
        "headline_digest": headline_digest(headlines),
    }


def environment_of(receipt: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables from a receipt for running its report again: settings of models, and threads.

    A receipt may come from a stranger. Any other variable could name code to run or a folder, and is refused.

    Raises ReportError naming the entry that is not allowed.
    """
    settings, threads = receipt.get("settings", {}), receipt.get("threads", {})
    if not isinstance(settings, dict) or not isinstance(threads, dict):
        raise ReportError(f"{RECEIPT}: settings and threads must be tables; it was edited")
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in SETTINGS or not isinstance(value, str) or len(value) > _LONGEST:
            raise ReportError(f"{RECEIPT}: {name!r:.80} is no setting that decides a model; it was edited")
        try:
            values[SETTINGS[name]] = json.loads(value)
        except ValueError:
            values[SETTINGS[name]] = value
    try:
        Settings(**values)
    except ValidationError as error:
        raise ReportError(f"{RECEIPT}: its settings are refused ({error.errors()[0]['msg']}); it was edited") from error
    counts = {name: value for name, value in threads.items() if value is not None}
    for name, value in counts.items():
        if name not in (*THREADS, HASH_SEED) or not isinstance(value, str) or not re.fullmatch(r"\d{1,9}", value):
            raise ReportError(f"{RECEIPT}: {name!r:.80} is no number of threads; it was edited")
    return {**settings, **counts}


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a report except the receipt."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != RECEIPT}


def read_notebooks(folder: Path) -> dict[str, Any]:
    """The executed notebooks of a report, by file name, in order."""
    return {path.name: read_notebook(path) for path in sorted(folder.glob("*.ipynb"))}


def read_notebook(path: Path) -> Any:
    """A notebook as nbformat reads it."""
    import nbformat

    return nbformat.read(path, as_version=4)


def read_files(folder: Path) -> dict[str, bytes]:
    """Content of every file of a report except the receipt, by name; they may come from a stranger.

    ReportError for a link, a pipe or a folder, and for more or larger files than a report has.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.name != RECEIPT)
    if len(names) > _FILES:
        raise ReportError(f"{folder} holds {len(names)} files, a report has at most {_FILES}")
    try:
        return {name: read_regular(folder / name, _FILE_BYTES) for name in names}
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}; a report holds plain files only") from error


def parse_notebooks(files: Mapping[str, bytes]) -> dict[str, Any]:
    """The notebooks among the files of a report, checked against nbformat's schema; ReportError naming a wrong one."""
    import nbformat

    notebooks = {}
    for name in (name for name in files if name.endswith(".ipynb")):
        try:
            notebooks[name] = nbformat.reads(files[name].decode(), as_version=4)
            nbformat.validate(notebooks[name])
        # nbformat raises its own, json's and jsonschema's errors.
        except Exception as error:
            raise ReportError(f"{name} is not a notebook ({type(error).__name__}); it was edited") from error
    return notebooks


def summarise_report(folder: Path) -> str:
    """A few lines for a terminal: the insight, the verdicts, the path of the page."""
    receipt = read_receipt(folder)
    insight = collect_insight(parse_notebooks(read_files(folder)))
    lines = [insight[2]] if insight else []
    lines += [
        f"{printable(entry['title'] or entry['notebook'])}: {shown_value(entry['value'], entry['digits'])}"
        for entry in receipt["headlines"]
        if entry["name"] == "verdict"
    ]
    lines.append(f"{len(receipt['headlines'])} headline numbers, digest {receipt['headline_digest'][:16]}")
    return "\n".join([*lines, str(folder / PAGE)])


def read_receipt(folder: Path) -> Receipt:
    """The receipt of a report folder; ReportError if there is none, or a field is missing, unknown or of another type.

    Also the default of what receipts of older versions lack.
    """
    try:
        receipt = _RECEIPT.validate_json(read_regular(folder / RECEIPT, _RECEIPT_BYTES))
    except OSError as error:
        reason = error.strerror or "cannot be read"
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        reason = printable(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": "))
    else:
        return {"failure": None, "reused": [], **receipt}
    raise ReportError(f"{folder} holds no readable {RECEIPT} ({reason}); pass a folder that mlkit report wrote")
