"""The panel's one module: whole, small, self-contained, and with nothing in it that reads data as HTML."""

import hashlib
import re
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.inference.insight_data import NOT_TRAINED
from mlkit.inference.show.chart_data import candles_of, marks_of
from mlkit.inference.show.panel_files import PANEL_SCRIPTS, STATIC_FOLDER, panel_module

LIBRARY = "e21cc5caa0226ef30bd8549c50b9ef926615f2a4ee6b4e486353477a55f598cf"
# Ways to turn text into markup, styles or code.
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|srcdoc|\beval\b"
    r"|new Function|setAttribute\(\"style|\bcssText\b|setTimeout\(\s*[\"'`]"
)


def own_sources() -> dict[str, str]:
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in STATIC_FOLDER.rglob("*.js")
        if "lightweight" not in path.name
    }


def test_every_part_is_in_the_module_after_those_that_it_needs() -> None:
    parts = {path.stem for path in (STATIC_FOLDER / "panel").glob("*.js")}
    assert parts == set(PANEL_SCRIPTS)
    for place, name in enumerate(PANEL_SCRIPTS):
        needs = set(
            re.findall(r'from "\./(\w+)\.js"', (STATIC_FOLDER / "panel" / f"{name}.js").read_text(encoding="utf-8"))
        )
        assert needs <= {"library", *PANEL_SCRIPTS[:place]}, name


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
    library = STATIC_FOLDER / "lightweight-charts.js"
    assert hashlib.sha256(library.read_bytes()).hexdigest() == LIBRARY
    assert "Apache License" in (STATIC_FOLDER / "lightweight-charts.LICENSE.txt").read_text(encoding="utf-8")
    notice = (STATIC_FOLDER / "lightweight-charts.NOTICE.txt").read_text(encoding="utf-8")
    assert "TradingView, Inc. https://www.tradingview.com/" in notice
    chart = (STATIC_FOLDER / "panel" / "chart.js").read_text(encoding="utf-8")
    assert "TradingView Lightweight Charts™ Copyright" in chart and "https://www.tradingview.com/" in chart


def test_the_page_has_no_inline_script_or_style() -> None:
    page = (STATIC_FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page)
    files = re.findall(r"/static/([\w.-]+)", page)
    assert {name for name in files if not (STATIC_FOLDER / name).is_file()} == {"panel.js"}  # made by panel_module()


# --- the widget ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(sp500: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake with 300 daily bars of TEST; nothing is trained, the shipped CNN answers."""
    root = tmp_path_factory.mktemp("panel")
    settings = Settings(model_storage_path=root / "models", training_data_path=root / "bars")
    bars = sp500.iloc[-301:-1].copy()
    bars.attrs.update(symbol="TEST", timeframe="1d")
    mlkit.save_bars(bars, settings)
    return settings


def test_a_panel_follows_the_bars_of_the_lake(settings: Settings, sp500: pd.DataFrame) -> None:
    panel = mlkit.panel("TEST", "1d", settings)
    before = panel.answer
    assert panel.live and before["insight"]["message"] == NOT_TRAINED and before["market"]["bundle"] is None
    assert len(before["candles"]) == 300 and before["insight"]["current_price"] == before["candles"][-1][4]
    marked = [mark for mark in before["marks"] if mark[0] >= before["candles"][-10][0]]
    alone = [mlkit.Predictor(None, settings).insight(sp500.iloc[: len(sp500) - k]) for k in range(10, 0, -1)]
    assert marked == [list(mark) for said in alone for mark in marks_of(said)] and marked
    told: list[Any] = []
    panel.send = told.append
    bars = sp500.iloc[-301:].copy()
    bars.attrs.update(symbol="TEST", timeframe="1d")
    mlkit.save_bars(bars, settings)
    panel._on_message(panel, {"ask": "refresh", "id": 7}, [])
    assert told == [{"id": 7}]
    assert panel.answer["candles"][:-1] == before["candles"]
    expected = mlkit.Predictor(None, settings).insight(bars).model_dump(mode="json")
    fresh = {name: value for name, value in panel.answer["insight"].items() if name != "freshness"}
    assert fresh == {name: value for name, value in expected.items() if name != "freshness"}


def test_a_panel_keeps_its_picture_when_there_is_no_answer(settings: Settings) -> None:
    panel = mlkit.panel("TEST", "1d", settings)
    before, told = panel.answer, []
    panel.send = told.append

    def gone() -> Any:
        raise ConfigError("there are no bars TEST 1d")

    panel._ask = gone
    panel._on_message(panel, {"ask": "refresh", "id": 1}, [])
    panel._on_message(panel, {"ask": "something else", "id": 2}, [])
    panel._on_message(panel, "no document", [])
    assert told == [{"id": 1, "error": "there are no bars TEST 1d"}] and panel.answer == before


def test_the_static_face_stands_beside_the_widget(sp500: pd.DataFrame) -> None:
    insight = mlkit.Predictor().insight(sp500)
    panel = insight.panel(sp500)
    faces = panel._repr_mimebundle_()[0]
    assert faces["text/html"] == insight.card(sp500) and "<path" in faces["text/html"]
    assert faces["text/plain"] == str(insight)
    assert "application/vnd.jupyter.widget-view+json" in faces
    assert not panel.live and panel._esm == panel_module()


def test_another_insight_can_be_shown(sp500: pd.DataFrame) -> None:
    predictor = mlkit.Predictor()
    panel = predictor.start(sp500.iloc[:-1]).panel(sp500.iloc[:-1])
    first = panel.answer["candles"]
    panel.show(predictor.update(sp500.iloc[-1]), sp500.iloc[-2:])
    assert panel.answer["candles"] == [*first[1:], list(candles_of(sp500, 1)[0])]
    assert panel.answer["insight"]["current_price"] == sp500["close"].iloc[-1]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000", "ftp://host"])
def test_only_a_server_is_asked(url: str) -> None:
    with pytest.raises(ConfigError, match="pass the address of a running mlkit serve"):
        mlkit.panel("TEST", "1d", url=url)


def test_a_panel_asks_no_more_than_once_a_second(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="once a second"):
        mlkit.panel("TEST", "1d", settings, every=0.1)
