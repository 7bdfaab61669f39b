"""A ``tuned.json`` of a stranger is refused before a parameter acts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.operations.tuning.tuned import load_tuned, tuned_path

GOOD: dict[str, Any] = {
    "schema_version": 1,
    "profile": "smoke",
    "seed": 7,
    "parameters": {"max_depth": 4, "learning_rate": 0.1},
    "study": "s",
    "storage": "sqlite:///optuna.db",
    "score": 0.9,
    "default_score": 1.0,
    "trials": {"complete": 3},
    "configurations": ["a"],
    "created": "2026-01-01T00:00:00+00:00",
    "symbol": "A",
    "timeframe": "1h",
    "horizons": [1],
    "features": "f",
    "saw": {"start": "2025-01-01", "end": "2025-06-01", "bars": 100, "sha256": "0"},
    "folds": 2,
}
EDITS: dict[str, dict[str, Any]] = {
    "trees a trillion deep": {"parameters": {"max_depth": 10**12}},
    "trees 65 deep": {"parameters": {"max_depth": 65}},
    "a million trees": {"parameters": {"n_estimators": 1_000_000}},
    "a parameter of no ensemble": {"parameters": {"device": 1}},
    "text for a parameter": {"parameters": {"max_depth": "deep"}},
    "an unknown key": {"surprise": 1},
    "a time that is none": {"saw": {**GOOD["saw"], "end": "NaT"}},
    "a time after the last one": {"saw": {**GOOD["saw"], "end": "2262-04-13"}},
    "a colour": {"study": "\x1b[31m"},
    "another market": {"symbol": "B"},
    "another timeframe": {"timeframe": "1d"},
    "a number of trials below zero": {"trials": {"complete": -1}},
    "trials that are a list": {"trials": [1]},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tuned_path(settings(tmp_path), "A", "1h")
    found.parent.mkdir(parents=True)
    return found


def settings(folder: Path) -> Settings:
    return Settings(model_storage_path=folder / "models")


def refused(folder: Path) -> str:
    with pytest.raises(ConfigError, match=r"tuned\.json: damaged \(.+\); delete it and run mlkit tune again") as caught:
        load_tuned(settings(folder), "A", "1h")
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_file_is_refused(name: str, path: Path, tmp_path: Path) -> None:
    path.write_text(json.dumps(GOOD))
    assert load_tuned(settings(tmp_path), "A", "1h").parameters == GOOD["parameters"]
    path.write_text(json.dumps(GOOD | EDITS[name]))
    refused(tmp_path)


@pytest.mark.parametrize("data", [b"", b"null", b"[" * 100_000, b"\xff", b'{"score": NaN}', b" " * 17_000_000])
def test_other_bytes_are_refused(data: bytes, path: Path, tmp_path: Path) -> None:
    path.write_bytes(data)
    refused(tmp_path)


def test_a_pipe_does_not_wait(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    assert "not a regular file" in refused(tmp_path)
