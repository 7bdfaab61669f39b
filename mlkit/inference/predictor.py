"""Bars and a bundle in; `Insight`, pattern probabilities and forecasts out."""

from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BundleError, ConfigError, DependencyError, NotTrainedError
from mlkit.inference.bundle_roots import current_bundle
from mlkit.inference.freshness import at_time
from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import NOT_TRAINED, ModelStatus, PatternReading, PricePrediction, Signal
from mlkit.inference.live import LiveState, realised_returns
from mlkit.inference.loaded_models import LoadedModels
from mlkit.inference.reading import pattern_reading, price_predictions, read_insight, require_bars
from mlkit.inference.recent_bars import BarLike, RecentBars
from mlkit.inference.signals import SignalRules
from mlkit.labels import market_standard
from mlkit.market import COLUMNS, calendar_of, load_bars, timeframe_ns, validate_bars
from mlkit.models.ensemble import FORECAST_COLUMNS

if TYPE_CHECKING:
    from mlkit.features import FeatureSet
    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import Forecast, PricePredictor
    from mlkit.models.patterns import PatternModel

# Features (n, F), GARCH scale (n, H), volatility terms (n, H, K) or None.
Inputs = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.float64] | None]
LIVE_BARS = 1000  # newest bars that a predictor keeps, for the candles beside an insight


class Predictor:
    """Turns bars into insights with the models of one bundle.

    Parameters
    ----------
    bundle : without one, or where it holds no pattern CNN, the shipped CNN of `market_standard` reads the patterns;
        without one there are no price forecasts.
    settings : confidence threshold and trading cost of the signals; ``Settings()`` by default.
    cnn : a pattern CNN to use instead of the bundle's or the shipped one.
    features : what the bundle was trained with, where that held own features.

    Models are loaded when first needed and kept. A missing optional package gives insights with empty parts and a
    reason, and one warning in the log; a damaged bundle is a BundleError.

    Execution timing: everything about bar t is known at its close and depends on bars up to t only.

    Live bars: ``start(bars)`` once, then ``update(bar)`` for each bar that closes. The predictor keeps the state of the
    features and the newest bars, and gives the insight of the whole history to the bit; own features, which are
    recomputed on their newest bars, agree within their declared tolerance. One predictor follows one market, in one
    thread at a time.
    """

    def __init__(
        self,
        bundle: "ModelBundle | None" = None,
        settings: Settings | None = None,
        *,
        cnn: "PatternModel | None" = None,
        features: "FeatureSet | None" = None,
    ) -> None:
        settings = settings or Settings()
        self._models = LoadedModels(bundle, cnn, settings.pattern_weights)
        self._features = features
        self._rules = SignalRules(settings.min_confidence_threshold, settings.cost_bps)
        self._live: LiveState | None = None

    def insight(self, bars: pd.DataFrame) -> Insight:
        """Everything about the last of valid bars, DataFrame (n_bars, 5), of the bundle's timeframe.

        Raises BarsError for bars that break the contract or are too few for the models loaded, ConfigError
        for another timeframe than the bundle's, BundleError for a damaged bundle or one of other features.
        """
        return self._read(*self._newest(self._checked(bars)))

    def patterns(self, bars: pd.DataFrame) -> PatternReading:
        """Patterns in the window that ends at the last bar; see `insight` for parameters and errors."""
        return pattern_reading(RecentBars(self._checked(bars), LIVE_BARS), self._models)

    def price_prediction(self, bars: pd.DataFrame) -> dict[str, PricePrediction]:
        """Forecast per horizon from the last bar; empty, and errors, as in `insight`."""
        recent, past = self._newest(self._checked(bars))
        forecast, _ = self._forecast(recent, past)
        return price_predictions(forecast, float(recent.ohlcv[-1, 3]), self._models.verdict)

    def signals(self, bars: pd.DataFrame) -> list[Signal]:
        """Signals at the last bar, the leading one first; errors as `insight`."""
        return self.insight(bars).signals

    def status(self) -> ModelStatus:
        """Which models are available, and why one is not; loads them."""
        return self._models.status("classic")

    def start(self, bars: pd.DataFrame) -> Insight:
        """Take a history and follow it live; the insight of its last bar, and its errors, as of `insight`."""
        bars = self._checked(bars)
        recent, past = self._newest(bars)
        latest, stream = self._read(recent, past), None
        if past is not None:
            garch = self._garch(recent.symbol)
            stream = self._feature_set().stream(timeframe=recent.timeframe, symbol=recent.symbol, garch=garch)
            stream.extend(bars)
        self._live = LiveState(recent, stream, pd.Index(self._feature_set().names), past, latest)
        return latest

    def update(self, bar: BarLike) -> Insight:
        """Take the next closed bar; exactly what `insight` gives on the whole history with it.

        ``bar`` is a row of a bars frame (``bars.iloc[i]``, or of ``bars.itertuples()``), a mapping with ``timestamp``
        (open time with a zone, or an epoch number in s, ms, us or ns), open, high, low, close, volume, or a tuple of
        these six.

        A bar after a gap counts as the next one, as in a history (``freshness.gap_bars`` is the number of missing
        bars), but after a long outage (`mlkit.market.memory_gap`) as the first: ``reasons`` then say how many bars
        price forecasts need. Repeating the last bar gives the same insight and changes nothing.

        Raises BarsError, changing nothing, for a bar that is older than the last one, repeats it with other values,
        lies off the grid or is no bar; ConfigError before `start`.
        """
        live = self._live
        if live is None:
            raise ConfigError("update: no history yet; call start(bars) once, then update(bar) for each new bar")
        accepted = live.bars.accept(bar)
        if accepted is not None:
            live.push(accepted)
        if live.latest is None:
            model = self._models.price[0]
            if model is not None and live.pending:
                index = pd.DatetimeIndex(live.bars.times[-len(live.pending) :], tz="UTC")
                features = pd.DataFrame(np.stack(live.pending), index=index, columns=live.columns)
                inputs = self._select(features, self._garch(live.bars.symbol))
                live.add_forecasts(model.predict(*inputs), keep=model.lookback + 1)
            live.latest = self._read(live.bars, live.forecasts)
        return live.latest

    @property
    def latest(self) -> Insight | None:
        """The last insight of `start` or `update`; None before."""
        return None if self._live is None else self._live.latest

    @property
    def live_bars(self) -> RecentBars | None:
        """The newest bars of a started predictor; None before `start`."""
        return None if self._live is None else self._live.bars

    def pattern_probabilities(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Calibrated probability of each pattern at each bar, float64 (n_bars, n_patterns), NaN in the warm-up.

        Raises DependencyError where safetensors is missing; else as `insight`.
        """
        bars = self._checked(bars)
        cnn, reason = self._models.cnn(market_standard(bars))
        if cnn is None:
            raise DependencyError(reason)
        values = cnn.probabilities(bars[list(COLUMNS)].to_numpy())
        frame = pd.DataFrame(values, index=bars.index, columns=list(cnn.patterns))
        frame.attrs.update(bars.attrs)
        return frame

    def forecasts(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Forecast of each horizon at each bar, known at the bar's close; the last bar's are `insight`'s.

        DataFrame (n_bars * n_horizons, 9), ordered by time, then horizon: timestamp (bar open, UTC), horizon (bars),
        log_return, p_up, std, lo80, hi80, lo90, hi90 (log returns; p_up a probability). NaN in the warm-up of the
        features, at the start and after a long outage.

        Raises NotTrainedError without a price model; else as `insight`.
        """
        bars = self._checked(bars)
        model, reason = self._models.price
        if model is None:
            why = self._models.why_no_prices("{symbol} {timeframe}".format_map(bars.attrs))
            raise (NotTrainedError if reason == NOT_TRAINED else DependencyError)(why)
        forecast = _adapted(model, model.predict(*self._inputs(bars)), RecentBars(bars, len(bars)))
        horizons = np.array(forecast.horizons, dtype=np.int64)
        columns = {name: getattr(forecast, name).ravel() for name in FORECAST_COLUMNS}
        times = {"timestamp": bars.index.repeat(len(horizons)), "horizon": np.tile(horizons, len(bars))}
        frame = pd.DataFrame({**times, **columns})
        frame.attrs.update(bars.attrs)
        return frame

    def _checked(self, bars: pd.DataFrame) -> pd.DataFrame:
        bars, bundle = validate_bars(bars), self._models.bundle
        if bundle is not None and bars.attrs["timeframe"] != bundle.manifest.timeframe:
            raise ConfigError(
                f"bars are {bars.attrs['timeframe']}, the bundle {bundle.path.name} was trained on "
                f"{bundle.manifest.timeframe}; pass such bars or train on these"
            )
        if bundle is not None:
            bundle.manifest.check_calendar(bars.attrs["symbol"], bars.attrs["calendar"])
        return bars

    def _newest(self, bars: pd.DataFrame) -> "tuple[RecentBars, Forecast | None]":
        """The newest bars of a history and their forecasts, intervals not adapted; None without a price model."""
        model = self._models.price[0]
        if model is None:
            return RecentBars(bars, LIVE_BARS), None
        rows = slice(-model.lookback - 1, None)
        features, scale, terms = self._inputs(bars)
        past = model.predict(features[rows], scale[rows], None if terms is None else terms[rows])
        return RecentBars(bars, max(LIVE_BARS, model.lookback + 1)), past

    def _read(self, bars: RecentBars, past: "Forecast | None") -> Insight:
        """The insight of the newest bar, from the forecasts of the bars up to it."""
        return read_insight(bars, *self._forecast(bars, past), self._models, self._rules)

    def _forecast(self, bars: RecentBars, past: "Forecast | None") -> "tuple[Forecast | None, str | None]":
        """The forecast of the newest bar, its intervals adapted, or None and why."""
        model = self._models.price[0]
        if model is None or past is None:
            return None, None
        waiting = bars.waiting(self._feature_set().warm_up + 1)
        return (None, waiting) if waiting else (_adapted(model, past, bars, rows=1), None)

    def _inputs(self, bars: pd.DataFrame) -> Inputs:
        """Inputs of the price model at every bar, see `_select`."""
        features, garch = self._feature_set(), self._garch(bars.attrs["symbol"])
        market = f"{bars.attrs['symbol']} {bars.attrs['timeframe']}"
        require_bars(len(bars), features.warm_up + 1, "the price forecast", market)
        return self._select(features.build(bars, garch=garch), garch)

    def _select(self, frame: pd.DataFrame, garch: tuple[float, float, float]) -> Inputs:
        """Features in the bundle's order, GARCH scale of each horizon, volatility terms (None if not trained with)."""
        from mlkit.features import volatility_scale, volatility_terms

        bundle, model = self._models.bundle, self._models.price[0]
        assert bundle is not None
        scale = volatility_scale(frame, bundle.manifest.horizons, garch)
        terms = volatility_terms(frame, bundle.manifest.timeframe) if model is not None and model.spreads else None
        wanted = self._wanted
        if not frame.columns.equals(wanted):
            unknown = wanted.difference(frame.columns, sort=False)
            if len(unknown):
                raise BundleError(
                    f"bundle {bundle.path}: its feature {unknown[0]!r} is not one of this version ({len(unknown)} of "
                    f"{len(wanted)} unknown); pass Predictor(features=...) as in training, or train again"
                )
            frame = frame[wanted]
        return frame.to_numpy(dtype=np.float32), scale, terms

    @cached_property
    def _wanted(self) -> "pd.Index[str]":
        """Names of the bundle's features in its order."""
        assert self._models.bundle is not None
        return pd.Index(list(self._models.bundle.manifest.feature_names))

    def _feature_set(self) -> "FeatureSet":
        from mlkit.features import FeatureSet

        if self._features is None:
            self._features = FeatureSet()
        return self._features

    def _garch(self, symbol: str) -> tuple[float, float, float]:
        from mlkit.features import DEFAULT_GARCH

        bundle = self._models.bundle
        return (None if bundle is None else bundle.manifest.garch_of(symbol)) or DEFAULT_GARCH


def _adapted(model: "PricePredictor", forecasts: "Forecast", bars: RecentBars, rows: int | None = None) -> "Forecast":
    """The last ``rows`` forecasts, interval bounds adapted to the outcomes known at each; all by default."""
    from mlkit.models.ensemble import block_numbers

    times, close = bars.times[-len(forecasts) :], bars.ohlcv[-len(forecasts) :, 3]
    outcomes = realised_returns(times, close, model.horizons, bars.timeframe, bars.calendar)
    return model.adapted(forecasts, outcomes, block_numbers(times, timeframe_ns(bars.timeframe)), rows=rows)


def insights(
    symbol: str, timeframe: str = "1m", settings: Settings | None = None, *, now: datetime | None = None
) -> Insight:
    """The insight of the latest bar that `load_bars` knows, by the current bundle of its market.

    The bundle is the one that ``CURRENT`` names in ``<model_storage_path>/<symbol>-<timeframe>``, with the symbol
    as `symbol_folder` writes it, or that of a pool which holds the symbol (`mlkit.inference.bundle_roots`); without any
    there are only the patterns of the shipped CNN, and the reason for missing prices names the command to train.

    The age of the bar is measured at ``now``, a time with a zone; the current time by default.

    Raises ConfigError for a symbol or timeframe without bars; else as `Predictor.insight`.
    """
    settings = settings or Settings()
    bars = load_bars(symbol, timeframe, settings=settings)
    insight = Predictor(current_bundle(symbol, timeframe, settings), settings).insight(bars)
    return at_time(insight, now or datetime.now(UTC), calendar_of(bars))
