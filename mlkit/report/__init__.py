"""Reports: papermill over the notebooks, one page to read, and a receipt by which others can derive it again.

Notebooks use ``headline`` for the numbers a report is remembered by, and ``show_insight`` for its `Insight`.
"""

from mlkit.report.compare import ReportDiff, compare_reports
from mlkit.report.headline import HEADLINE_MIME, INSIGHT_MIME, headline, show_insight
from mlkit.report.matrix import run_matrix
from mlkit.report.receipt import summarise_report
from mlkit.report.rederive import verify_report
from mlkit.report.run import run_report

__all__ = [
    "HEADLINE_MIME",
    "INSIGHT_MIME",
    "ReportDiff",
    "compare_reports",
    "headline",
    "run_matrix",
    "run_report",
    "show_insight",
    "summarise_report",
    "verify_report",
]
