"""What a report runs and with which values: everything that can be checked before anything runs."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from mlkit.config import Settings, project_root
from mlkit.errors import ConfigError
from mlkit.market import check_symbol, fingerprint, load_bars, symbol_folder, timeframe_delta
from mlkit.report.execute import require_papermill
from mlkit.report.parameters import convert_parameters

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)


@dataclass(frozen=True)
class ReportRequest:
    """What a report is wanted of.

    Parameters
    ----------
    symbol, timeframe, profile, seed : passed to the notebooks that declare them.
    name : of the report's folder, instead of ``<symbol>-<timeframe>``.
    only : numbers of the notebooks to run, such as ``("02", "04")``; all by default.
    parameters : further values by name, as text; a name must be declared in a cell tagged ``parameters``, and the
        value is converted by its annotation (``007`` stays text where a ``str`` is declared).
    """

    symbol: str = "SP500"
    timeframe: str = "1d"
    profile: str = "smoke"
    seed: int | str = 7
    name: str | None = None
    only: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)

    def command(self, *, force: bool) -> list[str]:
        """The command line that makes this report."""
        words = [sys.executable, "-m", "mlkit", "report", "--symbol", self.symbol, "--timeframe", self.timeframe]
        words += ["--profile", self.profile, "--seed", str(self.seed)]
        words += ["--name", self.name] if self.name else []
        words += ["--notebooks", ",".join(self.only)] if self.only else []
        words += ["--force"] if force else []
        return words + [word for name, value in self.parameters.items() for word in ("-p", f"{name}={value}")]


@dataclass(frozen=True)
class Plan:
    """A checked request: the notebooks, and the value of each of their parameters."""

    run: str  # name of its folder
    notebooks: tuple[Path, ...]
    values: dict[str, dict[str, Any]]  # notebook -> parameter -> value
    inputs: dict[str, Any]  # what the receipt says went in
    reports: Path


def make_plan(request: ReportRequest, *, notebooks: Path | None = None, reports: Path | None = None) -> Plan:
    """Check a request; folders and errors as those of ``run_report``."""
    require_papermill()
    given = {key: str(value) for key, value in request.parameters.items()}
    defaults = {
        "symbol": request.symbol,
        "timeframe": request.timeframe,
        "profile": request.profile,
        "seed": str(request.seed),
    }
    files = _chosen((notebooks or project_root() / "notebooks").resolve(), request.only)
    values = convert_parameters(files, given, defaults)
    effective = {**defaults, **given}
    profiles = get_args(Settings.model_fields["profile"].annotation)
    if effective["profile"] not in profiles:
        raise ConfigError(f"profile {effective['profile']!r} is unknown; use one of {', '.join(profiles)}")
    if not (effective["seed"].isascii() and effective["seed"].isdigit()):
        raise ConfigError(f"seed {effective['seed']!r} is not a whole number of 0 or more")
    timeframe_delta(effective["timeframe"])
    span = {end: text for end in ("since", "until") if (text := effective.get(end, "None")) not in ("None", "null")}
    bars = load_bars(
        check_symbol(effective["symbol"]), effective["timeframe"], since=span.get("since"), until=span.get("until")
    )
    inputs = {
        **{key: effective[key] for key in ("symbol", "timeframe", "profile")},
        "seed": int(effective["seed"]),
        "parameters": {notebook: dict(passed) for notebook, passed in values.items()},
        "data": {
            "sha256": fingerprint(bars),
            "bars": len(bars),
            "first": bars.index[0].isoformat(),
            "last": bars.index[-1].isoformat(),
            **span,
        },
    }
    run = request.name
    if run is None:
        run = f"{symbol_folder(effective['symbol'])}-{effective['timeframe']}"
    elif not _NAME.fullmatch(run) or ".." in run or run == "failed":
        raise ConfigError(
            f"name {run!r} cannot name a report; use 1 to 80 of A-Z a-z 0-9 . _ - starting with a letter or digit"
        )
    return Plan(run, files, values, inputs, (reports or project_root() / "reports").resolve())


def _chosen(folder: Path, only: Sequence[str]) -> tuple[Path, ...]:
    """Notebooks of a folder in the order of their numbers; those that ``only`` names, where it names any."""
    files = tuple(sorted(folder.glob("0[0-9]_*.ipynb")))
    if not files:
        raise ConfigError(f"{folder} holds no notebook named 00_... to 09_...ipynb; run from the project's folder")
    there = {file.name[:2]: file for file in files}
    unknown = [number for number in only if number not in there]
    if unknown:
        raise ConfigError(f"no notebook {unknown[0]!r}; there are {', '.join(there)}, written such as 02,04")
    return tuple(file for number, file in there.items() if not only or number in only)
