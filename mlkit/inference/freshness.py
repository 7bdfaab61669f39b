"""Age of the bars and of the model behind an insight, and the limits beyond which they are stale."""

from datetime import UTC, datetime, timedelta

import pandas as pd

from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import Freshness
from mlkit.market import timeframe_delta

LATE_BARS = 3  # whole bars that may be missing before the newest one is stale
LONGEST_CLOSE = timedelta(days=4)  # of a market with sessions: a weekend and a holiday
MODEL_SHARE = 0.1  # a model is stale after this share of its training span


def model_freshness(
    opened: int, before: int | None, timeframe: str, span: tuple[pd.Timestamp, pd.Timestamp] | None
) -> Freshness:
    """Age of the model at this bar, and the bars missing before it; depends on the bars alone, not on the current time.

    A model is stale at a bar that closes more than a tenth of the training span after its end.

    Parameters
    ----------
    opened, before : open times of this bar and of the one before it, ns since the epoch
    timeframe : of the bars
    span : open times of the first and last training bar, None without a bundle
    """
    step = timeframe_delta(timeframe)
    gap = 0 if before is None else int((opened - before) // step.value) - 1
    if span is None:
        return Freshness(gap_bars=gap)
    closed, trained = pd.Timestamp(opened, tz="UTC") + step, span[1] + step
    age = max((closed - trained).total_seconds(), 0.0)
    limit = MODEL_SHARE * (trained - span[0]).total_seconds()
    stale = age > limit
    note = f"the model is stale: trained until {trained:%Y-%m-%d %H:%M}, {_words(age)} before this bar; train it again"
    return Freshness(
        gap_bars=gap,
        trained_until=trained.tz_localize(None).to_pydatetime(),
        model_age_seconds=age,
        model_stale=stale,
        in_training_span=bool(span[0] <= pd.Timestamp(opened, tz="UTC") <= span[1]),
        notes=[note] if stale else [],
    )


def at_time(insight: Insight, now: datetime, *, never_closes: bool) -> Insight:
    """The insight with the age of its bar at ``now``, which `Predictor.insight` leaves empty.

    A bar is stale when more than three whole bars should have closed since; a market with sessions is allowed four
    more days for weekends and holidays.

    Parameters
    ----------
    now : with a time zone
    never_closes : whether the market trades without closes
    """
    known = insight.known_at or insight.timestamp
    age = (_utc(now) - known).total_seconds()
    late = bars_late(known, _utc(now), insight.timeframe, never_closes)
    stale, notes = late is not None, [*insight.freshness.notes, *([late] if late else [])]
    update = {"as_of": _utc(now), "data_age_seconds": max(age, 0.0), "bars_stale": stale, "notes": notes}
    return insight.model_copy(update={"freshness": insight.freshness.model_copy(update=update)})


def bars_late(known: datetime, now: datetime, timeframe: str, never_closes: bool) -> str | None:
    """A note about stale bars at ``now``, where the newest closed at ``known`` (both naive UTC); None if not stale."""
    age = (now - known).total_seconds()
    limit = LATE_BARS * timeframe_delta(timeframe).to_pytimedelta() + (timedelta() if never_closes else LONGEST_CLOSE)
    if age <= limit.total_seconds():
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
