"""Tuning the pattern CNN: its own trials in the ledger, and a comparison on markets that nothing else drew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mlkit
from mlkit import cli
from mlkit.evaluation.ledger import Ledger
from mlkit.operations.patterns.cnn_training import PROFILES
from mlkit.operations.tuning import cnn_tuning
from mlkit.operations.tuning.cnn_tuning import CnnObjective
from mlkit.operations.tuning.tuned import TunedPatterns


def test_the_command_tunes_the_network_on_simulated_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = replace(PROFILES["tiny"], windows=512, valid=2_000)
    monkeypatch.setitem(cnn_tuning.SIZES, "smoke", size)
    monkeypatch.setitem(cnn_tuning.MARKETS, "smoke", 4)
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    monkeypatch.setenv("MLKIT_LEDGER_PATH", "ledger.jsonl")
    assert cli.main(["tune", "--only", "patterns", "--trials", "3"]) == 0
    out, _ = capsys.readouterr()
    assert "peak_lr" in out and "trials of patterns-smoke-7-" in out
    tuned = TunedPatterns.model_validate_json((tmp_path / "data/models/patterns/tuned.json").read_bytes())
    assert sum(tuned.trials.values()) == 3 and tuned.epochs == 2
    assert tuned.default_score is not None and tuned.score <= tuned.default_score < 1
    assert tuned.out_of_sample is not None and tuned.out_of_sample.bars == 4 * 2_000
    settings = mlkit.Settings(ledger_path=tmp_path / "ledger.jsonl")
    ledger, source = Ledger.of(settings), CnnObjective(settings, size).source
    assert ledger.trials([source], purpose="patterns") == 3
    assert ledger.trials([source]) == 0  # no claim about prices


def test_patterns_need_no_market(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--only", "patterns", "--symbol", "SP500"]) == 2
    assert "leave --symbol and --timeframe out" in capsys.readouterr().err


def test_the_loss_is_what_the_macro_f1_lacks() -> None:
    """Counts of two models, by hand: F1 0.8 and 0.5 against 0.5 and 0.5, and a pattern too rare to count."""
    default = np.array([[[40, 25, 1], [50, 50, 2], [50, 50, 2]]])
    tuned = np.array([[[25, 25, 0], [50, 50, 2], [50, 50, 2]]])
    found = cnn_tuning._losses({"default": default, "tuned": tuned}, np.arange(1))
    assert found == pytest.approx({"default": 1 - (0.8 + 0.5) / 2, "tuned": 0.5})
