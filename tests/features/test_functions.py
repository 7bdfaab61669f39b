"""Logarithm, exponential, hyperbolic tangent and error function beside numpy and scipy."""

from collections.abc import Callable

import numpy as np
import pytest
from numba import njit
from scipy import special

from mlkit.features import functions
from mlkit.features.lanes import fetch, store

SPREAD = np.random.default_rng(5).normal(0, 1, 80_000) * 10 ** np.random.default_rng(6).uniform(-9, 2, 80_000)


def of_each(name: str, numbers: np.ndarray) -> np.ndarray:
    """One of the functions, eight numbers at a time."""
    function = getattr(functions, name)

    @njit
    def run(x: np.ndarray, y: np.ndarray) -> None:
        for i in range(0, len(x), 8):
            store(y, i, function(fetch(x, i)))

    out = np.empty_like(numbers)
    run(numbers, out)
    return out


def test_the_logarithm_is_right_to_its_last_digit() -> None:
    numbers = np.exp(np.clip(SPREAD, -700, 700))
    right = np.log(numbers)
    assert (np.abs(of_each("logarithm", numbers) - right) <= np.spacing(np.abs(right))).all()
    assert (of_each("logarithm", np.ones(8)) == 0).all()


@pytest.mark.parametrize(
    ("name", "right", "relative", "absolute"),
    [
        ("exponential", np.exp, 1e-15, 0.0),
        ("hyperbolic_tangent", np.tanh, 1e-10, 1e-15),
        ("error_function", special.erf, 0.0, 1e-13),
    ],
)
def test_functions_agree_with_the_libraries(
    name: str, right: Callable[[np.ndarray], np.ndarray], relative: float, absolute: float
) -> None:
    numbers = np.clip(SPREAD, -700, 700)
    np.testing.assert_allclose(of_each(name, numbers), right(numbers), rtol=relative, atol=absolute)
    assert (of_each(name, np.zeros(8)) == right(np.zeros(8))).all()


def test_a_number_gives_the_same_bits_in_every_lane() -> None:
    numbers = np.abs(SPREAD[:1000]) + 1e-9
    for name in ("logarithm", "exponential", "hyperbolic_tangent", "error_function"):
        each = of_each(name, np.repeat(numbers, 8)).reshape(-1, 8)
        assert (each == of_each(name, np.concatenate([numbers]))[:, None]).all()
