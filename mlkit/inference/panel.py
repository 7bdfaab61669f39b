"""The live panel: one JavaScript module for the page of `mlkit serve` and for notebooks, and the widget around it."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).with_name("static")
# In the order in which they need each other; together they are one module.
PARTS: Final = (
    "dom",
    "format",
    "cones",
    "chart",
    "prediction",
    "patterns",
    "insights",
    "source",
    "mount",
    "widget",
)
_IMPORT: Final = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_LIBRARY: Final = """\
const before = globalThis.LightweightCharts;
{library}
const Charts = globalThis.LightweightCharts;
globalThis.LightweightCharts = before; // the page's own, if it has one
const STYLES = {styles};
"""


@cache
def panel_module() -> str:
    """The panel as the text of one ES module that loads nothing: the chart library, the styles and the views.

    It exports ``mountPanel``, ``mountAIPredictionPanel``, ``mountPatternConfidence``, ``mountMLInsights``,
    ``endpoints`` and, by default, the ``render`` of an anywidget.
    """
    styles = _read(Path(__file__).with_name("card.css")) + _read(FOLDER / "panel" / "panel.css")
    library = _read(FOLDER / "lightweight-charts.js")
    parts = [_IMPORT.sub("", _read(FOLDER / "panel" / f"{name}.js")) for name in PARTS]
    return "\n".join([_LIBRARY.format(library=library, styles=json.dumps(styles)), *parts])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
