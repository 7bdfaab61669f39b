"""When a new model is due: by the age of the current one, by new bars, or by drift.

Only the bars decide: the current time is not read, so the same bars give the same decision.
"""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mlkit.config import Settings
from mlkit.evaluation import default_block
from mlkit.market import timeframe_delta, validate_bars
from mlkit.models.bundle import ModelBundle
from mlkit.operations.drift.checks import DriftReport
from mlkit.operations.retraining.comparison import INDEPENDENT_BLOCKS, trained_until


@dataclass(frozen=True)
class Check:
    """One rule: whether it makes a new model due, and the numbers in a line."""

    rule: Literal["champion", "age", "new bars", "drift"]
    due: bool
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True)
class Decision:
    """Whether a new model is due, and why."""

    checks: tuple[Check, ...]

    @property
    def due(self) -> bool:
        """Whether any rule makes a new model due."""
        return any(check.due for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One line for each rule that makes a model due; for every rule where none does."""
        return tuple(str(check) for check in self.checks if check.due or not self.due)

    def due_by(self, rule: str) -> bool:
        """Whether this rule makes a new model due: "champion" (none is usable), "age" (it is stale), ..."""
        return any(check.due for check in self.checks if check.rule == rule)


def decide(
    bundle: ModelBundle | None,
    bars: pd.DataFrame,
    settings: Settings | None = None,
    drift: DriftReport | None = None,
    *,
    fault: str = "",
) -> Decision:
    """Whether a model is to be trained again on these bars, and why.

    ``bundle`` is the champion; None where there is no usable one, with its ``fault`` if it is damaged. ``bars`` are the
    history up to now, (n_bars, 5), ``drift`` is of `check_drift`.

    Due by **age** where the time from the end of the training to the close of the newest bar is more than
    ``retrain_age`` (a tenth) of the time trained on: the rule by which an insight calls its model stale. Due by **new
    bars** where they are ``retrain_new_bars`` (5 %) of the training bars, and twice as many as a comparison needs: half
    to train on, half to be compared on. Due by **drift** where that was found.
    """
    settings, bars = settings or Settings(), validate_bars(bars)
    if bundle is None:
        return Decision((Check("champion", True, f"it cannot be used: {fault}" if fault else "none was published"),))
    if bundle.price is None:
        return Decision((Check("champion", True, f"{bundle.id} holds no price models"),))
    member = bundle.manifest.pool.get(bars.attrs["symbol"], bundle.manifest)  # of a pool, this market's span
    span, step = member.training_span, timeframe_delta(bars.attrs["timeframe"])
    learned = pd.to_datetime(span.end, utc=True) + step - pd.to_datetime(span.start, utc=True)
    age = max(bars.index[-1] - trained_until(bundle), pd.Timedelta(0))
    limit = settings.retrain_age * learned
    new = int((bars.index > trained_until(bundle)).sum())
    needed = max(round(settings.retrain_new_bars * span.bars), 2 * least_rows(bundle.manifest.horizons, settings))
    found = "nobody looked" if drift is None else ": ".join(filter(None, (drift.verdict, "; ".join(drift.reasons[:2]))))
    return Decision(
        (
            Check("age", age > limit, f"{_days(age)} since training, due after {_days(limit)}"),
            Check("new bars", new >= needed, f"{new:,} since training, due from {needed:,}"),
            Check("drift", drift is not None and drift.verdict == "drift", found),
        )
    )


def least_rows(horizons: tuple[int, ...], settings: Settings) -> int:
    """Later bars that a comparison needs: ``retrain_rows``, or more where the shortest horizon needs more."""
    return max(settings.retrain_rows, int(min(h + INDEPENDENT_BLOCKS * default_block(h) for h in horizons)))


def _days(length: pd.Timedelta) -> str:
    days = length / pd.Timedelta(days=1)
    return f"{days:,.1f} days" if days >= 2 else f"{24 * days:,.1f} hours"
