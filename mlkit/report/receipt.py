"""The receipt of a report: what went in, what came out, and digests by which others can check it."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlkit.config import project_root, sha256_file
from mlkit.errors import ReportError
from mlkit.operations.tracking import git_state, package_versions
from mlkit.report.headlines import collect_headlines, collect_insight, headline_digest, shown_value

RECEIPT = "receipt.json"
INSIGHT = "insight.json"
PAGE = "index.html"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Decide where, not what.
PLACES = ("MLKIT_HOME", "MLKIT_TRAINING_DATA_PATH", "MLKIT_MODEL_STORAGE_PATH", "MLKIT_TRACKING")


def json_bytes(data: Any) -> bytes:
    """JSON as it is written into a report: readable, in the order of its keys, never NaN."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def build_receipt(inputs: Mapping[str, Any], notebooks: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the digests of the files, which are known once the files are written.

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
        "threads": {name: os.environ.get(name) for name in (*THREADS, "PYTHONHASHSEED")},
        "settings": {k: v for k, v in os.environ.items() if k.startswith("MLKIT_") and k not in PLACES},
        "platform": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "seconds": {
            name: round(nb["metadata"].get("papermill", {}).get("duration") or 0.0, 1) for name, nb in notebooks.items()
        },
        "headlines": headlines,
        "headline_digest": headline_digest(headlines),
    }


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a report but the receipt itself."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != RECEIPT}


def read_notebooks(folder: Path) -> dict[str, Any]:
    """The executed notebooks of a report, by file name, in the order of the story."""
    return {path.name: read_notebook(path) for path in sorted(folder.glob("*.ipynb"))}


def read_notebook(path: Path) -> Any:
    """A notebook as nbformat reads it: a dict whose texts are single strings."""
    import nbformat

    return nbformat.read(path, as_version=4)


def summarise_report(folder: Path) -> str:
    """A few lines for a terminal: the insight, the verdicts, and where the page is."""
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
    """The receipt of a report folder; ReportError where there is none that can be read."""
    try:
        receipt: dict[str, Any] = json.loads((folder / RECEIPT).read_bytes())
        if not isinstance(receipt["files"], dict) or not isinstance(receipt["headlines"], list):
            raise TypeError("files and headlines")
        return {"failure": None, "reused": [], **receipt}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{folder} holds no readable {RECEIPT}; pass a folder that mlkit report wrote") from error
