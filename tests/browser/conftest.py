"""A headless Chromium for the tests of pages; they skip, and say why, where there is none."""

import importlib.util
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser (playwright); closed with each file, as its event loop would disturb other tests."""
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


def _borrowed(path: str, name: str) -> Any:
    """A fixture of another folder of tests."""
    spec = importlib.util.spec_from_file_location(f"borrowed_{name}", Path(__file__).parents[1] / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


small_bundle = _borrowed("inference/conftest.py", "small_bundle")


@pytest.fixture(scope="session")
def served(sp500: Any, small_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running server: 2,300 daily bars of TEST, a bundle of small trees, a clock 36 hours on."""
    import uvicorn

    import mlkit
    from mlkit.config import Settings
    from mlkit.inference.api import create_app
    from mlkit.models.bundle.publishing import publish

    root = tmp_path_factory.mktemp("served")
    settings = Settings(model_storage_path=root / "models", training_data_path=root / "bars")
    bars = sp500.iloc[-2300:].copy()
    bars.attrs.update(symbol="TEST", timeframe="1d")
    mlkit.save_bars(bars, settings)
    market = root / "models" / "TEST-1d"
    publish(small_bundle(bars, root=market))
    app = create_app(settings, clock=lambda: datetime(2019, 1, 2, 12, tzinfo=UTC))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
