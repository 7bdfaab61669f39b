"""What the live panel costs: size of its module, first paint beside a blank page's, a refresh with 1,000 candles.

python tests/bench/bench_panel.py
"""

import gzip
import json
import math
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import mlkit
from mlkit.inference.insight_data import PricePrediction
from mlkit.inference.show.chart_data import candles_of
from mlkit.inference.show.panel_files import STATIC_FOLDER, panel_module

ADDRESS = "http://127.0.0.1:9/"  # nothing listens there: each request is answered in the browser's process
CANDLES = 1000
LOADS = 9
REFRESHES = 100
FRAME = 1000 / 60  # ms
BLANK = "<!doctype html><title>blank</title><p>.</p>"
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
READY = "() => document.getElementById('panel')?.shadowRoot?.querySelector('.tile') && performance.now()"
# A bar closes, everything changes: candle, price, forecasts; then the browser draws.
LOOP = """async ([told, times, change]) => {
    for (let k = 0; k < times; k += 1) {
        if (change) {
            const last = told.candles.at(-1);
            const close = last[4] * (1 + 0.01 * Math.sin(k));
            const high = Math.max(last[4], close), low = Math.min(last[4], close);
            told.candles = [...told.candles.slice(1), [last[0] + 86400, last[4], high, low, close, 1]];
            const timestamp = new Date((last[0] + 86400) * 1000).toISOString().slice(0, 19);
            const { candles, ...insight } = { ...told, current_price: close, timestamp };
            mlkitPanel.feed.take(structuredClone({ insight, candles }));
        }
        await new Promise(requestAnimationFrame);
        await new Promise(requestAnimationFrame);
    }
    return told;
}"""


def document() -> dict[str, Any]:
    """An answer of the endpoints: 1,000 real daily candles, the shipped network's patterns, made-up forecasts."""
    bars = mlkit.load_bars("SP500", "1d")
    insight = mlkit.Predictor().insight(bars)
    forecasts = {}
    for horizon in (1, 5, 15, 60):
        spread = 0.01 * math.sqrt(horizon)
        ends = {"lo90": -1.6 * spread, "lo80": -1.3 * spread, "hi80": 1.3 * spread, "hi90": 1.6 * spread}
        distribution = {"log_return": 1e-4 * horizon, "std": spread, "p_up": 0.53, **ends}
        members = dict.fromkeys(("xgboost", "lightgbm", "random_forest"), 1e-4 * horizon)
        price = PricePrediction.from_log_returns(
            insight.current_price, distribution, members=members, verdict="no edge"
        )
        forecasts[str(horizon)] = price
    said = insight.model_copy(update={"price_predictions": forecasts}).model_dump(mode="json")
    return {**said, "candles": candles_of(bars, CANDLES)}


def answer(page: Any, told: dict[str, Any]) -> None:
    """Answer the page's requests as `mlkit serve` does."""
    status = {"markets": [{"symbol": "SP500", "timeframe": "1d", "bundle": None, "metrics": {}, "reason": None}]}

    def reply(route: Any) -> None:
        path = route.request.url.removeprefix(ADDRESS).split("?")[0]
        if path.startswith("api/"):
            route.fulfill(json=status if path.endswith("status") else told)
        elif path == "blank":
            route.fulfill(body=BLANK, content_type="text/html")
        else:
            file = STATIC_FOLDER / (Path(path).name or "index.html")
            text = panel_module() if file.name == "panel.js" else file.read_text(encoding="utf-8")
            route.fulfill(body=text, content_type=MEDIA_TYPES[file.suffix])

    page.route(f"{ADDRESS}**", reply)


def time_until(browser: Any, told: dict[str, Any], path: str, moment: str = PAINT) -> float:
    """Milliseconds from navigation to a moment, median of fresh contexts without a cache."""
    times = []
    for _ in range(LOADS):
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        page = context.new_page()
        answer(page, told)
        page.goto(ADDRESS + path)
        times.append(page.wait_for_function(moment).json_value())
        context.close()
    return statistics.median(times)


def refresh_cost(browser: Any, told: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of the page's main thread (its own processor time) per refresh, and per wait without one."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    answer(page, told)
    page.goto(ADDRESS)
    page.locator(".facts").wait_for()
    wire = page.context.new_cdp_session(page)
    wire.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        found = {metric["name"]: metric["value"] for metric in wire.send("Performance.getMetrics")["metrics"]}
        return 1000 * float(found["TaskDuration"])

    told = page.evaluate(LOOP, [told, 20, True])  # compiled and warm
    costs = []
    for change in (True, False):
        before = busy()
        told = page.evaluate(LOOP, [told, REFRESHES, change])
        costs.append((busy() - before) / REFRESHES)
    page.close()
    return costs[0], costs[1]


def main() -> int:
    """Print the figures; 1 where a refresh costs more than a frame or the module is too large."""
    module = panel_module().encode()
    print(f"module: {len(module):,} bytes, {len(gzip.compress(module, 9, mtime=0)):,} zipped")
    print(f"  of which the chart library: {(STATIC_FOLDER / 'lightweight-charts.js').stat().st_size:,} bytes")
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no Chromium on this machine: the rest is not measured")
        return 0
    from playwright.sync_api import sync_playwright

    told = json.loads(json.dumps(document()))
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        blank, page, ready = (time_until(browser, told, *of) for of in (("blank",), ("",), ("", READY)))
        print(f"first paint, median of {LOADS} cold loads: blank page {blank:.0f} ms, panel {page:.0f} ms")
        print(f"  the answer stands on the page after {ready:.0f} ms")
        cost, idle = refresh_cost(browser, told)
        print(f"refresh with {CANDLES:,} candles: {cost:.1f} ms of the main thread (two idle frames {idle:.1f} ms)")
        browser.close()
    return int(len(module) > 300_000 or cost > FRAME)


if __name__ == "__main__":
    sys.exit(main())
