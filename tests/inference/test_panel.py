"""The panel's one module: whole, small, self-contained, and with nothing in it that reads data as HTML."""

import hashlib
import re

import pytest

from mlkit.inference.panel import FOLDER, PARTS, panel_module

LIBRARY = "e21cc5caa0226ef30bd8549c50b9ef926615f2a4ee6b4e486353477a55f598cf"
# Ways to turn text into markup, styles or code.
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|srcdoc|\beval\b"
    r"|new Function|setAttribute\(\"style|\bcssText\b|setTimeout\(\s*[\"'`]"
)


def own_sources() -> dict[str, str]:
    return {
        path.name: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.js") if "lightweight" not in path.name
    }


def test_every_part_is_in_the_module_after_those_that_it_needs() -> None:
    parts = {path.stem for path in (FOLDER / "panel").glob("*.js")}
    assert parts == set(PARTS)
    for place, name in enumerate(PARTS):
        needs = set(re.findall(r'from "\./(\w+)\.js"', (FOLDER / "panel" / f"{name}.js").read_text(encoding="utf-8")))
        assert needs <= {"library", *PARTS[:place]}, name


def test_the_module_is_one_small_file_that_loads_nothing() -> None:
    text = panel_module()
    assert len(text.encode()) < 300_000
    assert not re.search(r"^\s*import\b", text, re.MULTILINE)
    assert not re.search(r"\bimport\(|importScripts|@import", text)
    assert text.count("export default") == 1
    for view in ("AIPredictionPanel", "PatternConfidence", "MLInsights"):
        assert f"export const mount{view} " in text
    ours = "\n".join(own_sources().values())
    assert set(re.findall(r"https?://[^\s\"'`)]+", ours)) == {
        "https://www.tradingview.com/",  # the credit, a link
        "http://www.w3.org/2000/svg",  # a name space
    }


@pytest.mark.parametrize("planted", ["node.innerHTML = name", "eval(reason)", 'x.setAttribute("style", s)'])
def test_the_look_for_sinks_sees_one(planted: str) -> None:
    assert SINKS.search(planted)


def test_no_text_becomes_markup_style_or_code() -> None:
    assert {name: SINKS.findall(text) for name, text in own_sources().items() if SINKS.search(text)} == {}


def test_the_chart_library_is_as_published_with_licence_and_notice() -> None:
    library = FOLDER / "lightweight-charts.js"
    assert hashlib.sha256(library.read_bytes()).hexdigest() == LIBRARY
    assert "Apache License" in (FOLDER / "lightweight-charts.LICENSE.txt").read_text(encoding="utf-8")
    notice = (FOLDER / "lightweight-charts.NOTICE.txt").read_text(encoding="utf-8")
    assert "TradingView, Inc. https://www.tradingview.com/" in notice
    chart = (FOLDER / "panel" / "chart.js").read_text(encoding="utf-8")
    assert "TradingView Lightweight Charts™ Copyright" in chart and "https://www.tradingview.com/" in chart


def test_the_page_has_no_inline_script_or_style() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page)
    files = re.findall(r"/static/([\w.-]+)", page)
    assert {name for name in files if not (FOLDER / name).is_file()} == {"panel.js"}  # made by panel_module()
