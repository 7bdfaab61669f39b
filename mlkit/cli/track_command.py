"""Command over registered bundles: track fetch."""

from pathlib import Path

from mlkit.cli.arguments import AddCommand, Arguments, settings_from


def register(command: AddCommand) -> None:
    """Add the command of this module."""
    track = command("track", None, "copy registered bundles from MLflow")
    action = track.add_subparsers(dest="action", required=True, metavar="action")
    sub = action.add_parser("fetch", help="copy a registered bundle, and check it", allow_abbrev=False)
    sub.add_argument("model", help="name in the registry, such as SP500-1d")
    sub.add_argument("--alias", choices=("champion", "challenger"), default="champion", help="champion by default")
    sub.add_argument("--root", type=Path, help="folder of bundles; that of the market by default")
    sub.add_argument("--publish", action="store_true", help="make it the current bundle of that folder")
    sub.set_defaults(run=_fetch)


def _fetch(arguments: Arguments) -> None:
    from mlkit.models.bundle import publish
    from mlkit.operations.tracking import fetch_bundle

    bundle = fetch_bundle(settings_from(), arguments.model, arguments.alias, arguments.root)
    if arguments.publish:
        publish(bundle)
    print(bundle.path)
