"""The quality report finds each planted trouble at its place, and nothing in clean bars."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.market.simulate.markets import null_market

CLEAN = null_market(2000, seed=8, symbol="A")


def counts(bars: pd.DataFrame) -> dict[str, int]:
    return {each.kind: each.count for each in mlkit.quality(bars).findings if each.count}


def test_clean_bars_have_no_findings() -> None:
    report = mlkit.quality(CLEAN)
    assert report.total == 0 and report.segments == 1 and report.complete == 1.0
    assert str(report).startswith(
        "A 1m: 2,000 bars, 2024-01-01 to 2024-01-02 09:19 UTC, 100.00% of the grid, 1 segment"
    )


def test_each_trouble_is_found_where_it_was_planted() -> None:
    bars = CLEAN.copy()
    bars.iloc[300, 1] *= 1.5  # a wick
    bars.iloc[500:540, :4] = bars.iloc[499, 3]  # a frozen price that trades on
    bars.iloc[1000:, :4] /= 4.0  # a split
    bars.iloc[1200:1210, 4] = 0.0
    bars = bars.drop(index=[*bars.index[1500:1503], *bars.index[1700:1800]])
    report = mlkit.quality(bars)
    found = {each.kind: (each.count, each.first[0]) for each in report.findings}
    assert found == {
        "gaps": (2, CLEAN.index[1503]),
        "outages": (1, CLEAN.index[1800]),
        "zero volume": (10, CLEAN.index[1200]),
        "frozen price": (40, CLEAN.index[500]),
        "outlier wicks": (1, CLEAN.index[300]),
        "split-like jumps": (1, CLEAN.index[1000]),
    }
    assert report.segments == 2
    assert report.complete == pytest.approx((2000 - 103) / 2000)
    assert np.flatnonzero(report.strips["spikes"]).tolist() == [18, 60]  # bars 300 and 1000 of 2000, in 120 columns
    assert report.strips["gaps"].argmax() == 108 and report.strips["zero-volume share"].max() < 1


def test_the_report_shows_itself() -> None:
    report = mlkit.quality(CLEAN.drop(index=CLEAN.index[700:900]))
    page = report._repr_html_()
    assert page.count("<tr>") == 7 and "<svg" in page and 'role="img"' in page
    assert "segments: no label crosses them" in page and "2024-01-01 15:00" in page
    assert list(report.frame()["count"]) == [1, 1, 0, 0, 0, 0]
    assert len(str(report).splitlines()) == 7


def test_real_markets(real_bars: Callable[[str], pd.DataFrame], sp500: pd.DataFrame) -> None:
    assert counts(real_bars("BTCUSDT_BYBIT-1m")).keys() <= {"outlier wicks"}
    assert counts(real_bars("EURUSD-1h"))["zero volume"] == 74439
    assert counts(real_bars("BTCUSDT-1h"))["gaps"] == 15
    assert "split-like jumps" not in counts(sp500) and "outages" not in counts(sp500)
    assert mlkit.quality(sp500).complete is None
    for name in ("DOTUSDT-15m", "AAPL-1d", "UNITTEST_BTC-1m"):
        print(mlkit.quality(real_bars(name)))
