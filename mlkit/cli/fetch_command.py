"""Bars from outside into the lake: fetch."""

import sys

from mlkit.cli.arguments import AddCommand, Arguments, settings_from, timeframe_value
from mlkit.errors import ConfigError, FetchError


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("fetch", _fetch, "collect bars from an exchange, or Binance's archive files, into the lake; resumes")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help="the exchange's names, such as BTCUSDT ETHUSDT")
    sub.add_argument("--timeframe", type=timeframe_value, required=True, help="such as 1m")
    sub.add_argument("--since", help="first open time, such as 2026-01-01 (UTC); else goes on from the last bar")
    sub.add_argument("--until", help="open time to stop before; now if left out")
    sub.add_argument("--exchange", default="binance", help="a name that ccxt knows; binance if left out")
    sub.add_argument(
        "--archive", metavar="DIR|URL", help="read Binance's kline zip files instead of asking an exchange"
    )
    sub.add_argument("--as", dest="name", metavar="NAME", help="name of the one symbol in the lake")
    changed = "a bar that the exchange changed gets its new values, or keeps the lake's"
    sub.add_argument("--revised", choices=("replace", "keep"), default="replace", help=changed)
    sub.add_argument("--jobs", type=int, default=4, help="symbols at a time; 4 if left out")


def _fetch(arguments: Arguments) -> None:
    from mlkit.market.collect import ProgressLines, fetch_archive, fetch_bars, utc

    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs} is not 1 or more")
    lines = ProgressLines()
    names = ("since", "until", "name", "revised")
    options = {name: getattr(arguments, name) for name in names} | {"progress": lines, "settings": settings_from()}
    markets = arguments.symbols, arguments.timeframe
    try:
        if arguments.archive is not None:
            report = fetch_archive(*markets, arguments.archive, **options)
        else:
            report = fetch_bars(*markets, exchange=arguments.exchange, jobs=arguments.jobs, **options)
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
