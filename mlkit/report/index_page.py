"""``index.html``: the whole report in one file that loads nothing, runs only its own short script, and prints.

The template ``page/page.html.j2`` lays it out; here are the values it shows.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from mlkit.report.headlines import collect_insight, shown_value
from mlkit.report.story import TEMPLATES, Story

_BY_HORIZON = re.compile(r"(.+?)_(\d+)(?:_bars)?")  # such as r2_5: a number of one horizon


def render_page(receipt: Mapping[str, Any], notebooks: Mapping[str, Any], *, folder: Path) -> str:
    """Verdicts first, then the insight, the headline numbers, and the story notebook by notebook.

    Parameters
    ----------
    receipt: as written; ``failure`` says why the run stopped, if it did.
    notebooks: executed notebooks by file name, in order.
    folder: the notebooks' own folder, from which images in their text are embedded.
    """
    style, script = (TEMPLATES.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    insight = collect_insight(notebooks)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, keep_trailing_newline=True)
    return environment.get_template("page.html.j2").render(
        title=f"{receipt['symbol']} {receipt['timeframe']}",
        receipt=receipt,
        style=style,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_facts(receipt),
        verdicts=_verdicts(receipt["headlines"]),
        card=insight[1] if insight else "",
        numbers=_numbers(receipt["headlines"]),
        stories=[Story(name, notebook, folder, tuple(notebooks)) for name, notebook in notebooks.items()],
        provenance=_provenance(receipt),
    )


def _facts(receipt: Mapping[str, Any]) -> list[str]:
    data, git = receipt["data"], receipt["git"]
    return [
        f"{data['bars']:,} bars, {data['first'][:10]} to {data['last'][:10]}",
        f"profile {receipt['profile']}",
        f"seed {receipt['seed']}",
        f"commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}" if git else "no commit",
        receipt["created"].replace("T", " ").replace("+00:00", " UTC"),
    ]


def _verdicts(headlines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Every verdict as a badge that links to the cell it comes from."""
    badges = []
    for entry in headlines:
        if entry["name"] == "verdict":
            value, stem = shown_value(entry["value"], entry["digits"]), entry["notebook"].removesuffix(".ipynb")
            kind = re.sub(r"[^a-z]+", "-", value.lower())
            cell = f"{stem}-cell-{entry['cell']}"
            badges.append({"value": value, "kind": kind, "cell": cell, "title": entry["title"] or stem})
    return badges


def _numbers(headlines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A group for each ``headline`` call; ``r2_1`` and ``r2_5`` become one row, with a column for each horizon."""
    groups = []
    for (notebook, cell, title), entries in groupby(headlines, lambda e: (e["notebook"], e["cell"], e["title"])):
        shown = {e["name"]: shown_value(e["value"], e["digits"]) for e in entries if e["name"] != "verdict"}
        matched = {name: match for name in shown if (match := _BY_HORIZON.fullmatch(name))}
        by_horizon: dict[str, dict[int, str]] = {}
        for name, match in matched.items():
            by_horizon.setdefault(match[1], {})[int(match[2])] = shown[name]
        by_horizon = {name: values for name, values in by_horizon.items() if len(values) > 1}
        single = {
            name: value for name, value in shown.items() if name not in matched or matched[name][1] not in by_horizon
        }
        stem = notebook.removesuffix(".ipynb")
        if shown:
            groups.append(
                {
                    "title": title or stem,
                    "stem": stem,
                    "cell": f"{stem}-cell-{cell}",
                    "single": {name.replace("_", " "): value for name, value in single.items()},
                    "by_horizon": {name.replace("_", " "): values for name, values in by_horizon.items()},
                    "horizons": sorted({horizon for values in by_horizon.values() for horizon in values}),
                }
            )
    return groups


def _provenance(receipt: Mapping[str, Any]) -> dict[str, str]:
    return {
        "headline digest": receipt["headline_digest"],
        "data (SHA-256)": receipt["data"]["sha256"],
        "commit": receipt["git"]["commit"] if receipt["git"] else "none",
        "threads": ", ".join(f"{name}={value}" for name, value in receipt["threads"].items()),
        "versions": ", ".join(f"{name} {value}" for name, value in receipt["versions"].items()),
        "machine": ", ".join(str(value) for value in receipt["platform"].values()),
        "run time": f"{sum(receipt['seconds'].values()):,.0f} s",
    }
