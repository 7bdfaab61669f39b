"""An executed notebook as part of a page: text, folded code, outputs with everything embedded."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

_HIGHLIGHT = Highlight2HTML(pygments_lexer="ipython3")
_FACES = (
    "text/html",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/markdown",
    "text/latex",
    "text/plain",
)
_FOREIGN = re.compile(r"<(script|link|iframe|object|embed|base|meta)\b|\b(src|srcset|poster)\s*=", re.IGNORECASE)
_TABLE = re.compile(r"<table\b.*?</table>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Heading:
    """A heading of a notebook and where it stands in the page."""

    level: int
    text: str  # HTML
    anchor: str


class Story:
    """One executed notebook; ``html()`` renders it, and then ``headings`` are known."""

    def __init__(self, name: str, notebook: Any, folder: Path, siblings: Sequence[str]) -> None:
        self.stem = name.removesuffix(".ipynb")
        self.headings: list[Heading] = []
        self._notebook = notebook
        self._folder = folder
        self._siblings = siblings

    @property
    def title(self) -> Heading:
        """The notebook's first heading, leading to its start."""
        text = next((heading.text for heading in self.headings if heading.level == 1), escape(self.stem))
        return Heading(1, text, self.stem)

    def html(self) -> str:
        """All cells, in order."""
        return "\n".join(self._cell(index, cell) for index, cell in enumerate(self._notebook.cells))

    def failed(self) -> list[str]:
        """The cells that ended in an error nobody asked for: code and outputs."""
        return [
            f"{_HIGHLIGHT(cell.source.strip())}{''.join(self._output(output) for output in cell.outputs)}"
            for cell in self._notebook.cells
            if "raises-exception" not in cell.metadata.get("tags", [])
            and any(output.output_type == "error" for output in cell.get("outputs", []))
        ]

    def _cell(self, index: int, cell: Any) -> str:
        if cell.cell_type == "markdown":
            return f'<div class="prose">{self._markdown(cell.source, cell.get("attachments", {}))}</div>'
        if cell.cell_type != "code" or not cell.source.strip():
            return ""
        tags = cell.metadata.get("tags", [])
        name = "injected parameters" if "injected-parameters" in tags else "code"
        code = _HIGHLIGHT(cell.source.strip())
        outputs = "".join(self._output(output) for output in cell.outputs)
        folded = f'<details class="code"><summary>{name}</summary>{code}</details>'
        return f'<div id="{self.stem}-cell-{index}">{folded}{outputs}</div>'

    def _markdown(self, source: str, attachments: Any = None) -> str:
        return scrolling(offline(MarkdownWithMath(renderer=_Renderer(self, attachments)).render(source)))

    def _output(self, output: Any) -> str:
        if output.output_type == "stream":
            text = "\n".join(line.rsplit("\r", 1)[-1] for line in output.text.rstrip().split("\n"))
            return f'<div class="output"><pre class="{output.name}">{ansi2html(text)}</pre></div>'
        if output.output_type == "error":
            trace = ansi2html("\n".join(output.traceback))
            return f'<div class="output"><pre class="error">{trace}</pre></div>'
        face = next((mime for mime in _FACES if mime in output.data), None)
        return f'<div class="output">{self._face(face, output)}</div>' if face else ""

    def _face(self, mime: str, output: Any) -> str:
        data = output.data[mime]
        if mime == "text/html":
            return scrolling(offline(data))
        if mime == "text/markdown":
            return self._markdown(data)
        if mime == "text/latex":
            return formula(data.strip().strip("$"), display=True)
        if mime.startswith("image/"):
            content = base64.b64encode(data.encode()).decode() if mime == "image/svg+xml" else data.replace("\n", "")
            width = output.metadata.get(mime, {}).get("width")
            size = f' width="{int(width)}"' if width else ""
            return f'<img class="figure" alt="figure"{size} src="data:{mime};base64,{content}">'
        return f"<pre>{ansi2html(data)}</pre>"


class _Renderer(IPythonRenderer):  # type: ignore[misc]
    """Markdown with anchors of the page's own, links between notebooks inside it, and drawn formulas."""

    def __init__(self, story: Story, attachments: Any) -> None:
        super().__init__(escape=False, embed_images=True, path=str(story._folder), attachments=attachments or {})
        self._story = story

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        anchor = f"{self._story.stem}-{_slug(text)}"
        taken = {heading.anchor for heading in self._story.headings}
        anchor = next(a for a in (anchor, *(f"{anchor}-{k}" for k in range(2, 999))) if a not in taken)
        self._story.headings.append(Heading(level, text, anchor))
        tag = f"h{min(level + 1, 6)}"  # the page's own title is the h1
        return f'<{tag} id="{anchor}">{text}</{tag}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        name = url.removeprefix("./")
        if name in self._story._siblings:
            url = f"#{name.removesuffix('.ipynb')}"
        elif url.startswith("#"):
            url = f"#{self._story.stem}-{_slug(url)}"
        return str(super().link(text, url, title))

    def block_math(self, body: str) -> str:
        return formula(body, display=True)

    def inline_math(self, body: str) -> str:
        return formula(body, display=False)


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", re.sub(r"<[^>]+>", "", text).lower()).strip("-")


def scrolling(html: str) -> str:
    """Tables in a box of their own that scrolls sideways."""
    return _TABLE.sub(lambda table: f'<div class="wide">{table.group(0)}</div>', html)


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
