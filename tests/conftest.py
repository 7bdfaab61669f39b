"""Bars for every test: the built-in real ones, and files beside the checkout when they are there."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

SHARED = Path(__file__).parents[1] / "../shared/data/ohlcv"


@pytest.fixture(scope="session")
def sp500() -> pd.DataFrame:
    """5,031 real daily bars of the S&P 500, 1999 to 2018."""
    import mlkit

    return mlkit.load_bars("SP500", "1d")


@pytest.fixture(scope="session")
def nasdaq() -> pd.DataFrame:
    """5,031 real daily bars of the NASDAQ composite, 1999 to 2018."""
    import mlkit

    return mlkit.load_bars("NASDAQ", "1d")


@pytest.fixture(scope="session")
def real_bars() -> Callable[[str], pd.DataFrame]:
    """Loader of ``SYMBOL-TIMEFRAME`` files; skips the test where the folder is absent."""
    import mlkit

    cache: dict[str, pd.DataFrame] = {}

    def load(name: str) -> pd.DataFrame:
        path = SHARED / f"{name}.parquet"
        if not path.is_file():
            pytest.skip(f"real bars {name} are not beside the checkout")
        if name not in cache:
            symbol, timeframe = name.rsplit("-", 1)
            cache[name] = mlkit.read_bars(path, symbol=symbol, timeframe=timeframe)
        return cache[name]

    return load
