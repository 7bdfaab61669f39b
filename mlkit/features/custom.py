"""A researcher's own feature: a plain pandas function with a name and a lookback, held to the same laws."""

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

from mlkit.errors import ConfigError
from mlkit.features.laws import TOLERANCE, FeatureFunction, LawReport, as_table, bars_needed, check_feature
from mlkit.market import validate_bars
from mlkit.market.simulate import null_market

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)  # what the tree libraries accept in a feature name
LAW_BARS = 300  # newest bars that registration checks, beyond those the laws need


@dataclass(frozen=True, eq=False, repr=False)
class Feature:
    """A feature of one or several columns; made by `feature` or `pandas_ta`, called as the function it wraps.

    Parameters
    ----------
    function : callable
        Bars to a Series (n_bars,) or DataFrame (n_bars, n_columns), index of the bars; row t is known at the
        close of bar t.
    name : str
        Of the column; with a DataFrame each column is called ``name_column``.
    lookback : int
        Bars before bar t that its value depends on, and so the rows at the start that are NaN.
    tolerance : float
        How far a value may depend on bars before the lookback, in standard deviations of its column; above
        zero for exponential averages, whose memory fades but never ends.

    Raises
    ------
    ConfigError for a name that the models do not accept, a lookback or tolerance out of range.
    """

    function: FeatureFunction
    name: str
    lookback: int
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"feature name {self.name!r}: use letters, digits, _ and '.', the first no digit")
        if isinstance(self.lookback, bool) or not isinstance(self.lookback, int) or self.lookback < 0:
            raise ConfigError(f"feature {self.name}: lookback is {self.lookback!r}; want a number of bars, 0 or more")
        if not 0.0 <= self.tolerance < 1.0:
            raise ConfigError(f"feature {self.name}: tolerance is {self.tolerance!r}; want 0 to below 1")

    def __call__(self, bars: "pd.DataFrame") -> "pd.Series[float] | pd.DataFrame":
        """What the function gives for ``bars``, as it is."""
        return self.function(bars)

    def __repr__(self) -> str:
        return f"Feature({self.name!r}, lookback={self.lookback}, tolerance={self.tolerance})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickled by its name in its module, as a function is; ConfigError where it has none there."""
        name: str = getattr(self.function, "__qualname__", "")
        with suppress(AttributeError):
            found = attrgetter(name)(sys.modules[self.function.__module__])
            if found is self:
                return name
            if found is self.function:
                return type(self), (self.function, self.name, self.lookback, self.tolerance)
        raise ConfigError(
            f"feature {self.name}: only a feature of a module can be pickled or sent to another process; "
            "write it at the top level of a file and import it"
        )

    def __deepcopy__(self, _: object) -> Self:
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its columns, found by computing it once on a simulated market."""
        return tuple(self.table(null_market(bars_needed(self.lookback), seed=0)).columns)

    def table(self, bars: "pd.DataFrame") -> "pd.DataFrame":
        """Its columns under their final names, float64 (n_bars, n_columns), with whatever the warm-up holds.

        Raises ConfigError when the function does not give one number a bar.
        """
        import pandas as pd

        single = False

        def function(given: "pd.DataFrame") -> "pd.Series[float] | pd.DataFrame":
            nonlocal single
            result = self.function(given)
            single = isinstance(result, pd.Series)
            return result

        function.__name__ = self.name
        frame = as_table(function, bars)
        return frame.set_axis([self.name] if single else [f"{self.name}_{c}" for c in frame.columns], axis=1)

    def check(self, bars: "pd.DataFrame", *, seed: int = 0) -> LawReport:
        """Put it through the laws on the newest ``bars``, at most 2 x the lookback + 600 of them.

        Raises BarsError for fewer than 2 x the lookback + 300; see `check_feature`.
        """
        bars = validate_bars(bars).iloc[-(bars_needed(self.lookback) + LAW_BARS) :]
        return check_feature(self.table, bars, warm_up=self.lookback, tolerance=self.tolerance, seed=seed)


def feature(
    *, lookback: int, name: str | None = None, tolerance: float = TOLERANCE
) -> Callable[[FeatureFunction], Feature]:
    """Make a plain pandas function a feature.

    Parameters
    ----------
    lookback : int
        Bars before bar t that its value depends on: 19 for a mean of 20 bars, about 3 n for an exponential
        average over n and 6 n for Wilder's.
    name : str
        Of the column; the function's name by default.
    tolerance : float
        See `Feature`.

    Returns
    -------
    A decorator that gives a `Feature`. Nothing is checked yet: `Feature.check` and `FeatureSet` do.

    Examples
    --------
    >>> @mlkit.feature(lookback=20)
    ... def overnight_share(bars):
    ...     gap = np.log(bars["open"] / bars["close"].shift()).abs().rolling(20).sum()
    ...     day = np.log(bars["close"] / bars["open"]).abs().rolling(20).sum()
    ...     return gap / (gap + day)
    """

    if callable(lookback):
        raise ConfigError("feature: write @mlkit.feature(lookback=...); the lookback has to be declared")

    def register(function: FeatureFunction) -> Feature:
        own_name: str = getattr(function, "__name__", "feature")
        made = Feature(function, own_name if name is None else name, lookback, tolerance)
        object.__setattr__(made, "__doc__", function.__doc__ or Feature.__doc__)
        # Pickle finds the feature under the name of the function, in the module of the function.
        object.__setattr__(made, "__module__", function.__module__)
        return made

    return register
