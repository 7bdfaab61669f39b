"""A report from its notebooks: everything checked first, nothing half done left behind."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlkit.config import Settings, fsync_folder, write_atomic
from mlkit.errors import ReportError
from mlkit.report.execute import execute, kernel_environment, one_line
from mlkit.report.headlines import collect_insight
from mlkit.report.plan import Plan, make_plan
from mlkit.report.receipt import INSIGHT, PAGE, RECEIPT, build_receipt, file_digests, json_bytes, read_notebooks
from mlkit.report.reuse import Kept, artifacts
from mlkit.report.tracked import tracked_report


def run_report(
    symbol: str = "SP500",
    timeframe: str = "1d",
    *,
    profile: str = "smoke",
    seed: int = 7,
    name: str | None = None,
    only: Sequence[str] = (),
    parameters: Mapping[str, str] | None = None,
    notebooks: Path | None = None,
    reports: Path | None = None,
    force: bool = False,
    progress: bool = True,
    tracking: bool | None = None,
) -> Path:
    """Run the notebooks ``0?_*.ipynb`` in order into ``reports/<symbol>-<timeframe>/``; returns that folder.

    It holds the executed notebooks, ``index.html`` (one self-contained page), ``insight.json`` (the last
    insight shown) and ``receipt.json``. It appears at once and whole, in place of an earlier report of that
    name; a run that fails goes to ``reports/failed/<symbol>-<timeframe>/`` instead, with the failing cell on
    top of its ``index.html``. Equal bars, code, seed and parameters give an equal insight and headline digest,
    and notebooks that were finished before with all of that are taken as they are; see `Kept`.

    Parameters
    ----------
    profile, seed: passed to the notebooks that declare them, like ``symbol`` and ``timeframe``.
    name: of the report's folder, instead of ``<symbol>-<timeframe>``.
    only: numbers of the notebooks to run, such as ``("02", "04")``; all by default.
    parameters: further values by name, as text; a name must be declared in a cell tagged ``parameters``,
        and the value is converted by its annotation (``007`` stays text where a ``str`` is declared).
    notebooks, reports: folders, ``notebooks/`` and ``reports/`` of the project by default. The notebooks
        run inside their own folder.
    force: compute every notebook again.
    progress: show a bar over the notebooks and one over the cells.
    tracking: whether it is a run of MLflow (`mlkit.operations.tracking.tracking`); None asks the settings.

    Raises
    ------
    ConfigError, BarsError before anything runs: an unknown name, a value of the wrong type, no such bars.
    DependencyError where papermill is not installed.
    ReportError naming notebook, cell and error when a notebook fails.
    """
    plan = make_plan(
        symbol, timeframe, profile=profile, seed=seed, name=name, only=only,
        parameters=parameters, notebooks=notebooks, reports=reports,
    )  # fmt: skip
    with tracked_report(plan, Settings().tracking if tracking is None else tracking) as tell:
        path = run_plan(plan, force=force, progress=progress)
        tell(path)
    return path


def run_plan(
    plan: Plan, *, force: bool = False, progress: bool = True, environment: Mapping[str, str] | None = None
) -> Path:
    """Run a plan; ``environment`` is added to what kernels inherit. As `run_report` otherwise."""
    _sweep(plan)
    work = plan.reports / f".{plan.run}.{os.getpid()}.tmp"
    work.mkdir(parents=True)
    try:
        with kernel_environment(environment):
            try:
                _write_files(plan, work, *_execute_all(plan, work, force, progress))
            except Exception as error:
                raise _keep_failure(plan, work, error) from error
        _publish(work, plan.reports / plan.run)
    finally:  # Ctrl-C included: no half report
        shutil.rmtree(work, ignore_errors=True)
    return plan.reports / plan.run


def _execute_all(plan: Plan, work: Path, force: bool, progress: bool) -> tuple[dict[str, Any], list[str]]:
    """Executed notebooks by file name, in order, and the names of those that were finished before."""
    from tqdm.auto import tqdm

    executed: dict[str, Any] = {}
    reused = []
    kept, key = Kept(plan.reports, plan.inputs), ""
    with tqdm(plan.notebooks, desc=f"report {plan.run}", unit="notebook", disable=not progress) as bar:
        for notebook in bar:
            bar.set_postfix_str(notebook.stem)
            target, values = work / notebook.name, plan.values[notebook.name]
            key = kept.key(notebook, values, key)
            if not force and kept.restore(key, target):
                reused.append(notebook.name)
            else:
                before = artifacts()
                execute(notebook, target, values, progress)
                kept.keep(key, target, before)
    executed = read_notebooks(work)
    return executed, reused


def _write_files(
    plan: Plan, work: Path, notebooks: dict[str, Any], reused: Sequence[str] = (), failure: str | None = None
) -> None:
    """Everything but the notebooks, which are already there; the receipt last."""
    from mlkit.report.index_page import render_page

    receipt = {**build_receipt(plan.inputs, notebooks), "reused": list(reused), "failure": failure}
    insight = collect_insight(notebooks)
    if insight is not None:
        write_atomic(work / INSIGHT, json_bytes(insight[0]))
    write_atomic(work / PAGE, render_page(receipt, notebooks, folder=plan.notebooks[0].parent).encode())
    write_atomic(work / RECEIPT, json_bytes({**receipt, "files": file_digests(work)}))


def _keep_failure(plan: Plan, work: Path, error: Exception) -> ReportError:
    """Put what was run so far under ``failed/`` and say in one line what went wrong and where it lies."""
    kept = plan.reports / "failed" / plan.run
    reason = one_line(str(error) if isinstance(error, ReportError) else f"{type(error).__name__}: {error}")
    try:
        _write_files(plan, work, read_notebooks(work), failure=reason)
    except Exception as second:  # the page cannot be written either: the notebooks are what matters
        reason += f"; its page failed too ({type(second).__name__})"
    _publish(work, kept)
    return ReportError(f"{reason} (see {kept})")


def _sweep(plan: Plan) -> None:
    """Clear away what killed runs of this report left; one killed while publishing gets its old one back."""
    for left in sorted(plan.reports.glob(f".{plan.run}.*")):
        _, pid, kind = left.name.rsplit(".", 2)
        if not pid.isdigit() or (int(pid) != os.getpid() and _alive(int(pid))):
            continue
        if kind == "old" and not (plan.reports / plan.run).exists():
            left.rename(plan.reports / plan.run)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _publish(work: Path, final: Path) -> None:
    """Put a finished folder at its name; what stood there is moved aside first and deleted last."""
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
