"""The files of the live panel: one JavaScript module for the page of `mlkit serve` and for notebooks."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Final

STATIC_FOLDER: Final = Path(__file__).with_name("static")
# Each file after those that it imports: together they form one module.
PANEL_SCRIPTS: Final = (
    *("dom", "format", "cones", "chart", "prediction", "patterns", "insights"),
    *("source", "mount", "widget"),
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
    """The panel as the text of one ES module without imports: chart library, styles and views.

    It exports ``mountPanel``, ``mountAIPredictionPanel``, ``mountPatternConfidence``, ``mountMLInsights``,
    ``endpoints`` and, by default, the ``render`` of an anywidget.
    """

    def read(name: str) -> str:
        return (STATIC_FOLDER / name).read_text(encoding="utf-8")

    styles = read("../card.css") + read("panel/panel.css")
    head = _LIBRARY.format(library=read("lightweight-charts.js"), styles=json.dumps(styles))
    return "\n".join([head, *(_IMPORT.sub("", read(f"panel/{name}.js")) for name in PANEL_SCRIPTS)])
