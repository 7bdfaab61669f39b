"""The command train: one market, several pooled into one model, or the pattern CNN."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.cli.arguments import (
    AddCommand,
    Arguments,
    run_options,
    settings_from,
    symbol_value,
    symbols_of,
    timeframe_value,
    universe_arguments,
)
from mlkit.cli.steps import Steps
from mlkit.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.config import Settings
    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import EnsembleSettings
    from mlkit.operations.tracking import TrackedRun

_SHOWN = ("r2", "hit_rate", "brier_skill", "coverage_80", "coverage_90", "interval_ratio", "net_bps", "verdict")
_MAX_MARKETS = 12  # of a pool, that the summary lists one by one


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    _arguments(command("train", _train, "train the models of a market, or of several together, and publish them"))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--symbol", type=symbol_value, help="such as SP500 or BTCUSDT")
    universe_arguments(parser)
    parser.add_argument(
        "--name", type=symbol_value, help="of the pool that several symbols make; of the file, or theirs"
    )
    parser.add_argument("--timeframe", type=timeframe_value, help="such as 1d or 1m")
    run_options(parser)
    parser.add_argument("--tuned", action="store_true", help="with the parameters that mlkit tune chose for the market")
    parser.add_argument(
        "--in-files", action="store_true", help="features in files instead of memory, for what is larger than it"
    )
    parser.add_argument("--fresh", action="store_true", help="do not go on with a run of this training that was killed")
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
    symbols = _symbols(arguments)
    from mlkit.market import load_bars
    from mlkit.models.bundle import only_one
    from mlkit.operations.tracking import for_command, tracked
    from mlkit.operations.training import resumable, root_of, train, walk_forward

    settings = for_command(settings)
    bars = [load_bars(symbol, arguments.timeframe, settings=settings) for symbol in symbols]
    name = arguments.name or (Path(arguments.universe).stem if arguments.universe else None)
    title = f"{name or '+'.join(symbols)[:60]}-{arguments.timeframe}"
    root = root_of(symbols, arguments.timeframe, settings, name)
    with only_one(root), Steps() as steps, tracked("train", settings, name=title) as run:
        ensemble, after = _tuned(symbols, bars, settings, run) if arguments.tuned else (None, None)
        how: dict[str, Any] = {"in_files": arguments.in_files, "fresh": arguments.fresh, "progress": steps}
        with resumable(bars, settings, ensemble=ensemble, **how) as execution:
            same: dict[str, Any] = {"ensemble": ensemble, "execution": execution}
            forecasts = walk_forward(bars, settings, after=after, **same)
            bundle = train(bars, settings, forecasts=forecasts, name=name, **same)
        if run.key is not None:
            for title, figure in _figures(forecasts):
                run.figure(title, figure)
    print(summary(bundle))


def _tuned(
    symbols: tuple[str, ...], bars: "list[pd.DataFrame]", settings: "Settings", run: "TrackedRun"
) -> "tuple[EnsembleSettings, pd.Timestamp]":
    """The tuned parameters of the market, and the last bar that tuning used: only later bars may judge them."""
    from mlkit.operations.tuning import load_tuned

    if len(bars) > 1:
        raise ConfigError("--tuned: parameters are tuned for one market; leave it out for several")
    tuned = load_tuned(settings, symbols[0], bars[0].attrs["timeframe"])
    run.parameters({"tuned": tuned.provenance()})
    return tuned.ensemble(settings, bars[0]), tuned.saw_until


def _symbols(arguments: Arguments) -> tuple[str, ...]:
    """The markets to train on; one symbol, or several that are pooled."""
    several = symbols_of(arguments)
    if several and arguments.symbol:
        raise ConfigError("train takes --symbol, or --symbols or --universe for several markets in one model, not both")
    if arguments.name and len(several) < 2:
        raise ConfigError("--name is that of a pool: it goes with --symbols or --universe")
    for name in ("symbol", "timeframe"):
        if getattr(arguments, name) is None and not (name == "symbol" and several):
            raise ConfigError(f"train needs --{name}, such as mlkit train --symbol SP500 --timeframe 1d")
    return several or (arguments.symbol,)


def summary(bundle: "ModelBundle") -> str:
    """The bundle's folder and its out-of-sample scores: a row a horizon; of a pool also a row a market."""
    from mlkit.operations.training import bundle_scores

    manifest = bundle.manifest
    lines = [str(bundle.path), _shown(bundle_scores(bundle))]
    for symbol, member in list(manifest.pool.items())[:_MAX_MARKETS]:
        rows = {int(h): row for h, row in member.metrics.items() if isinstance(row, dict)}
        verdicts = ", ".join(f"{h}: {rows[h]['verdict']}" for h in sorted(rows))
        lines.append(f"{symbol}, {member.training_span.bars:,} bars, out of sample alone: {verdicts or 'not tested'}")
    if len(manifest.pool) > _MAX_MARKETS:
        lines.append(f"and {len(manifest.pool) - _MAX_MARKETS} markets more, in {bundle.path / 'manifest.json'}")
    return "\n".join(lines)


def _shown(scores: "pd.DataFrame") -> str:
    """The columns of a score table that fit a terminal."""
    table = scores[[column for column in _SHOWN if column in scores]].rename_axis("bars ahead").reset_index()
    return table.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.3f}")


def _figures(forecasts: "pd.DataFrame") -> "list[tuple[str, Any]]":
    """Coverage of the intervals, and the reliability of the probability of a rise at the shortest horizon."""
    import pandas as pd
    from matplotlib.figure import Figure

    from mlkit import plots
    from mlkit.evaluation import coverage, direction, reliability_table

    parts = {int(h): forecasts[forecasts["horizon"] == h] for h in sorted(forecasts["horizon"].unique())}
    covered = {
        h: {level / 100: coverage(part["outcome"], part[f"lo{level}"], part[f"hi{level}"]) for level in (80, 90)}
        for h, part in parts.items()
    }
    first = parts[min(parts)]
    intervals, chances = (Figure(figsize=(7.0, 4.0), layout="constrained") for _ in range(2))
    plots.coverage(intervals.add_subplot(), pd.DataFrame.from_dict(covered, orient="index"))
    plots.reliability(chances.add_subplot(), reliability_table(direction(first["outcome"]), first["p_up"]))
    return [("coverage", intervals), (f"reliability h{min(parts)}", chances)]


def _train_patterns(arguments: Arguments, settings: Any) -> None:
    if arguments.in_files:
        raise ConfigError("--in-files is about the bars of markets; leave it out with --only patterns")
    if arguments.symbol or arguments.timeframe:
        raise ConfigError("--only patterns learns from simulated bars; leave --symbol and --timeframe out")
    from tqdm import tqdm

    from mlkit.operations.patterns import epochs_of, ship_patterns

    # The full training by default: it makes the weights that mlkit ships, bit for bit.
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
