"""The command drift: the bars since a model's training against that training."""

import json
from datetime import UTC, datetime

from mlkit.cli.arguments import AddCommand, Arguments, market_arguments, settings_from
from mlkit.errors import NotTrainedError


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    sub = command("drift", _drift, "compare the bars since the training with the training, and keep the result")
    market_arguments(sub)
    sub.add_argument("--json", action="store_true", help="print JSON and nothing else")


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
