"""Commands over the life of a market's model: drift, retrain, rollback."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from mlkit.cli import arguments as options
from mlkit.cli.arguments import AddCommand, Arguments, json_option, one_line, settings_from
from mlkit.cli.steps import Steps
from mlkit.errors import ConfigError, MlkitError, NotTrainedError

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}  # seconds


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("drift", _drift, "compare the bars since the training with the training, and keep the result")
    options.market_options(sub)
    json_option(sub)
    sub = command("retrain", _retrain, "train a market's model again if due; publish it if better")
    options.market_options(sub)
    options.run_options(sub)
    sub.add_argument("--force", action="store_true", help="train and compare even if nothing is due")
    every = "go on: a round every so often (s, m, h, d), until stopped"
    sub.add_argument("--every", type=period_value, metavar="6h", help=every)
    sub.add_argument("--keep", type=_keep_value, help="published models that stay; 3 if left out, 2 at least")
    options.tuned_option(sub)
    sub.add_argument("--dry-run", action="store_true", help="say what is due and what would be done")
    fetch = "collect new bars first; binance, or another name that ccxt knows"
    sub.add_argument("--fetch", nargs="?", const="binance", metavar="EXCHANGE", help=fetch)
    json_option(sub, "print JSON and nothing else; a line a round with --every")
    sub = command("rollback", _rollback, "make the model published before the current one current again")
    options.market_options(sub)
    sub.add_argument("--list", action="store_true", help="show what was published, and change nothing")
    json_option(sub)


def period_value(text: str) -> float:
    """Seconds of a length of time such as 30m, 6h or 1d."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit() and 0 < int(number[:9]) == int(number)):
        raise ConfigError(f"{text!r} is not a length of time such as 30m, 6h or 1d")
    return float(int(number) * _UNITS[unit])


def _keep_value(text: str) -> int:
    if options.count_value(text) < 2:
        raise ConfigError("--keep 1 would leave nothing to roll back to; keep 2 or more")
    return options.count_value(text)


def _drift(arguments: Arguments) -> None:
    from mlkit.inference import current_bundle
    from mlkit.market import load_bars
    from mlkit.operations.drift import check_drift, save_drift

    settings = settings_from()
    bundle = current_bundle(arguments.symbol, arguments.timeframe, settings)
    if bundle is None:
        market = f"--symbol {arguments.symbol} --timeframe {arguments.timeframe}"
        raise NotTrainedError(f"no published model of this market, so nothing can drift: run mlkit train {market}")
    bars = load_bars(arguments.symbol, arguments.timeframe, settings=settings)
    report = check_drift(bundle, bars, settings, now=datetime.now(UTC))
    path = save_drift(report, bundle.path.parent)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=1))
        return
    print(report)
    print()
    for family, row in report.table.iterrows():
        p = "       -" if row["rows"] == 0 else f"{row['p']:8.2g}"
        print(f"{family:<12}{row['rows']:>6} rows  p {p} against {row['level']:g}  {row['verdict']}")
    print(f"\n{path}")


def _retrain(arguments: Arguments) -> None:
    settings = options.command_settings(arguments, retrain_keep=arguments.keep)

    def round_() -> None:
        found, indent = _one_round(arguments, settings), None if arguments.every else 1
        print(json.dumps(found.to_dict(), indent=indent) if arguments.json else found, flush=True)

    if arguments.every is None:
        round_()
        return
    if arguments.dry_run:
        raise ConfigError("--dry-run looks once; leave --every out")
    with _stopped_by_signals():
        _go_on(round_, arguments.every)


def _one_round(arguments: Arguments, settings: Any) -> Any:
    from mlkit.operations.retraining import retrain

    if arguments.fetch:
        from mlkit.market.collect import fetch_bars

        report = fetch_bars(arguments.symbol, arguments.timeframe, exchange=arguments.fetch, settings=settings)
        print(report, file=sys.stderr)
    how = {name: getattr(arguments, name) for name in ("force", "dry_run", "tuned")}
    with Steps() as steps:
        return retrain(arguments.symbol, arguments.timeframe, settings, progress=steps, **how)


def _go_on(round_: Callable[[], None], every: float) -> None:
    """A round every so many seconds; one that fails is reported, and the next one keeps its time."""
    worked = False
    due = time.monotonic()
    while True:
        try:
            round_()
            worked = True
        except (MlkitError, OSError) as error:
            if not worked:  # the first round failed: an error of the command, not a passing one
                raise
            _say(f"this round failed, {one_line(error)}")
        now = time.monotonic()
        due += every * max(1.0, (now - due) // every + 1.0)  # rounds that fell due during a long one are left out
        _say(f"next round at {datetime.now(UTC) + timedelta(seconds=due - now):%Y-%m-%d %H:%M:%S} UTC")
        time.sleep(due - now)


def _say(text: str) -> None:
    print(f"mlkit: {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {text}", file=sys.stderr, flush=True)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the block at any point; the current model is complete whatever was running."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        _say("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rollback(arguments: Arguments) -> None:
    from mlkit.models.bundle import market_root
    from mlkit.operations.retraining import published, roll_back
    from mlkit.operations.tracking import for_command

    settings = for_command(settings_from())
    if not arguments.list:
        roll_back(arguments.symbol, arguments.timeframe, settings)
    table = published(market_root(arguments.symbol, arguments.timeframe, settings))
    if arguments.json:
        rows = json.loads(table.reset_index().to_json(orient="records", date_format="iso"))
        print(json.dumps({"market": f"{arguments.symbol} {arguments.timeframe}", "published": rows}, indent=1))
        return
    print(f"{arguments.symbol} {arguments.timeframe}, the current model first")
    for name, row in table.iterrows():
        trained = f"{row['bars']:,} bars to {row['trained_until']:%Y-%m-%d %H:%M}" if row["bars"] else row["problem"]
        print(f"  {name}  {trained}{f'; {row.event}, {row.why}' if row['event'] else ''}")
    if table.empty:
        print("  none")
