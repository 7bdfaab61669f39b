"""A report's page in a real browser: no network, sortable tables, a failing cell on top, pages to print."""

from pathlib import Path
from typing import Any

import pytest

from mlkit.report.index_page import render_page

pytestmark = pytest.mark.browser

TABLE = (
    "<table><thead><tr><th></th><th>IC</th><th>name</th></tr></thead><tbody>"
    "<tr><td>1</td><td>0.02</td><td>b</td></tr><tr><td>5</td><td>−0.10</td><td>c</td></tr>"
    "<tr><td>15</td><td>1,000.5</td><td>a</td></tr></tbody></table>"
)
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The page of one executed notebook with a table, something hostile, and a cell that failed."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    shown = new_code_cell("table", outputs=[new_output("display_data", {"text/html": TABLE + HOSTILE})])
    failed = new_code_cell(
        "1 / 0", outputs=[new_output("error", ename="ZeroDivisionError", evalue="", traceback=["no"])]
    )
    notebook = new_notebook(cells=[new_markdown_cell("# A title\n\n## A section"), shown, failed])
    receipt = {
        "symbol": "<b>X</b>", "timeframe": "1d", "profile": "smoke", "seed": 7, "created": "2026-01-01T00:00:00+00:00",
        "data": {"bars": 3, "first": "2020-01-01", "last": "2020-01-03", "sha256": "0"}, "git": None,
        "versions": {}, "threads": {}, "platform": {}, "seconds": {}, "headlines": [], "headline_digest": "0",
        "failure": "00_a.ipynb, cell 3: ZeroDivisionError",
    }  # fmt: skip
    path = tmp_path / "index.html"
    path.write_text(render_page(receipt, {"00_a.ipynb": notebook}, folder=tmp_path))
    return path


def column(page: Any, number: int) -> list[str]:
    texts: list[str] = page.locator(f"article table tbody tr td:nth-child({number})").all_text_contents()
    return texts


def test_tables_sort_by_click_and_key_and_nothing_foreign_runs(page: Any, report: Path) -> None:
    page.goto(report.as_uri())
    assert page.title() == "<b>X</b> 1d report"
    head = page.locator("article th", has_text="IC")
    head.click()
    assert column(page, 2) == ["−0.10", "0.02", "1,000.5"]
    head.press("Enter")
    assert column(page, 2) == ["1,000.5", "0.02", "−0.10"]
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("article th", has_text="name").click()
    assert column(page, 3) == ["a", "b", "c"]
    assert head.get_attribute("aria-sort") is None


def test_the_failing_cell_stands_on_top(page: Any, report: Path) -> None:
    page.goto(report.as_uri())
    assert "1 / 0" in page.locator("main > section.failure").inner_text()
    assert page.locator("main > *").first.get_attribute("class") == "failure"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_makes_the_page_scroll_sideways(scheme: str, page: Any, report: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    for width in (360, 800, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_prints(page: Any, report: Path) -> None:
    page.goto(report.as_uri())
    assert page.pdf(format="A4").startswith(b"%PDF-")
