"""Command that tunes parameters: tune."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from mlkit.cli import arguments as options
from mlkit.cli.arguments import AddCommand, Arguments


def register(command: AddCommand) -> None:
    """Add the command of this module."""
    text = "tune the parameters of a market's models, and test out of sample whether it helped"
    sub = command("tune", _tune, text)
    options.symbol_option(sub)
    options.timeframe_option(sub)
    options.run_options(sub)
    sub.add_argument("--trials", type=options.count_value, help="finished trials in all; 8, with --profile full 40")
    workers = "processes; with 1, every run has the same trials"
    sub.add_argument("--workers", type=options.count_value, default=1, help=workers)
    sub.add_argument("--storage", metavar="URL", help="Optuna storage; the SQLite file data/optuna.db")
    sub.add_argument("--study", metavar="NAME", help="an existing study is continued; by default the market's own")
    sub.add_argument("--only", choices=("patterns",), help="tune the pattern CNN, on simulated bars")


def _tune(arguments: Arguments) -> None:
    from mlkit.operations.tracking import tracked
    from mlkit.operations.tuning import save_tuned, tune, tune_patterns

    settings = options.command_settings(arguments)
    study = {name: getattr(arguments, name) for name in ("trials", "workers", "storage", "study")}
    if arguments.only:
        options.refuse_market(arguments)
        search: Callable[..., Any] = partial(tune_patterns, settings, **study)
        name, sources = "patterns", []
    else:
        from mlkit.evaluation import Source
        from mlkit.market import load_bars

        options.demand_options(arguments, "symbol", "timeframe")
        bars = load_bars(arguments.symbol, arguments.timeframe, settings=settings)
        name, sources = f"{arguments.symbol}-{arguments.timeframe}", [Source.of(bars)]
        search = partial(tune, bars, settings, **study)
    with tracked("tune", settings, name=name, sources=sources) as run, _bar() as report:
        tuning = search(progress=report)
        path = save_tuned(tuning.tuned, settings)
        run.file(path)
        _figures(run, tuning)
    _print(tuning)
    print(path)


@contextmanager
def _bar() -> Iterator[Any]:
    """A progress bar on standard error that starts where an earlier run of the study stopped."""
    from tqdm import tqdm

    bars: list[Any] = []  # empty before the first report

    def report(stage: str, done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, initial=done, unit="trial", file=sys.stderr))
        bars[0].set_description_str(f"tuning, {stage}", refresh=False)
        bars[0].update(done - bars[0].n)
        bars[0].refresh()

    try:
        yield report
    finally:
        for bar in bars:
            bar.close()


def _figures(run: Any, tuning: Any) -> None:
    """Log the study's figures in the tracked run, if it is tracked and matplotlib is installed."""
    if run.key is None or find_spec("matplotlib") is None:
        return
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from mlkit import plots

    with mpl.rc_context(plots.RC):  # type: ignore[arg-type]  # the stubs want every key as a literal
        history, importance = Figure(figsize=(9, 3.2)), Figure(figsize=(7, 3.2))
        plots.tuning_history(history.subplots(), tuning.trials)
        run.figure("history", history)
        if len(tuning.importance):
            plots.importance(importance.subplots(), tuning.importance, unit="share of the score's variance")
            run.figure("importance", importance)


def _print(tuning: Any) -> None:
    """Best and default parameters side by side, their scores, and whether tuning helped."""
    tuned, default = tuning.tuned, tuning.trials.loc[tuning.trials["default"]]
    rows = {
        name: (f"{default[name].iloc[0]:.4g}" if len(default) else "-", f"{value:.4g}")
        for name, value in tuned.parameters.items()
    }
    inner = "-" if tuned.default_score is None else f"{tuned.default_score:.5f}"
    rows["inner score"] = (inner, f"{tuned.score:.5f}")
    if (outside := tuned.out_of_sample) is not None:
        rows["out of sample"] = (f"{outside.default:.5f}", f"{outside.tuned:.5f}")
    for name, (before, after) in {"": ("default", "tuned"), **rows}.items():
        print(f"{name:<16}{before:>12}{after:>12}")
    ended = ", ".join(f"{count} {state}" for state, count in tuned.trials.items())
    print(f"trials of {tuned.study}: {ended}\n{tuning.sentence()}")
