"""The lake under every fault: kills, refusals, a full disk, flipped bits, crowds; prints what was survived.

    .venv/bin/python tests/bench/soak_lake.py

Each line is a count of faults after which every committed bar was there, whole, and nothing else was.
"""

import sys
from pathlib import Path

from soaking import soak

SCRIPT = Path(__file__).parents[1] / "market" / "lake" / "crashes.py"
RUNS = (("kill",), ("moments", "200"), ("refusals",), ("full",), ("flips", "1000"), ("crowd", "25"))

if __name__ == "__main__":
    sys.exit(soak(SCRIPT, RUNS))
