"""The panel in a real browser, on the page of a running server: content, refresh, states, keys, themes, memory."""

import json
import math
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="session")
def answers(served: str) -> dict[str, Any]:
    """What the server says, to be changed and told again."""
    with urllib.request.urlopen(f"{served}/api/ml/insights/TEST?timeframe=1d&candles=400", timeout=120) as response:
        return {"insight": json.load(response)}


def answer_with(page: Any, answers: dict[str, Any], *changes: Change) -> dict[str, Any]:
    """From now on the page hears this of the insight."""
    told: dict[str, Any] = json.loads(json.dumps(answers["insight"]))
    for change in changes:
        change(told)
    page.unroute_all()
    page.route("**/api/ml/insights/**", lambda route: route.fulfill(json=told))
    return told


def forgive(page: Any, words: str) -> None:
    """Console errors that the browser writes by itself for a request that fails on purpose."""
    page.faults[:] = [fault for fault in page.faults if words not in fault]


def open_page(page: Any, served: str) -> None:
    page.goto(f"{served}/?symbol=TEST&timeframe=1d")
    page.locator(".price", has_text=".").wait_for()


def serious(page: Any) -> list[str]:
    """What axe-core finds that bars somebody's way."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in ("serious", "critical")]


# --- the page of a server ------------------------------------------------------------------------------


def test_the_page_shows_what_the_server_says(page: Any, served: str, answers: dict[str, Any]) -> None:
    page.goto(served)
    said = answers["insight"]
    page.locator(".price", has_text=f"{said['current_price']:,.2f}").wait_for()
    assert page.title() == "TEST 1d · mlkit"
    assert page.locator("h2").inner_text().split() == ["TEST", "1d"]
    assert page.locator(".tile").count() == 4
    assert page.locator(".tile .badge").all_inner_texts() == ["no edge", "edge", "not measured", "not measured"]
    assert page.locator("table.patterns tbody tr").count() == 15
    assert page.locator("dd code").inner_text() == said["bundle"]
    assert page.locator(".measured tbody tr").count() == 2
    # Since the session's close at 21:00 UTC.
    assert page.locator(".fact", has_text="Data age").inner_text().split("\n")[1] == "39 hours"
    assert page.locator(".signal").first.inner_text().startswith(said["signals"][0]["type"])
    credit = page.locator(".credit a")
    assert "TradingView Lightweight Charts" in credit.inner_text()
    assert credit.get_attribute("href") == "https://www.tradingview.com/"
    drawn = page.locator(".canvas canvas").first.evaluate(
        "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    )
    assert drawn > 20  # candles, cones and lines, not an empty canvas


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_bars_the_way_of_keyboard_or_screen_reader(page: Any, served: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    open_page(page, served)
    assert page.locator(".mlkit-card").get_attribute("data-theme") == scheme
    assert serious(page) == []


def test_the_keyboard_walks_along_the_candles(page: Any, served: str) -> None:
    open_page(page, served)
    legend = page.locator(".legend")
    chart = page.locator(".canvas")
    chart.focus()
    assert legend.inner_text().startswith("2018-12-31")
    chart.press("ArrowLeft")
    assert legend.inner_text().startswith("2018-12-28")
    chart.press("ArrowLeft")
    assert legend.inner_text().startswith("2018-12-27")
    chart.press("+")
    chart.press("End")
    assert legend.inner_text().startswith("2018-12-31")


@pytest.mark.parametrize("verdict", ["drift", "no drift", "not enough bars", None])
def test_the_badge_says_what_was_found_of_drift(
    page: Any, served: str, answers: dict[str, Any], verdict: str | None
) -> None:
    def found(said: dict[str, Any]) -> None:
        reasons = ["features: 3 of 197 moved", EVIL]
        drift = {"verdict": verdict, "checked": "2018-12-31T00:00:00", "reasons": reasons}
        said["model_status"]["drift"] = drift if verdict else None

    answer_with(page, answers, found)
    open_page(page, served)
    shown = page.locator("dt:has-text('Drift') + dd")
    assert shown.locator(".badge").first.inner_text() == (verdict or "not monitored")
    assert ("checked 2018-12-31 00:00 UTC" in shown.inner_text()) is bool(verdict)
    assert ("3 of 197 moved" in shown.inner_text()) is (verdict in ("drift", "not enough bars"))
    assert page.title() != "owned" and serious(page) == []


# --- refreshing ----------------------------------------------------------------------------------------


def asked(page: Any) -> list[str]:
    """Requests for an insight from now on."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url) if "/insights/" in request.url else None)
    return urls


def test_it_refreshes_every_30_seconds_and_says_when(page: Any, served: str, answers: dict[str, Any]) -> None:
    page.clock.install(time="2019-01-02T12:00:00Z")
    open_page(page, served)
    first = page.locator(".updated").inner_text()
    urls = asked(page)
    answer_with(page, answers, lambda said: said.update(current_price=1234.5))
    page.clock.run_for(29_000)
    assert urls == []
    page.clock.run_for(2_000)
    page.locator(".price", has_text="1,234.5").wait_for()
    assert len(urls) == 1 and page.locator(".updated").inner_text() != first
    assert page.locator(".refresh button").inner_text() == "Refresh"


def test_it_rests_while_nobody_looks(page: Any, served: str, answers: dict[str, Any]) -> None:
    page.clock.install(time="2019-01-02T12:00:00Z")
    open_page(page, served)
    urls = asked(page)
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(hide, True)
    page.clock.run_for(300_000)
    assert urls == [] and "paused" in page.locator(".updated").inner_text()
    answer_with(page, answers, lambda said: said.update(current_price=1234.5))
    page.evaluate(hide, False)
    page.locator(".price", has_text="1,234.5").wait_for()
    assert len(urls) == 1


def test_it_keeps_its_last_picture_when_the_server_is_gone(page: Any, served: str) -> None:
    open_page(page, served)
    price = page.locator(".price").inner_text()
    page.route("**/api/**", lambda route: route.abort())
    page.locator(".refresh button").click()
    note = page.locator(".note.bad")
    note.wait_for()
    assert "the server cannot be reached. This is the last picture of" in note.inner_text()
    assert page.locator(".price").inner_text() == price and page.locator(".tile").count() == 4
    page.unroute_all()
    page.locator(".refresh button").click()
    note.wait_for(state="detached")
    forgive(page, "Failed to load resource")


def test_a_market_that_does_not_exist_is_said_to_be_missing(page: Any, served: str) -> None:
    page.goto(f"{served}/?symbol=NOPE&timeframe=1d")
    page.locator(".note.bad", has_text="there are no bars NOPE 1d").wait_for()
    assert page.locator("h2").inner_text().split() == ["NOPE", "1d"]
    forgive(page, "404")


# --- states --------------------------------------------------------------------------------------------


def scaled(price: float) -> Change:
    def change(said: dict[str, Any]) -> None:
        factor = price / said["current_price"]
        said["current_price"] = price
        said["candles"] = [[row[0], *(x * factor for x in row[1:5]), row[5]] for row in said["candles"]]
        for forecast in said["price_predictions"].values():
            for name in ("prediction", "xgboost", "lightgbm", "random_forest", "std"):
                forecast[name] *= factor
            for name in ("interval", "interval_80"):
                forecast[name] = [x * factor for x in forecast[name]]

    return change


def all_patterns(said: dict[str, Any]) -> None:
    patterns = said["patterns"]
    names = list(patterns["probabilities"])
    found = {name: 0.95 - 0.01 * k for k, name in enumerate(names)}
    patterns.update(detected=found, count=15, strongest=[names[0], 0.95], probabilities=found)
    patterns["directions"] = {name: (1, -1, 0)[k % 3] for k, name in enumerate(names)}
    reason = "a long reason " * 8
    said["signals"] = [{"type": "BUY", "source": n, "reason": reason, "confidence": 0.5} for n in names]


def untrained(said: dict[str, Any]) -> None:
    loaded = {"pattern_cnn_loaded": True, "price_predictor_loaded": False, "models_loaded": False, "reasons": {}}
    said.update(price_predictions={}, bundle=None, message="Models not trained yet", model_status=loaded)
    said["reasons"] = {"price_predictions": "run mlkit train"}
    said["freshness"].update(trained_until=None, model_age_seconds=None, in_training_span=None)


def stale(said: dict[str, Any]) -> None:
    said["freshness"].update(bars_stale=True, notes=["the bars are stale: fetch new ones"])


def empty(said: dict[str, Any]) -> None:
    said["patterns"].update(probabilities={}, detected={}, count=0, strongest=None, reason="torch is not installed")
    said.update(candles=[], price_predictions={}, signals=[], confidence=None)


def long_name(said: dict[str, Any]) -> None:
    said["symbol"] = "ABCDEFGHIJKLMNOP/USDT:USDT-2026Q"


STATES: dict[str, tuple[Change, list[str]]] = {
    "tiny": (scaled(1.2345e-8), ["1.2345 ×10⁻⁸"]),
    "huge": (scaled(1e6), ["1,000,000"]),
    "fifteen": (all_patterns, ["15 detected", "10 more signals", "15 patterns"]),
    "untrained": (untrained, ["Models not trained yet", "run mlkit train", "not trained"]),
    "stale": (stale, ["The bars are stale: fetch new ones"]),
    "empty": (empty, ["no candles", "torch is not installed"]),
    "long": (long_name, ["ABCDEFGHIJKLMNOP/USDT:USDT-2026Q"]),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_says_so_and_fits_every_width(page: Any, served: str, answers: dict[str, Any], state: str) -> None:
    change, words = STATES[state]
    answer_with(page, answers, change)
    page.goto(f"{served}/?symbol=TEST&timeframe=1d")
    page.locator(".facts").wait_for()
    text = page.locator(".mlkit-card").inner_text()
    assert [word for word in words if word not in text] == [] and "NaN" not in text and "undefined" not in text
    for width in (400, 800, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], (state, width)
        over = "e => [...e.querySelectorAll('*')].filter(n => !n.closest('.unseen, .legend, svg, .canvas') &&"
        over += " n.getBoundingClientRect().right > e.getBoundingClientRect().right + 1).map(n => n.className)"
        assert page.locator(".mlkit-card").evaluate(over) == [], (state, width)
    assert state not in ("fifteen", "untrained", "empty") or serious(page) == []


def hostile(value: Any) -> Any:
    """Every text of an answer with a planted element; numbers and the words that the page reads are left."""
    keep = ("BUY", "SELL", "HOLD", "edge", "no edge", "1d", "classic")
    if isinstance(value, str):
        return value if value in keep or value[:2] in ("20", "19") else f"{value}{EVIL}"
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return {name: hostile(one) for name, one in value.items()} if isinstance(value, dict) else value


def test_no_text_of_an_answer_becomes_an_element(page: Any, served: str, answers: dict[str, Any]) -> None:
    told = answer_with(page, answers, all_patterns, stale, lambda said: said.update(hostile(said)))
    patterns = told["patterns"]
    patterns.update(detected={f"hammer{EVIL}": 0.9, **patterns["detected"]}, strongest=[f"hammer{EVIL}", 0.9])
    page.goto(f"{served}/?symbol=TEST&timeframe=1d")
    page.locator(".facts").wait_for()
    page.locator("summary").click()
    card = page.locator(".mlkit-card")
    assert card.locator("img, script, iframe, object").count() == 0
    assert card.inner_text().count("<img src=x") >= 20
    assert page.title() == "TEST 1d · mlkit"


# --- many panels, themes, memory -----------------------------------------------------------------------


def test_panels_share_a_page_and_one_goes_without_a_trace(page: Any, served: str, answers: dict[str, Any]) -> None:
    open_page(page, served)
    script = """async answer => {
        const { mountPanel, mountPatternConfidence } = await import("/static/panel.js");
        const { candles, ...insight } = answer;
        const hosts = [1, 2].map(() => document.body.appendChild(document.createElement("div")));
        const still = { answer: { insight, candles } };
        globalThis.first = mountPanel(hosts[0], { ...still, theme: "dark" });
        globalThis.second = mountPatternConfidence(hosts[1], still);
        first.destroy();
        return [hosts[0].shadowRoot.childElementCount, hosts[1].shadowRoot.querySelectorAll("tbody tr").length];
    }"""
    assert page.evaluate(script, answers["insight"]) == [0, 15]
    assert (
        page.evaluate("Object.keys(globalThis).filter(name => /lightweight|tv/i.test(name) && globalThis[name])") == []
    )


def test_it_follows_the_theme_of_jupyterlab(page: Any, served: str) -> None:
    open_page(page, served)
    card = page.locator(".mlkit-card")
    for light, theme in (("false", "dark"), ("true", "light")):
        page.evaluate("light => { document.body.dataset.jpThemeLight = light }", light)
        page.locator(f'.mlkit-card[data-theme="{theme}"]').wait_for()
    background = card.evaluate("e => getComputedStyle(e).backgroundColor")
    assert background == "rgb(255, 255, 255)"


LOOP = """async ([told, times]) => {
    const step = 86400;
    globalThis.fetch = async () => {
        const last = told.candles.at(-1);
        const close = last[4] * (1 + 0.01 * Math.sin(told.candles.length + last[0]));
        told.candles.push([last[0] + step, last[4], Math.max(last[4], close), Math.min(last[4], close), close, 1]);
        told.candles.shift();
        told.current_price = close;
        told.timestamp = new Date((last[0] + step) * 1000).toISOString().slice(0, 19);
        return new Response(JSON.stringify(told));
    };
    for (let k = 0; k < times; k += 1) {
        await mlkitPanel.feed.refresh();
        if (k % 20 === 0) await new Promise(requestAnimationFrame);
    }
    return told;
}"""


def test_memory_is_steady_over_500_refreshes(page: Any, served: str, answers: dict[str, Any]) -> None:
    open_page(page, served)
    wire = page.context.new_cdp_session(page)

    def used() -> tuple[float, int]:
        wire.send("HeapProfiler.collectGarbage")
        return wire.send("Runtime.getHeapUsage")["usedSize"] / 1e6, wire.send("Memory.getDOMCounters")["nodes"]

    told = {**answers["insight"], "freshness": {**answers["insight"]["freshness"], "notes": []}}
    all_patterns(told)
    told = page.evaluate(LOOP, [told, 60])
    before = used()
    told = page.evaluate(LOOP, [told, 500])
    after = used()
    assert math.isfinite(after[0]) and after[0] < before[0] + 3.0, (before, after)  # MB; 2,000 candles are kept
    assert after[1] < before[1] + 200, (before, after)
