"""A retraining under SIGKILL, at every call that changes the disk and at random moments; prints what was survived.

    .venv/bin/python tests/bench/soak_retrain.py

Each line counts kills after which the champion was a whole one, old or new, the lock was free, and the next round ended
what was begun.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "operations" / "retrain_kills.py"
RUNS = (("calls", "1"), ("moments", "100"))


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
