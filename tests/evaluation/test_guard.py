"""The final span is read once, by whoever writes to the ledger, and every read is on record."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation.final_span import FinalSpan
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.labels import forward_returns


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


def test_development_ends_where_the_final_span_begins(sp500: pd.DataFrame, ledger: Ledger) -> None:
    span = FinalSpan(sp500, ledger, share=0.25)
    assert len(span.development) == len(sp500) - round(0.25 * len(sp500))
    assert span.start == sp500.index[len(span.development)]
    assert (forward_returns(span.development)["end_time"].max() < span.start).all()
    pd.testing.assert_frame_equal(span.read("the test"), sp500)
    assert sp500.index[span.rows()[0]] == span.start and span.rows()[-1] == len(sp500) - 1
    mine = span.development
    mine.iloc[:] = np.nan
    assert span.development.notna().all(axis=None)


def test_the_second_read_is_refused_unless_asked_for(sp500: pd.DataFrame, ledger: Ledger) -> None:
    span = FinalSpan(sp500, ledger)
    assert "read 0 times" in repr(span)
    with ledger.trial([Source.of(span.development)], {"seed": 1}):
        pass
    span.read("first verdict")
    for one in (span, FinalSpan(sp500, Ledger(ledger.path)), FinalSpan(sp500.iloc[:-3], ledger, share=0.1)):
        with pytest.raises(ConfigError, match=r"was read 1 times already, first on .* for 'first verdict'"):
            one.read("a second look")
    with pytest.warns(UserWarning, match="no longer out of sample"):
        assert len(span.read("after a mistake was mended", again=True)) == len(sp500)
    reads = span.reads()
    assert [(entry["reason"], entry["trials"]) for entry in reads] == [
        ("first verdict", 1),
        ("after a mistake was mended", 1),
    ]
    assert "read 2 times" in repr(span)


def test_other_data_are_another_span(sp500: pd.DataFrame, nasdaq: pd.DataFrame, ledger: Ledger) -> None:
    FinalSpan(sp500, ledger).read("S&P 500")
    FinalSpan(nasdaq, ledger).read("NASDAQ")
    FinalSpan(sp500.iloc[:3000], ledger).read("a span that ends before the first one begins")


def test_a_refused_read_gives_nothing_and_a_read_is_logged_first(
    sp500: pd.DataFrame, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = FinalSpan(sp500, ledger)
    with pytest.raises(ConfigError, match="say what the final span is read for"):
        span.read(" ")
    assert span.reads() == []
    monkeypatch.setattr(Ledger, "write", lambda *_, **__: (_ for _ in ()).throw(ConfigError("disk full")))
    with pytest.raises(ConfigError, match="disk full"):
        span.read("for nothing")


def test_what_is_refused(sp500: pd.DataFrame, ledger: Ledger) -> None:
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match="share must be above 0 and below 1"):
            FinalSpan(sp500, ledger, share=share)
    with pytest.raises(BarsError, match="1 bars are too few"):
        FinalSpan(sp500.iloc[:1], ledger)
