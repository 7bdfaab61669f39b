"""A drift report is repeated where it belongs; one that is damaged, hostile or of another model is as good as none."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.inference.drift_note import MAX_REPORT_BYTES, read_drift
from mlkit.inference.show.terminal import insight_table
from mlkit.models.bundle.bundle import ModelBundle

REPORT = {
    "bundle": "0123456789abcdef",
    "symbol": "TEST",
    "timeframe": "1d",
    "checked": "2019-01-01T00:00:00",
    "verdict": "drift",
    "reasons": ["features: 3 of 197 moved"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "TEST-1d"
    folder.mkdir()
    return folder


def read(root: Path, bundle: str = REPORT["bundle"]) -> Any:  # type: ignore[assignment]
    return read_drift(root, "TEST", "1d", bundle)


def test_a_report_is_read_once_and_again_when_it_changes(root: Path) -> None:
    assert read(root) is None
    (root / "drift.json").write_text(json.dumps(REPORT))
    assert read(root).verdict == "drift"
    (root / "drift.json").write_text(json.dumps({**REPORT, "verdict": "no drift", "more": [1, 2]}))
    assert read(root).verdict == "no drift"
    assert read(root, "another") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({**REPORT, "verdict": "<script>"}),
        json.dumps({**REPORT, "reasons": "no list"}),
        json.dumps({**REPORT, "reasons": [1]}),
        json.dumps({**REPORT, "checked": "yesterday"}),
        json.dumps({**REPORT, "checked": 5}),
        json.dumps({key: value for key, value in REPORT.items() if key != "verdict"}),
        json.dumps({**REPORT, "padding": "x" * MAX_REPORT_BYTES}),
        "\udcff".encode("utf-8", "surrogateescape"),
    ],
)
def test_what_is_no_report_is_not_monitored_with_a_warning(
    root: Path, text: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "drift.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with caplog.at_level(logging.WARNING, logger="mlkit"):
        assert read(root) is None
    assert len(caplog.records) == 1 and "mlkit drift" in caplog.text and len(caplog.text) < 1000


def test_links_pipes_and_folders_are_not_followed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "elsewhere.json").write_text(json.dumps(REPORT))
    makes: list[Callable[[Path], None]] = [lambda path: path.symlink_to(root / "elsewhere.json"), os.mkfifo, Path.mkdir]
    for make in makes:
        make(root / "drift.json")
        assert read(root) is None
        (root / "drift.json").rmdir() if (root / "drift.json").is_dir() else (root / "drift.json").unlink()
    assert len(caplog.records) == len(makes)


def test_long_and_unprintable_reasons_are_cut(root: Path) -> None:
    (root / "drift.json").write_text(json.dumps({**REPORT, "reasons": ["\x1b[31m" + "x" * 5000] * 50}))
    found = read(root)
    assert len(found.reasons) == 20 and all(len(text) == 500 and text.isprintable() for text in found.reasons)


def test_insight_and_terminal_say_what_was_found(
    sp500: pd.DataFrame, small_bundle: Callable[..., ModelBundle], root: Path
) -> None:
    bars = sp500.iloc[-2300:].copy()
    bars.attrs.update(symbol="TEST", timeframe="1d")
    bundle = small_bundle(bars.iloc[:2200], root=root)
    predictor = mlkit.Predictor(bundle)
    before = predictor.insight(bars)
    assert before.model_status.drift is None and "drift: not monitored" in insight_table(before)
    (root / "drift.json").write_text(json.dumps({**REPORT, "bundle": bundle.id}))
    insight = predictor.insight(bars)
    assert insight.model_dump()["model_status"]["drift"] == {
        "verdict": "drift", "checked": "2019-01-01T00:00:00", "reasons": REPORT["reasons"],
    }  # fmt: skip
    shown = insight_table(insight)
    assert "drift: drift, checked at the close of 2019-01-01 00:00 UTC" in shown and "3 of 197 moved" in shown
    assert type(insight).model_validate_json(insight.model_dump_json()) == insight
