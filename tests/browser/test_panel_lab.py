"""A real JupyterLab with notebook 05 open: the insight is a panel, follows the theme; a live one hears its kernel."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
NOTEBOOK = "05_insights.ipynb"
SHOWN_AT = 8  # the cell that shows the insight
# The last cell has run, or one has failed.
RAN = """() => [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].every(p => /\\d/.test(p.textContent))
    || document.querySelector("[data-mime-type='application/vnd.jupyter.error']")"""
PANEL = ".jp-OutputArea-output .mlkit-card.panel"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of a JupyterLab of its own, at home in an empty project with notebook 05."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4)
    notebook.cells.insert(SHOWN_AT + 1, new_code_cell("mlkit.panel(symbol, timeframe, settings, every=1)"))
    nbformat.write(notebook, tmp_path / "notebooks" / NOTEBOOK)
    tracker = tmp_path / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # cells out of sight stay in the page
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ServerApp.port": port, "ServerApp.ip": "127.0.0.1", "IdentityProvider.token": "",
        "ServerApp.root_dir": tmp_path,
        "LabApp.expose_app_in_browser": True, "ServerApp.open_browser": False, "ServerApp.disable_check_xsrf": True,
        "LabApp.workspaces_dir": tmp_path / "workspaces", "LabApp.user_settings_dir": tmp_path / "settings",
        "LabApp.news_url": None, "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLKIT_HOME": str(tmp_path), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", *arguments]
    with (tmp_path / "lab.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert process.poll() is None, (tmp_path / "lab.log").read_text()
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def run(page: Any, command: str, **arguments: Any) -> None:
    """A command of JupyterLab, not waited for."""
    page.evaluate("([name, given]) => { jupyterapp.commands.execute(name, given) }", [command, arguments])


def test_the_panel_lives_in_notebook_05(lab: str, page: Any) -> None:
    page.set_default_timeout(150_000)  # two cores may be busy with other tests
    page.set_viewport_size({"width": 1500, "height": 1000})
    page.goto(f"{lab}/lab/tree/notebooks/{NOTEBOOK}")
    page.locator(".jp-Notebook .mlkit-card").first.wait_for()
    assert page.locator(PANEL).count() == 0  # what is committed is the static face
    page.wait_for_function("() => document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')")
    page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    run(page, "notebook:run-all-cells")
    page.wait_for_function(RAN, timeout=240_000)
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").all_inner_texts() == []
    panel, live = page.locator(PANEL).first, page.locator(PANEL).nth(1)
    live.wait_for()
    panel.scroll_into_view_if_needed()
    assert panel.locator("h2").inner_text().split() == ["SP500", "1d"]
    assert panel.locator(".tile").count() == 4 and panel.locator("table.patterns tbody tr").count() == 15
    chart = panel.locator(".canvas")
    chart.focus()
    chart.press("ArrowLeft")
    assert panel.locator(".legend").inner_text().startswith("2018-12-28")
    for theme, name in (("JupyterLab Dark", "dark"), ("JupyterLab Light", "light")):
        # JupyterLab 4 covers the page during a change and removes the cover 200 ms later: two changes within that time
        # remove it twice, which is an error of the page ("removeChild: not a child of this node").
        page.locator("#jupyterlab-splash").wait_for(state="detached")
        run(page, "apputils:change-theme", theme=theme)
        page.locator(f'{PANEL}[data-theme="{name}"]').nth(1).wait_for()
    if folder := os.environ.get("MLKIT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "lab.png")
    assert live.locator(".measured tbody tr").count() == 4 and panel.locator(".refresh button").is_hidden()
    live.scroll_into_view_if_needed()
    seen: set[str] = set()
    for _ in range(300):  # the kernel answers once a second
        seen |= {text for text in [live.locator(".updated").inner_text()] if text.startswith("updated ")}
        if len(seen) >= 2:
            break
        page.wait_for_timeout(100)
    assert len(seen) >= 2
    assert live.locator(".note.bad").count() == 0
    interrupt_refreshes(page)


def interrupt_refreshes(page: Any) -> None:
    """Clear the output of the live panel and run its cell again, 50 times, while it asks the kernel once a second."""
    page.evaluate(f"() => {{ jupyterapp.shell.currentWidget.content.activeCellIndex = {SHOWN_AT + 1} }}")
    output = page.locator(".jp-Notebook .jp-Cell").nth(SHOWN_AT + 1).locator(PANEL)
    for number in range(50):
        output.wait_for()
        # The next question is asked at once, so that the kernel answers a panel that is gone.
        output.locator(".refresh button").click(force=True)
        if number % 2:
            run(page, "notebook:clear-cell-output")
            output.wait_for(state="detached")
        run(page, "notebook:run-cell")
        page.wait_for_timeout(20 * (number % 7))
    output.wait_for()
    prompt = page.locator(".jp-Notebook .jp-Cell").nth(SHOWN_AT + 1).locator(".jp-InputPrompt")
    page.wait_for_function("(node) => /\\d/.test(node.textContent)", arg=prompt.element_handle())
    assert int(prompt.inner_text().strip("[]: ")) >= 50
    assert output.locator(".note.bad").count() == 0 and page.faults == []
