"""Commands over bars: fetch, import, data status."""

import json
import sys
from pathlib import Path
from typing import Any

from mlkit.cli import arguments as options
from mlkit.cli.arguments import AddCommand, Arguments, json_option, settings_from
from mlkit.errors import ConfigError, FetchError, LakeError

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))  # seconds of each, the largest first


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("fetch", _fetch, "collect bars from an exchange, or Binance's archive files, into the lake; resumes")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help="the exchange's names, such as BTCUSDT ETHUSDT")
    sub.add_argument("--timeframe", type=options.timeframe_value, required=True, help="such as 1m")
    sub.add_argument("--since", help="first open time, such as 2026-01-01 (UTC); else goes on from the last bar")
    sub.add_argument("--until", help="open time to stop before; now if left out")
    sub.add_argument("--exchange", default="binance", help="a name that ccxt knows; binance if left out")
    archive = "read Binance's kline zip files instead of asking an exchange"
    sub.add_argument("--archive", metavar="DIR|URL", help=archive)
    sub.add_argument("--as", dest="name", metavar="NAME", help="name of the one symbol in the lake")
    revised = "a bar that the exchange changed gets its new values, or keeps the lake's"
    sub.add_argument("--revised", choices=("replace", "keep"), default="replace", help=revised)
    sub.add_argument("--jobs", type=int, default=4, help="symbols at a time; 4 if left out")
    sub = command("import", _import, "check files of bars and add them to the lake")
    source = ".csv, .csv.gz, .parquet or .feather, or a folder of them"
    sub.add_argument("source", type=Path, metavar="FILE|DIR", help=source)
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--symbol", type=options.symbol_value, help="such as SPY or BTCUSDT")
    split = "several markets, each under the name in its symbol column or file name"
    which.add_argument("--split", action="store_true", help=split)
    options.timeframe_option(sub, required=True)
    sub.add_argument("--tz", default="UTC", help="zone of times written without one, such as America/New_York")
    sub.add_argument("--repair", action="store_true", help="repair what can be repaired and print the counts")
    replace = "where the lake has a bar with other values, take the file's"
    sub.add_argument("--replace", action="store_true", help=replace)
    sub.add_argument("--calendar", metavar="NAME", help="trading calendar: XNYS, XLON, ..., 24/7 or 24/5")
    sessions = "regular drops bars outside the sessions"
    sub.add_argument("--sessions", choices=("all", "regular"), default="all", help=sessions)
    data = command("data", None, "look after the bars of the lake")
    action = data.add_subparsers(dest="action", required=True, metavar="action")
    sub = action.add_parser("status", help="list what is there, how fresh, how complete", allow_abbrev=False)
    sub.add_argument("--check", action="store_true", help="read every file and compare it with its digest")
    json_option(sub)
    sub.set_defaults(run=_status)


def _fetch(arguments: Arguments) -> None:
    from mlkit.market.collect import ProgressLines, fetch_archive, fetch_bars, utc

    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs} is not 1 or more")
    lines = ProgressLines()
    names = ("since", "until", "name", "revised")
    asked = {name: getattr(arguments, name) for name in names} | {"progress": lines, "settings": settings_from()}
    markets = arguments.symbols, arguments.timeframe
    try:
        if arguments.archive is not None:
            report = fetch_archive(*markets, arguments.archive, **asked)
        else:
            report = fetch_bars(*markets, exchange=arguments.exchange, jobs=arguments.jobs, **asked)
    except KeyboardInterrupt:
        lines.close()
        reached = ", ".join(f"{name} up to {utc(state.until)}" for name, state in lines.states.items())
        print(f"mlkit: interrupted; committed {reached or 'nothing'}; the same command resumes", file=sys.stderr)
        raise
    except FetchError as error:
        lines.close()
        if error.report is not None:
            print(error.report)
        raise
    lines.close()
    print(report)


def _import(arguments: Arguments) -> None:
    from mlkit.market import import_bars, import_markets

    asked: dict[str, Any] = {
        "timeframe": arguments.timeframe,
        "tz": arguments.tz,
        "repair": arguments.repair,
        "on_conflict": "replace" if arguments.replace else "refuse",
        "calendar": arguments.calendar,
        "regular": arguments.sessions == "regular",
        "settings": settings_from(),
    }
    if arguments.split:
        done = list(import_markets(arguments.source, **asked).values())
    else:
        done = [import_bars(arguments.source, symbol=arguments.symbol, **asked)]
    for commit, report in done:
        if report.total or arguments.repair:
            print(report)
        print(commit)
        if commit.note:
            print(commit.note)


def _status(arguments: Arguments) -> None:
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
    seconds = row.age.total_seconds()
    units = (f"{seconds / size:.3g} {unit}" for unit, size in _UNITS if seconds >= size)
    age = next(units, f"{seconds:.0f} s")
    span = f"{row.bars:,} bars, {row.first:%Y-%m-%d %H:%M} to {row.last:%Y-%m-%d %H:%M} UTC"
    parts = [span, f"{row.of_the_grid:.1%} of the grid", f"{age} old"]
    parts += [f"{row.revised:,} revised"] if row.revised else []
    parts += [f"from {row.source}"] if row.source else []
    parts += [f"data {row.dataset}"] if row.dataset else []
    return ", ".join([*parts, row.problem] if row.problem else parts)
