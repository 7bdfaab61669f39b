"""``index.html``: the whole report in one file that loads nothing, runs nothing but its own few lines, and prints."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from mlkit.report.headlines import collect_insight, shown_value
from mlkit.report.story import Heading, Story

_STYLE = Path(__file__).with_name("page.css")
_SCRIPT = Path(__file__).with_name("page.js")
# Whatever a notebook put into its output, the browser fetches nothing and runs nothing but the page's own script.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; script-src 'sha256-{digest}'"

_HORIZON = re.compile(r"(.+?)_(\d+)(?:_bars)?")  # the name of a number that is told for a horizon


def render_page(
    receipt: Mapping[str, Any],
    notebooks: Mapping[str, Any],
    *,
    folder: Path,
) -> str:
    """Verdicts first, then the insight, the headline numbers, and the story notebook by notebook.

    Parameters
    ----------
    receipt: as written; ``failure`` says why the run stopped, if it did.
    notebooks: executed notebooks by file name, in order.
    folder: the notebooks' own folder, from which images in their text are embedded.
    """
    stories = [Story(name, notebook, folder, tuple(notebooks)) for name, notebook in notebooks.items()]
    articles = [f'<article id="{story.stem}">{story.html()}</article>' for story in stories]
    title = f"{receipt['symbol']} {receipt['timeframe']}"
    script = _SCRIPT.read_text(encoding="utf-8")
    policy = _POLICY.format(digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    insight, failure = collect_insight(notebooks), receipt.get("failure")
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f"<title>{escape(title)} report</title>",
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<div class='page'>",
        _header(title, receipt),
        _contents(stories),
        "<main>",
        _failure(failure, stories) if failure else "",
        f'<section id="insight"><h2>Insight</h2>{insight[1]}</section>' if insight else "",
        _numbers(receipt["headlines"]),
        *articles,
        _provenance(receipt),
        f"</main>\n</div>\n<script>{script}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _header(title: str, receipt: Mapping[str, Any]) -> str:
    data, git = receipt["data"], receipt["git"]
    code = f"commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}" if git else "no commit"
    facts = (
        f"{data['bars']:,} bars, {data['first'][:10]} to {data['last'][:10]}",
        f"profile {receipt['profile']}",
        f"seed {receipt['seed']}",
        code,
        receipt["created"].replace("T", " ").replace("+00:00", " UTC"),
    )
    said = escape(" · ".join(facts))
    return f"<header><h1>{escape(title)}</h1><p class='soft'>{said}</p>{_verdicts(receipt['headlines'])}</header>"


def _failure(reason: str, stories: Sequence[Story]) -> str:
    """Why the run stopped, and the cell that stopped it."""
    cells = [cell for story in stories for cell in story.failed()]
    return f'<section class="failure"><p><b>This run failed.</b> {escape(reason)}</p>{"".join(cells)}</section>'


def _contents(stories: Sequence[Story]) -> str:
    def entry(heading: Heading, inner: str = "") -> str:
        return f'<li><a href="#{heading.anchor}">{heading.text}</a>{inner}</li>'

    items = []
    for story in stories:
        inner = "".join(entry(heading) for heading in story.headings if heading.level == 2)
        items.append(entry(story.title, f"<ol>{inner}</ol>" if inner else ""))
    return f"<nav aria-label='Contents'><h2>Contents</h2><ol>{''.join(items)}</ol></nav>"


def _verdicts(entries: Sequence[Mapping[str, Any]]) -> str:
    """Every verdict as a badge that leads to the cell it comes from."""
    badges = []
    for entry in entries:
        if entry["name"] == "verdict":
            value, stem = escape(shown_value(entry["value"], entry["digits"])), entry["notebook"].removesuffix(".ipynb")
            kind = re.sub(r"[^a-z]+", "-", value.lower())
            link = f'<a class="{kind}" href="#{stem}-cell-{entry["cell"]}">'
            badges.append(f"<li>{link}<b>{value}</b>{escape(entry['title'] or stem)}</a></li>")
    return f"<ul class='verdicts'>{''.join(badges)}</ul>" if badges else ""


def _numbers(entries: Sequence[Mapping[str, Any]]) -> str:
    """The headline numbers: a card for each ``headline`` call."""
    cards = []
    for (notebook, cell, title), group in groupby(entries, lambda e: (e["notebook"], e["cell"], e["title"])):
        stem = notebook.removesuffix(".ipynb")
        table = _card({e["name"]: shown_value(e["value"], e["digits"]) for e in group if e["name"] != "verdict"})
        if table:
            link = f'<a href="#{stem}-cell-{cell}">{escape(stem)}</a>'
            cards.append(f"<section><h3>{escape(title or stem)}</h3>{table}{link}</section>")
    return (
        f"<section id='numbers'><h2>Numbers</h2><div class='headlines'>{''.join(cards)}</div></section>"
        if cards
        else ""
    )


def _card(shown: Mapping[str, str]) -> str:
    """Names and values; those that come once a horizon, such as ``r2_5``, as one table with a column a horizon."""
    series: dict[str, dict[int, str]] = {}
    for name, value in shown.items():
        if match := _HORIZON.fullmatch(name):
            series.setdefault(match[1], {})[int(match[2])] = value
    wide = {name: values for name, values in series.items() if len(values) > 1}
    single = {
        name: value for name, value in shown.items() if (m := _HORIZON.fullmatch(name)) is None or m[1] not in wide
    }
    rows = "".join(f"<tr><th>{_words(name)}</th><td>{escape(value)}</td></tr>" for name, value in single.items())
    tables = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    if wide:
        horizons = sorted({horizon for values in wide.values() for horizon in values})
        head = "".join(f"<th>{horizon}</th>" for horizon in horizons)
        cells = {name: "".join(f"<td>{escape(v.get(h, ''))}</td>" for h in horizons) for name, v in wide.items()}
        body = "".join(f"<tr><th>{_words(name)}</th>{row}</tr>" for name, row in cells.items())
        tables += f"<table><thead><tr><th>bars ahead</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return tables


def _words(name: str) -> str:
    return escape(name.replace("_", " "))


def _provenance(receipt: Mapping[str, Any]) -> str:
    """What is needed to run it again, in short; ``receipt.json`` has all of it."""
    rows = {
        "headline digest": receipt["headline_digest"],
        "data (SHA-256)": receipt["data"]["sha256"],
        "commit": receipt["git"]["commit"] if receipt["git"] else "none",
        "threads": ", ".join(f"{name}={value}" for name, value in receipt["threads"].items()),
        "versions": ", ".join(f"{name} {value}" for name, value in receipt["versions"].items()),
        "machine": ", ".join(str(value) for value in receipt["platform"].values()),
        "run time": f"{sum(receipt['seconds'].values()):,.0f} s",
    }
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return (
        "<footer><h2>Provenance</h2><p>All of it is in <a href='receipt.json'>receipt.json</a>; "
        "<code>mlkit verify</code> with this folder derives the digests again.</p>"
        f"<table class='prose'><tbody>{body}</tbody></table></footer>"
    )
