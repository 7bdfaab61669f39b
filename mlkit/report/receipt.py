"""The receipt of a report: inputs, headline numbers, and the digests of its files."""

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlkit.config import Settings, project_root, sha256_file
from mlkit.errors import ReportError
from mlkit.operations.tracking import git_state, package_versions
from mlkit.report.headlines import collect_headlines, collect_insight, headline_digest, shown_value

RECEIPT = "receipt.json"
INSIGHT = "insight.json"
PAGE = "index.html"
HASH_SEED = "PYTHONHASHSEED"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# The only settings that a receipt holds: those that determine a model. No folder, address or secret is among them.
SETTINGS = {f"MLKIT_{name.upper()}": name for name in Settings.model_construct().chosen()}
_LONGEST = 500  # characters of a setting


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


def summarise_report(folder: Path) -> str:
    """A few lines for a terminal: the insight, the verdicts, the path of the page."""
    receipt = read_receipt(folder)
    insight = collect_insight(read_notebooks(folder))
    lines = [insight[2]] if insight else []
    lines += [
        f"{entry['title'] or entry['notebook']}: {shown_value(entry['value'], entry['digits'])}"
        for entry in receipt["headlines"]
        if entry["name"] == "verdict"
    ]
    lines.append(f"{len(receipt['headlines'])} headline numbers, digest {receipt['headline_digest'][:16]}")
    return "\n".join([*lines, str(folder / PAGE)])


def read_receipt(folder: Path) -> dict[str, Any]:
    """The receipt of a report folder; ReportError if there is none or it cannot be read."""
    try:
        receipt: dict[str, Any] = json.loads((folder / RECEIPT).read_bytes())
        if not isinstance(receipt["files"], dict) or not isinstance(receipt["headlines"], list):
            raise TypeError("files and headlines")
        return {"failure": None, "reused": [], **receipt}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{folder} holds no readable {RECEIPT}; pass a folder that mlkit report wrote") from error
