"""Segments: cut at outages only, nothing lost, nothing reordered."""

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import ConfigError
from mlkit.market.outages import forgotten, memory_ages, memory_gap, memory_starts
from mlkit.market.simulate.markets import null_market

HOURS = null_market(24 * 28, seed=1, timeframe="1h", symbol="A")


def test_an_outage_cuts_and_a_missing_bar_does_not() -> None:
    bars = HOURS.drop(index=[*HOURS.index[100:101], *HOURS.index[200:202], *HOURS.index[300:450]])
    pieces = mlkit.segments(bars)
    assert [len(piece) for piece in pieces] == [199, 98, 222]
    pd.testing.assert_frame_equal(pd.concat(pieces), bars, check_freq=False)
    assert all(piece.attrs == bars.attrs for piece in pieces)


def test_the_tolerance_can_be_given() -> None:
    bars = HOURS.drop(index=HOURS.index[200:202])
    assert len(mlkit.segments(bars, max_gap="2h")) == 1
    assert len(mlkit.segments(bars, max_gap=None)) == 1
    assert len(mlkit.segments(bars, max_gap=pd.Timedelta(0))) == 2
    with pytest.raises(ConfigError, match="max_gap"):
        mlkit.segments(bars, max_gap="long")


def test_nights_and_weekends_are_no_outages(sp500: pd.DataFrame) -> None:
    assert len(mlkit.segments(sp500)) == 1
    without_summer = pd.concat([sp500.loc[:"2005-05-31"], sp500.loc["2005-09-01":]])
    assert len(mlkit.segments(without_summer)) == 2


def test_what_every_window_would_have_forgotten() -> None:
    assert [memory_gap(name) for name in ("1m", "15m", "1h", "1d")] == [
        pd.Timedelta(days=days) for days in (14, 14, 25, 600)
    ]
    late = HOURS.copy()
    late.index = late.index + pd.to_timedelta(
        np.select([np.arange(672) < k for k in (100, 400)], [0, 24 * 25], 24 * 60), "h"
    )
    pieces = mlkit.segments(late, "memory")
    assert [len(piece) for piece in pieces] == [400, 272]  # 25 days missing are not too many, 35 are
    assert memory_starts(late).tolist() == [0, 400]
    assert memory_ages(late).tolist() == [*range(400), *range(272)]
    hour = 3_600_000_000_000
    assert not forgotten(0, (25 * 24 + 1) * hour, hour) and forgotten(0, (25 * 24 + 2) * hour, hour)
