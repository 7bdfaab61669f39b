"""The cache of compiled kernels is left as soon as any source of the features changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mlkit.features import engine, kernel, rules

FOLDER = Path(kernel.__file__).parent


def test_the_stamp_is_of_every_source(tmp_path: Path) -> None:
    files = sorted(FOLDER.rglob("*.py"))
    assert {"engine.py", "state_rows.py", "rules.py", "trend.py"} < {file.name for file in files}
    assert kernel.sources_stamp(files) == kernel.STAMP
    assert kernel.sources_stamp(files[1:]) != kernel.STAMP
    changed = tmp_path / "rules.py"
    changed.write_bytes((FOLDER / "rules.py").read_bytes() + b" ")
    assert kernel.sources_stamp([*files, changed]) != kernel.sources_stamp([*files, FOLDER / "rules.py"])


def test_the_entries_close_over_the_stamp() -> None:
    for entry in (engine.steps, rules.flag_steps):
        assert [cell.cell_contents for cell in entry.py_func.__closure__] == [kernel.STAMP]


ADDED = """

@trend("close_over_open", "C / O", POSITIVE, 0)
def _(b: Bars) -> float:
    return close(b) / ago(b, OPEN, 0)


PAIR_RANGE = quantity(lambda b: max(high(b), ago(b, HIGH, 1)) - min(low(b), ago(b, LOW, 1)), 14)


@trend("pair_range_14", "mean_14 of the range of two bars / C", POSITIVE, 14)
def _(b: Bars) -> float:
    return total(b, PAIR_RANGE, 14) / 14.0 / close(b)
"""
RULE = """
@rule(1, 3, 4)
def three_lower_lows(b: Bars) -> bool:
    \"\"\"Four lows, each below the one before.\"\"\"
    return (low(b) < ago(b, LOW, 1)) & (ago(b, LOW, 1) < ago(b, LOW, 2)) & (ago(b, LOW, 2) < ago(b, LOW, 3))


PATTERNS: tuple"""
CHECK = """
import numpy as np
import mlkit
from mlkit.features import PATTERNS
from mlkit.labels import pattern_labels
bars = mlkit.load_bars("SP500", "1d").iloc[:700]
X, table, stream = mlkit.build_features(bars), mlkit.feature_catalogue(), mlkit.FeatureStream()
rows = np.vstack([stream.push(*bar) for bar in bars.to_numpy()])
assert np.array_equal(rows.view(np.uint32), X.to_numpy().view(np.uint32))
assert table.loc["pair_range_14", "warm_up"] == 14 and table.loc["close_over_open", "family"] == "trend"
assert np.array_equal(X["close_over_open"], (bars["close"] / bars["open"]).astype("float32"))
pair = bars["high"].rolling(2).max() - bars["low"].rolling(2).min()
np.testing.assert_allclose(X["pair_range_14"][14:], (pair.rolling(14).mean() / bars["close"])[14:], rtol=1e-6)
low = bars["low"]
found = (low < low.shift()) & (low.shift() < low.shift(2)) & (low.shift(2) < low.shift(3))
assert len(PATTERNS) == 16 and found.any()
assert np.array_equal(pattern_labels(bars)["three_lower_lows"], found)
assert np.array_equal(X["rule_three_lower_lows"][3:] == 1, found[3:])
print("added")
"""


def test_a_feature_is_one_entry_and_a_pattern_is_one_entry(tmp_path: Path) -> None:
    """In a copy of the package whose kernels are compiled already: one edit adds a feature, one a pattern."""
    shutil.copytree(FOLDER.parent, tmp_path / "mlkit")
    trend, table = (tmp_path / "mlkit/features" / name for name in ("families/trend.py", "rules.py"))
    text = trend.read_text() + "\nfrom mlkit.features.state_rows import OPEN\n"
    trend.write_text(text + ADDED)
    assert table.read_text().count("\nPATTERNS: tuple") == 1
    table.write_text(table.read_text().replace("\nPATTERNS: tuple", RULE))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "added\n", done.stderr
