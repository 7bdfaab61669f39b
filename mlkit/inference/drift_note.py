"""The last result of `mlkit drift` for a market, as insight, status and panel repeat it.

`mlkit.operations.drift` writes ``drift.json`` beside the bundles of a market. A file that is damaged, hostile or too
long counts as not monitored, with one warning in the log; so does one about another bundle, without a warning.
"""

import json
import logging
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mlkit.errors import BundleError
from mlkit.inference.insight_data import Drift
from mlkit.market import symbol_folder
from mlkit.models.bundle import read_plain

MAX_REPORT_BYTES = 1 << 18
_log = logging.getLogger("mlkit")


class _Report(BaseModel):
    """The fields of the file that are read; others are for people."""

    model_config = ConfigDict(strict=True)

    bundle: str
    symbol: str
    timeframe: str
    checked: str
    verdict: str
    reasons: list[str]


def drift_file(root: Path, symbol: str, timeframe: str) -> Path:
    """Path of a market's report: ``drift.json``, or one for each symbol where a root serves several."""
    folder = symbol_folder(symbol)
    return root / ("drift.json" if root.name == f"{folder}-{timeframe}" else f"drift-{folder}-{timeframe}.json")


def read_drift(root: Path, symbol: str, timeframe: str, bundle: str) -> Drift | None:
    """The last result for a bundle on a market; None without a valid report."""
    path = drift_file(root, symbol, timeframe)
    try:
        status = path.lstat()
    except OSError:
        return None
    of, drift = _read(path, (status.st_ino, status.st_mtime_ns, status.st_size))
    return drift if of == (symbol, timeframe, bundle) else None


@lru_cache(maxsize=256)
def _read(path: Path, stamp: tuple[int, int, int]) -> tuple[tuple[str, str, str] | None, Drift | None]:
    """Market and bundle of a report, and its result, or None with a warning; once for each state of the file."""
    try:
        if stamp[2] > MAX_REPORT_BYTES:
            raise BundleError(f"{stamp[2]} bytes are too many")
        report = _Report.model_validate(json.loads(read_plain(path, None)))
        reasons = ["".join(c if c.isprintable() else "?" for c in text[:500]) for text in report.reasons[:20]]
        checked = datetime.fromisoformat(report.checked).replace(tzinfo=None)
        drift = Drift.model_validate({"verdict": report.verdict, "checked": checked, "reasons": reasons})
    except (BundleError, ValueError, RecursionError) as error:
        detail = str(error)[:200] if isinstance(error, BundleError) else "not a drift report"
        _log.warning("%s: %s; run mlkit drift again", path, detail)
        return None, None
    return (report.symbol, report.timeframe, report.bundle), drift
