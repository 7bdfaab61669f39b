"""Headline numbers of a notebook: shown as a table, and stored in the output as JSON for the receipt."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from mlkit.errors import ConfigError, ReportError
from mlkit.untrusted import Line, Text, printable

if TYPE_CHECKING:
    import pandas as pd

HEADLINE_MIME = "application/vnd.mlkit.headline+json"
INSIGHT_MIME = "application/vnd.mlkit.insight+json"

Value = float | int | str | bool | None
_DIGITS = 17  # significant digits of a float at most
_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)


@with_config(_CLOSED)
class Headline(TypedDict):
    """A headline number in a receipt, which may come from a stranger."""

    notebook: Line
    cell: Annotated[int, Field(ge=0)]
    title: Text | None
    name: Line
    value: float | int | Text | bool | None
    digits: Annotated[int, Field(ge=1, le=_DIGITS)]


@with_config(_CLOSED)
class _Numbers(TypedDict):
    """The output of one call of `headline`."""

    title: Text | None
    digits: Annotated[int, Field(ge=1, le=_DIGITS)]
    numbers: list[tuple[Line, float | int | Text | bool | None]]


_NUMBERS: TypeAdapter[_Numbers] = TypeAdapter(_Numbers)


class SupportsInsight(Protocol):
    """Anything with the representations of an `Insight`."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...

    def model_copy(self, *, update: Mapping[str, Any]) -> "SupportsInsight": ...

    def panel(self, bars: "pd.DataFrame | None" = None) -> Any: ...

    def card(self, bars: "pd.DataFrame | None" = None) -> str: ...


def headline(title: str | None = None, /, *, digits: int = 4, **numbers: Any) -> None:
    """Show numbers as a small table and add them to the report's receipt.

    Parameters
    ----------
    title: such as "Out of sample, 60 bars ahead".
    digits: significant digits to which floats are rounded; integers and strings stay as they are.
    numbers: one row each, such as ``r2_no_change=0.0012, n_test=3210, verdict="no edge"``. NaN and infinity
        become null. A ``verdict`` is shown on top of the report.

    Raises ConfigError for a value that is no number, string, bool or None.
    """
    if not numbers or not 1 <= digits <= _DIGITS:
        raise ConfigError(f"headline() takes at least one number, and digits from 1 to {_DIGITS}")
    kept = {name: _rounded(name, value, digits) for name, value in numbers.items()}
    rows = [(name.replace("_", " "), shown_value(value, digits)) for name, value in kept.items()]
    # A list keeps the order.
    payload = {"title": title, "digits": digits, "numbers": [[*item] for item in kept.items()]}
    _display({HEADLINE_MIME: payload, "text/html": _table(title, rows), "text/plain": _text(title, rows)})


def show_insight(insight: SupportsInsight, bars: "pd.DataFrame | None" = None) -> None:
    """Show an insight as its card and add its JSON to the report; the report takes the last one shown.

    In an open notebook with anywidget installed the interactive panel is shown instead of the card. ``bars``
    (n_bars, 5), which end with the bar of the insight, add their newest candles to both.
    The JSON has 8 significant digits and no bundle name, since the last bits of a model, and with them the
    name, differ between processors, and a notebook or report must be the same on all of them.
    """
    shown = insight.model_copy(update={"bundle": None})
    payload = _rounded_json(shown.model_dump(mode="json"))
    faces = {INSIGHT_MIME: payload, "text/html": shown.card(bars), "text/plain": str(shown)}
    if find_spec("anywidget") and _in_notebook():
        view = shown.panel(bars)._repr_mimebundle_()[0]
        faces |= {mime: face for mime, face in view.items() if mime not in faces}
    _display(faces)


def _rounded_json(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.8g}") + 0.0  # + 0.0: no -0.0
    if isinstance(value, dict):
        return {key: _rounded_json(item) for key, item in value.items()}
    return [_rounded_json(item) for item in value] if isinstance(value, list) else value


def collect_headlines(notebooks: Mapping[str, Any]) -> list[Headline]:
    """Every headline number of executed notebooks (file name -> notebook), in order.

    ``cell`` counts from 0 in the executed notebook, which has an additional cell of injected parameters. ReportError
    for an output that `headline` did not make.
    """
    found: list[Headline] = []
    for notebook, cell, payload, _ in _outputs(notebooks, HEADLINE_MIME):
        try:
            shown = _NUMBERS.validate_python(payload)
        except ValidationError as error:
            raise ReportError(f"{notebook}, cell {cell}: its headline numbers were edited") from error
        title, digits = shown["title"], shown["digits"]
        for name, value in shown["numbers"]:
            found.append(Headline(notebook=notebook, cell=cell, title=title, name=name, value=value, digits=digits))
    return found


def collect_insight(notebooks: Mapping[str, Any]) -> tuple[dict[str, Any], str, str] | None:
    """JSON, HTML card and text of the last insight shown in executed notebooks; None without one."""
    found = _outputs(notebooks, INSIGHT_MIME)
    if not found:
        return None
    notebook, cell, data, shown = found[-1]
    card, text = shown.get("text/html", ""), shown.get("text/plain", "")
    if not isinstance(data, dict) or not isinstance(card, str) or not isinstance(text, str):
        raise ReportError(f"{notebook}, cell {cell}: its insight was edited")
    return data, card, text


def headline_digest(headlines: Sequence[Mapping[str, Any]]) -> str:
    """Hex SHA-256 of the headlines as canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(list(headlines), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def shown_value(value: Value, digits: int) -> str:
    """A headline value as text; floats with their significant digits."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return printable(value, len(value))
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -5 < exponent < 15:
        return f"{value:,.{max(0, digits - 1 - exponent)}f}"
    return f"{value:.{digits - 1}e}"


def _rounded(name: str, value: Any, digits: int) -> Value:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return float(f"{number:.{digits}g}") + 0.0 if math.isfinite(number) else None  # + 0.0: no -0.0
    raise ConfigError(f"headline {name!r} is a {type(value).__name__}; pass a number, a string or None")


def _table(title: str | None, rows: Sequence[tuple[str, str]]) -> str:
    caption = f"<caption style='text-align:left;font-weight:600'>{escape(title)}</caption>" if title else ""
    body = "".join(
        f"<tr><th style='text-align:left;font-weight:400'>{escape(name)}</th>"
        f"<td style='text-align:right;font-variant-numeric:tabular-nums'><b>{escape(value)}</b></td></tr>"
        for name, value in rows
    )
    return f"<table class='mlkit-headline'>{caption}<tbody>{body}</tbody></table>"


def _text(title: str | None, rows: Sequence[tuple[str, str]]) -> str:
    left, right = (max(len(row[k]) for row in rows) for k in (0, 1))
    lines = [f"{name:<{left}}  {value:>{right}}" for name, value in rows]
    return "\n".join([title, *lines] if title else lines)


def _outputs(notebooks: Mapping[str, Any], mime: str) -> list[tuple[str, int, Any, Any]]:
    """(notebook, cell, payload, all representations) of every output that has the type ``mime``."""
    return [
        (name, cell, output["data"][mime], output["data"])
        for name, notebook in notebooks.items()
        for cell, content in enumerate(notebook["cells"])
        for output in content.get("outputs", [])
        if mime in output.get("data", {})
    ]


def _in_notebook() -> bool:
    """Whether this runs in a notebook."""
    try:
        from IPython.core.interactiveshell import InteractiveShell
    except ImportError:
        return False
    return bool(InteractiveShell.initialized())


def _display(faces: dict[str, Any]) -> None:
    """Publish a MIME bundle, or print its text outside a notebook."""
    if not _in_notebook():
        print(faces["text/plain"])
        return
    from IPython.display import display

    display(faces, raw=True)  # type: ignore[no-untyped-call]
