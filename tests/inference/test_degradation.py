"""What is left when something is missing: one schema, the reason, one warning. `pytest -s` prints the matrix."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import NOT_TRAINED
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import publish

TRAINERS = ("torch", "xgboost", "lightgbm", "sklearn", "arch")
PACKAGES = (*TRAINERS, "safetensors")
CASES = {
    "nothing": ("TEST", ()),
    **{name: ("TEST", (name,)) for name in PACKAGES},
    "all that train": ("TEST", TRAINERS),
    "all of them": ("TEST", PACKAGES),
    "the bundle": ("BARE", ()),
    "bundle and trainers": ("BARE", TRAINERS),
    "bundle and all": ("BARE", PACKAGES),
    "arch, built-in bars": ("SP500", ("arch",)),
}

# One process imports what every case shares, then a fork of it blocks the packages of each case.
CHILD = """
import json, logging, os, sys
from datetime import UTC, datetime
import mlkit
from mlkit.inference.predictor import insights

class Without:
    def __init__(self, finder, names): self.finder, self.names = finder, names
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in self.names else self.finder.find_spec(name, path, target)

class Count(logging.Handler):
    def emit(self, record): warnings.append(record.getMessage())

assert not set(sys.modules) & {"torch", "xgboost", "lightgbm", "sklearn", "arch", "safetensors"}, "imported too early"
for name, (symbol, blocked) in json.loads(sys.argv[1]).items():
    reader, writer = os.pipe()
    if os.fork() == 0:
        sys.meta_path[:] = [Without(finder, blocked) for finder in sys.meta_path]
        warnings = []
        logging.getLogger("mlkit").addHandler(Count())
        try:
            said = [insights(symbol, "1d", now=datetime(2019, 1, 2, tzinfo=UTC)).model_dump() for _ in range(2)]
            heavy = {"torch", "xgboost", "lightgbm", "sklearn", "arch", "fastapi", "matplotlib"}
            imported = sorted(heavy & set(sys.modules))
            result = {"insight": said[0], "same": said[0] == said[1], "imported": imported}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(writer, "w") as pipe:
            json.dump(result | {"warnings": warnings}, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        print(json.dumps([name, json.loads(pipe.read() or "{}")]), flush=True)
    os.wait()
"""


@pytest.fixture(scope="module")
def matrix(
    sp500: pd.DataFrame, small_bundle: Callable[..., ModelBundle], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    home = tmp_path_factory.mktemp("degraded")
    settings = Settings(model_storage_path=home / "data/models", training_data_path=home / "data/bars")
    bars = sp500.iloc[-2300:].copy()
    for symbol in ("TEST", "BARE"):
        bars.attrs.update(symbol=symbol, timeframe="1d")
        mlkit.save_bars(bars, settings)
    bars.attrs.update(symbol="TEST")
    publish(small_bundle(bars.iloc[:2200], root=home / "data/models/TEST-1d"))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(CASES)],
        env={**os.environ, "MLKIT_HOME": str(home), "PYTHONPATH": str(Path(mlkit.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    print(f"\n{'missing':<20} {'patterns':<9} {'prices':<7} {'signal':<7} {'message':<24} why")
    for name, case in found.items():
        print(f"{name:<20} {_row(case)}")
    return found


def _row(case: dict[str, Any]) -> str:
    if "error" in case:
        return case["error"]
    said = case["insight"]
    status = said["model_status"]
    marks = ["yes" if status[key] else "no" for key in ("pattern_cnn_loaded", "price_predictor_loaded")]
    why = "; ".join(f"{key}: {reason}" for key, reason in status["reasons"].items())
    return f"{marks[0]:<9} {marks[1]:<7} {said['signals'][0]['type']:<7} {said['message'] or '-':<24} {why or '-'}"


def test_every_case_has_the_one_schema(matrix: dict[str, dict[str, Any]]) -> None:
    assert matrix.keys() == CASES.keys()
    for name, case in matrix.items():
        if name == "arch, built-in bars":
            continue
        assert case["same"], name
        insight = Insight.model_validate(case["insight"])
        status = insight.model_status
        assert bool(insight.patterns.probabilities) is status.pattern_cnn_loaded, name
        assert bool(insight.price_predictions) is status.price_predictor_loaded, name
        missing = {"pattern_cnn": not status.pattern_cnn_loaded, "price_predictor": not status.price_predictor_loaded}
        assert {key for key, gone in missing.items() if gone} == set(status.reasons), name
        assert insight.message == (None if status.models_loaded else NOT_TRAINED), name
        assert len(case["warnings"]) == len(status.reasons), name  # each reason once, though two predictors met it
        assert insight.signals and insight.current_price == matrix["nothing"]["insight"]["current_price"]


def test_an_answer_imports_no_library_that_trains(matrix: dict[str, dict[str, Any]]) -> None:
    """Each of them would be a second of every cold start."""
    assert matrix["nothing"]["imported"] == []


@pytest.mark.parametrize("name", [*TRAINERS, "all that train"])
def test_a_bundle_answers_without_the_libraries_that_trained_it(name: str, matrix: dict[str, dict[str, Any]]) -> None:
    assert matrix[name]["insight"] == matrix["nothing"]["insight"]


@pytest.mark.parametrize(
    ("name", "patterns", "prices", "words"),
    [
        ("nothing", True, True, ""),
        ("safetensors", False, True, "needs safetensors; pip install"),
        ("all of them", False, True, "needs safetensors; pip install"),
        ("the bundle", True, False, "run mlkit train --symbol BARE --timeframe 1d"),
        ("bundle and trainers", True, False, "run mlkit train --symbol BARE --timeframe 1d"),
        ("bundle and all", False, False, "run mlkit train --symbol BARE --timeframe 1d"),
    ],
)
def test_what_is_left(name: str, patterns: bool, prices: bool, words: str, matrix: dict[str, dict[str, Any]]) -> None:
    status = matrix[name]["insight"]["model_status"]
    assert (status["pattern_cnn_loaded"], status["price_predictor_loaded"]) == (patterns, prices)
    assert words in " ".join(status["reasons"].values())


def test_built_in_bars_need_arch(matrix: dict[str, dict[str, Any]]) -> None:
    """Without it there is no bar to speak of: an error that says so, not an empty insight."""
    assert matrix["arch, built-in bars"]["error"].startswith("DependencyError: SP500 comes with the package arch")
