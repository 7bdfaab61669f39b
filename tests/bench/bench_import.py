"""What ``import mlkit`` costs beside ``import pandas``: fresh interpreters, taken in turn, best of several.

The promise of the design: at most 0.1 s more than pandas.
"""

import resource
import subprocess
import sys

ROUNDS = 9
STATEMENTS = {
    "nothing": "pass",
    "pandas": "import pandas",
    "mlkit": "import mlkit",
    "pandas, mlkit": "import pandas, mlkit",
    "mlkit.Settings": "import mlkit; mlkit.Settings",
    "mlkit.validate_bars": "import mlkit; mlkit.validate_bars",
}


def seconds(statement: str) -> float:
    """Processor time of one interpreter that runs ``statement``: other work on the machine leaves it alone."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the best time of each statement, and its difference and ratio to pandas."""
    best = dict.fromkeys(STATEMENTS, float("inf"))
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            best[name] = min(best[name], seconds(statement))
    print(f"{'import':<20} {'best s':>8} {'- pandas':>9} {'/ pandas':>9}")
    for name, value in best.items():
        print(f"{name:<20} {value:8.3f} {value - best['pandas']:+9.3f} {value / best['pandas']:9.2f}")


if __name__ == "__main__":
    main()
