"""Times and values of one bar, as a stream and a live predictor take them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError
from mlkit.market.bars import bar_values
from mlkit.market.times import bar_time

NS = 1_704_067_200_000_000_000  # 2024-01-01T00:00Z
TIMES: list[Any] = [
    *(NS // unit for unit in (1, 10**3, 10**6, 10**9)),
    *(np.int64(NS // unit) for unit in (1, 10**3, 10**6, 10**9)),
    1_704_067_200.0,
    "1704067200000",
    "2024-01-01T00:00Z",
    "2024-01-01T01:00:00+01:00",
    datetime(2024, 1, 1, tzinfo=UTC),
    pd.Timestamp("2023-12-31 19:00", tz="America/New_York"),
    pd.Timestamp("2024-01-01", tz="UTC").as_unit("s"),
]


@pytest.mark.parametrize("time", TIMES, ids=repr)
def test_every_unit_and_type_is_the_same_time(time: Any) -> None:
    assert bar_time(time, "bar 0") == NS


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (1_704_067, "no whole epoch number"),
        (0, "no whole epoch number"),
        (1_704_067_200.5, "no whole epoch number"),
        (float("nan"), "is no time"),
        (True, "neither"),
        (2**70, "bar 3: "),
        ("2024-01-01", "has no time zone"),
        (datetime(2024, 1, 1), "has no time zone"),
        (np.datetime64("2024-01-01"), "has no time zone"),
        ("next week", "is not an ISO 8601 time"),
        ("", "is not an ISO 8601 time"),
        (pd.NaT, "is no time"),
        (None, "is no time"),
        ([1, 2], "bar 3: "),
        (datetime(9999, 1, 1, tzinfo=UTC), "bar 3: .*2262"),
    ],
)
def test_what_is_no_time_is_refused_in_one_line(time: Any, words: str) -> None:
    with pytest.raises(BarsError, match=words) as caught:
        bar_time(time, "bar 3")
    assert str(caught.value).startswith("bar 3: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [float, str, Decimal, np.float32, lambda x: f" {x} "])
def test_numbers_of_any_type_are_the_same_bar(kind: Any) -> None:
    values = (1.5, 2.0, 1.0, 1.25, 10.0)
    assert bar_values([kind(x) for x in values], "bar 0") == values
    a, b = mlkit.FeatureStream(), mlkit.FeatureStream()
    assert a.push(*map(kind, values)).tobytes() == b.push(*values).tobytes()
    assert np.array_equal(a.state, b.state, equal_nan=True)


@pytest.mark.parametrize("odd", ["1,5", "ten", None, pd.NA, 1j, [1.0], Decimal("sNaN"), 10**400], ids=repr)
def test_what_is_no_number_is_refused_in_one_line(odd: Any) -> None:
    stream = mlkit.FeatureStream()
    with pytest.raises(BarsError, match=r"bar 0: .*five numbers"):
        stream.push(odd, 2.0, 1.0, 1.25, 10.0)
    assert stream.bars_seen == 0


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_a_stream_sees_an_outage_in_every_unit(unit: int) -> None:
    rows = mlkit.load_bars("SP500", "1d").iloc[:700]
    late = rows.index + np.where(np.arange(700) < 650, 0, 650 * 24) * pd.Timedelta(hours=1)
    bars = rows.set_axis(late.rename("timestamp"))
    bars.attrs = rows.attrs
    stream = mlkit.FeatureStream(timeframe="1d")
    got = [
        stream.push(*values, timestamp=time // unit)
        for time, values in zip(bars.index.as_unit("ns").asi8.tolist(), bars.to_numpy().tolist(), strict=True)
    ]
    assert np.array_equal(np.stack(got), mlkit.build_features(bars).to_numpy(), equal_nan=True)


@pytest.mark.parametrize(
    ("timeframe", "time"), [("1m", "2024-01-01T00:00:30Z"), ("1h", "2024-01-01T00:01Z"), ("1d", "2024-01-01T01:00Z")]
)
def test_a_stream_refuses_times_off_the_grid(timeframe: str, time: str) -> None:
    stream = mlkit.FeatureStream(timeframe=timeframe)
    with pytest.raises(BarsError, match=r"bar 0: .* is off the grid of bars of"):
        stream.push(1.0, 2.0, 0.5, 1.5, 10.0, time)
    assert stream.bars_seen == 0
