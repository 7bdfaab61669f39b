"""Commands over models: train, bundle."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mlkit.cli.arguments import (
    AddCommand,
    Arguments,
    count_value,
    run_options,
    settings_from,
    symbol_value,
    timeframe_value,
)
from mlkit.errors import ConfigError


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    _train_arguments(command("train", _train, "train the models of a market and publish them"))
    bundle = command("bundle", None, "look after model bundles")
    action = bundle.add_subparsers(dest="action", required=True, metavar="action")
    sub = action.add_parser("verify", help="check every file of a bundle, in another process", allow_abbrev=False)
    sub.add_argument("folder", type=Path, help="a bundle, or a folder that holds CURRENT")
    sub.add_argument("--seconds", type=count_value, default=120, help="time it may take")
    sub.add_argument("--memory", type=count_value, default=2048, metavar="MB", help="memory its models may take")
    sub.set_defaults(run=_bundle_verify)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--symbol", type=symbol_value, help="such as SP500 or BTCUSDT")
    parser.add_argument("--timeframe", type=timeframe_value, help="such as 1d or 1m")
    run_options(parser)
    parser.add_argument("--only", choices=("patterns",), help="patterns: the pattern CNN, from simulated bars alone")
    parser.add_argument(
        "--out", type=Path, help="folder of the pattern CNN's weights and of its checkpoint; data/models/patterns"
    )


def _train(arguments: Arguments) -> None:
    settings = settings_from(profile=arguments.profile, seed=arguments.seed)
    if arguments.only:
        _train_patterns(arguments, settings)
        return
    if arguments.out:
        raise ConfigError("--out goes with --only patterns; the models of a market are published with their bundles")
    for name in ("symbol", "timeframe"):
        if getattr(arguments, name) is None:
            raise ConfigError(f"train needs --{name}, such as mlkit train --symbol SP500 --timeframe 1d")
    from mlkit.market.sources import load_bars
    from mlkit.operations.training import train

    bars = load_bars(arguments.symbol, arguments.timeframe, settings=settings)
    bundle = train(bars, settings, progress=_tell)
    verdicts = [f"{h}: {_verdict(bundle.manifest.metrics.get(str(h)))}" for h in bundle.manifest.horizons]
    print(f"{bundle.path}\nout of sample, bars ahead: {', '.join(verdicts)}")


def _tell(stage: str, done: int, total: int) -> None:
    """Progress of a training, one line a stage on standard error."""
    print(f"{done}/{total} {stage}", file=sys.stderr, flush=True)


def _verdict(measured: Any) -> str:
    return str(measured.get("verdict") or "not measured") if isinstance(measured, dict) else "not measured"


def _train_patterns(arguments: Arguments, settings: Any) -> None:
    if arguments.symbol or arguments.timeframe:
        raise ConfigError("--only patterns learns from simulated bars; leave --symbol and --timeframe out")
    from tqdm import tqdm

    from mlkit.operations.pattern_training import epochs_of, ship_patterns

    # The whole training unless something smaller was asked for: it makes the very weights that mlkit ships.
    profile = settings.profile if "profile" in settings.model_fields_set else "full"
    folder = arguments.out or settings.models / "patterns"
    checkpoint = folder / f"checkpoint-{profile}-{settings.seed}.safetensors"
    with tqdm(total=epochs_of(profile), unit="epoch", desc="pattern CNN", file=sys.stderr) as bar:

        def tell(row: dict[str, float]) -> None:
            if bar.n == 0:  # a resumed training begins where it stopped
                bar.initial = bar.n = int(row["epoch"])
            bar.set_postfix_str(f"macro F1 {row['valid_macro_f1']:.3f}", refresh=False)
            bar.update()

        paths = ship_patterns(folder, seed=settings.seed, profile=profile, checkpoint=checkpoint, progress=tell)
    checkpoint.unlink(missing_ok=True)
    print("\n".join(map(str, paths)))


def _bundle_verify(arguments: Arguments) -> None:
    from mlkit.models.inspection import inspect_bundle

    found = inspect_bundle(arguments.folder, seconds=arguments.seconds, megabytes=arguments.memory)
    print(f"{found['path']}: whole, {found['files']} files of {found['market']} match their digests")
    if found["trees"]:
        print(f"{found['trees']} trees; read alike by {', '.join(['mlkit', *found['read_alike']])}")
    if found["not_installed"]:
        print(f"not asked, since not installed: {', '.join(found['not_installed'])}")
