"""The lake under faults, a sample; tests/bench/soak_lake.py runs all of them and prints the counts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crashes.py")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="children are forked")
def test_no_fault_loses_a_committed_bar_or_passes_damage() -> None:
    run = subprocess.run([sys.executable, str(SCRIPT), "sample"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)
    print(counts)
    assert counts["kill"]["old"] and counts["kill"]["new"]  # the kills fell on both sides of the commit
    assert counts["refusals"]["old"] and counts["refusals"]["new"]
    assert counts["refusals"]["ENOSPC"] > 5 and counts["refusals"]["EIO"] > 5
    assert counts["flips"]["detected"] == counts["flips"]["flips"] == 300
    assert counts["crowd"]["reads"] >= 4
