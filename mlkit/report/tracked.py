"""A report as a tracked run: the page, the receipt and every headline number."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlkit.config import Settings
from mlkit.errors import ReportError
from mlkit.evaluation import Source
from mlkit.operations.tracking import TrackedRun, tracked
from mlkit.report.plan import Plan
from mlkit.report.receipt import INSIGHT, PAGE, RECEIPT, read_receipt


@contextmanager
def tracked_report(plan: Plan, tracking: bool | None) -> Iterator[Callable[[Path], None]]:
    """A tracked run of kind ``report``; yields a function that logs the finished folder.

    If the report fails, the page with the failing cell is logged.
    """
    inputs = plan.inputs
    settings = Settings(profile=inputs["profile"], seed=inputs["seed"], tracking=tracking)
    data = inputs["data"]
    source = Source(inputs["symbol"], inputs["timeframe"], data["first"], data["last"], data["sha256"])
    parameters = {"symbol": source.symbol, "timeframe": source.timeframe, "bars": data["bars"]}
    notebooks = {Path(name).stem: values for name, values in inputs["parameters"].items()}
    with tracked("report", settings, name=plan.run, parameters=parameters | notebooks, sources=[source]) as run:
        try:
            yield lambda folder: _log(run, folder)
        except ReportError:
            page = plan.reports / "failed" / plan.run / PAGE
            if page.is_file():
                run.file(page, "report")
            raise


def _log(run: TrackedRun, folder: Path) -> None:
    receipt = read_receipt(folder)
    for name in (PAGE, RECEIPT, INSIGHT):
        if (folder / name).is_file():
            run.file(folder / name, "report")
    named = {
        " ".join(filter(None, (Path(entry["notebook"]).stem, entry["title"], entry["name"]))): entry["value"]
        for entry in receipt["headlines"]
    }
    run.metrics(named)
    run.tags({name: value for name, value in named.items() if isinstance(value, str)})
    run.tags({"headline_digest": receipt["headline_digest"]})
