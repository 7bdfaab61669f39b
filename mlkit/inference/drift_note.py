"""The last word about drift, as an insight, the status and the panel repeat it.

`mlkit.operations.drift.checks.save_drift` writes ``drift.json`` beside the bundles of a market. A file that is damaged,
hostile or too long is as good as none: one warning in the log, and "not monitored". So is one about another bundle.
"""

import json
import logging
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mlkit.errors import BundleError
from mlkit.inference.insight_data import Drift
from mlkit.market import symbol_folder
from mlkit.models.bundle import read_plain

LONGEST = 1 << 18  # bytes of a report
_log = logging.getLogger("mlkit")


class _Report(BaseModel):
    """What is read of the file; the rest is for people."""

    model_config = ConfigDict(extra="ignore", strict=True)

    bundle: str
    symbol: str
    timeframe: str
    checked: str
    verdict: Literal["drift", "no drift", "not enough bars"]
    reasons: list[str]


def drift_file(root: Path, symbol: str, timeframe: str) -> Path:
    """Where the report of a market lies: ``drift.json``, or one for each symbol where a root serves several."""
    folder = symbol_folder(symbol)
    return root / ("drift.json" if root.name == f"{folder}-{timeframe}" else f"drift-{folder}-{timeframe}.json")


def read_drift(root: Path, symbol: str, timeframe: str, bundle: str) -> Drift | None:
    """What was last found about a bundle on a market; None where nothing is known."""
    path = drift_file(root, symbol, timeframe)
    try:
        status = path.lstat()
    except OSError:
        return None
    report = _read(path, (status.st_ino, status.st_mtime_ns, status.st_size))
    if report is None or (report.symbol, report.timeframe, report.bundle) != (symbol, timeframe, bundle):
        return None
    try:
        checked = datetime.fromisoformat(report.checked).replace(tzinfo=None)
        return Drift(verdict=report.verdict, checked=checked, reasons=[_plain(text) for text in report.reasons[:20]])
    except ValueError:
        _log.warning("%s: not a drift report; run mlkit drift again", path)
        return None


def _plain(text: str) -> str:
    """One printable line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:500])


@lru_cache(maxsize=256)
def _read(path: Path, stamp: tuple[int, int, int]) -> _Report | None:
    """The report, or None with a warning; once for each state of the file."""
    try:
        if stamp[2] > LONGEST:
            raise BundleError(f"{stamp[2]} bytes are too many")
        return _Report.model_validate(json.loads(read_plain(path, None)))
    except (BundleError, ValidationError, ValueError, RecursionError) as error:
        detail = (
            "not a drift report" if isinstance(error, ValidationError | ValueError | RecursionError) else str(error)
        )
        _log.warning("%s: %s; run mlkit drift again", path, detail[:200])
        return None
