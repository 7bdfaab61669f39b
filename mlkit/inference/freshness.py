"""Age of the bars and of the model behind an insight, and the limits beyond which they are stale."""

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import Freshness
from mlkit.market import Calendar, timeframe_delta

LATE_BARS = 3  # whole bars that may be missing before the newest one is stale
LONGEST_CLOSE = timedelta(days=4)  # a weekend and a holiday, where the calendar does not know holidays
MODEL_SHARE = 0.1  # a model is stale after this share of its training span


def model_freshness(
    opened: npt.NDArray[np.int64],
    timeframe: str,
    span: tuple[pd.Timestamp, pd.Timestamp] | None,
    calendar: Calendar,
) -> Freshness:
    """Age of the model at this bar, and the bars missing before it; depends on the bars alone, not on the current time.

    A model is stale at a bar that closes more than a tenth of the training span after its end.

    Parameters
    ----------
    opened : open times of the bar before, if any, and of this bar, ns since the epoch, (1,) or (2,)
    timeframe : of the bars
    span : open times of the first and last training bar, None without a bundle
    calendar : of the market
    """
    gap = int(calendar.missing_bars(opened, timeframe).sum())
    if span is None:
        return Freshness(gap_bars=gap)
    ends = calendar.bar_closes(np.array([opened[-1], span[1].as_unit("ns").value]), timeframe)
    closed, trained = pd.DatetimeIndex(ends, tz="UTC")
    age = max((closed - trained).total_seconds(), 0.0)
    limit = MODEL_SHARE * (trained - span[0]).total_seconds()
    stale = age > limit
    note = f"the model is stale: trained until {trained:%Y-%m-%d %H:%M}, {_words(age)} before this bar; train it again"
    return Freshness(
        gap_bars=gap,
        trained_until=trained.tz_localize(None).to_pydatetime(),
        model_age_seconds=age,
        model_stale=stale,
        in_training_span=bool(span[0] <= pd.Timestamp(int(opened[-1]), tz="UTC") <= span[1]),
        notes=[note] if stale else [],
    )


def at_time(insight: Insight, now: datetime, calendar: Calendar) -> Insight:
    """The insight with the age of its bar at ``now``, which `Predictor.insight` leaves empty.

    A bar is stale when three further bars should have closed since, by the calendar; where that does not know holidays,
    four days more have to pass.

    Parameters
    ----------
    now : with a time zone
    calendar : of the market
    """
    known = insight.known_at or insight.timestamp
    age = (_utc(now) - known).total_seconds()
    late = bars_late(known, _utc(now), insight.timeframe, calendar)
    stale, notes = late is not None, [*insight.freshness.notes, *([late] if late else [])]
    update = {"as_of": _utc(now), "data_age_seconds": max(age, 0.0), "bars_stale": stale, "notes": notes}
    return insight.model_copy(update={"freshness": insight.freshness.model_copy(update=update)})


def bars_late(known: datetime, now: datetime, timeframe: str, calendar: Calendar) -> str | None:
    """A note about stale bars at ``now``, where the newest closed at ``known`` (both naive UTC); None if not stale."""
    age = (now - known).total_seconds()
    first, last = (int(pd.Timestamp(time).as_unit("ns").value) for time in (known, now))
    closes = calendar.bar_closes(calendar.expected_opens(timeframe, first, last), timeframe)
    lacking = int((closes < last).sum())
    allowed = LATE_BARS * timeframe_delta(timeframe).to_pytimedelta() + LONGEST_CLOSE
    if lacking < LATE_BARS or (not calendar.knows_holidays and age <= allowed.total_seconds()):
        return None
    return f"the bars are stale: the newest closed {_words(age)} ago; fetch new ones"


def _utc(now: datetime) -> datetime:
    """``now`` as the naive UTC time that insights carry, in whole seconds."""
    return now.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def _words(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:,.0f} {unit}s"
    return f"{seconds:.0f} seconds"
