"""Reports: papermill over the notebooks, one page to read, and a receipt that others can verify.

Notebooks use ``headline`` for the numbers a report is remembered by, and ``show_insight`` for its `Insight`.
"""

from mlkit.report.headline import HEADLINE_MIME, INSIGHT_MIME, headline, show_insight
from mlkit.report.receipt import summarise_report, verify_report
from mlkit.report.run import run_report

__all__ = [
    "HEADLINE_MIME",
    "INSIGHT_MIME",
    "headline",
    "run_report",
    "show_insight",
    "summarise_report",
    "verify_report",
]
