"""Where bars meet models: validated bars in, `Insight`, pattern probabilities and forecasts out."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BundleError, ConfigError, DependencyError, NotTrainedError, TooFewBarsError
from mlkit.features import Standard, pattern_flags
from mlkit.inference.bundle_roots import current_bundle
from mlkit.inference.freshness import at_time
from mlkit.inference.insight import Insight
from mlkit.inference.insight_data import NOT_TRAINED, ModelStatus, PatternReading, PricePrediction, Signal
from mlkit.inference.live import BarLike, Live, LiveBars, Memory, calendar_blocks, prices_of, realised_returns
from mlkit.inference.loaded_models import Models
from mlkit.inference.reading import (
    Moment,
    pattern_reading,
    price_predictions,
    read_moment,
)
from mlkit.inference.signals import SignalRules
from mlkit.labels import market_standard
from mlkit.market import COLUMNS, load_bars, never_closes, open_times, validate_bars
from mlkit.models.ensemble import FORECAST_COLUMNS

if TYPE_CHECKING:
    from mlkit.features import FeatureSet, FeatureSetStream
    from mlkit.models.bundle import ModelBundle
    from mlkit.models.ensemble import Forecast, PricePredictor
    from mlkit.models.patterns import PatternModel

Float64Array = npt.NDArray[np.float64]
Inputs = tuple[npt.NDArray[np.float32], Float64Array, Float64Array | None]
LIVE_BARS = 1000  # newest bars that a live predictor keeps, for the candles beside an insight


class Predictor:
    """Turns bars into insights with the models of one bundle.

    Parameters
    ----------
    bundle : ModelBundle, optional
        Trained models. Without one, or where it holds no pattern CNN, the shipped CNN of
        `market_standard` reads the patterns; without one there are no price forecasts.
    settings : Settings, optional
        Confidence threshold and trading cost of the signals; ``Settings()`` by default.
    cnn : PatternModel, optional
        A pattern CNN to use instead of the bundle's or the shipped one.
    features : FeatureSet, optional
        What the bundle was trained with, where that held own features.

    Models are loaded when first needed and kept. An optional package that is missing gives the same
    answers with empty parts and a reason, and one warning in the log; a damaged bundle is a BundleError.

    Execution timing: everything about bar t is known at its close and depends on bars up to t only.

    Live bars: ``start(bars)`` once, then ``update(bar)`` for each bar that closes. It keeps the state of the
    features, the CNN's window and all else that reaches back, and gives the insight of the whole history to
    the bit; own features, which are recomputed on their newest bars, agree within their declared tolerance.
    One predictor follows one market, in one thread at a time.
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
        self._models = Models(bundle, cnn, settings.pattern_weights)
        self._features = features
        self._rules = SignalRules(settings.min_confidence_threshold, settings.cost_bps)
        self._live: Live | None = None
        self._found: tuple[pd.Index[str], npt.NDArray[np.intp] | None] | None = None  # see _columns

    # --- one bar ----------------------------------------------------------------------------------

    def insight(self, bars: pd.DataFrame) -> Insight:
        """Everything about the last bar.

        Parameters
        ----------
        bars : DataFrame (n_bars, 5), valid bars, of the bundle's timeframe.

        Raises BarsError for bars that break the contract or are too few for the models loaded, ConfigError
        for another timeframe than the bundle's, BundleError for a damaged bundle or one of other features.
        """
        return read_moment(self._moment(self._checked(bars)), self._models, self._rules)

    def patterns(self, bars: pd.DataFrame) -> PatternReading:
        """Patterns in the window that ends at the last bar; see `insight` for parameters and errors."""
        return pattern_reading(self._moment(self._checked(bars), prices=False), self._models)

    def price_prediction(self, bars: pd.DataFrame) -> dict[str, PricePrediction]:
        """Forecast per horizon from the last bar; empty, and errors, as in `insight`."""
        bars = self._checked(bars)
        forecast, _ = self._told(self._forecast(bars), Memory.of(bars))
        return price_predictions(forecast, float(bars["close"].iloc[-1]), self._models.verdict)

    def signals(self, bars: pd.DataFrame) -> list[Signal]:
        """Signals at the last bar, the leading one first; errors as `insight`."""
        return self.insight(bars).signals

    def status(self) -> ModelStatus:
        """Which models can answer, and why one cannot; loads them."""
        return self._models.status("classic")

    # --- live -------------------------------------------------------------------------------------

    def start(self, bars: pd.DataFrame) -> Insight:
        """Take a history and follow it live; the insight of its last bar, and its errors, as of `insight`."""
        bars = self._checked(bars)
        said = read_moment(self._moment(bars), self._models, self._rules)
        model, names = self._models.price()[0], self._feature_set().names
        keep = LIVE_BARS if model is None else max(LIVE_BARS, model.lookback + 1)
        past = None if model is None else self._recent(model, bars)
        self._live = Live(LiveBars(bars, keep), self._stream(bars), pd.Index(names), past, keep, said)
        return said

    def update(self, bar: BarLike) -> Insight:
        """Take the next closed bar; exactly what `insight` gives on the whole history with it.

        Parameters
        ----------
        bar : a row of a bars frame (``bars.iloc[i]``, or of ``bars.itertuples()``), a mapping with ``timestamp``
            (open time with a zone), open, high, low, close, volume, or a tuple of these six.

        A bar after a gap counts as the next one, as in a history (``freshness.gap_bars`` says how many are
        missing), but after a long outage (`mlkit.market.outages.memory_gap`) as the first: ``reasons`` then say how
        many bars prices need. The last bar once more, the same, gives the same answer and changes nothing.

        Raises BarsError, changing nothing, for a bar that is older than the last one, repeats it with other values,
        lies off the grid or is no bar; ConfigError before `start`.
        """
        live = self._live
        if live is None:
            raise ConfigError("update: no history yet; call start(bars) once, then update(bar) for each new bar")
        taken = live.bars.accept(bar)
        if taken is not None:
            live.push(taken)
        if live.said is None:
            live.said = read_moment(self._live_moment(live), self._models, self._rules)
        return live.said

    @property
    def latest(self) -> Insight | None:
        """The last answer of `start` or `update`; None before."""
        return None if self._live is None else self._live.said

    @property
    def live_bars(self) -> LiveBars | None:
        """The newest bars that a started predictor has taken; None before `start`."""
        return None if self._live is None else self._live.bars

    # --- every bar --------------------------------------------------------------------------------

    def pattern_probabilities(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Calibrated probability of each pattern at each bar, float64 (n_bars, n_patterns), NaN in the warm-up.

        Raises DependencyError where safetensors is missing; else as `insight`.
        """
        bars = self._checked(bars)
        cnn, reason = self._models.cnn(market_standard(bars))
        if cnn is None:
            raise DependencyError(reason)
        values = cnn.probabilities(bars[list(COLUMNS)].to_numpy())
        return _labelled(pd.DataFrame(values, index=bars.index, columns=list(cnn.patterns)), bars)

    def forecasts(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Forecast of each horizon at each bar, known at the bar's close; the last bar's are `insight`'s.

        Returns
        -------
        DataFrame (n_bars * n_horizons, 9), ordered by time, then horizon: timestamp (bar open, UTC), horizon
        (bars), log_return, p_up, std, lo80, hi80, lo90, hi90 (log returns; p_up a probability). NaN in
        the warm-up of the features, at the start and after a long outage.

        Raises NotTrainedError without a price model; else as `insight`.
        """
        bars = self._checked(bars)
        model, reason = self._models.price()
        if model is None:
            why = self._models.why_no_prices(_market(bars))
            raise (NotTrainedError if reason == NOT_TRAINED else DependencyError)(why)
        blocks = calendar_blocks(open_times(bars), bars.attrs["timeframe"])
        forecast = model.adapted(model.predict(*self._inputs(bars)), self._outcomes(bars), blocks)
        horizons = np.array(forecast.horizons, dtype=np.int64)
        columns = {name: getattr(forecast, name).ravel() for name in FORECAST_COLUMNS}
        times = {"timestamp": bars.index.repeat(len(horizons)), "horizon": np.tile(horizons, len(bars))}
        return _labelled(pd.DataFrame({**times, **columns}), bars)

    # --- parts ------------------------------------------------------------------------------------

    def _checked(self, bars: pd.DataFrame) -> pd.DataFrame:
        bars, bundle = validate_bars(bars), self._models.bundle
        if bundle is not None and bars.attrs["timeframe"] != bundle.manifest.timeframe:
            raise ConfigError(
                f"bars are {bars.attrs['timeframe']}, the bundle {bundle.path.name} was trained on "
                f"{bundle.manifest.timeframe}; pass such bars or train on these"
            )
        return bars

    def _moment(self, bars: pd.DataFrame, *, prices: bool = True) -> Moment:
        """The last bar of a history."""
        times, values = open_times(bars), bars[list(COLUMNS)].to_numpy()
        standard = market_standard(bars)
        flags = pattern_flags(*prices_of(values), standard)[-1]
        forecast = self._forecast(bars) if prices else None
        return self._at_close(_market(bars), times, values, standard, flags, forecast, Memory.of(bars))

    def _live_moment(self, live: Live) -> Moment:
        """The last bar that was pushed."""
        bars, forecast = live.bars, self._live_forecast(live)
        seen = bars.times.rows, bars.ohlcv.rows, bars.hours.standard, bars.flags
        return self._at_close(bars.market, *seen, forecast, bars.memory)

    def _at_close(
        self,
        market: str,
        times: npt.NDArray[np.int64],
        values: Float64Array,
        standard: Standard,
        flags: npt.NDArray[np.int8],
        forecast: "Forecast | None",
        memory: Memory,
    ) -> Moment:
        """What both have in common; ``times`` and ``values`` end with the bar."""
        cnn, _ = self._models.cnn(standard)
        probabilities = None
        if cnn is not None:
            need = cnn.meta.sequence_length
            _require(len(values), need, "the pattern CNN", market)
            probabilities = cnn.probabilities(values[-need:])[-1]
        rising = (values[-2:, 3] >= values[-2:, 0]).tolist()
        forecast, waiting = self._told(forecast, memory)
        return Moment(
            market=market,
            opened=int(times[-1]),
            before=int(times[-2]) if len(times) > 1 else None,
            close=float(values[-1, 3]),
            colours=(1 if rising[-1] else -1, 1 if rising[0] else -1),
            standard=standard,
            flags=flags,
            probabilities=probabilities,
            forecast=forecast,
            waiting=waiting,
        )

    def _told(self, forecast: "Forecast | None", memory: Memory) -> "tuple[Forecast | None, str | None]":
        """A forecast, or None and why while its features do not remember enough bars after an outage."""
        waiting = None if forecast is None else memory.lacks(self._feature_set().warm_up + 1)
        return None if waiting else forecast, waiting

    def _forecast(self, bars: pd.DataFrame) -> "Forecast | None":
        """Forecasts up to the last bar of a history, that one's intervals adapted; None without a price model."""
        model, _ = self._models.price()
        if model is None:
            return None
        recent, outcomes = self._recent(model, bars), self._outcomes(bars)
        blocks = calendar_blocks(open_times(bars)[-len(recent) :], bars.attrs["timeframe"])
        return model.adapted(recent, outcomes[-len(recent) :], blocks, rows=1)

    def _recent(self, model: "PricePredictor", bars: pd.DataFrame) -> "Forecast":
        """Unadapted forecasts of the last bar and of those that its intervals remember."""
        keep = model.lookback + 1
        features, scale, terms = self._inputs(bars)
        return model.predict(features[-keep:], scale[-keep:], None if terms is None else terms[-keep:])

    def _outcomes(self, bars: pd.DataFrame) -> Float64Array:
        """What became of every forecast of a history, (n_bars, n_horizons), NaN where that is not known."""
        assert self._models.bundle is not None
        horizons, close = self._models.bundle.manifest.horizons, bars["close"].to_numpy()
        return realised_returns(open_times(bars), close, horizons, bars.attrs["timeframe"], never_closes(bars))

    def _live_forecast(self, live: Live) -> "Forecast | None":
        """The same from the last bar that was pushed."""
        model, _ = self._models.price()
        if model is None or live.past is None:
            return None
        bars, rows = live.bars, model.lookback + 1
        if live.pending:
            features = np.stack(live.pending)
            index = pd.DatetimeIndex(bars.times.rows[-len(features) :], tz="UTC")
            table = pd.DataFrame(features, index=index, columns=live.columns)
            live.remember(model.predict(*self._select(table, self._garch(bars.symbol))))
        times, close = bars.times.rows[-rows:], bars.ohlcv.rows[-rows:, 3]
        outcomes = realised_returns(times, close, model.horizons, bars.timeframe, bars.hours.never_closes)
        recent = live.recent(rows)
        blocks = calendar_blocks(times[-len(recent) :], bars.timeframe)
        return model.adapted(recent, outcomes[-len(recent) :], blocks, rows=1)

    def _inputs(self, bars: pd.DataFrame) -> Inputs:
        """What the price model takes of every bar: see `_select`."""
        features, garch = self._feature_set(), self._garch(bars.attrs["symbol"])
        _require(len(bars), features.warm_up + 1, "the price forecast", _market(bars))
        return self._select(features.build(bars, garch=garch), garch)

    def _select(self, frame: pd.DataFrame, garch: tuple[float, float, float]) -> Inputs:
        """Features in the bundle's order, GARCH's scale of every horizon, and the volatility terms, row by row.

        No terms where the model was trained without.
        """
        from mlkit.features import volatility_scale, volatility_terms

        bundle, model = self._models.bundle, self._models.price()[0]
        assert bundle is not None
        scale = volatility_scale(frame, bundle.manifest.horizons, garch)
        terms = volatility_terms(frame, bundle.manifest.timeframe) if model is not None and model.spreads else None
        values, columns = frame.to_numpy(dtype=np.float32), self._columns(frame.columns)
        return values if columns is None else values[:, columns], scale, terms

    def _columns(self, names: "pd.Index[str]") -> npt.NDArray[np.intp] | None:
        """Where the bundle's features stand in a frame; None where that is their order already."""
        if self._found is None or self._found[0] is not names:
            bundle = self._models.bundle
            assert bundle is not None
            wanted = list(bundle.manifest.feature_names)
            columns = names.get_indexer(pd.Index(wanted))
            unknown = [name for name, column in zip(wanted, columns, strict=True) if column < 0]
            if unknown:
                raise BundleError(
                    f"bundle {bundle.path}: its feature {unknown[0]!r} is not one of this version ({len(unknown)} of "
                    f"{len(wanted)} unknown); pass Predictor(features=...) as in training, or train again"
                )
            same = len(wanted) == len(names) and bool((columns == np.arange(len(names))).all())
            self._found = names, None if same else columns
        return self._found[1]

    def _feature_set(self) -> "FeatureSet":
        from mlkit.features import FeatureSet

        if self._features is None:
            self._features = FeatureSet()
        return self._features

    def _garch(self, symbol: str) -> tuple[float, float, float]:
        from mlkit.features import DEFAULT_GARCH

        bundle = self._models.bundle
        return (None if bundle is None else bundle.manifest.garch_of(symbol)) or DEFAULT_GARCH

    def _stream(self, bars: pd.DataFrame) -> "FeatureSetStream | None":
        """The features of a history, ready for its next bar; None without a price model."""
        if self._models.price()[0] is None:
            return None
        symbol, timeframe = bars.attrs["symbol"], bars.attrs["timeframe"]
        stream = self._feature_set().stream(timeframe=timeframe, symbol=symbol, garch=self._garch(symbol))
        stream.extend(bars)
        return stream


def _require(have: int, need: int, what: str, market: str) -> None:
    if have < need:
        raise TooFewBarsError(f"{market}: need {need} bars for {what}, have {have}; load a longer history")


def _market(bars: pd.DataFrame) -> str:
    return f"{bars.attrs['symbol']} {bars.attrs['timeframe']}"


def _labelled(frame: pd.DataFrame, bars: pd.DataFrame) -> pd.DataFrame:
    frame.attrs.update(bars.attrs)
    return frame


def insights(
    symbol: str, timeframe: str = "1m", settings: Settings | None = None, *, now: datetime | None = None
) -> Insight:
    """The insight of the latest bar that `load_bars` knows, by the current bundle of its market.

    The bundle is the one that ``CURRENT`` names in ``<model_storage_path>/<symbol>-<timeframe>``, with the symbol
    as `symbol_folder` writes it, or that of a pool which holds the symbol (`mlkit.inference.bundle_roots`); without any
    the shipped pattern CNN answers alone, and the price part says how to train.

    Parameters
    ----------
    now : time with a zone at which the age of the bar is told; the clock by default.

    Raises ConfigError for a symbol or timeframe without bars; else as `Predictor.insight`.
    """
    settings = settings or Settings()
    bars = load_bars(symbol, timeframe, settings=settings)
    said = Predictor(current_bundle(symbol, timeframe, settings), settings).insight(bars)
    return at_time(said, now or datetime.now(UTC), never_closes=never_closes(bars))
