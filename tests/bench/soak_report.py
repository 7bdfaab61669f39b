"""Kill a report at random moments and see that nothing half done ever looks whole (make soak).

Each round starts ``mlkit report`` on two tiny notebooks, sends SIGKILL or SIGINT after a random time, and looks: a
report folder that is there must verify, and no kernel may outlive its report. At the end one run must succeed.

    python tests/bench/soak_report.py [--rounds 50] [--seed 7]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_notebook

from mlkit.errors import ReportError
from mlkit.report import verify_report

CODE = "import os, time\nopen(os.environ['PIDS'], 'a').write(f'{os.getpid()}\\n')\ntime.sleep(0.3)\n"
CODE += "from mlkit.report import headline\nheadline('Draw', seed=seed, verdict='no edge')"


def main() -> int:
    """Run the rounds, print what was seen, return 1 on any fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        for name in ("00_first", "01_next"):
            cells = [new_code_cell("seed: int = 7", metadata={"tags": ["parameters"]}), new_code_cell(CODE)]
            (home / "notebooks").mkdir(exist_ok=True)
            nbformat.write(new_notebook(cells=cells), home / f"notebooks/{name}.ipynb")
        longest = timed(home)
        seen = Counter(one(home, rng, longest) for _ in range(options.rounds))
        whole = timed(home)
        lines = verify_report(home / "reports/SP500-1d", again=False, notebooks=home / "notebooks")
        left = sorted(path.name for path in (home / "reports").iterdir())
    print(f"{options.rounds} rounds: {dict(seen)}; then a whole run in {whole:.1f} s: {lines[0]}; left: {left}")
    return 1 if seen["torn"] or seen["orphan"] or left != [".kept", "SP500-1d"] else 0


def command(seed: int) -> list[str]:
    return [sys.executable, "-m", "mlkit", "report", "--force", "--seed", str(seed)]


def timed(home: Path) -> float:
    """Seconds of a run that nobody disturbs."""
    start = time.perf_counter()
    subprocess.run(command(7), env=environment(home), check=True, capture_output=True)
    return time.perf_counter() - start


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "MLKIT_HOME": str(home), "PIDS": str(home / "pids")}


def one(home: Path, rng: np.random.Generator, longest: float) -> str:
    """One run killed at a random moment: what was found afterwards."""
    (home / "pids").unlink(missing_ok=True)
    sign = signal.SIGKILL if rng.random() < 0.7 else signal.SIGINT
    run = subprocess.Popen(
        command(int(rng.integers(1000))), env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        run.wait(float(rng.uniform(0.3, 1.0)) * longest)
    except subprocess.TimeoutExpired:
        run.send_signal(sign)
        run.wait()
    ended = "finished" if run.returncode == 0 else "killed" if sign == signal.SIGKILL else "interrupted"
    for folder in (home / "reports").iterdir():
        if folder.name.startswith(".") or folder.name == "failed":
            continue
        try:
            verify_report(folder, again=False, notebooks=home / "notebooks")
        except ReportError as error:
            print(error, file=sys.stderr)
            return "torn"
    return ended if gone(home) else "orphan"


def gone(home: Path) -> bool:
    """Whether every kernel of the run ends within ten seconds."""
    pids = [int(line) for line in (home / "pids").read_text().split()] if (home / "pids").exists() else []
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it, and children inherit that
    sys.exit(main())
