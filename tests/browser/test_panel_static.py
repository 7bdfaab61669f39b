"""The panel without JavaScript or network: the card with candles in a report; and the kernel's way to a server."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.errors import ConfigError, FetchError
from mlkit.inference.insight import Insight
from mlkit.report.headlines import INSIGHT_MIME
from mlkit.report.index_page import render_page

pytestmark = pytest.mark.browser


@pytest.fixture
def said(served: str) -> tuple[Insight, pd.DataFrame]:
    """An insight with everything in it, and its bars."""
    with urllib.request.urlopen(f"{served}/api/ml/insights/TEST?timeframe=1d&candles=200", timeout=120) as response:
        document = json.load(response)
    document.pop("marks")
    rows = document.pop("candles")
    names = ["timestamp", "open", "high", "low", "close", "volume"]
    bars = pd.DataFrame(rows, columns=names).set_index("timestamp")
    bars.index = pd.to_datetime(bars.index, unit="s", utc=True)
    return Insight.model_validate(document), bars


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_shows_the_card_with_the_network_blocked(
    page: Any, said: tuple[Insight, pd.DataFrame], tmp_path: Path, scheme: str
) -> None:
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    insight, bars = said
    faces = {INSIGHT_MIME: insight.model_dump(mode="json"), "text/html": insight.card(bars)}
    cells = [new_markdown_cell("# Insights"), new_code_cell("insight", outputs=[new_output("display_data", faces)])]
    receipt = {
        "symbol": "TEST", "timeframe": "1d", "profile": "smoke", "seed": 7, "created": "2026-01-01T00:00:00+00:00",
        "data": {"bars": 3, "first": "2020-01-01", "last": "2020-01-03", "sha256": "0"}, "git": None,
        "versions": {}, "threads": {}, "platform": {}, "seconds": {}, "headlines": [], "headline_digest": "0",
    }  # fmt: skip
    file = tmp_path / "index.html"
    file.write_text(render_page(receipt, {"05.ipynb": new_notebook(cells=cells)}, folder=tmp_path), encoding="utf-8")
    page.context.set_offline(True)
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    card = page.locator("#insight .mlkit-card")
    assert card.locator("path").count() == 4 and card.locator("polygon").count() == 2
    box = card.locator("svg").bounding_box()
    assert box["width"] > 500 and box["height"] > 200
    assert "TEST" in card.inner_text() and "no edge" in card.inner_text()
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context="#insight").response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    for width in (400, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert card.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_the_kernel_asks_a_server(served: str) -> None:
    panel = mlkit.panel("TEST", "1d", url=f"{served}/")
    with urllib.request.urlopen(f"{served}/api/ml/insights/TEST?timeframe=1d&candles=400") as response:
        document = json.load(response)
    assert panel.answer["candles"] == document.pop("candles") and panel.answer["marks"] == document.pop("marks")
    assert panel.answer["insight"] == document
    assert panel.answer["market"]["bundle"] == document["bundle"]
    with pytest.raises(ConfigError, match="there are no bars NOPE 1d"):
        mlkit.panel("NOPE", "1d", url=served)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:9/.*is mlkit serve running there"):
        mlkit.panel("TEST", "1d", url="http://127.0.0.1:9")
