"""The card: escaped, self-contained, complete, and the same for every price."""

import math
import re
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit.features.rules import PATTERNS
from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import NOT_TRAINED, Freshness, PatternReading, PricePrediction, Signal
from mlkit.inference.show.card import render_card
from mlkit.inference.show.chart_data import CandleRow, Plot, candles_of
from mlkit.inference.show.number_format import format_price, format_prices

EVIL = "<script>alert('&')</script>"
VOID = {"line", "path", "polygon", "polyline"}


class Page(HTMLParser):
    """Tags, attributes and text; fails on a tag that is closed out of order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def prediction(price: float, h: int, drift: float = 1e-4) -> PricePrediction:
    sigma = 1e-3 * math.sqrt(h)
    low90, low80, mid, high80, high90 = (price * math.exp(drift + z * sigma) for z in (-1.6, -1.3, 0, 1.3, 1.6))
    return PricePrediction(
        prediction=mid,
        xgboost=mid,
        lightgbm=mid,
        random_forest=mid,
        confidence=0.6,
        std=price * sigma,
        interval=(low90, high90),
        interval_80=(low80, high80),
        p_up=0.6,
        log_return=drift,
        verdict="no edge",
    )


def make(price: float = 100.0, n_patterns: int = 3, **changes: Any) -> Insight:
    detected = {name: 0.9 - 0.01 * i for i, name in enumerate(PATTERNS[:n_patterns])}
    fields: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "patterns": PatternReading(
            detected=detected,
            count=n_patterns,
            strongest=next(iter(detected.items()), None),
            probabilities={name: detected.get(name, 0.01) for name in PATTERNS},
            thresholds=dict.fromkeys(PATTERNS, 0.5),
            directions={name: -1 for name in detected},
            standard="classic",
        ),
        "price_predictions": {str(h): prediction(price, h) for h in (1, 5, 15, 60)},
        "signals": [Signal(type="HOLD", source="s", reason="r", confidence=0.6)],
        "confidence": 0.6,
        "timestamp": datetime(2024, 12, 10, 20, 53),
        "known_at": datetime(2024, 12, 10, 20, 54),
        "current_price": price,
    }
    return Insight(**{**fields, **changes})


@pytest.mark.parametrize("price", [1e-8, 3.21e-5, 0.5, 100.0, 43_000.0, 1e6, 1e12])
@pytest.mark.parametrize("n_patterns", [0, 3, 15])
def test_renders_every_price_without_script_or_network(price: float, n_patterns: int) -> None:
    html = render_card(make(price, n_patterns))
    page = Page(html)
    assert not {"script", "img", "link", "iframe", "object", "foreignobject"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "id")]
    assert "url(" not in html and "@import" not in html and "http" not in html
    assert "nan" not in html.lower().replace("nance", "") and "inf%" not in html
    assert page.tags.count("polygon") == 2  # the 80% and the 90% cone


def test_every_text_is_escaped() -> None:
    insight = make(
        symbol=EVIL,
        timeframe=EVIL,
        message=EVIL,
        bundle=EVIL,
        patterns=PatternReading(
            detected={EVIL: 0.9},
            count=1,
            strongest=(EVIL, 0.9),
            probabilities={EVIL: 0.9},
            thresholds={EVIL: 0.5},
            standard=EVIL,
        ),
        price_predictions={"1": PricePrediction(reason=EVIL)},
        signals=[Signal(type="BUY", source=EVIL, reason=EVIL, confidence=0.9)],
    )
    html = insight._repr_html_()
    assert "<script" not in html.lower()
    assert html.count("&lt;script&gt;") >= 7
    Page(html)


def test_reasons_of_empty_parts_are_shown() -> None:
    insight = make(
        patterns=PatternReading(reason="torch is not installed"),
        price_predictions={},
        signals=[],
        confidence=None,
        message=NOT_TRAINED,
        reasons={"price_predictions": "run mlkit train", "signals": "no evidence"},
    )
    page = Page(render_card(insight))
    text = " ".join(page.text)
    for words in (NOT_TRAINED, "torch is not installed", "run mlkit train", "no evidence"):
        assert words in text
    assert "polygon" not in page.tags


def test_a_flat_forecast_without_width_still_draws() -> None:
    flat = PricePrediction(prediction=100.0, log_return=0.0, interval=(100.0, 100.0), confidence=0.5)
    assert "polygon" in Page(render_card(make(price_predictions={"1": flat}))).tags


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (43000.0, "43,000"),
        (2506.85, "2,506.85"),
        (0.5, "0.5"),
        (1.0, "1"),
        (1e6, "1,000,000"),
        (1.2345e-8, "1.2345 \N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT EIGHT}"),
    ],
)
def test_a_quoted_price_keeps_its_digits(price: float, text: str) -> None:
    assert format_price(price) == text


def test_prices_side_by_side_tell_their_spread_apart() -> None:
    assert format_prices(43_250.456, step=50.0) == "43,250"
    assert format_prices(1.10051, 1.10052, step=1e-5).split(" \N{EN DASH} ") == ["1.100510", "1.100520"]


def test_notes_on_ages_are_shown_and_escaped() -> None:
    page = Page(render_card(make(freshness=Freshness(notes=[f"the bars are stale {EVIL}"]))))
    assert f"the bars are stale {EVIL}" in page.text and "script" not in page.tags


def candles(price: float, n: int = 120) -> list[CandleRow]:
    """A walk that ends at ``price``."""
    moves = np.random.default_rng(7).normal(0, 0.01, (n, 3))
    closes = price * np.exp(moves[:, 0].cumsum() - moves[:, 0].sum())
    opens = np.append(closes[0], closes[:-1])
    highs, lows = np.maximum(opens, closes), np.minimum(opens, closes)
    highs, lows = highs * np.exp(np.abs(moves[:, 1])), lows * np.exp(-np.abs(moves[:, 2]))
    table = np.column_stack([opens, highs, lows, closes, np.ones(n)])
    return [(1_500_000_000 + 60 * k, *row) for k, row in enumerate(table.tolist())]


@pytest.mark.parametrize("price", [1e-8, 43_000.0, 1e6])
@pytest.mark.parametrize("n_patterns", [0, 15])
def test_candles_stand_before_the_forecasts(price: float, n_patterns: int) -> None:
    html = render_card(make(price, n_patterns), candles(price))
    page = Page(html)
    paths = dict(page.attributes)["d"], html.count("<path")
    assert paths[0] and paths[1] == 4  # wicks and bodies, rising and falling
    assert "2017-07-14" in page.text and "+60" in page.text
    assert html.count('class="mark') == (1 if n_patterns else 0)
    wicks = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", html)
    assert len(wicks) == 90 and all(0 <= float(x) <= 100 for wick in wicks for x in wick)


def test_candles_are_drawn_where_their_prices_lie() -> None:
    rows = [(0, 100.0, 110.0, 90.0, 105.0, 1.0), (86_400, 105.0, 105.0, 95.0, 100.0, 1.0)]
    plot = Plot(rows, {}, 100.0)
    assert plot.y(math.log(1.1)) == pytest.approx(2) and plot.y(math.log(0.9)) == pytest.approx(98)
    rising, falling = (path for path, _ in plot.candle_paths() if "V" in path)
    (_, high, low), (_, after_high, after_low) = (
        map(float, re.fullmatch(r"M([\d.]+) ([\d.]+)V([\d.]+)", wick).groups())  # type: ignore[union-attr]
        for wick in (rising, falling)
    )
    assert (high, low) == (2.0, 98.0) and high < after_high < after_low < low


def test_the_newest_bars_become_candles(sp500: pd.DataFrame) -> None:
    rows = candles_of(sp500, 3)
    last = sp500.iloc[-1]
    assert rows[-1] == (int(sp500.index[-1].timestamp()), *(float(last[name]) for name in sp500.columns))
    assert len(rows) == 3 and len(candles_of(sp500.iloc[:2], 3)) == 2
