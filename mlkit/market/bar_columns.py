"""The columns of bars, one line each; checks, repair, resampling and the lake's files follow from this table."""

from typing import Literal, NamedTuple

_TINY = 5e-324  # the smallest float64 above 0


class BarColumn(NamedTuple):
    """One column of bars."""

    name: str
    unit: str
    resample: Literal["first", "max", "min", "last", "sum"]  # how a larger bar takes it from smaller ones
    least: float  # the smallest valid value; every value must be finite
    fault: str  # what a smaller value is
    neutral: float | None  # what repair writes for a value that is missing or invalid; None: the row is dropped


BAR_COLUMNS = (
    BarColumn("open", "price", "first", _TINY, "is not a positive price", None),
    BarColumn("high", "price", "max", _TINY, "is not a positive price", None),
    BarColumn("low", "price", "min", _TINY, "is not a positive price", None),
    BarColumn("close", "price", "last", _TINY, "is not a positive price", None),
    BarColumn("volume", "units traded", "sum", 0.0, "is negative", 0.0),
)
COLUMNS = tuple(column.name for column in BAR_COLUMNS)
