"""Commands over bars: import, data status."""

from pathlib import Path
from typing import Any

from mlkit.cli.arguments import AddCommand, Arguments, settings_from, symbol_value, timeframe_value


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("import", _import, "check files of bars and add them to the lake")
    sub.add_argument(
        "source", type=Path, metavar="FILE|DIR", help=".csv, .csv.gz, .parquet or .feather, or a folder of them"
    )
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--symbol", type=symbol_value, help="such as SPY or BTCUSDT")
    which.add_argument(
        "--split", action="store_true", help="several markets, each under the name in its symbol column or file name"
    )
    sub.add_argument("--timeframe", type=timeframe_value, required=True, help="such as 1d or 1m")
    sub.add_argument("--tz", default="UTC", help="zone of times written without one, such as America/New_York")
    sub.add_argument("--repair", action="store_true", help="repair what can be repaired and print the counts")
    sub.add_argument(
        "--replace", action="store_true", help="where the lake has a bar with other values, take the file's"
    )
    data = command("data", None, "look after the bars of the lake")
    action = data.add_subparsers(dest="action", required=True, metavar="action")
    sub = action.add_parser("status", help="list what is there, how fresh, how complete", allow_abbrev=False)
    sub.add_argument("--check", action="store_true", help="read every file and compare it with its digest")
    sub.add_argument("--json", action="store_true", help="print JSON and nothing else")
    sub.set_defaults(run=_status)


def _import(arguments: Arguments) -> None:
    from mlkit.market import import_bars, import_markets

    options: dict[str, Any] = {
        "timeframe": arguments.timeframe,
        "tz": arguments.tz,
        "repair": arguments.repair,
        "on_conflict": "replace" if arguments.replace else "refuse",
        "settings": settings_from(),
    }
    if arguments.split:
        done = list(import_markets(arguments.source, **options).values())
    else:
        done = [import_bars(arguments.source, symbol=arguments.symbol, **options)]
    for commit, report in done:
        if report.total or arguments.repair:
            print(report)
        print(commit)


def _status(arguments: Arguments) -> None:
    import json

    from mlkit.errors import LakeError
    from mlkit.market import data_status

    settings = settings_from()
    table = data_status(settings, check=arguments.check).reset_index()
    if arguments.json:
        table["age"] = table["age"].dt.total_seconds()
        rows = json.loads(table.to_json(orient="records", date_format="iso", double_precision=6))
        print(json.dumps({"lake": str(settings.lake), "markets": rows}, indent=1))
    else:
        print(f"bars in {settings.lake}")
        for row in table.itertuples():
            print(f"  {row.symbol} {row.timeframe}: {_words(row)}")
        if table.empty:
            print("  none; mlkit import or mlkit fetch brings them")
    damaged = [str(row.problem) for row in table.itertuples() if not row.bars]
    if damaged:
        raise LakeError("; ".join(damaged))


def _words(row: Any) -> str:
    """One market in one line."""
    if not row.bars:
        return str(row.problem)
    span = f"{row.bars:,} bars, {row.first:%Y-%m-%d %H:%M} to {row.last:%Y-%m-%d %H:%M} UTC"
    parts = [span, f"{row.of_the_grid:.1%} of the grid", f"{_age(row.age)} old"]
    parts += [f"{row.revised:,} revised"] if row.revised else []
    parts += [f"from {row.source}"] if row.source else []
    parts += [f"data {row.dataset}"] if row.dataset else []
    return ", ".join([*parts, row.problem] if row.problem else parts)


def _age(age: Any) -> str:
    """How long ago, in its largest unit."""
    seconds = age.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
