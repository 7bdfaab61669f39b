"""Many symbols in threads give the bits of one after the other."""

import io
import sys

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError
from mlkit.market.simulate.markets import null_market


@pytest.fixture(scope="module")
def market() -> dict[str, pd.DataFrame]:
    return {f"S{k}": null_market(700 + 50 * k, seed=k, symbol=f"S{k}") for k in range(6)}


def test_threads_give_the_bits_of_one_by_one(market: dict[str, pd.DataFrame]) -> None:
    together = mlkit.build_features(market)
    assert list(together) == list(market)
    for symbol, bars in market.items():
        alone = mlkit.build_features(bars)
        assert np.array_equal(alone.to_numpy().view(np.uint32), together[symbol].to_numpy().view(np.uint32))
        assert together[symbol].attrs == {"symbol": symbol, "timeframe": "1m", "calendar": "24/7"}
        assert together[symbol].index.equals(bars.index)


def test_no_symbols_no_frames() -> None:
    assert mlkit.build_features({}) == {}


def test_bad_bars_name_their_symbol(market: dict[str, pd.DataFrame]) -> None:
    bad = market["S3"].copy()
    bad.iloc[5, 3] = -1.0
    with pytest.raises(BarsError, match=r"^S3 1m: column 'close', row 5"):
        mlkit.build_features({**market, "S3": bad})
    with pytest.raises(BarsError, match=r"^other: S3 1m: column 'close'"):
        mlkit.build_features({"S1": market["S1"], "other": bad})


def test_the_bar_shows_on_a_terminal_or_when_asked(
    market: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(*, terminal: bool, **given: bool) -> str:
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        mlkit.build_features({s: b.iloc[:50] for s, b in market.items()}, **given)
        monkeypatch.undo()
        return stream.getvalue()

    assert "6/6" in written(terminal=True)
    assert "6/6" in written(terminal=False, progress=True)
    assert written(terminal=False) == ""
    assert written(terminal=True, progress=False) == ""
