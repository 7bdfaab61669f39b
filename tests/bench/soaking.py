"""Runs of a script that kills, one after the other, and what each of them counted."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def soak(script: Path, runs: Sequence[tuple[str, ...]]) -> int:
    """Run the script with the arguments of every run and print its counts; 1 where a promise was broken."""
    broken = 0
    for run in runs:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, str(script), *run], capture_output=True, text=True)
        broken += done.returncode != 0
        counts = json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1:]
        print(f"{' '.join(run)} ({time.perf_counter() - start:.0f} s): {counts}", flush=True)
    return broken > 0
