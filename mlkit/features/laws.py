"""Laws that a feature must obey before a model may see it.

- **prefix**: with fewer bars after it, a value stays what it was. 200 consecutive cut points and 12 spread
  over the second half of the history, the whole prefix compared.
- **scramble**: with any other future after it, a value stays what it was.
- **restart**: once its warm-up is over, where the history starts does not matter beyond a tolerance.
- **purity**: the same bars give the same values, and the function leaves the bars as they are.
- **finite**: once its warm-up is over, a value is a finite number; models leave out every other row.

The first two find look-ahead; restart finds cumulative columns and warm-ups declared too short, which make
a model see other numbers live than in training. After freqtrade's lookahead and recursive analyses, with
every row compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlkit.errors import BarsError, ConfigError, MlkitError
from mlkit.market import memory_ages, validate_bars

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]
FeatureFunction = Callable[["pd.DataFrame"], "pd.Series[float] | pd.DataFrame"]

N_CUTS = 200  # consecutive cut points of the prefix law, at the end of the history
N_SPREAD = 12  # further cut points over the second half: a slow leak shows in few places
N_FUTURES = 6  # scrambled futures, by turns far above and far below the real one
N_RESTARTS = 8
#: Of the restart law. An average that is warm when its first value weighs 0.3 % (see the catalogue) is still
#: off by up to 0.05 standard deviations where prices ran far just before the start, measured on 8 markets.
TOLERANCE = 0.05

MENDS = {
    "prefix": "a feature may only use bars up to its own",
    "scramble": "a feature may only use bars up to its own",
    "restart": "declare a longer lookback, or put a window in place of what counts from the first bar",
    "purity": "compute a new column from a copy of the bars, with nothing random and nothing remembered",
    "finite": "give such bars a number in the function, or declare a longer lookback",
}


class LawError(MlkitError):
    """A feature that breaks a law; the message names the law, the column and the bar that changed."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken law: which column, which bar, what it was and what it became."""

    law: str
    column: str
    bar: str  # timestamp of the first value that changed
    before: float
    after: float
    cause: str  # what was done to the bars

    def __str__(self) -> str:
        became = "" if self.law == "finite" else f" and became {self.after:.6g}"
        return f"{self.law} law: {self.column} at {self.bar} was {self.before:.6g}{became} {self.cause}"


@dataclass(frozen=True, slots=True)
class LawReport:
    """What `check_feature` found; empty breaches mean that every column passed."""

    columns: tuple[str, ...]
    breaches: tuple[Breach, ...]

    @property
    def passed(self) -> bool:
        """Whether no law was broken."""
        return not self.breaches

    def require(self) -> None:
        """Raise `LawError` with the first breach, if any."""
        if self.breaches:
            raise LawError(f"{self.breaches[0]}; {MENDS[self.breaches[0].law]}")

    def _repr_html_(self) -> str:
        if self.passed:
            return f"<p>{len(self.columns)} columns: {', '.join(MENDS)} laws hold.</p>"
        rows = "".join(f"<tr><td>{escape(str(b))}</td></tr>" for b in self.breaches[:20])
        return f"<table><tr><th>{len(self.breaches)} breaches</th></tr>{rows}</table>"


def bars_needed(warm_up: int) -> int:
    """Bars that `check_feature` needs for a warm-up."""
    return 2 * warm_up + N_CUTS + 100


def check_feature(
    function: FeatureFunction,
    bars: "pd.DataFrame",
    *,
    warm_up: "int | dict[str, int]",
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> LawReport:
    """Put a feature function through the laws.

    Parameters
    ----------
    function : callable
        Bars to a Series (n_bars,) or DataFrame (n_bars, n_columns) with the index of the bars. Called some
        230 times.
    bars : DataFrame (n_bars, 5)
        Real bars; at least `bars_needed`, 2 x the warm-up + 300.
    warm_up : int or {column: int}
        Rows at the start that need not be settled yet; after an outage beyond `mlkit.market.outages.memory_gap`
        they need not be finite either.
    tolerance : float
        Largest difference the restart law allows, in standard deviations of the column clipped at its 1 % and
        99 % quantiles, so that a few wild bars do not hide the rest.
    seed : int
        Of the scrambled futures.

    Returns
    -------
    LawReport with at most one breach a law and column.

    Raises
    ------
    BarsError when there are too few bars; ConfigError when the function does not return one number a bar.
    """
    bars = validate_bars(bars)
    given = bars.copy()
    whole = as_table(function, given)
    warm = {name: warm_up if isinstance(warm_up, int) else warm_up[name] for name in whole.columns}
    longest = max(warm.values())
    if len(bars) < bars_needed(longest):
        raise BarsError(f"check_feature: need {bars_needed(longest)} bars for a warm-up of {longest}, have {len(bars)}")
    breaches = _purity(function, bars, whole, given)
    breaches += _prefix(function, bars, whole)
    breaches += _scramble(function, bars, whole, np.random.default_rng(seed))
    breaches += _restart(function, bars, whole, warm, tolerance)
    breaches += _finite(whole, warm, memory_ages(bars))
    first: dict[tuple[str, str], Breach] = {}
    for breach in breaches:
        first.setdefault((breach.law, breach.column), breach)
    return LawReport(tuple(whole.columns), tuple(first.values()))


def as_table(function: FeatureFunction, bars: "pd.DataFrame") -> "pd.DataFrame":
    """What a feature function gives for bars, float64 (n_bars, n_columns) with text as column names.

    Raises ConfigError when that is not one row a bar on the index of the bars, or not numbers.
    """
    import pandas as pd

    name = getattr(function, "__name__", "feature")
    result: object = function(bars)
    if isinstance(result, pd.Series):
        result = result.to_frame(name if result.name is None else result.name)
    if not isinstance(result, pd.DataFrame):
        raise ConfigError(f"{name}: the feature gave {type(result).__name__}; want a pandas Series or DataFrame")
    if len(result) != len(bars) or not result.index.equals(bars.index):
        raise ConfigError(
            f"{name}: the feature gave {len(result)} rows for {len(bars)} bars; "
            "want one a bar, on the index of the bars"
        )
    frame = result.set_axis(result.columns.astype(str), axis=1)
    if frame.columns.empty or not frame.columns.is_unique:
        raise ConfigError(f"{name}: the feature gave the columns {list(frame.columns)}; want names, each once")
    try:
        return frame.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: the feature gave values that are no numbers ({error})") from error


def _differ(a: Values, b: Values, slack: Values) -> npt.NDArray[np.bool_]:
    """Where two columns differ by more than ``slack``, or only one is NaN."""
    with np.errstate(invalid="ignore"):
        changed: npt.NDArray[np.bool_] = ~(np.abs(a - b) <= slack)
    t, j = np.nonzero(changed)  # few, so that what NaN and inf need is done on these alone
    x, y = a[t, j], b[t, j]
    changed[t, j] = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    return changed


def _compare(
    law: str,
    before: "pd.DataFrame",
    after: "pd.DataFrame",
    slack: Values,
    cause: str,
    warm: dict[str, int] | None = None,
) -> list[Breach]:
    if list(before.columns) != list(after.columns):
        raise ConfigError(
            f"the feature gave the columns {list(before.columns)}, but {list(after.columns)} {cause}; want the same"
        )
    old, new = before.to_numpy(), after.to_numpy()
    changed = _differ(old, new, slack)
    if warm is not None:
        for j, name in enumerate(before.columns):
            changed[: warm[name], j] = False
    found = []
    for j in np.flatnonzero(changed.any(axis=0)).tolist():
        t = int(np.argmax(changed[:, j]))
        found.append(Breach(law, before.columns[j], str(before.index[t]), float(old[t, j]), float(new[t, j]), cause))
    return found


def _spread(whole: "pd.DataFrame", share: float = 0.0) -> Values:
    """Standard deviation of each column clipped at its ``share`` and ``1 - share`` quantiles, 0 if empty."""
    spread = np.zeros(whole.shape[1])
    for j, column in enumerate(whole.to_numpy().T):
        finite = column[np.isfinite(column)]
        if finite.size:
            spread[j] = np.clip(finite, *np.quantile(finite, [share, 1.0 - share])).std() or finite.std()
    return spread


def _rounding(whole: "pd.DataFrame") -> Values:
    """Slack of the exact laws: 1e-9 of each column's spread, for sums done in another order."""
    return 1e-9 * _spread(whole)


def _purity(
    function: FeatureFunction, bars: "pd.DataFrame", whole: "pd.DataFrame", given: "pd.DataFrame"
) -> list[Breach]:
    """``given`` are the bars that ``whole`` was computed from: they must still be ``bars``."""
    again = as_table(function, bars.copy())
    found = _compare("purity", whole, again, _rounding(whole), "when computed again from the same bars")
    if not given.equals(bars):
        names = list(dict.fromkeys([*bars.columns, *given.columns]))
        left = given.set_axis(bars.index) if len(given) == len(bars) else given.iloc[:0].reindex(bars.index)
        cause = "because the function wrote into the bars"
        found += _compare(
            "purity", bars.reindex(columns=names), left.reindex(columns=names), np.zeros(len(names)), cause
        )
    return found


def _prefix(function: FeatureFunction, bars: "pd.DataFrame", whole: "pd.DataFrame") -> list[Breach]:
    slack, found, n = _rounding(whole), list[Breach](), len(bars)
    spread = np.linspace(n // 2, n - N_CUTS, N_SPREAD, endpoint=False).astype(int)
    for cut in (*range(n - N_CUTS, n), *spread):
        part = as_table(function, bars.iloc[:cut].copy())
        cause = f"when the bars after {bars.index[cut - 1]} arrived"
        found += _compare("prefix", part, whole.iloc[:cut], slack, cause)
        if len({breach.column for breach in found}) == whole.shape[1]:
            break
    return found


def _scramble(
    function: FeatureFunction, bars: "pd.DataFrame", whole: "pd.DataFrame", rng: np.random.Generator
) -> list[Breach]:
    slack, found = _rounding(whole), list[Breach]()
    for k, cut in enumerate(np.linspace(len(bars) // 2, len(bars) - 20, N_FUTURES).astype(int)):
        other = bars.copy()
        order = rng.permutation(np.arange(cut, len(bars)))
        future = bars.iloc[order].to_numpy(copy=True)
        future[:, :4] *= (3.0, 0.5)[k % 2]
        future[:, 4] *= (20.0, 0.1)[k % 2]
        other.iloc[cut:] = future
        changed = as_table(function, other)
        cause = f"under another future after {bars.index[cut - 1]}"
        found += _compare("scramble", whole.iloc[:cut], changed.iloc[:cut], slack, cause)
    return found


def _restart(
    function: FeatureFunction,
    bars: "pd.DataFrame",
    whole: "pd.DataFrame",
    warm: dict[str, int],
    tolerance: float,
) -> list[Breach]:
    slack, found = tolerance * _spread(whole, 0.01) + 1e-12, list[Breach]()
    room = len(bars) - max(warm.values()) - 50
    for start in np.linspace(1, room, N_RESTARTS + 1).astype(int)[:-1] + np.arange(N_RESTARTS):
        later = as_table(function, bars.iloc[start:].copy())
        cause = f"when the history started at {bars.index[start]}"
        found += _compare("restart", whole.iloc[start:], later, slack, cause, warm)
    return found


def _finite(whole: "pd.DataFrame", warm: dict[str, int], ages: npt.NDArray[np.int64]) -> list[Breach]:
    values, found = whole.to_numpy(), list[Breach]()
    for j, name in enumerate(whole.columns):
        odd = ~np.isfinite(values[:, j]) & (ages >= warm[name])
        if odd.any():
            t = int(np.argmax(odd))
            value, cause = float(values[t, j]), f"after its warm-up of {warm[name]} bars"
            found.append(Breach("finite", name, str(whole.index[t]), value, value, cause))
    return found
