"""An executed notebook as part of a page: text, folded code, outputs with everything embedded.

The template ``page/notebook.html.j2`` lays it out; here is what it calls: Markdown with links that stay inside the
page, formulas drawn as SVG, HTML that loads nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

TEMPLATES = Path(__file__).with_name("page")
_HIGHLIGHT = Highlight2HTML(pygments_lexer="ipython3")
# Of an output that offers several representations, the first of these is shown.
_MIME_TYPES = [
    "text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/latex", "text/plain",
]  # fmt: skip
_FOREIGN = re.compile(r"<(script|link|iframe|object|embed|base|meta)\b|\b(src|srcset|poster)\s*=", re.IGNORECASE)
_TABLE = re.compile(r"<table\b.*?</table>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Heading:
    """A heading of a notebook and its anchor in the page."""

    level: int
    text: str  # HTML
    anchor: str


class Story:
    """One executed notebook, rendered.

    Parameters
    ----------
    name, notebook: file name and content.
    folder: the notebooks' folder, from which images in their text are embedded.
    siblings: file names of the other notebooks on the page; links to them stay inside it.
    """

    def __init__(self, name: str, notebook: Any, folder: Path, siblings: Sequence[str]) -> None:
        self.stem = name.removesuffix(".ipynb")
        self.headings: list[Heading] = []

        def markdown(source: str, attachments: Any = None) -> str:
            renderer = _Renderer(self.stem, self.headings, siblings, folder, attachments)
            return embedded(MarkdownWithMath(renderer=renderer).render(source))

        exporter = TemplateExporter(
            template_name=TEMPLATES.name,
            template_file="notebook.html.j2",
            extra_template_basedirs=[str(TEMPLATES.parent)],
            filters={
                "markdown": markdown,
                "embedded": embedded,
                "formula": formula,
                "highlight": _HIGHLIGHT,
                "settled": settled,
            },
            config=Config({"NbConvertBase": {"display_data_priority": _MIME_TYPES}}),
        )
        self.html: str = exporter.from_notebook_node(notebook, {"stem": self.stem})[0]
        failing = nbformat.from_dict({**notebook, "cells": [cell for cell in notebook.cells if _failed(cell)]})
        self.failed: str = exporter.from_notebook_node(failing, {"failing": True})[0]  # code and outputs

    @property
    def title(self) -> str:
        """The notebook's first heading as HTML, or its file name."""
        return next((heading.text for heading in self.headings if heading.level == 1), escape(self.stem))

    @property
    def sections(self) -> list[Heading]:
        """The headings of its sections."""
        return [heading for heading in self.headings if heading.level == 2]


def _failed(cell: Any) -> bool:
    """Whether a cell ended in an error that it is not tagged to raise."""
    wanted = "raises-exception" in cell.metadata.get("tags", [])
    return not wanted and any(output.output_type == "error" for output in cell.get("outputs", []))


class _Renderer(IPythonRenderer):  # type: ignore[misc]
    """Markdown with anchors of the page's own, links between notebooks inside it, and drawn formulas."""

    def __init__(
        self, stem: str, headings: list[Heading], siblings: Sequence[str], folder: Path, attachments: Any
    ) -> None:
        super().__init__(escape=False, embed_images=True, path=str(folder), attachments=attachments or {})
        self._stem, self._headings, self._siblings = stem, headings, siblings

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        anchor = f"{self._stem}-{_slug(text)}"
        taken = {heading.anchor for heading in self._headings}
        anchor = next(a for a in (anchor, *(f"{anchor}-{k}" for k in range(2, 999))) if a not in taken)
        self._headings.append(Heading(level, text, anchor))
        tag = f"h{min(level + 1, 6)}"  # the page's own title is the h1
        return f'<{tag} id="{anchor}">{text}</{tag}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        name = url.removeprefix("./")
        if name in self._siblings:
            url = f"#{name.removesuffix('.ipynb')}"
        elif url.startswith("#"):
            url = f"#{self._stem}-{_slug(url)}"
        return str(super().link(text, url, title))

    def block_math(self, body: str) -> str:
        return formula(body, display=True)

    def inline_math(self, body: str) -> str:
        return formula(body, display=False)


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", re.sub(r"<[^>]+>", "", text).lower()).strip("-")


def settled(text: str) -> str:
    """Text of a stream as a terminal leaves it: of a line that was written over, the last version."""
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.rstrip().split("\n"))


def embedded(html: str) -> str:
    """HTML that loads and runs nothing, its tables in boxes that scroll sideways."""
    return _TABLE.sub(lambda table: f'<div class="wide">{table.group(0)}</div>', offline(html))


def offline(html: str) -> str:
    """HTML without what would load from elsewhere or run; an image that is not embedded becomes its text."""
    if not _FOREIGN.search(html):
        return html
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for tag in soup(["script", "link", "iframe", "object", "embed", "base", "meta"]):
        tag.decompose()
    for tag in soup(lambda tag: any(name in tag.attrs for name in ("src", "srcset", "poster"))):
        if not str(tag.get("src", "")).startswith("data:"):
            tag.replace_with(f"[{tag.get('alt') or tag.get('src', 'image')}]")
    return str(soup)


@lru_cache(maxsize=512)
def formula(tex: str, *, display: bool) -> str:
    """TeX drawn as inline SVG in the colour of the text, by matplotlib's mathtext; as code if it cannot."""
    from matplotlib.textpath import TextPath

    source = " ".join(tex.split())
    size = 18.0 if display else 15.5
    try:
        path = TextPath((0.0, 0.0), f"${source}$", size=size)
    except ValueError:
        drawn = f"<code>{escape(source)}</code>"
    else:
        box = path.get_extents()
        x, y, width, height = box.x0 - 1, -box.y1 - 1, box.width + 2, box.height + 2
        drawn = (
            f'<svg class="formula" role="img" aria-label="{escape(source)}" width="{width:.1f}" '
            f'height="{height:.1f}" viewBox="{x:.1f} {y:.1f} {width:.1f} {height:.1f}" '
            f'style="vertical-align:{box.y0 - 1:.1f}px"><path d="{_svg(path)}"/></svg>'
        )
    return f'<div class="display">{drawn}</div>' if display else drawn


def _svg(path: Any) -> str:
    """Outline of a matplotlib path, y down."""
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    parts = []
    for points, code in path.iter_segments(simplify=False, curves=True):
        numbers = (
            [] if code == 79 else [f"{-v if k % 2 else v:.2f}".rstrip("0").rstrip(".") for k, v in enumerate(points)]
        )
        parts.append(letters[int(code)] + " ".join(numbers))
    return "".join(parts)
