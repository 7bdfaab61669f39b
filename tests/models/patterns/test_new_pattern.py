"""One more pattern is one function in the table of rules; models of 15 patterns go on as before."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlkit.errors import BundleError
from mlkit.features.rules import PATTERNS
from mlkit.models.patterns.cnn import load_cnn

MLKIT = Path(__file__).parents[3] / "mlkit"
TABLE = "PATTERNS: tuple[str, ...] = tuple(RULES)"

RULE = '''
@rule("colour", 1, 1)
def wide_body(b: Bars) -> bool:
    """A body of more than nine tenths of the range."""
    return body(b) > 0.9 * (high(b) - low(b))


'''

SCRIPT = """
import json
import sys
from pathlib import Path

import mlkit
from mlkit.features import PATTERNS
from mlkit.market.simulate.markets import planted_edge
from mlkit.models.patterns import pretrained, save_cnn
from mlkit.operations.patterns.cnn_training import Profile, train_patterns

settings = mlkit.Settings(n_threads=1, prediction_horizons=(1, 5), tracking=False)
bars = planted_edge(1400, seed=1, symbol="TEST", timeframe="1h")
folder = Path(sys.argv[1])
if sys.argv[2] == "train":
    bundle = mlkit.train(bars, settings)
    (folder / "bundle").write_text(str(bundle.path))
else:
    bundle = mlkit.ModelBundle.open((folder / "bundle").read_text())
    small = Profile(epochs=1, windows=512, pool=1, valid=2_000, calibration=2_000, batch=128, ema=0.9)
    save_cnn(folder / "new.safetensors", train_patterns(seed=3, profile=small)[0])
insight = mlkit.Predictor(bundle, settings).insight(bars)
seen = insight.model_dump(mode="json")
labels = mlkit.pattern_labels(bars)
body, span = (bars["close"] - bars["open"]).abs(), bars["high"] - bars["low"]
print(json.dumps({
    "table": list(PATTERNS),
    "labels": list(labels.columns),
    "features": list(mlkit.build_features(bars).columns),
    "wide": "wide_body" not in labels or bool((labels["wide_body"][1:] == (body > 0.9 * span)[1:]).all()),
    "shipped": list(pretrained().patterns),
    "probabilities": seen["patterns"]["probabilities"],
    "rules": seen["patterns"]["rules"],
    "prices": seen["price_predictions"],
}))
"""


def answers(package: Path, folder: Path, task: str) -> dict[str, Any]:
    """What a copy of the package prints."""
    environment = os.environ | {"PYTHONPATH": str(package.parent), "MLKIT_HOME": str(folder)}
    command = [sys.executable, "-c", SCRIPT, str(folder), task]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_a_pattern_is_one_function_in_the_table_of_rules(tmp_path: Path) -> None:
    before = answers(MLKIT, tmp_path, "train")
    copied = Path(shutil.copytree(MLKIT, tmp_path / "copy" / "mlkit"))
    rules = copied / "features" / "rules.py"
    text = rules.read_text()
    assert text.count(TABLE) == 1
    rules.write_text(text.replace(TABLE, RULE.lstrip("\n") + TABLE))
    sources = [str(path.relative_to(MLKIT)) for path in MLKIT.rglob("*.py*") if "__pycache__" not in path.parts]
    _, changed, _ = filecmp.cmpfiles(MLKIT, copied, sources, shallow=False)
    assert changed == ["features/rules.py"]

    after = answers(copied, tmp_path, "use")
    assert after["table"] == after["labels"] == [*PATTERNS, "wide_body"]
    assert "rule_wide_body" in after["features"] and set(before["features"]) < set(after["features"])
    assert after["wide"]
    # Weights and bundle of 15 patterns load, and their answers have the same bits.
    assert before["shipped"] == after["shipped"] == list(PATTERNS)
    assert after["probabilities"] == before["probabilities"] and len(after["probabilities"]) == 15
    assert after["prices"] == before["prices"] and after["prices"]
    assert list(after["rules"]) == after["table"]
    # A training makes a network of 16, which the package with 15 rules refuses.
    with pytest.raises(BundleError, match="holds the pattern 'wide_body', for which this mlkit has no rule") as caught:
        load_cnn(tmp_path / "new.safetensors")
    assert "\n" not in str(caught.value)
