"""A retraining under SIGKILL, at every call that changes the disk and at random moments; prints what was survived.

    .venv/bin/python tests/bench/soak_retrain.py

Each line counts kills after which the champion was a whole one, old or new, the lock was free, and the next round ended
what was begun.
"""

import sys
from pathlib import Path

from soaking import soak

SCRIPT = Path(__file__).parents[1] / "operations" / "retrain_kills.py"
RUNS = (("calls", "1"), ("moments", "100"))

if __name__ == "__main__":
    sys.exit(soak(SCRIPT, RUNS))
