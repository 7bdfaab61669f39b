"""The study over every file of ../shared/data/ohlcv: `make study`. Writes notebooks/study.csv after each file.

python tests/bench/study.py [--workers 2] [--cap 40000] [--skip 0] [--files PATTERN] [--out notebooks/study.csv]
    [--resume] [--tables]

``--resume`` keeps the files that the table holds already; ``--tables`` prints a finished table as STUDY.md shows it.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[2]


def cells(path: Path, cap: int, skip: int) -> tuple[str, float, object]:
    """One file's rows, and the seconds they took."""
    import mlkit
    from mlkit.operations.study import study_file

    start = time.perf_counter()
    table = study_file(path, mlkit.Settings(n_threads=1), cap=cap, skip=skip)
    return path.stem, time.perf_counter() - start, table


def tables(found: "pd.DataFrame") -> str:
    """The two tables of STUDY.md."""
    from mlkit.operations.study import WORSE, study_summary

    lines = ["| promise | kept | an oracle | beyond noise | furthest from it |", "| --- | --- | --- | --- | --- |"]
    for promise, row in study_summary(found).iterrows():
        beyond = "" if row["beyond_noise"] != row["beyond_noise"] else f"{row['beyond_noise']:.0f}"
        oracle = "" if row["oracle"] != row["oracle"] else f"{row['oracle']:.0f}"
        lines.append(f"| {promise} | {row['kept']} of {row['cells']} | {oracle} | {beyond} | {row['worst']} |")
    lines += [
        "",
        "| bars ahead | cells | 80 %: ratio, mean | at most 1 | over 1.02 | 90 %: ratio, mean | at most 1 | over 1.02 "
        "| 80 % within 1.5 points | 90 % within 1.5 points |",
        "| --- " * 10 + "|",
    ]
    for horizon, cell in found.groupby("horizon"):
        parts = [f"| {horizon} | {len(cell)}"]
        for level in (80, 90):
            ratio = cell[f"ratio_{level}"]
            parts.append(f"{ratio.mean():.3f} | {(ratio <= 1).sum()} | {(ratio > WORSE).sum()}")
        parts += [f"{((cell[f'coverage_{level}'] - level / 100).abs() <= 0.015).sum()}" for level in (80, 90)]
        lines.append(" | ".join(parts) + " |")
    alone = {rival: (found[f"ratio_90_{rival}"] < 1).mean() for rival in ("unconditional", "ewma", "garch")}
    large = found[found["rows"] > 10_000]
    lines += [
        "",
        "each rival alone loses at 90 % in " + ", ".join(f"{share:.0%} ({name})" for name, share in alone.items()),
        f"more than 10,000 rows: {len(large)} cells, within 1.5 points "
        + ", ".join(f"{((large[f'coverage_{k}'] - k / 100).abs() <= 0.015).sum()} at {k} %" for k in (80, 90)),
        "verdicts: " + ", ".join(f"{name} {count}" for name, count in found["verdict"].value_counts().items()),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cap", type=int, default=None, help="newest bars of a file")
    parser.add_argument("--skip", type=int, default=0, help="newest bars left out: a study of the bars before")
    parser.add_argument("--files", default="*", help="pattern of file names")
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks" / "study.csv")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "ohlcv")
    parser.add_argument("--resume", action="store_true", help="files that are in the table are not run again")
    parser.add_argument("--tables", action="store_true", help="print the finished table, run nothing")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import pandas as pd

    from mlkit.operations.study import CAP, study_summary

    if options.tables:
        print(tables(pd.read_csv(options.out)))
        return
    cap = options.cap or CAP
    paths = sorted(options.data.glob(f"{options.files}.parquet"), key=lambda path: -path.stat().st_size)
    found = pd.read_csv(options.out) if options.resume and options.out.exists() else pd.DataFrame(columns=["file"])
    parts, start = [found] if len(found) else [], time.perf_counter()
    paths = [path for path in paths if path.stem not in set(found["file"])]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(cells, path, cap, options.skip): path.stem for path in paths}
        for job in as_completed(jobs):
            if error := job.exception():
                print(f"{jobs[job]}: {error}", flush=True)
                continue
            name, seconds, table = job.result()
            parts.append(table)
            found = pd.concat(parts).sort_values(["file", "horizon"])
            found.to_csv(options.out, index=False, float_format="%.7g")
            print(f"{name}: {seconds:.0f} s", flush=True)
    print(f"{len(paths)} files, {len(found)} cells, {(time.perf_counter() - start) / 60:.1f} minutes, {options.out}")
    with pd.option_context("display.width", 160, "display.max_colwidth", 60):
        print(study_summary(found).to_string())


if __name__ == "__main__":
    main()
