"""What a report will run and with which values: all that can be checked before anything runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mlkit.config import Settings, project_root
from mlkit.errors import ConfigError
from mlkit.market import check_symbol, fingerprint, load_bars, symbol_folder, timeframe_delta
from mlkit.report.execute import require_papermill
from mlkit.report.parameters import convert_parameters

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)


@dataclass(frozen=True)
class Plan:
    """A report that is known to make sense."""

    run: str  # name of its folder
    notebooks: tuple[Path, ...]
    values: dict[str, dict[str, Any]]  # notebook -> parameter -> value
    inputs: dict[str, Any]  # what the receipt says went in
    reports: Path


def make_plan(
    symbol: str,
    timeframe: str,
    *,
    profile: str,
    seed: int | str,
    name: str | None = None,
    only: Sequence[str] = (),
    parameters: Mapping[str, str] | None = None,
    notebooks: Path | None = None,
    reports: Path | None = None,
) -> Plan:
    """The plan of a report; parameters as those of ``run_report``, errors too."""
    require_papermill()
    given = {key: str(value) for key, value in (parameters or {}).items()}
    defaults = {"symbol": symbol, "timeframe": timeframe, "profile": profile, "seed": str(seed)}
    files = _chosen((notebooks or project_root() / "notebooks").resolve(), only)
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
    market = f"{symbol_folder(effective['symbol'])}-{effective['timeframe']}"
    run = market if name is None else _run_name(name)
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


def _run_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name or name == "failed":
        raise ConfigError(
            f"name {name!r} cannot name a report; use 1 to 80 of A-Z a-z 0-9 . _ - starting with a letter or digit"
        )
    return name
