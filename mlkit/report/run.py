"""Make a report: check the request, run the notebooks, publish the finished folder in one rename."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlkit.config import Settings, fsync_folder, write_atomic
from mlkit.errors import ReportError
from mlkit.report.execute import execute, kernel_environment, one_line
from mlkit.report.headlines import collect_insight
from mlkit.report.plan import Plan, ReportRequest, make_plan
from mlkit.report.receipt import INSIGHT, PAGE, RECEIPT, build_receipt, file_digests, json_bytes, read_notebooks
from mlkit.report.reuse import FinishedNotebooks, artifacts
from mlkit.report.tracked import tracked_report


def run_report(
    request: ReportRequest | None = None,
    *,
    notebooks: Path | None = None,
    reports: Path | None = None,
    force: bool = False,
    progress: bool = True,
    tracking: bool | None = None,
) -> Path:
    """Run the notebooks ``0?_*.ipynb`` in order into ``reports/<symbol>-<timeframe>/``; returns that folder.

    The folder holds the executed notebooks, ``index.html`` (one self-contained page), ``insight.json`` (the last
    insight shown) and ``receipt.json``. It is complete when it appears, in place of an earlier report of that
    name; a run that fails goes to ``reports/failed/<symbol>-<timeframe>/`` instead, with the failing cell on
    top of its ``index.html``. Equal bars, code, seed and parameters give an equal insight and headline digest,
    and a notebook that was finished before with all of these equal is reused; see `FinishedNotebooks`.

    Parameters
    ----------
    request: market, profile, seed, notebooks and parameters; by default SP500 daily bars, smoke profile, seed 7.
    notebooks, reports: folders, ``notebooks/`` and ``reports/`` of the project by default. The notebooks
        run inside their own folder.
    force: compute every notebook again.
    progress: show a bar over the notebooks and one over the cells.
    tracking: whether the report is also a run in MLflow (`mlkit.operations.tracking`); None asks the settings.

    Raises
    ------
    ConfigError, BarsError before anything runs: an unknown name, a value of the wrong type, no such bars.
    DependencyError where papermill is not installed.
    ReportError naming notebook, cell and error when a notebook fails.
    """
    plan = make_plan(request or ReportRequest(), notebooks=notebooks, reports=reports)
    with tracked_report(plan, Settings().tracking if tracking is None else tracking) as log:
        path = run_plan(plan, force=force, progress=progress)
        log(path)
    return path


def run_plan(
    plan: Plan, *, force: bool = False, progress: bool = True, environment: Mapping[str, str] | None = None
) -> Path:
    """Run a checked plan, as `run_report` does; ``environment`` is added to the variables that kernels inherit."""
    _remove_leftovers(plan)
    work = plan.reports / f".{plan.run}.{os.getpid()}.tmp"
    work.mkdir(parents=True)
    try:
        with kernel_environment(environment):
            try:
                _write_files(plan, work, *_execute_all(plan, work, force, progress))
            except Exception as error:
                raise _keep_failure(plan, work, error) from error
        _publish(work, plan.reports / plan.run)
    finally:
        # Also after Ctrl-C: no half report stays behind.
        shutil.rmtree(work, ignore_errors=True)
    return plan.reports / plan.run


def _execute_all(plan: Plan, work: Path, force: bool, progress: bool) -> tuple[dict[str, Any], list[str]]:
    """Executed notebooks by file name, in order, and the names of those that were reused."""
    from tqdm.auto import tqdm

    reused = []
    finished, key = FinishedNotebooks(plan.reports, plan.inputs), ""
    with tqdm(plan.notebooks, desc=f"report {plan.run}", unit="notebook", disable=not progress) as bar:
        for notebook in bar:
            bar.set_postfix_str(notebook.stem)
            target, values = work / notebook.name, plan.values[notebook.name]
            key = finished.key(notebook, values, key)
            if not force and finished.restore(key, target):
                reused.append(notebook.name)
            else:
                before = artifacts()
                execute(notebook, target, values, progress)
                finished.store(key, target, before)
    return read_notebooks(work), reused


def _write_files(
    plan: Plan, work: Path, notebooks: dict[str, Any], reused: Sequence[str] = (), failure: str | None = None
) -> None:
    """Write all files of a report beside its notebooks; the receipt last, as it holds their digests."""
    from mlkit.report.index_page import render_page

    receipt = {**build_receipt(plan.inputs, notebooks), "reused": list(reused), "failure": failure}
    insight = collect_insight(notebooks)
    if insight is not None:
        write_atomic(work / INSIGHT, json_bytes(insight[0]))
    write_atomic(work / PAGE, render_page(receipt, notebooks, folder=plan.notebooks[0].parent).encode())
    write_atomic(work / RECEIPT, json_bytes({**receipt, "files": file_digests(work)}))


def _keep_failure(plan: Plan, work: Path, error: Exception) -> ReportError:
    """Move what was run so far to ``failed/``; returns an error of one line that names the reason and the folder."""
    kept = plan.reports / "failed" / plan.run
    reason = one_line(str(error) if isinstance(error, ReportError) else f"{type(error).__name__}: {error}")
    try:
        _write_files(plan, work, read_notebooks(work), failure=reason)
    except Exception as second:  # the page cannot be written either: the notebooks are what matters
        reason += f"; its page failed too ({type(second).__name__})"
    _publish(work, kept)
    return ReportError(f"{reason} (see {kept})")


def _remove_leftovers(plan: Plan) -> None:
    """Remove what killed runs of this report left; if one was killed while publishing, restore the old report."""
    for left in sorted(plan.reports.glob(f".{plan.run}.*")):
        _, pid, kind = left.name.rsplit(".", 2)
        if not pid.isdigit() or (int(pid) != os.getpid() and _alive(int(pid))):
            continue
        if kind == "old" and not (plan.reports / plan.run).exists():
            left.rename(plan.reports / plan.run)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        pass
    return True


def _publish(work: Path, final: Path) -> None:
    """Rename a finished folder to its final name; the earlier report is moved aside first and deleted last."""
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        final.rename(aside)
    try:
        work.rename(final)
    except BaseException:
        if aside.exists() and not final.exists():
            aside.rename(final)
        raise
    fsync_folder(final.parent)
    shutil.rmtree(aside, ignore_errors=True)
