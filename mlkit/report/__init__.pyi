"""Reports: papermill over the notebooks, one page to read, and a receipt by which others can derive it again.

Notebooks use ``headline`` for the numbers a report is remembered by, and ``show_insight`` for its `Insight`."""

# What differs between two reports; as text for a terminal, as HTML for a notebook.
from .compare import ReportDiff as ReportDiff

# Compare two report folders; verdicts come first, then numbers in the order of the story.
from .compare import compare_reports as compare_reports
from .headlines import HEADLINE_MIME as HEADLINE_MIME
from .headlines import INSIGHT_MIME as INSIGHT_MIME

# Show numbers as a small table and hand them to the report's receipt.
from .headlines import headline as headline

# Show an insight as its card and hand its JSON to the report; the last one shown is the report's.
from .headlines import show_insight as show_insight

# Make every report of a YAML file, several at a time; returns one outcome a report, in the file's order.
from .matrix import run_matrix as run_matrix

# What a report is wanted of: market, profile, seed, notebooks, parameters.
from .plan import ReportRequest as ReportRequest

# A few lines for a terminal: the insight, the verdicts, and where the page is.
from .receipt import summarise_report as summarise_report

# Check a report against its receipt and derive its numbers again; one line for each thing checked.
from .rederive import verify_report as verify_report

# Run the notebooks 0?_*.ipynb in order into reports/<symbol>-<timeframe>/; returns that folder.
from .run import run_report as run_report
