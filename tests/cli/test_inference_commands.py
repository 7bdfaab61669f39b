"""insights, its table and its watch; serve and its refusals."""

import gc
import json
import math
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.cli import insight_commands as command
from mlkit.cli import main
from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import Freshness, ModelStatus, PatternReading, PricePrediction, Signal
from mlkit.inference.show.terminal import insight_table


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sp500: pd.DataFrame) -> Path:
    """A project with 60 bars of TEST, and a network that nobody trained."""
    from mlkit.models.patterns.cnn import PatternMeta, PatternModel
    from mlkit.models.patterns.network import PatternCNN, weights_of

    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    model = PatternModel(weights_of(PatternCNN()), PatternMeta(standard="classic"))
    monkeypatch.setattr("mlkit.models.patterns.pretrained", lambda *_: model)
    save(sp500.iloc[:60])
    return tmp_path


def save(bars: pd.DataFrame) -> None:
    bars = bars.copy()
    bars.attrs.update(symbol="TEST", timeframe="1d")
    mlkit.save_bars(bars)


MARKET = ["--symbol", "TEST", "--timeframe", "1d"]


def example() -> Insight:
    move = math.log(101.0 / 100.0)
    price = PricePrediction(
        prediction=101.0, confidence=0.62, std=0.5, interval=(99.0, 103.0), p_up=0.62, log_return=move, verdict="edge"
    )
    return Insight(
        symbol="TEST",
        timeframe="1d",
        patterns=PatternReading(
            detected={"hammer": 0.85, "doji": 0.62},
            count=2,
            strongest=("hammer", 0.85),
            directions={"hammer": 1, "doji": 0},
            rules={"hammer": True, "doji": False},
        ),
        price_predictions={"1": price, "60": PricePrediction(reason="no forecast here")},
        signals=[Signal(type="BUY", source="Price forecast: 1 bar", reason="+1.00% expected", confidence=0.62)],
        confidence=0.62,
        timestamp=datetime(2024, 1, 2),
        known_at=datetime(2024, 1, 3),
        current_price=100.0,
        model_status=ModelStatus(pattern_cnn_loaded=True, price_predictor_loaded=True, models_loaded=True),
        freshness=Freshness(notes=["the bars are stale"]),
        bundle="0123456789abcdef",
    )


def test_the_table_is_plain_ascii_in_columns() -> None:
    text = insight_table(example())
    assert text.isascii() and "\x1b" not in text
    assert text.splitlines()[:2] == [
        "TEST 1d  100  BUY 62%",
        "bar of 2024-01-02 00:00 UTC, known at its close 2024-01-03 00:00, bundle 0123456789abcdef",
    ]
    rows = [line for line in text.splitlines() if line.strip().startswith(("bars", "+1 ", "+60 "))]
    assert len({len(row) for row in rows}) == 1 and len(rows) == 3
    assert "+1.00%" in rows[1] and "rise 62%" in rows[1] and rows[1].endswith("edge")
    assert "no forecast here" in rows[2]
    assert "Hammer   85%  #################     rule agrees" in text
    assert "rule does not see it" in text and "note: the bars are stale" in text
    assert max(map(len, text.splitlines())) <= 100


def test_colours_change_no_letter() -> None:
    import re

    painted = insight_table(example(), colour=True)
    assert "\x1b[32m" in painted
    assert re.sub(r"\x1b\[\d+m", "", painted) == insight_table(example())


def test_insights_in_colour_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["insights", *MARKET]) == 0
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    assert main(["insights", *MARKET]) == 0
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["insights", *MARKET]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_answer_leaves_the_garbage_collector_as_it_was() -> None:
    try:
        for before in (True, False):
            (gc.enable if before else gc.disable)()
            for symbol in ("TEST", "NOWHERE"):
                main(["insights", "--symbol", symbol, "--timeframe", "1d"])
                assert gc.isenabled() is before
    finally:
        gc.enable()


def test_watch_follows_the_lake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sp500: pd.DataFrame
) -> None:
    """A new bar, a lake that fails for once, and Ctrl-C; a JSON document a line."""
    looks = 0

    def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        assert seconds == 30.0
        if looks == 1:
            save(sp500.iloc[:61])
        if looks == 2:
            monkeypatch.setattr("mlkit.inference.served_markets.Markets.answer", broken)
        if looks == 3:
            monkeypatch.setattr("mlkit.inference.served_markets.Markets.answer", real)
        if looks == 4:
            raise KeyboardInterrupt

    def broken(*_: Any) -> Any:
        raise OSError(5, "Input/output error", "bars.parquet")

    from mlkit.inference.served_markets import Markets

    real = Markets.answer
    monkeypatch.setattr(command.time, "sleep", pause)
    assert main(["insights", *MARKET, "--watch", "--json"]) == 130
    out, err = capsys.readouterr()
    said = [json.loads(line) for line in out.splitlines()]
    assert [d["timestamp"][:10] for d in said] == [str(sp500.index[k].date()) for k in (59, 60, 60)]
    assert err.count("\n") == 1 and "Input/output error" in err


def test_watch_of_nothing_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["insights", "--symbol", "NOWHERE", "--timeframe", "1d", "--watch"]) == 2
    assert "no bars NOWHERE 1d" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "token of at least 32 bytes"),
        (["--host", "192.168.1.7", "--token-file", "{short}"], "5 bytes are too few"),
        (["--token-file", "{short}"], "5 bytes are too few"),
        (["--token-file", "/nowhere/token"], "cannot be read"),
        (["--port", "x"], "'x' is not a whole number"),
        (["--port", "70000"], "--port 70000"),
        (["--workers", "0"], "--workers 0"),
        (["--deadline", "soon"], "'soon' is not a number of seconds"),
        (["--deadline", "0"], "--deadline 0"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_serve_refuses_to_start(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.write_text("short")
    assert main(["serve", *(a.format(short=short) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("mlkit: error: ") and err.count("\n") == 1
    assert words in err


def test_serve_passes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda app, **options: seen.update(app=app, **options))
    assert main(["serve", "--port", "9123", "--allow-host", "a.example", "--allow-host", "b.example"]) == 0
    assert (seen["host"], seen["port"], seen["access_log"]) == ("127.0.0.1", 9123, False)
    assert main(["serve", "--workers", "3"]) == 0
    assert seen["app"] == "mlkit.inference.api.server:worker_app" and seen["workers"] == 3
    assert not {"PROMETHEUS_MULTIPROC_DIR", "MLKIT_SERVE_OPTIONS"} & set(os.environ)  # the workers' alone
