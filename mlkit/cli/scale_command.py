"""Commands over many markets at once: scale features, scale train, scale evaluate."""

import sys
from typing import Any

from mlkit.cli import arguments as options
from mlkit.cli.arguments import AddCommand, Arguments
from mlkit.errors import ConfigError

_TEXTS = {
    "features": "write the features of every market, a Parquet file a month; what is there already is kept",
    "train": "train and publish a bundle for every market",
    "evaluate": "write the walk-forward forecasts of every market and print what they are worth",
}


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    scale = command("scale", None, "work on a universe of markets with several processes or machines")
    action = scale.add_subparsers(dest="action", required=True, metavar="action")
    for name, text in _TEXTS.items():
        sub = action.add_parser(name, help=text, description=text, allow_abbrev=False)
        options.universe_options(sub)
        options.timeframe_option(sub, required=True)
        if name != "features":
            options.run_options(sub)
        if name != "train":
            folder = "features" if name == "features" else "evaluations"
            sub.add_argument("--out", help=f"folder of the results; data/{folder}")
        sub.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://host:8786")
        workers = "processes of this machine, without --scheduler; 2"
        sub.add_argument("--workers", type=options.count_value, help=workers)
        sub.set_defaults(run=_scale, profile=None, seed=None, out=None)


def _scale(arguments: Arguments) -> None:
    symbols = options.symbols_of(arguments)
    if not symbols:
        raise ConfigError(f"scale {arguments.action} needs --universe FILE or --symbols A,B,C")
    if arguments.scheduler and arguments.workers:
        raise ConfigError("--workers is for this machine; a scheduler has the workers that it has")
    from tqdm import tqdm

    from mlkit.operations.scale import connect, run_universe

    settings = options.command_settings(arguments)
    workers, title = min(arguments.workers or 2, len(symbols)), f"{arguments.action} {arguments.timeframe}"
    with (
        connect(arguments.scheduler, workers=workers, n_threads=settings.n_threads) as client,
        tqdm(total=len(symbols), unit="market", desc=title, file=sys.stderr, disable=None) as bar,
    ):

        def watch(outcome: Any, done: int, total: int) -> None:
            bar.update()
            if bar.disable:  # no terminal: a line a market
                print(f"{done}/{total} {outcome}", file=sys.stderr, flush=True)

        report = run_universe(
            arguments.action, symbols, arguments.timeframe, settings, client=client, out=arguments.out, watch=watch
        )
    for outcome in report.outcomes:
        if not outcome.error:
            print(outcome)
    if len(report.scores):
        columns = ["rows", "r2", "rank_ic", "hit_rate", "coverage_90", "net_bps", "verdict"]
        print(report.scores[columns].to_string(float_format=lambda value: f"{value:.4f}"))
    report.demand()
