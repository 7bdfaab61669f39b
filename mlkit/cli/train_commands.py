"""Commands that make and check bundles: train (a market, several in one model, or the pattern CNN), bundle verify."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.cli import arguments as options
from mlkit.cli.arguments import AddCommand, Arguments
from mlkit.cli.steps import Steps
from mlkit.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from mlkit.models.bundle import ModelBundle

_SHOWN = ("r2", "hit_rate", "brier_skill", "coverage_80", "coverage_90", "interval_ratio", "net_bps", "verdict")
_MAX_MARKETS = 12  # of a pool, that the summary lists one by one


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("train", _train, "train the models of a market, or of several together, and publish them")
    options.symbol_option(sub)
    options.universe_options(sub)
    name = "of the pool that several symbols make; of the file, or theirs"
    sub.add_argument("--name", type=options.symbol_value, help=name)
    options.timeframe_option(sub)
    options.run_options(sub)
    options.tuned_option(sub)
    in_files = "features in files instead of memory, for what is larger than it"
    sub.add_argument("--in-files", action="store_true", help=in_files)
    sub.add_argument("--fresh", action="store_true", help="do not go on with a run of this training that was killed")
    sub.add_argument("--only", choices=("patterns",), help="patterns: the pattern CNN, from simulated bars alone")
    out = "folder of the pattern CNN's weights and of its checkpoint; data/models/patterns"
    sub.add_argument("--out", type=Path, help=out)
    bundle = command("bundle", None, "check model bundles")
    action = bundle.add_subparsers(dest="action", required=True, metavar="action")
    sub = action.add_parser("verify", help="check every file of a bundle, in another process", allow_abbrev=False)
    sub.add_argument("folder", type=Path, help="a bundle, or a folder that holds CURRENT")
    sub.add_argument("--seconds", type=options.count_value, default=120, help="time limit")
    memory = "memory limit for its models"
    sub.add_argument("--memory", type=options.count_value, default=2048, metavar="MB", help=memory)
    sub.set_defaults(run=_bundle_verify)


def _train(arguments: Arguments) -> None:
    settings = options.command_settings(arguments)
    if arguments.only:
        _train_patterns(arguments, settings)
        return
    if arguments.out:
        raise ConfigError("--out goes with --only patterns; the models of a market are published with their bundles")
    symbols = _symbols(arguments)
    from mlkit.market import load_bars
    from mlkit.models.bundle import only_one
    from mlkit.operations.tracking import tracked
    from mlkit.operations.training import resumable, root_of, train, walk_forward
    from mlkit.operations.tuning import load_tuned

    bars = [load_bars(symbol, arguments.timeframe, settings=settings) for symbol in symbols]
    name = arguments.name or (Path(arguments.universe).stem if arguments.universe else None)
    title = f"{name or '+'.join(symbols)[:60]}-{arguments.timeframe}"
    root = root_of(symbols, arguments.timeframe, settings, name)
    with only_one(root), Steps() as steps, tracked("train", settings, name=title) as run:
        ensemble = after = None
        if arguments.tuned:
            tuned = load_tuned(settings, symbols[0], arguments.timeframe)
            run.parameters({"tuned": tuned.provenance()})
            # Tuning used the bars up to `after`: only later ones may judge its parameters.
            ensemble, after = tuned.ensemble(settings, bars[0]), tuned.saw_until
        how: dict[str, Any] = {"in_files": arguments.in_files, "fresh": arguments.fresh, "progress": steps}
        with resumable(bars, settings, ensemble=ensemble, **how) as execution:
            same: dict[str, Any] = {"ensemble": ensemble, "execution": execution}
            forecasts = walk_forward(bars, settings, after=after, **same)
            bundle = train(bars, settings, forecasts=forecasts, name=name, **same)
        if run.key is not None:
            for title, figure in _figures(forecasts):
                run.figure(title, figure)
    print(summary(bundle))


def _symbols(arguments: Arguments) -> tuple[str, ...]:
    """The markets to train on; one symbol, or several that are pooled."""
    several = options.symbols_of(arguments)
    if several and arguments.symbol:
        raise ConfigError("train takes --symbol, or --symbols or --universe for several markets in one model, not both")
    if arguments.name and len(several) < 2:
        raise ConfigError("--name is that of a pool: it goes with --symbols or --universe")
    options.demand_options(arguments, *(("timeframe",) if several else ("symbol", "timeframe")))
    if arguments.tuned and len(several) > 1:
        raise ConfigError("--tuned: parameters are tuned for one market; leave it out for several")
    return several or (arguments.symbol,)


def summary(bundle: "ModelBundle") -> str:
    """The bundle's folder and its out-of-sample scores: a row a horizon; of a pool also a row a market."""
    from mlkit.operations.training import bundle_scores

    manifest, scores = bundle.manifest, bundle_scores(bundle)
    table = scores[[column for column in _SHOWN if column in scores]].rename_axis("bars ahead").reset_index()
    lines = [str(bundle.path), table.to_string(index=False, na_rep="-", float_format="{:.3f}".format)]
    for symbol, member in list(manifest.pool.items())[:_MAX_MARKETS]:
        rows = {int(h): row for h, row in member.metrics.items() if isinstance(row, dict)}
        verdicts = ", ".join(f"{h}: {rows[h]['verdict']}" for h in sorted(rows))
        lines.append(f"{symbol}, {member.training_span.bars:,} bars, out of sample alone: {verdicts or 'not tested'}")
    if len(manifest.pool) > _MAX_MARKETS:
        lines.append(f"and {len(manifest.pool) - _MAX_MARKETS} markets more, in {bundle.path / 'manifest.json'}")
    return "\n".join(lines)


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
    options.refuse_market(arguments)
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


def _bundle_verify(arguments: Arguments) -> None:
    from mlkit.models.bundle import inspect_bundle
    from mlkit.untrusted import printable

    found = inspect_bundle(arguments.folder, seconds=arguments.seconds, megabytes=arguments.memory)
    print(f"{printable(found['path'])}: whole, {found['files']} files of {found['market']} match their digests")
    if found["trees"]:
        print(f"{found['trees']} trees; read alike by {', '.join(['mlkit', *found['read_alike']])}")
    if found["not_installed"]:
        print(f"not asked, since not installed: {', '.join(found['not_installed'])}")
