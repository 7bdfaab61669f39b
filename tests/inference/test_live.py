"""Live bars: to the bit what the whole history gives, and a defined answer to every bar that is not the next."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.errors import BarsError, ConfigError
from mlkit.features.engine import WARM_UP
from mlkit.features.feature_set import FeatureSet
from mlkit.inference.freshness import at_time
from mlkit.inference.insight import Insight
from mlkit.inference.live import realised_returns
from mlkit.inference.predictor import Predictor
from mlkit.labels import forward_returns
from mlkit.market import calendar_of, get_calendar, open_times
from mlkit.market.simulate.markets import null_market
from mlkit.models.bundle.bundle import ModelBundle

FIRST = WARM_UP + 5


@pytest.fixture(scope="module")
def bars(sp500: pd.DataFrame) -> pd.DataFrame:
    return sp500.iloc[-2700:]


@pytest.fixture(scope="module")
def bundle(bars: pd.DataFrame, small_bundle: Callable[..., ModelBundle]) -> ModelBundle:
    return small_bundle(bars.iloc[:2200])


def same(a: Insight, b: Insight) -> bool:
    return a == b and a.model_dump_json() == b.model_dump_json()


# --- to the bit ----------------------------------------------------------------------------------------


def follow(predictor: Predictor, bars: pd.DataFrame, first: int, checked: set[int]) -> None:
    """Start on the first bars, update with each of the others, compare at the checked positions."""
    assert same(predictor.start(bars.iloc[:first]), predictor.insight(bars.iloc[:first]))
    for t, row in enumerate(bars.iloc[first:].itertuples(), first):
        live = predictor.update(row)
        if t in checked:
            assert same(live, predictor.insight(bars.iloc[: t + 1])), t


def test_live_is_the_history_to_the_bit(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    checked = {*range(FIRST, FIRST + 10), *range(FIRST + 10, FIRST + 120, 23), FIRST + 119}
    follow(Predictor(bundle), bars.iloc[: FIRST + 120], FIRST, checked)


@pytest.mark.parametrize("name", ["BTCUSDT_BYBIT-1m", "AAPL-1h", "UNITTEST_BTC-1m", "EURUSD-1h"])
def test_live_is_the_history_on_real_markets(
    name: str,
    real_bars: Callable[[str], pd.DataFrame],
    small_bundle: Callable[..., ModelBundle],
) -> None:
    """Nights, weekends, minutes without a trade, no volume at all."""
    found = real_bars(name).iloc[:2260]
    follow(Predictor(small_bundle(found.iloc[:2200])), found, 2200, set(range(2200, 2260, 7)))


def test_live_without_a_price_model(bars: pd.DataFrame) -> None:
    follow(Predictor(), bars.iloc[:120], 30, set(range(30, 120, 9)))


def test_any_history_that_is_long_enough_may_start(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    predictor = Predictor(bundle)
    with pytest.raises(BarsError, match=f"need {WARM_UP + 1} bars"):
        predictor.start(bars.iloc[:WARM_UP])
    assert predictor.latest is None and predictor.live_bars is None
    assert predictor.start(bars.iloc[: WARM_UP + 1]) is predictor.latest
    assert same(predictor.update(bars.iloc[WARM_UP + 1]), predictor.insight(bars.iloc[: WARM_UP + 2]))


def test_own_features_agree_within_their_tolerance(
    bars: pd.DataFrame, small_bundle: Callable[..., ModelBundle]
) -> None:
    @mlkit.feature(lookback=10)
    def range_mean(given: pd.DataFrame) -> "pd.Series[float]":
        return (np.log(given["high"]) - np.log(given["low"])).rolling(10).mean()

    features = FeatureSet([range_mean], bars=bars.iloc[:1000])
    predictor = Predictor(small_bundle(bars.iloc[:2200], features=features), features=features)
    predictor.start(bars.iloc[:2200])
    for t in range(2200, 2230):
        live, full = predictor.update(bars.iloc[t]), predictor.insight(bars.iloc[: t + 1])
        assert live.patterns == full.patterns
        for horizon, predicted in live.price_predictions.items():
            assert predicted.prediction == pytest.approx(full.price_predictions[horizon].prediction, rel=1e-3)


@pytest.mark.parametrize("name", ["BTCUSDT-15m", "AAPL-1h", "UNITTEST_BTC-1m", "AAPL-1d"])
def test_outcomes_are_the_labels(name: str, real_bars: Callable[[str], pd.DataFrame]) -> None:
    found = real_bars(name).iloc[-6000:]
    labels = forward_returns(found, (1, 5, 60))["log_return"].to_numpy()
    close, frame = found["close"].to_numpy(), found.attrs["timeframe"]
    ours = realised_returns(open_times(found), close, (1, 5, 60), frame, calendar_of(found))
    assert np.array_equal(ours, labels, equal_nan=True)
    few = realised_returns(open_times(found)[:3], close[:3], (1, 5), frame, calendar_of(found))
    assert np.isnan(few[:, 1]).all() and np.isnan(few[-1, 0])


def test_intervals_follow_what_became_of_earlier_forecasts(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    """Wild outcomes widen the next interval of the short horizon; the bundle alone would not know of them."""
    wild = bars.iloc[:2600].copy()
    rng = np.random.default_rng(0)
    wild.iloc[2300:] = wild.iloc[2300:].mul(np.exp(0.05 * rng.standard_normal(300)), axis=0)
    wild.attrs.update(bars.attrs)
    predictor = Predictor(bundle)
    model = bundle.price
    assert model is not None
    features, scale, terms = predictor._inputs(wild)
    alone = model.predict(features[-1:], scale[-1:], None if terms is None else terms[-1:])
    adapted = predictor.forecasts(wild).iloc[-4]
    assert adapted["hi90"] != alone.hi90[0, 0] and adapted["log_return"] == alone.log_return[0, 0]


# --- every shape of a bar ------------------------------------------------------------------------------


def test_every_shape_of_a_bar_is_the_same_bar(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    row, time = bars.iloc[FIRST], bars.index[FIRST]
    values = [float(v) for v in row]
    shapes = [
        row,
        next(bars.iloc[FIRST : FIRST + 1].itertuples()),
        {"timestamp": time, **row.to_dict()},
        {"timestamp": time.isoformat(), **row.to_dict(), "trades": 7},
        (time.tz_convert("America/New_York").to_pydatetime(), *values),
        (int(time.timestamp()) * 1000, *map(str, values)),
    ]
    predictor, answers = Predictor(bundle), []
    for shape in shapes:
        predictor.start(bars.iloc[:FIRST])
        answers.append(predictor.update(shape))
    assert all(same(answer, answers[0]) for answer in answers)


# --- bars that are not the next one --------------------------------------------------------------------


@pytest.fixture
def started(bundle: ModelBundle, bars: pd.DataFrame) -> Predictor:
    predictor = Predictor(bundle)
    predictor.start(bars.iloc[:FIRST])
    return predictor


def test_update_before_start(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"call start\(bars\) once"):
        Predictor(bundle).update(bars.iloc[0])


def bar(time: Any, **changes: Any) -> dict[str, Any]:
    return {"timestamp": time, "open": 10.0, "high": 11.0, "low": 9.0, "close": 10.0, "volume": 1.0, **changes}


NEXT = pd.Timestamp("2030-01-02", tz="UTC")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (bar(pd.Timestamp("1990-01-02", tz="UTC")), "is older than the last one"),
        (bar(NEXT + pd.Timedelta(hours=1)), "is off the 1d grid"),
        (bar(pd.Timestamp("2030-01-02")), "has no time zone"),
        (bar("2030-01-02T00:00"), "has no time zone"),
        (bar("next week"), "'next week' is not an ISO 8601 time"),
        (bar(1_900_000), "1900000 is no whole epoch number"),
        (bar(None), "None is no time"),
        (bar(pd.NaT), "NaT is no time"),
        (bar(NEXT, high=9.5), "want 0 < low <= open, close <= high"),
        (bar(NEXT, low=0.0), "want 0 < low"),
        (bar(NEXT, close=float("nan")), "all finite"),
        (bar(NEXT, volume=float("inf")), "all finite"),
        (bar(NEXT, volume=-1.0), "volume >= 0"),
        (bar(NEXT, open="ten"), "are not the five numbers"),
        (bar(NEXT, open=None), "are not the five numbers"),
        ({"timestamp": NEXT, "open": 1.0}, "the bar has no high"),
        ((NEXT, 1.0), "is no bar"),
        ("bar", "is no bar"),
        (b"barbar", "is no bar"),
        (7, "is no bar"),
    ],
)
def test_what_is_no_next_bar_is_refused_and_changes_nothing(
    started: Predictor, bars: pd.DataFrame, given: Any, words: str
) -> None:
    before = started.latest
    with pytest.raises(BarsError, match=words) as caught:
        started.update(given)
    assert str(caught.value).startswith("SP500 1d: ") and "\n" not in str(caught.value)
    assert started.latest is before
    assert same(started.update(bars.iloc[FIRST]), started.insight(bars.iloc[: FIRST + 1]))


def test_the_last_bar_again(started: Predictor, bars: pd.DataFrame) -> None:
    """The same values change nothing; other values are refused."""
    insight = started.update(bars.iloc[FIRST])
    assert started.update(bars.iloc[FIRST]) is insight
    amended = bars.iloc[FIRST].copy()
    amended["volume"] += 1.0
    with pytest.raises(BarsError, match="only closed bars are taken and they do not change"):
        started.update(amended)
    assert same(started.update(bars.iloc[FIRST + 1]), started.insight(bars.iloc[: FIRST + 2]))


def test_a_gap_is_the_gap_of_a_history(started: Predictor, bars: pd.DataFrame) -> None:
    holed = bars.drop(bars.index[FIRST : FIRST + 40])
    holed.attrs.update(bars.attrs)
    insight = started.update(holed.iloc[FIRST])
    assert same(insight, started.insight(holed.iloc[: FIRST + 1]))
    assert insight.freshness.gap_bars == 40


def test_a_bar_whose_answer_failed_is_answered_when_it_comes_again(
    started: Predictor, bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.models.ensemble.price_predictor import PricePredictor

    with monkeypatch.context() as patch:
        patch.setattr(PricePredictor, "predict", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            started.update(bars.iloc[FIRST])
    assert started.latest is None
    assert same(started.update(bars.iloc[FIRST]), started.insight(bars.iloc[: FIRST + 1]))


def test_a_bar_whose_answer_failed_may_be_left_behind(
    started: Predictor, bars: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.models.ensemble.price_predictor import PricePredictor

    with monkeypatch.context() as patch:
        patch.setattr(PricePredictor, "predict", lambda *_, **__: 1 / 0)
        for k in range(3):
            with pytest.raises(ZeroDivisionError):
                started.update(bars.iloc[FIRST + k])
    for k in (3, 4):
        assert same(started.update(bars.iloc[FIRST + k]), started.insight(bars.iloc[: FIRST + k + 1]))


# --- ages ----------------------------------------------------------------------------------------------


def test_the_age_of_the_model_is_told_by_the_bars(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    inside, after, late = (Predictor(bundle).insight(bars.iloc[:n]).freshness for n in (2200, 2210, 2700))
    assert inside.in_training_span and inside.model_age_seconds == 0.0 and inside.notes == []
    assert not after.in_training_span and not after.model_stale
    assert after.model_age_seconds == (bars.index[2209] - bars.index[2199]).total_seconds()
    assert late.model_stale and late.notes[0].startswith("the model is stale: trained until ")
    assert inside.as_of is None and inside.data_age_seconds is None and inside.bars_stale is None
    assert Predictor().insight(bars).freshness.trained_until is None


@pytest.mark.parametrize(
    ("after", "calendar", "stale"),
    [
        # The newest session is that of New Year's Eve, a Monday; it closed at 21:00 UTC.
        (timedelta(0), "XNYS", False),
        (timedelta(days=4), "XNYS", False),  # two sessions are lacking
        (timedelta(days=4, seconds=1), "XNYS", True),
        (timedelta(days=7), "Mon-Fri 09:30-16:00 America/New_York", False),
        (timedelta(days=7, seconds=1), "Mon-Fri 09:30-16:00 America/New_York", True),
        (timedelta(days=-1), "XNYS", False),  # a clock that runs behind
    ],
)
def test_the_age_of_the_bar_is_told_by_the_clock(
    bars: pd.DataFrame, after: timedelta, calendar: str, stale: bool
) -> None:
    insight = Predictor().insight(bars)
    closed = datetime(2018, 12, 31, 21, tzinfo=UTC)
    aged = at_time(insight, closed + after, get_calendar(calendar))
    assert aged.freshness.bars_stale is stale
    assert aged.freshness.data_age_seconds == max(after.total_seconds(), 0.0)
    assert any("the bars are stale" in note for note in aged.freshness.notes) is stale
    assert ("the bars are stale" in str(aged)) is stale
    assert json.loads(aged.model_dump_json()) == aged.model_dump()
    unaged = aged.model_dump() | {"freshness": insight.model_dump()["freshness"]}
    assert unaged == insight.model_dump()


def test_simulated_minutes(small_bundle: Callable[..., ModelBundle]) -> None:
    minutes = null_market(2250, seed=5)
    follow(Predictor(small_bundle(minutes.iloc[:2200])), minutes, 2200, set(range(2200, 2250, 9)))


# --- after an outage that features do not remember over ----------------------------------------------------


def test_a_long_outage_is_told_and_prices_wait(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    """Live is the history across it, and until and after the bar at which every feature is known again."""
    at = FIRST + 20
    torn = bars.iloc[: at + WARM_UP + 6].copy()
    torn.index = torn.index + pd.to_timedelta(np.where(np.arange(len(torn)) < at, 0, 3650), unit="D")
    torn.iloc[at:, :4] *= 5.0
    predictor = Predictor(bundle)
    predictor.start(torn.iloc[: at - 2])
    for t in range(at - 2, at + 4):
        live = predictor.update(torn.iloc[t])
        assert same(live, predictor.insight(torn.iloc[: t + 1])), t
        assert bool(live.price_predictions) == (t < at)
    reason = (
        f"need {WARM_UP + 1} bars after the outage that ended on {torn.index[at]:%Y-%m-%d %H:%M} for the price "
        "forecast, have 4"
    )
    assert live.reasons["price_predictions"] == reason
    assert live.model_status.price_predictor_loaded and reason in str(live) and reason in live.card()
    assert predictor.price_prediction(torn.iloc[: at + 4]) == {}
    follow(Predictor(bundle), torn, at + WARM_UP - 2, set(range(at + WARM_UP - 2, len(torn))))
    insight = predictor.insight(torn.iloc[: at + WARM_UP + 1])
    assert insight.price_predictions and "price_predictions" not in insight.reasons
    assert not predictor.insight(torn.iloc[: at + WARM_UP]).price_predictions


def test_what_was_before_a_long_outage_changes_no_forecast(bundle: ModelBundle, bars: pd.DataFrame) -> None:
    at = 300
    torn = bars.iloc[: at + WARM_UP + 40].copy()
    torn.index = torn.index + pd.to_timedelta(np.where(np.arange(len(torn)) < at, 0, 3650), unit="D")
    poisoned = torn.copy()
    poisoned.iloc[:at, :4] *= np.linspace(1.0, 9.0, at)[:, None]
    clean, other = (Predictor(bundle).forecasts(found) for found in (torn, poisoned))
    pd.testing.assert_frame_equal(clean, other)
    known = clean.dropna()["timestamp"]
    assert known.min() == torn.index[at + WARM_UP] and len(known) == 40 * 4
