"""The command ``mlkit``: arguments in, one call into the library, a few lines out.

A command is a function that takes the parsed arguments, and a call of ``command`` in the ``register`` of its module.
Exit codes: 0 done; 2 bad input or a task that cannot be done, with one line on standard error; 130 interrupted.
A function imports what it needs, so that only the chosen command loads anything.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mlkit.cli import data_commands as data
from mlkit.cli import insight_commands as insight
from mlkit.cli import report_commands as report
from mlkit.cli import retrain_commands as retrain
from mlkit.cli import scale_command as scale
from mlkit.cli import track_command as track
from mlkit.cli import train_commands as train
from mlkit.cli import tune_command as tune
from mlkit.cli.arguments import Arguments, one_line
from mlkit.errors import ConfigError, MlkitError

_LONGEST = 2000  # characters of an error
# In the order of --help.
GROUPS = (data, train, tune, retrain, scale, insight, report, track)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` defaults to the process's arguments. Returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        run: Callable[[Arguments], None] = arguments.run
        run(arguments)
        sys.stdout.flush()
    # --help and --version.
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    # The reader of standard output has ended, such as `| head`.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MlkitError, OSError, ModuleNotFoundError) as error:
        print(f"mlkit: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: Exception) -> str:
    """The message in one line; a missing module of mlkit itself is a bug, and raised again."""
    from mlkit.untrusted import printable

    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename}: {error.strerror}", _LONGEST)
    if isinstance(error, ModuleNotFoundError):
        if (error.name or "mlkit").split(".")[0] == "mlkit":
            raise error
        return f"{error.name} is not installed: pip install 'mlkit[train,lab]'"
    return printable(one_line(error), _LONGEST)


class _Parser(argparse.ArgumentParser):
    """argparse that raises ConfigError for bad arguments, instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mlkit", description="Honest machine-learning research on market bars.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Callable[[Arguments], None] | None, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # None: the actions of the command set their own.
        if run is not None:
            sub.set_defaults(run=run)
        return sub

    for group in GROUPS:
        group.register(command)
    return parser


class _Version(argparse.Action):
    """Prints the version, which importlib.metadata reads only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from mlkit import __version__

        print(f"mlkit {__version__}")
        parser.exit()
