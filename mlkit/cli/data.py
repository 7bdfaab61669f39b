"""Commands over bars: import, data status."""

from pathlib import Path

from mlkit.cli.arguments import AddCommand, Arguments, market_arguments, settings_from


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("import", _import, "check files of bars and add them to the lake")
    sub.add_argument(
        "source", type=Path, metavar="FILE|DIR", help=".csv, .csv.gz, .parquet or .feather, or a folder of them"
    )
    market_arguments(sub)
    sub.add_argument("--tz", default="UTC", help="zone of times written without one, such as America/New_York")
    sub.add_argument("--repair", action="store_true", help="mend what can be mended and print what was")
    sub.add_argument(
        "--replace", action="store_true", help="where the lake has a bar with other values, take the file's"
    )


def _import(arguments: Arguments) -> None:
    from mlkit.market.sources import import_bars

    commit, report = import_bars(
        arguments.source,
        symbol=arguments.symbol,
        timeframe=arguments.timeframe,
        tz=arguments.tz,
        repair=arguments.repair,
        on_conflict="replace" if arguments.replace else "refuse",
        settings=settings_from(),
    )
    if report.total or arguments.repair:
        print(report)
    print(commit)
