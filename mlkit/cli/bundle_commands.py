"""Commands for model bundles: bundle verify."""

from pathlib import Path

from mlkit.cli.arguments import AddCommand, Arguments, count_value


def register(command: AddCommand) -> None:
    """Add the commands of this module."""
    bundle = command("bundle", None, "check model bundles")
    action = bundle.add_subparsers(dest="action", required=True, metavar="action")
    sub = action.add_parser("verify", help="check every file of a bundle, in another process", allow_abbrev=False)
    sub.add_argument("folder", type=Path, help="a bundle, or a folder that holds CURRENT")
    sub.add_argument("--seconds", type=count_value, default=120, help="time limit")
    sub.add_argument("--memory", type=count_value, default=2048, metavar="MB", help="memory limit for its models")
    sub.set_defaults(run=_bundle_verify)


def _bundle_verify(arguments: Arguments) -> None:
    from mlkit.models.bundle import inspect_bundle

    found = inspect_bundle(arguments.folder, seconds=arguments.seconds, megabytes=arguments.memory)
    print(f"{found['path']}: whole, {found['files']} files of {found['market']} match their digests")
    if found["trees"]:
        print(f"{found['trees']} trees; read alike by {', '.join(['mlkit', *found['read_alike']])}")
    if found["not_installed"]:
        print(f"not asked, since not installed: {', '.join(found['not_installed'])}")
