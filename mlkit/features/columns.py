"""How a built-in feature is declared: its name, formula in words, range, warm-up and source beside its function."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlkit.features.kernel import formula
from mlkit.features.state_rows import Formula, RowNumber, at, close, inverse, new_row, total

ANY, SHARE, SIGNED, PERCENT, POSITIVE = "any", "0 to 1", "-1 to 1", "0 to 100", ">= 0"
TRUE_FALSE, THREE_WAY = "0 or 1", "-1, 0 or 1"


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One column: what it is, what it can be, and when it is known."""

    name: str
    family: str
    formula: str
    range: str
    warm_up: int  # rows that are NaN at the start
    source: str


#: Of each family its features, with the row that holds the values.
FAMILIES: dict[str, list[tuple[FeatureSpec, np.int64]]] = {}
#: Formulas of the rows.
FORMULAS: dict[np.int64, Formula] = {}


def family(name: str) -> Callable[..., Callable[[Formula], None]]:
    """The decorator of the features of a family: ``(name, formula, range, warm_up, source)``.

    What is decorated is a function of one bar, `state_rows.Bars`, that returns the value. The family's columns
    stand in the order in which they are declared.
    """
    columns = FAMILIES.setdefault(name, [])

    def column(
        name_of: str, words: str, values: str, warm_up: int, source: str = "definition"
    ) -> Callable[[Formula], None]:
        def register(function: Formula) -> None:
            row = new_row()
            FORMULAS[row] = function if hasattr(function, "py_func") else formula(function)
            columns.append((FeatureSpec(name_of, name, words, values, warm_up, source), row))

        return register

    return column


# The commonest formulas, for many rows and windows.


def value(row: RowNumber) -> Formula:
    """The row itself."""
    return lambda b: at(b, row)


def per_close(row: RowNumber) -> Formula:
    """The row over the close."""
    return lambda b: at(b, row) * inverse(close(b))


def mean_of(quantity: RowNumber, n: int) -> Formula:
    """Mean of a `quantity` over n bars."""
    return lambda b: total(b, quantity, n) * (1.0 / n)


def quotient(quantity: RowNumber, divisor: RowNumber, n: int) -> Formula:
    """Sum of a `quantity` over n bars over that of another; 0 where the other is not positive."""
    return lambda b: total(b, quantity, n) * inverse(total(b, divisor, n))
