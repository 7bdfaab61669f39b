"""The study over every file of ../shared/data/ohlcv: `make study`. Writes notebooks/study.csv after each file.

python tests/bench/study.py [--workers 2] [--cap 40000] [--files PATTERN] [--out notebooks/study.csv]
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def cells(path: Path, cap: int) -> tuple[str, float, object]:
    """One file's rows, and the seconds they took."""
    import mlkit
    from mlkit.operations.study import study_file

    start = time.perf_counter()
    table = study_file(path, mlkit.Settings(n_threads=1), cap=cap)
    return path.stem, time.perf_counter() - start, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cap", type=int, default=None, help="newest bars of a file")
    parser.add_argument("--files", default="*", help="pattern of file names")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks" / "study.csv")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ohlcv")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import pandas as pd

    from mlkit.operations.study import CAP, study_summary

    cap = options.cap or CAP
    paths = sorted(options.data.glob(f"{options.files}.parquet"), key=lambda path: -path.stat().st_size)
    start, tables, found = time.perf_counter(), [], pd.DataFrame()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(cells, path, cap): path.stem for path in paths}
        for job in as_completed(jobs):
            if error := job.exception():
                print(f"{jobs[job]}: {error}", flush=True)
                continue
            name, seconds, table = job.result()
            tables.append(table)
            found = pd.concat(tables).sort_values(["file", "horizon"])
            found.to_csv(options.out, index=False, float_format="%.5g")
            print(f"{name}: {seconds:.0f} s", flush=True)
    print(f"{len(paths)} files, {len(found)} cells, {(time.perf_counter() - start) / 60:.1f} minutes, {options.out}")
    with pd.option_context("display.width", 160, "display.max_colwidth", 60):
        print(study_summary(found).to_string())


if __name__ == "__main__":
    main()
