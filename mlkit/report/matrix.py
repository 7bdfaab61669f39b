"""Several reports from one YAML file: all are checked first, then run in parallel."""

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.errors import ConfigError
from mlkit.report.plan import Plan, ReportRequest, make_plan
from mlkit.report.receipt import read_receipt
from mlkit.untrusted import read_regular

_KEYS = ("name", "symbol", "timeframe", "profile", "seed", "since", "until", "notebooks", "parameters")
_FILE_BYTES = 2**20


@dataclass(frozen=True)
class ReportOutcome:
    """Result of one report of a matrix: its folder, or the line of its error."""

    run: str
    folder: Path | None
    error: str | None
    verdicts: tuple[str, ...]


def read_matrix(path: Path) -> list[ReportRequest]:
    """The requests of a YAML file: ``runs``, a list of mappings, and ``defaults`` for keys they omit.

    Keys: symbol, timeframe, profile, seed, name, since, until, notebooks (``02,04`` or a list), parameters (a
    mapping). Values are taken as written, so ``007`` stays ``007``. Raises ConfigError for anything else.
    """
    import yaml

    try:
        text = read_regular(path, _FILE_BYTES).decode()
        content = yaml.load(text, Loader=yaml.BaseLoader)  # every scalar stays text
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("runs"), list) or not content["runs"]:
        raise ConfigError(f"{path}: write a list under 'runs', such as\nruns:\n  - {{symbol: SP500, timeframe: 1d}}")
    unknown = sorted(content.keys() - {"runs", "defaults"})
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; use runs and defaults")
    defaults = content.get("defaults") or {}
    return [_request(path, number, defaults, given) for number, given in enumerate(content["runs"], 1)]


def _request(path: Path, number: int, defaults: Any, given: Any) -> ReportRequest:
    where = f"{path}, run {number}"
    for what in (defaults, given):
        if not isinstance(what, dict):
            raise ConfigError(f"{where}: expected a mapping such as {{symbol: SP500, timeframe: 1d}}")
        unknown = sorted(what.keys() - set(_KEYS))
        if unknown:
            raise ConfigError(f"{where}: unknown key {unknown[0]!r}; use {', '.join(_KEYS)}")
    parameters = {**_mapping(where, defaults), **_mapping(where, given)}
    merged = {**defaults, **given}
    for name in ("symbol", "timeframe"):
        if not isinstance(merged.get(name), str):
            raise ConfigError(f"{where}: {name} is missing")
    for name, value in merged.items():
        words = value if name == "notebooks" and isinstance(value, list) else [value]
        if name != "parameters" and not all(isinstance(word, str) for word in words):
            raise ConfigError(f"{where}: {name} must be one word, and notebooks a list of numbers such as 02,04")
    parameters |= {name: merged[name] for name in ("since", "until") if name in merged}
    listed = merged.get("notebooks", [])
    only = tuple(word.strip() for word in (listed.split(",") if isinstance(listed, str) else listed))
    return ReportRequest(
        merged["symbol"],
        merged["timeframe"],
        merged.get("profile", "smoke"),
        merged.get("seed", "7"),
        merged.get("name"),
        only,
        parameters,
    )


def _mapping(where: str, of: Mapping[str, Any]) -> dict[str, str]:
    found = of.get("parameters", {})
    if not isinstance(found, dict) or any(not isinstance(value, str) for value in found.values()):
        raise ConfigError(f"{where}: parameters must be a mapping of names to values")
    return found


def run_matrix(path: Path, *, jobs: int = 1, force: bool = False, progress: bool = True) -> list[ReportOutcome]:
    """Make every report of a YAML file, ``jobs`` at a time; returns one outcome a report, in the file's order.

    All requests are checked before any runs. Reports of one market run one after the other, as each publishes the
    market's bundle; a report that fails does not stop the others.

    Raises ConfigError or BarsError for an invalid request, naming it, and for two reports of one name.
    """
    from tqdm.auto import tqdm

    requests = read_matrix(path)
    plans = []
    for number, request in enumerate(requests, 1):
        try:
            plans.append(make_plan(request))
        except ConfigError as error:
            raise ConfigError(f"{path}, run {number}: {error}") from error
    names = [plan.run for plan in plans]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"{path}: two runs are named {twice[0]}; give one of them a name of its own")
    chains: dict[tuple[str, str], list[int]] = {}
    for i, request in enumerate(requests):
        chains.setdefault((request.symbol, request.timeframe), []).append(i)
    outcomes: dict[int, ReportOutcome] = {}
    with (
        tqdm(total=len(requests), desc=path.name, unit="report", disable=not progress) as bar,
        ThreadPoolExecutor(max_workers=max(1, jobs)) as pool,
    ):

        def chain(members: Sequence[int]) -> None:
            for i in members:
                outcomes[i] = _make(requests[i], plans[i], force)
                bar.set_postfix_str(plans[i].run)
                bar.update()

        for done in as_completed([pool.submit(chain, members) for members in chains.values()]):
            done.result()
    return [outcomes[i] for i in range(len(requests))]


def _make(request: ReportRequest, plan: Plan, force: bool) -> ReportOutcome:
    """One report in its own process, so that threads and environment are those of a single report."""
    done = subprocess.run(request.command(force=force), capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("mlkit: error: ")]
        reason = errors[-1].removeprefix("mlkit: error: ") if errors else f"ended with status {done.returncode}"
        return ReportOutcome(plan.run, None, reason, ())
    folder = plan.reports / plan.run
    verdicts = tuple(str(e["value"]) for e in read_receipt(folder)["headlines"] if e["name"] == "verdict")
    return ReportOutcome(plan.run, folder, None, verdicts)
