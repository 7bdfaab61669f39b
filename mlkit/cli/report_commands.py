"""Commands for reports: report, verify, diff."""

from pathlib import Path
from typing import Any

from mlkit.cli import arguments as options
from mlkit.cli.arguments import AddCommand, Arguments
from mlkit.errors import ConfigError, ReportError


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("report", _report, "run the notebooks into a self-contained report")
    options.symbol_option(sub, "SP500")
    options.timeframe_option(sub, "1d")
    options.run_options(sub)
    sub.add_argument("--since", help="first bar, ISO 8601, such as 2010-01-01")
    sub.add_argument("--until", help="end of the bars, not included")
    sub.add_argument("--notebooks", type=_numbers, default=(), metavar="02,04", help="run only these")
    sub.add_argument("--name", help="name of the report's folder; SYMBOL-TIMEFRAME by default")
    sub.add_argument("--force", action="store_true", help="compute finished notebooks again")
    sub.add_argument("--matrix", type=Path, metavar="runs.yaml", help="several reports, from the runs of this file")
    sub.add_argument("--jobs", type=_jobs, default=1, help="reports of a matrix in parallel; 1 by default")
    own: dict[str, Any] = {"dest": "parameters", "metavar": "name=value", "action": "append", "default": []}
    sub.add_argument("-p", **own, type=_parameter, help="a parameter of the notebooks; may be repeated")
    sub = command("verify", _verify, "check a report against its receipt and compute its numbers again")
    sub.add_argument("folder", type=Path, help="such as reports/SP500-1d")
    sub.add_argument("--quick", action="store_true", help="check digests, numbers and page only; run nothing")
    sub = command("diff", _diff, "show the differences between two reports")
    sub.add_argument("first", type=Path, help="such as reports/SP500-1d")
    sub.add_argument("second", type=Path, help="such as reports/NASDAQ-1d")


def _numbers(text: str) -> tuple[str, ...]:
    numbers = tuple(word.strip() for word in text.split(","))
    if not all(number.isascii() and number.isdigit() and len(number) == 2 for number in numbers):
        raise ConfigError(f"notebooks {text!r}: write numbers of two digits with commas, such as 02,04")
    return numbers


def _jobs(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 64):
        raise ConfigError(f"jobs {text!r} is not a whole number from 1 to 64")
    return int(text)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError(f"parameter {text!r} is not name=value, such as -p horizon=5")
    return name, value


def _report(arguments: Arguments) -> None:
    from mlkit.report import ReportRequest, run_report, summarise_report

    if arguments.matrix is not None:
        _matrix(arguments)
        return
    settings = options.command_settings(arguments)
    span = {name: getattr(arguments, name) for name in ("since", "until") if getattr(arguments, name) is not None}
    how: dict[str, Any] = {"profile": settings.profile, "seed": settings.seed, "only": arguments.notebooks}
    parameters = {**span, **dict(arguments.parameters)}
    request = ReportRequest(arguments.symbol, arguments.timeframe, name=arguments.name, parameters=parameters, **how)
    print(summarise_report(run_report(request, force=arguments.force, tracking=settings.tracking)))


def _matrix(arguments: Arguments) -> None:
    """All reports of the file, then a table; ReportError if any failed, after all have run."""
    from mlkit.report import run_matrix

    outcomes = run_matrix(arguments.matrix, jobs=arguments.jobs, force=arguments.force)
    width = max(len(outcome.run) for outcome in outcomes)
    for outcome in outcomes:
        print(f"{outcome.run:<{width}}  {outcome.error or ', '.join(outcome.verdicts) or 'done'}")
    failed = [outcome.run for outcome in outcomes if outcome.error]
    if failed:
        raise ReportError(f"{len(failed)} of {len(outcomes)} reports failed: {', '.join(failed)}")


def _verify(arguments: Arguments) -> None:
    from mlkit.report import verify_report

    print("\n".join(verify_report(arguments.folder, again=not arguments.quick)))


def _diff(arguments: Arguments) -> None:
    from mlkit.report import compare_reports

    print(compare_reports(arguments.first, arguments.second))
