"""The command ``mlkit``: arguments in, one call into the library, a few lines out.

Exit codes: 0 done; 2 bad input or a task that cannot be done, with one line on standard error; 130
interrupted. Only the chosen command imports what it needs.
"""

import argparse
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mlkit.errors import BarsError, ConfigError, MlkitError

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` defaults to the process's arguments. Returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        run: Callable[[Arguments], None] = arguments.run
        run(arguments)
        sys.stdout.flush()
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of standard output went away, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MlkitError, OSError, ModuleNotFoundError) as error:
        print(f"mlkit: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: Exception) -> str:
    """What went wrong, in one line; an ImportError of our own making is a bug and is raised again."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        if (error.name or "mlkit").split(".")[0] == "mlkit":
            raise error
        return f"{error.name} is not installed: pip install 'mlkit[train,lab]'"
    return " ".join(str(error).split())


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, no usage block."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mlkit", description="Honest machine-learning research on market bars.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Callable[[Arguments], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    _report_arguments(command("report", _report, "run the notebooks into a self-contained report"))
    _train_arguments(command("train", _train, "train the models of a market and publish them"))
    sub = command("insights", _insights, "print the insight of the latest bar")
    _market(sub, timeframe="1m")
    sub.add_argument("--json", action="store_true", help="print the documented JSON and nothing else")
    sub = command("status", _status, "show the bars, bundles and models that are here")
    sub.add_argument("--json", action="store_true", help="print JSON and nothing else")
    sub = command("import", _import, "check a CSV or Parquet file of bars and save it into the lake")
    sub.add_argument("file", type=Path, help=".csv, .csv.gz or .parquet with timestamp, open, high, low, close, volume")
    _market(sub)
    sub.add_argument("--repair", action="store_true", help="mend what can be mended and print what was")
    sub = command("verify", _verify, "check a report against its receipt")
    sub.add_argument("folder", type=Path, help="such as reports/SP500-1d")
    bundle = command("bundle", _bundle_verify, "look after model bundles")
    action = bundle.add_subparsers(dest="action", required=True, metavar="action")
    sub = action.add_parser("verify", help="check every file of a bundle against its manifest", allow_abbrev=False)
    sub.add_argument("folder", type=Path, help="a bundle, or a folder that holds CURRENT")
    return parser


class _Version(argparse.Action):
    """Prints the version; importlib.metadata is read only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from mlkit import __version__

        print(f"mlkit {__version__}")
        parser.exit()


def _market(parser: argparse.ArgumentParser, symbol: str | None = None, timeframe: str | None = None) -> None:
    parser.add_argument(
        "--symbol", type=_symbol, default=symbol, required=symbol is None, help="such as SP500 or BTCUSDT"
    )
    parser.add_argument(
        "--timeframe", type=_timeframe, default=timeframe, required=timeframe is None, help="such as 1d or 1m"
    )


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", choices=("smoke", "full"), default=None, help="smoke: seconds; full: the whole thing"
    )
    parser.add_argument("--seed", type=_seed, default=None, help="a whole number; everything random follows from it")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    _market(parser, "SP500", "1d")
    _run_options(parser)
    parser.add_argument(
        "-p", dest="parameters", metavar="name=value", type=_parameter, action="append", default=[],
        help="a parameter of the notebooks; may be repeated",
    )  # fmt: skip


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--symbol", type=_symbol, help="such as SP500 or BTCUSDT")
    parser.add_argument("--timeframe", type=_timeframe, help="such as 1d or 1m")
    _run_options(parser)
    parser.add_argument("--only", choices=("patterns",), help="patterns: the pattern CNN, from simulated bars alone")
    parser.add_argument("--standard", choices=("classic", "continuous"), help="of the pattern CNN; classic by default")


# --- values: checked before anything runs ----------------------------------------------------------


def _symbol(text: str) -> str:
    from mlkit.market.bars import check_symbol

    return check_symbol(text)


def _timeframe(text: str) -> str:
    from mlkit.market.times import timeframe_delta

    timeframe_delta(text)
    return text


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"seed {text!r} is not a whole number of 0 or more")
    return int(text)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError(f"parameter {text!r} is not name=value, such as -p horizon=5")
    return name, value


def _settings(**changes: Any) -> Any:
    """Settings of the environment with the options given; their faults in one line."""
    from pydantic import ValidationError

    from mlkit.config import Settings

    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"setting MLKIT_{name.upper()}={fault['input']!r}: {fault['msg']}") from None


# --- commands --------------------------------------------------------------------------------------


def _report(arguments: Arguments) -> None:
    from mlkit.report import run_report, summarise_report

    settings = _settings(profile=arguments.profile, seed=arguments.seed)
    path = run_report(
        arguments.symbol,
        arguments.timeframe,
        profile=settings.profile,
        seed=settings.seed,
        parameters=dict(arguments.parameters),
    )
    print(summarise_report(path))


def _verify(arguments: Arguments) -> None:
    from mlkit.report import verify_report

    print("\n".join(verify_report(arguments.folder)))


def _train(arguments: Arguments) -> None:
    settings = _settings(profile=arguments.profile, seed=arguments.seed)
    if arguments.only:
        _train_patterns(arguments, settings)
        return
    if arguments.standard:
        raise ConfigError("--standard goes with --only patterns; the models of a market choose theirs")
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
    from mlkit.models.pattern_cnn import save_cnn
    from mlkit.operations.pattern_training import train_patterns

    def tell(row: dict[str, float]) -> None:
        score = f"macro F1 {row['valid_macro_f1']:.3f}"
        print(f"epoch {int(row['epoch']) + 1}: {score}", file=sys.stderr, flush=True)

    standard: Any = arguments.standard or "classic"
    model, _ = train_patterns(standard=standard, seed=settings.seed, profile=settings.profile, progress=tell)
    path = settings.models / f"patterns-{standard}.safetensors"
    save_cnn(path, model)
    print(path)


def _insights(arguments: Arguments) -> None:
    from mlkit.inference.predictor import insights

    insight = insights(arguments.symbol, arguments.timeframe, _settings())
    print(insight.model_dump_json(indent=1) if arguments.json else insight)


def _import(arguments: Arguments) -> None:
    from mlkit.market.repair import repair_bars
    from mlkit.market.sources import read_bars, save_bars

    names = {"symbol": arguments.symbol, "timeframe": arguments.timeframe}
    if arguments.repair:
        bars, report = repair_bars(_raw_frame(arguments.file), **names)
        print(report)
    else:
        bars = read_bars(arguments.file, **names)
    path = save_bars(bars, _settings())
    span = " to ".join(f"{time:%Y-%m-%d %H:%M}" for time in (bars.index[0], bars.index[-1]))
    print(f"{len(bars):,} bars, {span} UTC, saved as {path}")


def _raw_frame(path: Path) -> Any:
    """A file as pandas reads it, for `repair_bars` to judge."""
    import pandas as pd

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a .csv, .csv.gz or .parquet file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, sep=_separator(path), low_memory=False)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise BarsError(f"{path}: not a readable CSV or Parquet file ({error}); export it again") from error


def _separator(path: Path) -> str:
    """Comma, semicolon, tab or bar: the one that the first line holds most of."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return max(",;\t|", key=file.readline().count)


def _status(arguments: Arguments) -> None:
    state = _state(_settings())
    if arguments.json:
        print(json.dumps(state, indent=1))
        return
    print(f"mlkit {state['version']}")
    print(f"bars in {state['lake']}")
    for market in state["bars"]:
        print(f"  {market}")
    print(f"bundles in {state['models']}")
    for name, bundle in state["bundles"].items():
        print(f"  {name}: {bundle}")
    if not state["bundles"]:
        print("  none; train one with mlkit train --symbol SP500 --timeframe 1d")
    print(f"shipped pattern CNN: {', '.join(state['pattern_cnn']) or 'none'}")
    missing = [name for name, there in state["packages"].items() if not there]
    print(f"optional packages missing: {', '.join(missing) or 'none'}")


def _state(settings: Any) -> dict[str, Any]:
    """What is here, without loading a model or importing an optional package."""
    from importlib.util import find_spec

    import mlkit
    from mlkit.market.sources import available

    shipped = (Path(mlkit.__file__).parent / "models" / "pretrained").glob("*.safetensors")
    packages = ("torch", "xgboost", "lightgbm", "sklearn", "arch", "papermill", "matplotlib")
    return {
        "version": mlkit.__version__,
        "lake": str(settings.lake),
        "bars": [" ".join(market) for market in available(settings)],
        "models": str(settings.models),
        "bundles": {
            current.parent.name: current.read_text(encoding="ascii", errors="replace").strip()
            for current in sorted(settings.models.glob("*/CURRENT"))
        },
        "pattern_cnn": sorted(path.stem for path in shipped),
        "packages": {name: find_spec(name) is not None for name in packages},
    }


def _bundle_verify(arguments: Arguments) -> None:
    from mlkit.models.bundle import ModelBundle

    bundle = ModelBundle.open(arguments.folder)
    manifest = bundle.manifest
    market = f"{manifest.symbol} {manifest.timeframe}"
    print(f"{bundle.path}: whole, {len(manifest.files)} files of {market} match their digests")
