"""Commands over reports: report, verify."""

import argparse
from pathlib import Path

from mlkit.cli.arguments import AddCommand, Arguments, market_arguments, parameter_value, run_options, settings_from


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    _report_arguments(command("report", _report, "run the notebooks into a self-contained report"))
    sub = command("verify", _verify, "check a report against its receipt")
    sub.add_argument("folder", type=Path, help="such as reports/SP500-1d")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    market_arguments(parser, "SP500", "1d")
    run_options(parser)
    parser.add_argument(
        "-p", dest="parameters", metavar="name=value", type=parameter_value, action="append", default=[],
        help="a parameter of the notebooks; may be repeated",
    )  # fmt: skip


def _report(arguments: Arguments) -> None:
    from mlkit.report import run_report, summarise_report

    settings = settings_from(profile=arguments.profile, seed=arguments.seed)
    path = run_report(
        arguments.symbol,
        arguments.timeframe,
        profile=settings.profile,
        seed=settings.seed,
        parameters=dict(arguments.parameters),
    )
    print(summarise_report(path))


def _verify(arguments: Arguments) -> None:
    from mlkit.report import verify_report

    print("\n".join(verify_report(arguments.folder)))
