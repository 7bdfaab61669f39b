"""Commands that answer: insights, status."""

import json
from pathlib import Path
from typing import Any

from mlkit.cli.arguments import AddCommand, Arguments, market_arguments, settings_from


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("insights", _insights, "print the insight of the latest bar")
    market_arguments(sub, timeframe="1m")
    sub.add_argument("--json", action="store_true", help="print the documented JSON and nothing else")
    sub = command("status", _status, "show the bars, bundles and models that are here")
    sub.add_argument("--json", action="store_true", help="print JSON and nothing else")


def _insights(arguments: Arguments) -> None:
    from mlkit.inference.predictor import insights

    insight = insights(arguments.symbol, arguments.timeframe, settings_from())
    print(insight.model_dump_json(indent=1) if arguments.json else insight)


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
    """What is here, without loading a model or importing an optional package."""
    from importlib.util import find_spec
    from urllib.parse import unquote

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
            unquote(current.parent.name): current.read_text(encoding="ascii", errors="replace").strip()
            for current in sorted(settings.models.glob("*/CURRENT"))
        },
        "pattern_cnn": sorted(path.stem for path in shipped),
        "packages": {name: find_spec(name) is not None for name in packages},
    }
