"""Differences between two reports: inputs, headline numbers, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mlkit.report.headlines import shown_value
from mlkit.report.receipt import read_receipt
from mlkit.untrusted import printable

_INPUTS = ("symbol", "timeframe", "profile", "seed", "data", "parameters", "git", "versions", "threads", "platform")


@dataclass(frozen=True)
class ReportDiff:
    """Differences between two reports; prints as text, and as HTML in a notebook."""

    first: Path
    second: Path
    inputs: tuple[tuple[str, str, str], ...]  # name, value in the first, value in the second
    numbers: tuple[tuple[str, str, str, str], ...]  # headline number, first value, second value, change
    same: int  # number of equal headline numbers

    def __str__(self) -> str:
        lines = [f"A {printable(str(self.first))}", f"B {printable(str(self.second))}", ""]
        if self.inputs:
            lines += ["inputs", *_aligned(self.inputs), ""]
        if self.numbers:
            lines += ["headline numbers", *_aligned(self.numbers), ""]
        return "\n".join([*lines, f"{self.same} headline numbers are equal, {len(self.numbers)} differ"])

    def _repr_html_(self) -> str:
        rows = [(*row, "") for row in self.inputs] + list(self.numbers)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = f"<tr><th></th><th>{escape(self.first.name)}</th><th>{escape(self.second.name)}</th><th>change</th></tr>"
        return f"<table><caption>{self.same} headline numbers are equal</caption>{head}{body}</table>"


def compare_reports(first: Path, second: Path) -> ReportDiff:
    """Compare two report folders: verdicts first, then the other numbers in the order of the notebooks.

    Raises ReportError for a folder without a readable receipt.
    """
    a, b = read_receipt(first), read_receipt(second)
    inputs = tuple(row for name in _INPUTS for row in _changed(name, a.get(name), b.get(name)))
    left, right = _by_key(a["headlines"]), _by_key(b["headlines"])
    order = list(dict.fromkeys([*left, *right]))
    moved = [key for key in order if _value(left.get(key)) != _value(right.get(key))]
    # A stable sort: the order of the notebooks otherwise.
    moved.sort(key=lambda key: key[2] != "verdict")
    numbers = tuple(
        (_label(key), _shown(left.get(key)), _shown(right.get(key)), _change(left, right, key)) for key in moved
    )
    return ReportDiff(first, second, inputs, numbers, len(order) - len(moved))


Key = tuple[str, str | None, str, int]  # notebook, title, name, and a count if these repeat


def _by_key(entries: Sequence[Mapping[str, Any]]) -> dict[Key, Mapping[str, Any]]:
    """Headlines by notebook, title and name; the cell may differ between reports."""
    found: dict[Key, Mapping[str, Any]] = {}
    for entry in entries:
        key, count = (entry["notebook"], entry["title"], entry["name"]), 0
        while (*key, count) in found:
            count += 1
        found[(*key, count)] = entry
    return found


def _changed(name: str, a: Any, b: Any) -> list[tuple[str, str, str]]:
    if a == b:
        return []
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        return [row for key in keys for row in _changed(f"{name} {key}", a.get(key), b.get(key))]
    return [(name, _brief(a), _brief(b))]


def _brief(value: Any) -> str:
    text = printable("none" if value is None else str(value), 41)
    return text if len(text) <= 40 else f"{text[:16]}…"


def _value(entry: Mapping[str, Any] | None) -> Any:
    return (None,) if entry is None else entry["value"]


def _shown(entry: Mapping[str, Any] | None) -> str:
    return "absent" if entry is None else shown_value(entry["value"], entry["digits"])


def _label(key: Key) -> str:
    notebook, title, name, count = key
    parts = [notebook.removesuffix(".ipynb"), title or "", name + (f" ({count + 1})" if count else "")]
    return printable(": ".join(part for part in parts if part))


def _change(left: Mapping[Key, Any], right: Mapping[Key, Any], key: Key) -> str:
    a, b = _value(left.get(key)), _value(right.get(key))
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in (a, b)):
        return ""
    relative = f" ({(b - a) / abs(a):+.1%})" if a else ""
    return f"{b - a:+.4g}{relative}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
