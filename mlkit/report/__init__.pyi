"""Level 7: reports of the notebooks, run by papermill, with one page to read and a receipt to verify them by.

Notebooks call ``headline`` for their headline numbers and ``show_insight`` for an `Insight`."""

# Differences between two reports; prints as text, and as HTML in a notebook.
from .compare import ReportDiff as ReportDiff

# Compare two report folders.
from .compare import compare_reports as compare_reports

# MIME types under which an output carries headline numbers and an insight.
from .headlines import HEADLINE_MIME as HEADLINE_MIME
from .headlines import INSIGHT_MIME as INSIGHT_MIME

# Show numbers as a small table and add them to the report's receipt.
from .headlines import headline as headline

# Show an insight as its card and add its JSON to the report; the report takes the last one shown.
from .headlines import show_insight as show_insight

# Make every report of a YAML file, several at a time; returns one outcome a report, in the file's order.
from .matrix import run_matrix as run_matrix

# What a report is wanted of: market, profile, seed, notebooks, parameters.
from .plan import ReportRequest as ReportRequest

# A few lines for a terminal: the insight, the verdicts, the path of the page.
from .receipt import summarise_report as summarise_report

# Check a report against its receipt and compute its numbers again.
from .rederive import verify_report as verify_report

# Run the notebooks 0?_*.ipynb in order into reports/<symbol>-<timeframe>/; returns that folder.
from .run import run_report as run_report
