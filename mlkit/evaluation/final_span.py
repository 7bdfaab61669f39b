"""Holds out the newest part of the history, to be read once after all choices are made, and logs every read.

Each score of a cross-validation that leads to another try fits the choice to the test blocks. Only bars that no
choice has seen give an unbiased score, and only once.
"""

import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation.ledger import Ledger, Source
from mlkit.market import validate_bars


class FinalSpan:
    """Holds out the newest bars; every read of them is written to the trial ledger.

    Parameters
    ----------
    bars : DataFrame (n_bars, 5), see ``validate_bars``.
    ledger : where reads are written and counted, such as ``Ledger.of(settings)``.
    share : part of the bars that is held out, above 0 and below 1.

    Execution timing and look-ahead
    -------------------------------
    ``development`` holds the bars before ``start``; labels and features computed from them cannot depend on a
    held-out bar, so no purge is needed. ``read`` returns the whole history: models are fitted on ``development`` or
    with ``WalkForward``, and scored on rows from ``start`` on.

    A span counts as read if any held-out span of the same market that overlaps it was read, according to the
    ledger: one more bar at the end does not make it new.

    Raises ConfigError for a share out of range, BarsError for bars that break the contract or are fewer than two.
    """

    def __init__(self, bars: pd.DataFrame, ledger: Ledger, *, share: float = 0.2) -> None:
        if not 0.0 < share < 1.0:
            raise ConfigError(f"FinalSpan: share must be above 0 and below 1, got {share!r}")
        self._bars, self._ledger = validate_bars(bars), ledger
        held = max(1, round(share * len(self._bars)))
        if held >= len(self._bars):
            raise BarsError(f"FinalSpan: {len(self._bars)} bars are too few to hold back {share:.0%}; load more")
        self._first = len(self._bars) - held
        self._source = Source.of(self._bars.iloc[self._first :])

    def __repr__(self) -> str:
        held = len(self._bars) - self._first
        return f"FinalSpan({held:,} bars from {self.start:%Y-%m-%d %H:%M}, read {len(self.reads())} times)"

    @property
    def start(self) -> pd.Timestamp:
        """Open time of the first held-out bar."""
        return pd.Timestamp(self._bars.index[self._first])

    @property
    def development(self) -> pd.DataFrame:
        """The bars before ``start``, for features, choices and tuning without limit."""
        return self._bars.iloc[: self._first].copy()

    def reads(self) -> list[dict[str, Any]]:
        """Ledger entries of the reads so far, in order: time, reason, and the number of trials before."""
        return [
            entry
            for entry in self._ledger.entries()
            if entry["event"] == "read" and self._source.overlaps(entry["sources"][0])
        ]

    def read(self, reason: str, *, again: bool = False) -> pd.DataFrame:
        """All bars, the held-out ones included; the read is logged before they are returned.

        Parameters
        ----------
        reason : what is to be decided; written to the ledger
        again : true allows another read, with a warning, since its result is no longer out of sample.
        Raises ConfigError for a second read without ``again``, or without a reason.
        """
        if not reason.strip():
            raise ConfigError("FinalSpan.read: say what the final span is read for; the ledger keeps it")
        before = self.reads()
        if before:
            first = before[0]
            known = (
                f"the final span from {self.start:%Y-%m-%d %H:%M} was read {len(before)} times already, first on "
                f"{first['time']} for {first['reason']!r}"
            )
            if not again:
                raise ConfigError(
                    f"FinalSpan.read: {known}; take newer bars, or pass again=True and say so in the result"
                )
            warnings.warn(f"{known}; what it says now is no longer out of sample", UserWarning, stacklevel=2)
        trials = self._ledger.trials([Source.of(self._bars)])
        self._ledger.write("read", sources=[asdict(self._source)], reason=reason, trials=trials)
        return self._bars.copy()

    def rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Positions of the held-out bars in the result of ``read``, int64."""
        return np.arange(self._first, len(self._bars))
