"""Shared by the commands: options, checks of their values, and the settings."""

import argparse
from typing import Any, Protocol

from mlkit.errors import ConfigError

Arguments = argparse.Namespace


class AddCommand(Protocol):
    """Adds the command ``name``, which calls ``run`` (None if its actions have their own); returns its parser."""

    def __call__(self, name: str, run: Any, text: str) -> argparse.ArgumentParser: ...


def symbol_option(parser: argparse.ArgumentParser, default: str | None = None, *, required: bool = False) -> None:
    parser.add_argument(
        "--symbol", type=symbol_value, default=default, required=required, help="such as SP500 or BTCUSDT"
    )


def timeframe_option(parser: argparse.ArgumentParser, default: str | None = None, *, required: bool = False) -> None:
    parser.add_argument(
        "--timeframe", type=timeframe_value, default=default, required=required, help="such as 1d or 1m"
    )


def market_options(parser: argparse.ArgumentParser) -> None:
    symbol_option(parser, required=True)
    timeframe_option(parser, required=True)


def universe_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--symbols", type=symbols_value, metavar="A,B,C", help="several markets, instead of one")
    which.add_argument("--universe", metavar="FILE", help="a text file of one symbol a line, # for comments")


def run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=("smoke", "full"), default=None, help="smoke: seconds; full: all of it")
    parser.add_argument("--seed", type=seed_value, default=None, help="a whole number; determines all random numbers")


def tuned_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tuned", action="store_true", help="with the parameters that mlkit tune chose for the market")


def json_option(parser: argparse.ArgumentParser, text: str = "print JSON and nothing else") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def symbols_of(arguments: Arguments) -> tuple[str, ...]:
    """The symbols of ``--symbols`` or ``--universe``; empty without either."""
    from mlkit.market import read_universe

    return arguments.symbols or (read_universe(arguments.universe) if arguments.universe else ())


def demand_options(arguments: Arguments, *names: str) -> None:
    """ConfigError, with an example, unless the command has these options of a market."""
    for name in names:
        if getattr(arguments, name) is None:
            example = f"mlkit {arguments.command} --symbol SP500 --timeframe 1d"
            raise ConfigError(f"{arguments.command} needs --{name}, such as {example}")


def refuse_market(arguments: Arguments) -> None:
    """ConfigError for a market beside ``--only patterns``."""
    if arguments.symbol or arguments.timeframe:
        raise ConfigError("--only patterns learns from simulated bars; leave --symbol and --timeframe out")


def symbol_value(text: str) -> str:
    from mlkit.market import check_symbol

    return check_symbol(text)


def symbols_value(text: str) -> tuple[str, ...]:
    symbols = tuple(symbol_value(part.strip()) for part in text.split(",") if part.strip())
    if not symbols or len(set(symbols)) < len(symbols):
        raise ConfigError(f"symbols {text!r}: name at least one, and none twice, such as BTCUSDT,ETHUSDT")
    return symbols


def timeframe_value(text: str) -> str:
    from mlkit.market import timeframe_delta

    timeframe_delta(text)
    return text


def seed_value(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"seed {text!r} is not a whole number of 0 or more")
    return int(text)


def count_value(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:18]) > 0):
        raise ConfigError(f"{text!r} is not a whole number of 1 or more")
    return int(text[:18])


def settings_from(**changes: Any) -> Any:
    """Settings of the environment, changed by the options that are not None; an invalid value is a ConfigError."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from mlkit.config import Settings

    try:
        return Settings(**{name: value for name, value in changes.items() if value is not None})
    except SettingsError as error:  # text that is no JSON, of a setting of several values
        raise ConfigError(f'{error}; write JSON, such as {{"ridge": 0.2}}') from None
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"setting MLKIT_{name.upper()}={fault['input']!r}: {fault['msg']}") from None


def command_settings(arguments: Arguments, **changes: Any) -> Any:
    """Settings of a command with :func:`run_options`; it is tracked unless the settings say otherwise."""
    from mlkit.operations.tracking import for_command

    return for_command(settings_from(profile=arguments.profile, seed=arguments.seed, **changes))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
