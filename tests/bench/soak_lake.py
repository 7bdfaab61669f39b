"""The lake under every fault: kills, refusals, a full disk, flipped bits, crowds; prints what was survived.

    .venv/bin/python tests/bench/soak_lake.py

Each line is a count of faults after which every committed bar was there, whole, and nothing else was.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "market" / "crashes.py"
RUNS = (("kill",), ("moments", "200"), ("refusals",), ("full",), ("flips", "1000"), ("crowd", "25"))


def main() -> int:
    """Every run, one after the other; 1 where a promise was broken."""
    broken = 0
    for run in RUNS:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, str(SCRIPT), *run], capture_output=True, text=True)
        broken += done.returncode != 0
        counts = json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1:]
        print(f"{' '.join(run)} ({time.perf_counter() - start:.0f} s): {counts}", flush=True)
    return broken > 0


if __name__ == "__main__":
    sys.exit(main())
