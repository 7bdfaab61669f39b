"""Commands that show insights and status, and serve them."""

import atexit
import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlkit.cli import arguments as options
from mlkit.cli.arguments import AddCommand, Arguments, json_option, one_line, settings_from
from mlkit.errors import ConfigError, MlkitError

WATCH_SECONDS = 30.0  # between two insights of --watch
CLEAR_SCREEN = "\x1b[H\x1b[2J\x1b[3J"


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("insights", _insights, "print the insight of the latest bar")
    options.symbol_option(sub, required=True)
    options.timeframe_option(sub, "1m")
    json_option(sub, "print the documented JSON and nothing else")
    sub.add_argument("--watch", action="store_true", help="look again every 30 seconds; with --json a line each time")
    json_option(command("status", _status, "show the bars, bundles and models that are here"))
    sub = command("serve", _serve, "answer over HTTP: insights, patterns, prices, signals, status")
    host = "address to listen at; others than this machine's need a token"
    sub.add_argument("--host", default="127.0.0.1", help=host)
    sub.add_argument("--port", type=_number, default=8000)
    sub.add_argument("--workers", type=_number, default=1, help="processes")
    token = "file with a token of at least 32 bytes that requests must carry"
    sub.add_argument("--token-file", type=Path, help=token)
    names: dict[str, Any] = {"dest": "allowed_hosts", "metavar": "NAME", "action": "append", "default": []}
    sub.add_argument("--allow-host", **names, help="a name in Host headers that is answered; may be repeated")
    sub.add_argument("--jobs", type=_number, default=2, help="insights computed at a time in a process")
    sub.add_argument("--deadline", type=_seconds, default=10.0, help="seconds a request may take")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{text!r} is not a whole number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a number of seconds") from None


def _insights(arguments: Arguments) -> None:
    settings = settings_from()
    if not arguments.watch:
        with _short_lived():
            from mlkit.inference import insights

            _show(insights(arguments.symbol, arguments.timeframe, settings), arguments.json)
        return
    from mlkit.inference import Markets

    markets = Markets(settings, size=1, clock=lambda: datetime.now(UTC))
    answered = False
    while True:
        try:
            insight = markets.answer((arguments.symbol, arguments.timeframe)).insight
        except (MlkitError, OSError) as error:
            # The first attempt fails as an error; a later failure is printed and tried again.
            if not answered:
                raise
            print(f"mlkit: {one_line(error)}", file=sys.stderr)
        else:
            answered = True
            if sys.stdout.isatty() and not arguments.json:
                print(CLEAR_SCREEN, end="")
            _show(insight, arguments.json, indent=None)
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)


@contextmanager
def _short_lived() -> Iterator[None]:
    """No garbage collection during one command and at the exit: it takes a third of a cold start and frees nothing."""
    collecting = gc.isenabled()
    gc.disable()
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _show(insight: Any, as_json: bool, indent: int | None = 1) -> None:
    if as_json:
        print(insight.model_dump_json(indent=indent))
        return
    from mlkit.inference.show import insight_table

    print(insight_table(insight, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))


def _serve(arguments: Arguments) -> None:
    from pydantic import ValidationError

    from mlkit.inference.api import ServeOptions

    names = ("host", "port", "workers", "token_file", "allowed_hosts", "jobs", "deadline")
    try:
        serving = ServeOptions(**{name: getattr(arguments, name) for name in names})
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {fault['msg']}") from None
    serving.token()
    from mlkit.inference import api

    api.run_server(serving, settings_from())


def _status(arguments: Arguments) -> None:
    state = _state(settings_from())
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
    """Bars, bundles and packages, without loading a model or importing an optional package."""
    from importlib.util import find_spec
    from urllib.parse import unquote

    import mlkit
    from mlkit.market import available
    from mlkit.models.ensemble import MODULES

    shipped = (Path(mlkit.__file__).parent / "models" / "patterns" / "pretrained").glob("*.safetensors")
    packages = ("safetensors", "torch", *MODULES, "arch", "papermill", "matplotlib", "fastapi")
    return {
        "version": mlkit.__version__,
        "lake": str(settings.lake),
        "bars": [" ".join(market) for market in available(settings)],
        "models": str(settings.models),
        "bundles": {
            # The published bundle; earlier ones follow it in the file.
            unquote(current.parent.relative_to(settings.models).as_posix()): (
                current.read_text(encoding="ascii", errors="replace").strip().split("\n")[0]
            )
            for pattern in ("*/CURRENT", "pools/*/CURRENT")
            for current in sorted(settings.models.glob(pattern))
        },
        "pattern_cnn": sorted(path.stem for path in shipped),
        "packages": {name: find_spec(name) is not None for name in packages},
    }
