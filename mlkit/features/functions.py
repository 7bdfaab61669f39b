"""Logarithm, exponential, hyperbolic tangent and error function of eight numbers at a time.

The C library's work on one number at a time and differ in the last digit between machines. These are made of
additions, multiplications and divisions alone, so every machine and every lane gets the same bits.
"""

from mlkit.features.kernel import kernel
from mlkit.features.lanes import Lanes, choose, exponent_of, fraction_of, two_to, whole

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their sum is log(2)
_PER_LN2 = 1.44269504088896338700e00
_ERF_END = 6.0  # from here on the error function is 1 to the last digit
_ERF_PITCH, _ERF_SCALE, _ERF_SHIFT = 0.35, 2.9523809523809526, -1.9523809523809526  # 6 goes to -1, 0 to 1


@kernel
def logarithm(number: Lanes) -> Lanes:
    """Natural logarithm of normal numbers above 0, to one unit in the last place (fdlibm, Sun 1993)."""
    k, f = exponent_of(number), fraction_of(number) - 1.0  # number = 2^k (1 + f), 1 + f from 0.71 to 1.41
    s, half = f / (2.0 + f), 0.5 * f * f
    z = s * s
    w = z * z
    odd = z * (6.666666666666735130e-01 + w * (2.857142874366239149e-01
          + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)))  # fmt: skip
    even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01))
    value: Lanes = k * _LN2_HIGH - ((half - (s * (half + (odd + even)) + k * _LN2_LOW)) - f)
    return value


@kernel
def exponential(number: Lanes) -> Lanes:
    """``exp`` of numbers from -700 to 700, to a few units in the last place: Taylor's series of degree 13."""
    k = whole(number * _PER_LN2)
    x = (number - k * _LN2_HIGH) - k * _LN2_LOW  # at most 0.35 from 0
    y = 1.0 / 479001600.0 + x * (1.0 / 6227020800.0)
    y = 1.0 / 3628800.0 + x * (1.0 / 39916800.0 + x * y)
    y = 1.0 / 40320.0 + x * (1.0 / 362880.0 + x * y)
    y = 1.0 / 720.0 + x * (1.0 / 5040.0 + x * y)
    y = 1.0 / 24.0 + x * (1.0 / 120.0 + x * y)
    y = 0.5 + x * (1.0 / 6.0 + x * y)
    value: Lanes = two_to(k) * (1.0 + x * (1.0 + x * y))
    return value


@kernel
def hyperbolic_tangent(number: Lanes) -> Lanes:
    """``tanh``, to 1e-15 absolutely."""
    power = exponential(2.0 * max(-20.0, min(20.0, number)))
    tangent: Lanes = (power - 1.0) / (power + 1.0)
    return tangent


@kernel
def error_function(number: Lanes) -> Lanes:
    """``erf``, to 1e-13 absolutely, and 0 at 0: ``1 - exp(-x^2) P(1 / (1 + 0.35 x))``.

    P interpolates ``exp(x^2) erfc(x)`` at the Chebyshev points of 0 to 6.
    """
    x = min(abs(number), _ERF_END)
    u = _ERF_SCALE / (1.0 + _ERF_PITCH * x) + _ERF_SHIFT
    y = 1.3607465613555785e-08 + u * -1.9277043368977805e-09
    y = -2.936988266810658e-07 + u * (1.6886072747486958e-08 + u * y)
    y = 5.577704104098302e-06 + u * (-9.256085557278008e-09 + u * y)
    y = -0.00012034604188784213 + u * (1.0279158087674507e-07 + u * y)
    y = 0.0025393817840479714 + u * (-0.00020915726926064396 + u * y)
    y = 0.0764657741880977 + u * (0.019684509336919027 + u * y)
    y = 0.37472160855676684 + u * (0.19923763834315494 + u * y)
    y = 0.3276751849955774 + u * y
    side = 1.0 - exponential(-(x * x)) * y
    value: Lanes = choose(number > 0.0, side, choose(number < 0.0, -side, 0.0))
    return value
