"""Every technical column against TA-Lib, pandas-ta-classic, scipy, pandas or numpy, on six real markets.

`python tests/bench/bench_oracles.py` prints the table of columns, oracles and errors.
"""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mlkit

ORACLES = runpy.run_path(str(Path(__file__).with_name("oracles.py")))
CATALOGUE = mlkit.feature_catalogue()


def test_built_in_bars(sp500: pd.DataFrame) -> None:
    assert ORACLES["wrong"](sp500, "technical").empty


@pytest.mark.parametrize("name", ORACLES["REAL"])
def test_real_bars(name: str, real_bars: Callable[[str], pd.DataFrame]) -> None:
    assert ORACLES["wrong"](real_bars(name).iloc[-6000:], "technical").empty


def test_the_comparison_sees_a_hundred_thousandth(sp500: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    right = mlkit.build_features(sp500)
    monkeypatch.setattr(mlkit, "build_features", lambda _: right * np.float32(1.00001), raising=False)
    table = ORACLES["compare"](sp500)
    unseen = table.index[table["error"] < 5e-6]
    assert set(unseen) <= set(CATALOGUE.index[CATALOGUE["family"] == "rule"]), unseen
