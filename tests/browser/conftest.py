"""A headless Chromium for the tests of pages; they skip, and say why, where there is none."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running browser (playwright); one for all tests of a worker."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of its own context; the test fails on a console error, or on a request that leaves this machine."""
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    faults: list[str] = []

    def allowed(url: str) -> bool:
        return url.startswith(
            ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "ws://127.0.0.1", "http://localhost")
        )

    opened = context.new_page()
    opened.on("request", lambda request: None if allowed(request.url) else faults.append(f"request {request.url}"))
    opened.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(f"error: {error}"))
    opened.faults = faults
    yield opened
    context.close()
    assert faults == []
