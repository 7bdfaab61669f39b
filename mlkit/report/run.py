"""papermill over the notebooks: everything checked first, nothing half done left behind."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from mlkit.config import Settings, fsync_folder, project_root, write_atomic
from mlkit.errors import ConfigError, DependencyError, ReportError
from mlkit.market.bars import check_symbol, fingerprint, timeframe_delta
from mlkit.market.sources import load_bars
from mlkit.market.symbols import symbol_folder
from mlkit.report.headline import collect_insight
from mlkit.report.parameters import convert_parameters
from mlkit.report.receipt import (
    INSIGHT,
    PAGE,
    RECEIPT,
    THREADS,
    build_receipt,
    file_digests,
    json_bytes,
    read_notebook,
    read_notebooks,
)

_INLINE = "module://matplotlib_inline.backend_inline"  # MPLBACKEND=Agg of the caller would drop every figure
_MARKER = "papermill-error-cell-tag"


@dataclass(frozen=True)
class _Plan:
    """A report that is known to make sense."""

    notebooks: tuple[Path, ...]
    values: dict[str, dict[str, Any]]  # notebook -> parameter -> value
    inputs: dict[str, Any]  # what the receipt says went in
    reports: Path
    progress: bool

    @property
    def run(self) -> str:
        return f"{symbol_folder(self.inputs['symbol'])}-{self.inputs['timeframe']}"


def run_report(
    symbol: str = "SP500",
    timeframe: str = "1d",
    *,
    profile: str = "smoke",
    seed: int = 7,
    parameters: Mapping[str, str] | None = None,
    notebooks: Path | None = None,
    reports: Path | None = None,
    progress: bool = True,
) -> Path:
    """Run the notebooks ``0?_*.ipynb`` in order into ``reports/<symbol>-<timeframe>/``; returns that folder.

    It holds the executed notebooks, ``index.html`` (one self-contained page), ``insight.json`` (the last
    insight shown) and ``receipt.json``. It appears at once and whole, in place of an earlier report of that
    name; a run that fails goes to ``reports/failed/<symbol>-<timeframe>/`` instead, with the failing cell in
    its ``index.html``. Equal bars, code, seed and parameters give an equal insight and headline digest.

    Parameters
    ----------
    profile, seed: passed to the notebooks that declare them, like ``symbol`` and ``timeframe``.
    parameters: further values by name, as text; a name must be declared in a cell tagged ``parameters``,
        and the value is converted by its annotation (``007`` stays text where a ``str`` is declared).
    notebooks, reports: folders, ``notebooks/`` and ``reports/`` of the project by default. The notebooks
        run inside their own folder.
    progress: show a bar over the notebooks and one over the cells.

    Raises
    ------
    ConfigError, BarsError before anything runs: an unknown name, a value of the wrong type, no such bars.
    DependencyError where papermill is not installed.
    ReportError naming notebook, cell and error when a notebook fails.
    """
    given = {name: str(value) for name, value in (parameters or {}).items()}
    defaults = {"symbol": symbol, "timeframe": timeframe, "profile": profile, "seed": str(seed)}
    plan = _plan(given, defaults, notebooks, reports, progress)
    _sweep(plan)
    work = plan.reports / f".{plan.run}.{os.getpid()}.tmp"
    work.mkdir(parents=True)
    try:
        with _kernel_environment():
            try:
                _write_files(plan, work, _execute_all(plan, work))
            except Exception as error:
                raise _keep_failure(plan, work, error) from error
        _publish(work, plan.reports / plan.run)
    finally:  # Ctrl-C included: no half report
        shutil.rmtree(work, ignore_errors=True)
    return plan.reports / plan.run


def _plan(
    given: Mapping[str, str],
    defaults: Mapping[str, str],
    notebooks: Path | None,
    reports: Path | None,
    progress: bool,
) -> _Plan:
    """Check everything that can be checked without running."""
    _require_papermill()
    folder = (notebooks or project_root() / "notebooks").resolve()
    files = tuple(sorted(folder.glob("0[0-9]_*.ipynb")))
    if not files:
        raise ConfigError(f"{folder} holds no notebook named 00_... to 09_...ipynb; run from the project's folder")
    values = convert_parameters(files, given, defaults)
    effective = {**defaults, **given}
    profiles = get_args(Settings.model_fields["profile"].annotation)
    if effective["profile"] not in profiles:
        raise ConfigError(f"profile {effective['profile']!r} is unknown; use one of {', '.join(profiles)}")
    if not (effective["seed"].isascii() and effective["seed"].isdigit()):
        raise ConfigError(f"seed {effective['seed']!r} is not a whole number of 0 or more")
    timeframe_delta(effective["timeframe"])
    bars = load_bars(check_symbol(effective["symbol"]), effective["timeframe"])
    inputs = {
        **{name: effective[name] for name in ("symbol", "timeframe", "profile")},
        "seed": int(effective["seed"]),
        "parameters": {name: dict(passed) for name, passed in values.items()},
        "data": {
            "sha256": fingerprint(bars),
            "bars": len(bars),
            "first": bars.index[0].isoformat(),
            "last": bars.index[-1].isoformat(),
        },
    }
    return _Plan(files, values, inputs, (reports or project_root() / "reports").resolve(), progress)


def _execute_all(plan: _Plan, work: Path) -> dict[str, Any]:
    """Executed notebooks by file name, in order."""
    from tqdm.auto import tqdm

    executed = {}
    with tqdm(plan.notebooks, desc=f"report {plan.run}", unit="notebook", disable=not plan.progress) as bar:
        for notebook in bar:
            bar.set_postfix_str(notebook.stem)
            executed[notebook.name] = _execute(
                notebook, work / notebook.name, plan.values[notebook.name], plan.progress
            )
    return executed


def _execute(notebook: Path, target: Path, values: dict[str, Any], progress: bool) -> Any:
    """Run one notebook in its own folder; ReportError says which cell failed and how."""
    import papermill

    bar: dict[str, Any] | bool = {"desc": notebook.stem, "leave": False} if progress else False
    try:
        executed = papermill.execute_notebook(
            _braced(notebook),
            _braced(target),
            values,
            kernel_name="python3",
            language="python",
            cwd=notebook.parent,
            progress_bar=bar,
            extra_arguments=["--log-level=50"],  # a kernel talks of its sockets and its shutdown otherwise
        )
    except Exception as error:  # a cell's error, a dead kernel, a full disk: papermill has no common base
        reason = _reason(notebook.name, error, target)
        _tidy(target, notebook)
        raise ReportError(reason) from error
    _tidy(target, notebook)
    return executed


def _reason(notebook: str, error: Exception, target: Path) -> str:
    """One line: notebook, cell, error, message."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        where = f"{notebook}, cell {error.cell_index + 1} (In [{error.exec_count}])"
        return f"{where}: {error.ename}: {_one_line(error.evalue)}"
    cells = read_notebook(target).cells if target.exists() else []
    begun = [i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    where = f"{notebook}, cell {begun[-1] + 1}" if begun else notebook  # a kernel that died names no cell
    return f"{where}: {type(error).__name__}: {_one_line(str(error))}"


def _tidy(target: Path, source: Path) -> None:
    """Take out papermill's error markers, which shift the cells, and the paths of this machine."""
    import nbformat

    if not target.exists():
        return
    notebook = read_notebook(target)
    notebook.cells = [cell for cell in notebook.cells if _MARKER not in cell.metadata.get("tags", [])]
    notebook.metadata.setdefault("papermill", {}).update(input_path=source.name, output_path=target.name)
    write_atomic(target, nbformat.writes(notebook).encode())


def _write_files(plan: _Plan, work: Path, notebooks: dict[str, Any], failure: str | None = None) -> None:
    """Everything but the notebooks, which are already there; the receipt last."""
    from mlkit.report.page import render_page

    receipt = build_receipt(plan.inputs, notebooks)
    insight = collect_insight(notebooks)
    if insight is not None:
        write_atomic(work / INSIGHT, json_bytes(insight[0]))
    card = insight[1] if insight else None
    page = render_page(receipt, notebooks, card=card, failure=failure, folder=plan.notebooks[0].parent)
    write_atomic(work / PAGE, page.encode())
    write_atomic(work / RECEIPT, json_bytes({**receipt, "failure": failure, "files": file_digests(work)}))


def _keep_failure(plan: _Plan, work: Path, error: Exception) -> ReportError:
    """Put what was run so far under ``failed/`` and say in one line what went wrong and where it lies."""
    kept = plan.reports / "failed" / plan.run
    reason = _one_line(str(error) if isinstance(error, ReportError) else f"{type(error).__name__}: {error}")
    try:
        _write_files(plan, work, read_notebooks(work), failure=reason)
    except Exception as second:  # the page cannot be written either: the notebooks are what matters
        reason += f"; its page failed too ({type(second).__name__})"
    _publish(work, kept)
    return ReportError(f"{reason} (see {kept})")


def _sweep(plan: _Plan) -> None:
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


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """What kernels inherit: thread counts and hash seed fixed before they start, the root, the figures."""
    threads = str(Settings().n_threads)
    wanted = {name: os.environ.get(name, threads) for name in THREADS}
    wanted["PYTHONHASHSEED"] = os.environ.get("PYTHONHASHSEED", "0")
    wanted["MLKIT_HOME"] = str(project_root())
    wanted["MPLBACKEND"] = _INLINE
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    log = logging.getLogger("papermill")
    level = log.level
    log.setLevel(logging.CRITICAL)  # all that it says is checked before, or raised
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _require_papermill() -> None:
    for name in ("papermill", "nbconvert", "matplotlib", "tqdm"):
        if find_spec(name) is None:
            raise DependencyError(f"a report needs {name}, which is not installed: pip install 'mlkit[lab]'")


def _braced(path: Path) -> str:
    """papermill formats paths; braces of a folder's name are not for it."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _one_line(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
