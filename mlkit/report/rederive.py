"""Verify a report: check its files against the receipt, then run its notebooks again and compare the numbers."""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from mlkit.config import Settings, project_root
from mlkit.errors import ConfigError, ReportError
from mlkit.operations.tracking import package_versions
from mlkit.report.headlines import collect_headlines, collect_insight, headline_digest
from mlkit.report.plan import Plan, ReportRequest, make_plan
from mlkit.report.receipt import (
    HASH_SEED,
    INSIGHT,
    PAGE,
    RECEIPT,
    THREADS,
    Receipt,
    environment_of,
    parse_notebooks,
    read_files,
    read_notebook,
    read_receipt,
)
from mlkit.report.run import run_plan

TOLERANCE = 1e-3  # relative, of a headline number on another kind of machine or other versions


def verify_report(
    folder: Path, *, again: bool = True, notebooks: Path | None = None, progress: bool = True
) -> list[str]:
    """Check a report against its receipt and compute its numbers again; returns one line for each check.

    First, without running anything: the digest of every file, the headline numbers and the insight of the notebooks,
    and the page, which is rendered again from the notebooks. Then, with ``again``: the current notebooks run on the
    same bars in a temporary folder and must give the same headline numbers and insight. On the same kind of machine,
    versions and threads these must be equal; elsewhere numbers may differ by ``TOLERANCE`` of their size and texts
    not at all.

    Parameters
    ----------
    notebooks: folder of the notebooks, ``notebooks/`` of the project by default.

    Raises ReportError naming the first thing that differs, or if there is no receipt to check against.
    """
    receipt = read_receipt(folder)
    # Read once: what is checked is what is parsed, whatever is written to the folder meanwhile.
    files = read_files(folder)
    written = parse_notebooks(files)
    lines = _check_files(folder, receipt, files, written, notebooks or project_root() / "notebooks")
    if receipt["failure"]:
        raise ReportError(f"{folder} is the report of a run that failed: {receipt['failure']}")
    return [*lines, *_check_again(folder, receipt, written, notebooks, progress)] if again else lines


def _check_files(
    folder: Path, receipt: Receipt, files: Mapping[str, bytes], notebooks: Mapping[str, Any], sources: Path
) -> list[str]:
    """Checks that need only the files."""
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    promised = receipt["files"]
    faults = [f"{name} is missing" for name in promised if name not in found]
    faults += [f"{name} is not in the receipt" for name in found if name not in promised]
    faults += [f"{name} was changed" for name in found if promised.get(name, found[name]) != found[name]]
    if faults:
        raise ReportError(f"{folder}: {'; '.join(faults)}; run mlkit report again")
    headlines = collect_headlines(notebooks)
    if headlines != receipt["headlines"] or headline_digest(headlines) != receipt["headline_digest"]:
        raise ReportError(f"{folder}: the headline numbers of the notebooks are not those of {RECEIPT}")
    insight = collect_insight(notebooks)
    if insight is not None and _parsed(files.get(INSIGHT, b"")) != insight[0]:
        raise ReportError(f"{folder}: {INSIGHT} is not the insight that the notebooks show")
    # Other versions of the packages may render other bytes.
    same = receipt["versions"] == package_versions()
    if same and files.get(PAGE) != _rendered(folder, receipt, notebooks, sources):
        raise ReportError(f"{folder}: {PAGE} is not what its notebooks render to; it was edited")
    return [
        f"files: {len(promised)} as written",
        f"headlines: {len(headlines)}, digest {receipt['headline_digest']}",
        f"insight: {'as shown' if insight else 'none'}",
    ]


def _parsed(data: bytes) -> Any:
    """JSON values; None for what is not JSON."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError:
        return None


def _rendered(folder: Path, receipt: Receipt, notebooks: Mapping[str, Any], sources: Path) -> bytes:
    """The page of a report; ReportError where its notebooks cannot be rendered."""
    from mlkit.report.index_page import render_page

    try:
        return render_page(receipt, notebooks, folder=sources).encode()
    # Each library of the page raises its own errors for a notebook that it cannot show.
    except Exception as error:
        raise ReportError(f"{folder}: its notebooks make no page ({type(error).__name__}); it was edited") from error


def _check_again(
    folder: Path, receipt: Receipt, written: Mapping[str, Any], sources: Path | None, progress: bool
) -> list[str]:
    """Run the same notebooks on the same bars and compare."""
    with tempfile.TemporaryDirectory(prefix="mlkit-verify-") as place:
        plan = _same_plan(receipt, list(written), sources, Path(place))
        _check_bars(folder, receipt, plan)
        _check_sources(folder, written, plan)
        environment = {
            **environment_of(receipt),
            # Last, so that no receipt can change them: the notebooks write into the temporary folder.
            "MLKIT_HOME": place,
            "MLKIT_TRAINING_DATA_PATH": _lake(),
        }
        try:
            again = run_plan(plan, force=True, progress=progress, environment=environment)
        except ReportError as error:
            raise ReportError(f"{folder}: it does not run any more: {str(error).partition(' (see ')[0]}") from error
        new = read_receipt(again)
        strict = same_kind(receipt, new)
        difference = first_difference(receipt["headlines"], new["headlines"], 0.0 if strict else TOLERANCE)
        if difference:
            raise ReportError(f"{folder}: {difference}")
        old_insight, new_insight = collect_insight(written), collect_insight(parse_notebooks(read_files(again)))
        if strict and (old_insight and old_insight[0]) != (new_insight and new_insight[0]):
            raise ReportError(f"{folder}: the insight comes out differently: {_differing(old_insight, new_insight)}")
    how = "equal" if strict else f"within {TOLERANCE:g} of their size, on another kind of machine or other versions"
    return ["data: the same bars", f"again: {len(new['headlines'])} headline numbers {how}"]


def _lake() -> str:
    """The lake as an absolute path or an address, since the kernels run with another home."""
    path = str(Settings().training_data_path)
    return path if "://" in path else str((project_root() / path).resolve())


def _same_plan(receipt: Receipt, names: Sequence[str], sources: Path | None, place: Path) -> Plan:
    passed: dict[str, str] = {}
    for values in receipt["parameters"].values():
        passed |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    named = ("symbol", "timeframe", "profile", "seed")
    try:
        request = ReportRequest(
            receipt["symbol"],
            receipt["timeframe"],
            receipt["profile"],
            receipt["seed"],
            name="again",
            only=tuple(name[:2] for name in names),
            parameters={name: value for name, value in passed.items() if name not in named},
        )
        return make_plan(request, notebooks=sources, reports=place / "reports")
    except ConfigError as error:
        raise ReportError(f"it cannot be run again here: {error}") from error


def _check_bars(folder: Path, receipt: Receipt, plan: Plan) -> None:
    was, now = receipt["data"], plan.inputs["data"]
    if was["sha256"] != now["sha256"]:
        spans = f"{was['bars']:,} bars to {was['last'][:16]} then, {now['bars']:,} to {now['last'][:16]} now"
        raise ReportError(f"{folder}: the bars are not the ones it was made from ({spans})")


def _check_sources(folder: Path, written: Mapping[str, Any], plan: Plan) -> None:
    """ReportError unless the code cells that ran are those of the current notebooks."""
    for source in plan.notebooks:
        ran = [
            cell.source
            for cell in written[source.name].cells
            if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
        ]
        current = [cell.source for cell in read_notebook(source).cells if cell.cell_type == "code"]
        if ran != current:
            where = next(
                (i for i, (a, b) in enumerate(zip(ran, current, strict=False)) if a != b), min(len(ran), len(current))
            )
            raise ReportError(f"{folder}: {source.name} is not the notebook that ran (code cell {where + 1} differs)")


def same_kind(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two receipts have the same machine type, versions and threads, so that bits must agree."""
    keys = [*THREADS, HASH_SEED]
    return (
        was["versions"] == now["versions"]
        and {k: v for k, v in was["platform"].items() if k != "cpus"}
        == {k: v for k, v in now["platform"].items() if k != "cpus"}
        and [was["threads"].get(key) for key in keys] == [now["threads"].get(key) for key in keys]
    )


def first_difference(
    was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], tolerance: float
) -> str | None:
    """The first headline number that differs, in a line; None if none does. Cells are not compared."""
    for old, new in zip(was, now, strict=False):
        place = (old["notebook"], old["title"], old["name"])
        if place != (new["notebook"], new["title"], new["name"]):
            return f"{_place(old)} stands where the run of today has {_place(new)}"
        if not _close(old["value"], new["value"], tolerance):
            return f"{_place(old)} was {old['value']!r} and comes out as {new['value']!r}"
    if len(was) != len(now):
        return f"{len(was)} headline numbers were written and {len(now)} come out"
    return None


def _place(entry: Mapping[str, Any]) -> str:
    title = f" {entry['title']!r}" if entry["title"] else ""
    return f"{entry['notebook']}, cell {entry['cell']}{title}: {entry['name']}"


def _close(was: Any, now: Any, tolerance: float) -> bool:
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (was, now)]
    if tolerance and all(numbers):
        return math.isclose(was, now, rel_tol=tolerance, abs_tol=tolerance * 1e-3)
    return bool(was == now)


def _differing(was: Any, now: Any) -> str:
    if was is None or now is None:
        return "there was none" if was is None else "there is none"
    keys = [key for key in {**was[0], **now[0]} if was[0].get(key) != now[0].get(key)]
    return f"its {keys[0]} was {was[0].get(keys[0])!r} and is {now[0].get(keys[0])!r}"[:300]
