"""ADWIN over a live forecaster's misses: a change is seen, overlap is left out, a saved stream goes on the same."""

import json

import numpy as np
import pytest

from mlkit.errors import ConfigError
from mlkit.operations.drift.stream import MIN_KEPT, DriftStream


def alarms(stream: DriftStream, outcomes: np.ndarray) -> list[tuple[int, tuple[str, ...]]]:
    """Where a stream of 90 % intervals around 0 says that something changed."""
    said = ((at, stream.push(float(y), -1.645, 1.645)) for at, y in enumerate(outcomes))
    return [(at, names) for at, names in said if names]


def test_a_doubled_spread_is_seen_and_a_steady_one_is_not() -> None:
    y = np.random.default_rng(0).standard_normal(6000)
    assert alarms(DriftStream(), y) == []
    found = alarms(DriftStream(), np.concatenate([y[:3000], 2.0 * y[3000:]]))
    assert found and 3000 < found[0][0] < 3300
    assert {name for _, names in found for name in names} == {"coverage", "errors"}


def test_overlapping_outcomes_count_once() -> None:
    noise = np.random.default_rng(1).standard_normal(20_060)
    overlapping = np.convolve(noise, np.ones(60) / np.sqrt(60), mode="valid")
    assert alarms(DriftStream(60), overlapping) == []
    assert alarms(DriftStream(1), overlapping) != []


def test_a_restored_stream_goes_on_exactly() -> None:
    rng = np.random.default_rng(2)
    y = np.concatenate([rng.standard_normal(2 * MIN_KEPT + 500), 1.5 * rng.standard_normal(3000)])
    whole, half = DriftStream(), DriftStream()
    cut = 2 * MIN_KEPT + 100  # after the first rebuild
    alarms(half, y[:cut])
    again = DriftStream.from_dict(json.loads(json.dumps(half.to_dict())))
    expected = [(at, names) for at, names in alarms(whole, y) if at >= cut]
    assert expected and [(at + cut, names) for at, names in alarms(again, y[cut:])] == expected
    assert again.to_dict() == whole.to_dict()


def test_missing_outcomes_are_left_out() -> None:
    stream = DriftStream(2)
    assert stream.push(float("nan"), -1.0, 1.0) == ()
    assert stream.push(0.0, -1.0, 1.0) == ()  # not due: every second one is
    state = stream.to_dict()
    assert state["seen"] == 2 and state["values"] == {"coverage": [], "errors": []}
    stream.push(0.5, -1.0, 1.0)
    assert stream.to_dict()["values"] == {"coverage": [0.0], "errors": [0.125]}


def test_what_is_no_state_is_refused() -> None:
    state = DriftStream().to_dict()
    for broken in (
        {},
        {**state, "horizon": 0},
        {**state, "delta": 2.0},
        {**state, "values": {"coverage": [7.0], "errors": []}},
        {**state, "values": {"coverage": ["x"], "errors": []}},
        {**state, "values": {"coverage": [0.0] * (2 * MIN_KEPT), "errors": []}},
    ):
        with pytest.raises(ConfigError):
            DriftStream.from_dict(broken)
