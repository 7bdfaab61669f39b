"""Every feature column beside its oracle: the worst relative error on the built-in bars and on real files.

The error is relative to the larger of the value and the column's standard deviation; rounding to float32 is 6e-8.
"""

import runpy
from pathlib import Path

import pandas as pd

import mlkit

ROOT = Path(__file__).parents[2]
ORACLES = runpy.run_path(str(ROOT / "tests/features/oracles.py"))


def markets() -> dict[str, pd.DataFrame]:
    """The built-in daily bars, and the real files that are beside the checkout."""
    found = {"SP500-1d": mlkit.load_bars("SP500", "1d")}
    for name in ORACLES["REAL"]:
        path = ROOT / f"../shared/data/ohlcv/{name}.parquet"
        if path.is_file():
            symbol, timeframe = name.rsplit("-", 1)
            found[name] = mlkit.read_bars(path, symbol=symbol, timeframe=timeframe).iloc[-6000:]
    return found


def main() -> None:
    """Print the table and its summary."""
    tables = {name: ORACLES["compare"](bars) for name, bars in markets().items()}
    errors = pd.DataFrame({name: table["error"] for name, table in tables.items()})
    sources = tables["SP500-1d"]["source"]
    print(f"{'column':<30} {'oracle':<26} {'worst error':>11}")
    for column, error in errors.max(axis=1).items():
        print(f"{column:<30} {sources[column]:<26} {error:11.1e}")
    print(f"\n{len(sources)} columns, by oracle: {sources.str.split().str[0].value_counts().to_dict()}")
    print("worst error by market:", {name: f"{error:.1e}" for name, error in errors.max().items()})


if __name__ == "__main__":
    main()
