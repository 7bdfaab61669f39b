"""Every pattern column against TA-Lib or numpy, on six real markets; the rules have tests of their own."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

ORACLES = runpy.run_path(str(Path(__file__).with_name("oracles.py")))


def test_built_in_bars(sp500: pd.DataFrame) -> None:
    assert ORACLES["wrong"](sp500, "pattern").empty


@pytest.mark.parametrize("name", ORACLES["REAL"])
def test_real_bars(name: str, real_bars: Callable[[str], pd.DataFrame]) -> None:
    assert ORACLES["wrong"](real_bars(name).iloc[-6000:], "pattern").empty
