"""Champion against challenger, on bars later than both were trained on.

The loss of a bar
-----------------
Fixed before anything is compared, and the same for every market: the mean over the compared horizons of

    WIS / v + (p_up - direction)²

that is, the weighted interval score of the point forecast and the 80 % and 90 % intervals, in units of the
volatility ``v = ewma_volatility * sqrt(horizon)`` that is known at the bar's close, plus the Brier score of the
direction. Both parts are proper scores: their expectation is lowest for the true distribution. The unit makes volatile
and calm periods weigh the same.

The difference
--------------
The difference of the mean losses, challenger less champion, row by row on the same rows, with an interval from a block
bootstrap that keeps overlapping labels together. The challenger is ``better`` where the whole interval is below 0,
``worse`` where it is above.

Execution timing and look-ahead
-------------------------------
A row is scored where its bar opened after the last training bar of **both**, and after the last bar that tuning used
where parameters of one were tuned. The labels of training end at that bar or before, so none of them overlaps a scored
one. The times of the bars alone decide which rows and horizons are scored, never the forecasts.

References
----------
Bracher, Ray, Gneiting & Reich (2021), *PLoS Computational Biology* 17, eq. 1: the weighted interval score. Gneiting &
Raftery (2007), *JASA* 102: proper scores. Diebold & Mariano (1995), *J. Business & Economic Statistics* 13: comparing
forecasts by the mean of their loss differences.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BarsError, ConfigError
from mlkit.evaluation import default_block, direction, metric_intervals
from mlkit.features import FeatureSet, build_features
from mlkit.inference import Predictor
from mlkit.labels import forward_returns
from mlkit.market import validate_bars
from mlkit.models.bundle import ModelBundle
from mlkit.models.ensemble import FloatMatrix, FloatVector

Losses = dict[tuple[int, str], FloatVector]  # (horizon, part of the loss) -> loss of each later bar
_LEVEL, _RESAMPLES = 0.95, 1000  # nominal coverage of the interval, and bootstrap resamples
INDEPENDENT_BLOCKS = 4  # fewer blocks of overlapping labels than this show no difference


@dataclass(frozen=True, eq=False)
class Comparison:
    """Which of two bundles forecast later bars better; ``str()`` is one line, ``table`` shows the parts of the loss."""

    champion: str  # bundle id
    challenger: str
    rows: int  # bars scored
    first: pd.Timestamp  # open times of the first and last bar scored
    last: pd.Timestamp
    horizons: tuple[int, ...]  # bars ahead, those compared
    champion_loss: float
    challenger_loss: float
    difference: float  # challenger less champion: below 0 where the challenger is better
    low: float
    high: float
    level: float  # nominal coverage of the interval
    table: pd.DataFrame  # index (horizon, part): champion, challenger, difference, low, high

    @property
    def answer(self) -> Literal["better", "worse", "no difference"]:
        """Whether the challenger is better, by the interval of the difference."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "no difference"

    def __str__(self) -> str:
        return (
            f"loss {self.challenger_loss:.4f} against the champion's {self.champion_loss:.4f}, difference "
            f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}] on {self.rows:,} bars from "
            f"{self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}: {self.answer}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the parts as a list of rows."""
        names = ("champion", "challenger", "rows", "champion_loss", "challenger_loss", "difference", "low", "high")
        return {
            **{name: getattr(self, name) for name in names},
            "level": self.level,
            "answer": self.answer,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "horizons": list(self.horizons),
            "parts": self.table.reset_index().to_dict("records"),
        }


def trained_until(bundle: ModelBundle) -> pd.Timestamp:
    """Open time of the last training bar of a bundle; no label of its training ends later."""
    return pd.to_datetime(bundle.manifest.training_span.end, utc=True)


def comparable(horizons: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The horizons with enough independent outcomes in ``rows`` bars: four blocks of twice the horizon."""
    return tuple(h for h in horizons if rows - h >= INDEPENDENT_BLOCKS * default_block(h))


def compare(
    champion: ModelBundle,
    challenger: ModelBundle,
    bars: pd.DataFrame,
    settings: Settings | None = None,
    *,
    features: FeatureSet | None = None,
    after: pd.Timestamp | None = None,
) -> Comparison:
    """Score both on every bar that opened after the last training bar of both (see the head of this module).

    Parameters
    ----------
    champion, challenger : bundles of one market, with price models
    bars : DataFrame (n_bars, 5)
        A history that reaches beyond both trainings. Each bundle forecasts it as a live predictor does.
    features : own features, where the bundles were trained with some
    after : last bar that parameters of one of them were chosen on, such as ``Tuned.saw_until``: only later ones count

    A horizon that only one of them has, or with too few later bars (`comparable`), is left out.

    Raises BarsError where no horizon is left, ConfigError for a bundle without price models.
    """
    settings, bars = settings or Settings(), validate_bars(bars)
    seen = max(filter(None, (trained_until(champion), trained_until(challenger), after)))
    later = np.flatnonzero(bars.index > seen)
    shared = tuple(h for h in champion.manifest.horizons if h in challenger.manifest.horizons)
    horizons = comparable(shared, len(later))
    if not horizons:
        market = f"{bars.attrs['symbol']} {bars.attrs['timeframe']}"
        raise BarsError(
            f"{market}: {len(later)} bars later than {seen:%Y-%m-%d %H:%M} are too few to compare two bundles with "
            f"{f'the horizons {shared}' if shared else 'no horizon in common'}; load newer bars"
        )
    old, new = (_losses(bundle, bars, later, horizons, settings, features) for bundle in (champion, challenger))
    ours, theirs = (np.column_stack(list(losses.values())) for losses in (old, new))
    rows = np.flatnonzero(np.isfinite(ours + theirs).all(axis=1))
    if len(rows) < INDEPENDENT_BLOCKS * default_block(max(horizons)):
        raise BarsError(f"only {len(rows)} of {len(ours)} later bars have a forecast and an outcome; load newer bars")
    ours, theirs = ours[rows], theirs[rows]
    table, difference = _difference(ours, theirs, list(old), horizons, settings.seed)
    return Comparison(
        champion=champion.id,
        challenger=challenger.id,
        rows=len(rows),
        first=pd.Timestamp(bars.index[later[rows[0]]]),
        last=pd.Timestamp(bars.index[later[rows[-1]]]),
        horizons=horizons,
        champion_loss=float(ours.sum(axis=1).mean() / len(horizons)),
        challenger_loss=float(theirs.sum(axis=1).mean() / len(horizons)),
        **difference,
        level=_LEVEL,
        table=table,
    )


def _difference(
    ours: FloatMatrix, theirs: FloatMatrix, parts: list[tuple[int, str]], horizons: tuple[int, ...], seed: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The table of the parts of the loss, and the difference of the mean losses with its interval."""
    columns = dict(zip(map(str, range(len(parts))), (theirs - ours).T, strict=True))
    # A bar's loss is the sum of its parts, averaged over the horizons.
    columns["all"] = (theirs - ours).sum(axis=1) / len(horizons)
    judged = metric_intervals(_means, columns, horizon=max(horizons), level=_LEVEL, reps=_RESAMPLES, seed=seed)
    judged = judged.rename(columns={"value": "difference"})
    index = pd.MultiIndex.from_tuples(parts, names=["horizon", "part"])
    means = pd.DataFrame({"champion": ours.mean(0), "challenger": theirs.mean(0)}, index)
    table = pd.concat([means, judged.iloc[:-1].set_axis(index)], axis=1)
    return table, {name: float(judged[name].iloc[-1]) for name in ("difference", "low", "high")}


def _losses(
    bundle: ModelBundle,
    bars: pd.DataFrame,
    later: npt.NDArray[np.int64],
    horizons: tuple[int, ...],
    settings: Settings,
    features: FeatureSet | None,
) -> Losses:
    """Losses of each later bar, (n_later,), NaN where it has no outcome or no forecast."""
    if bundle.price is None:
        raise ConfigError(f"bundle {bundle.path}: holds no price models that could be compared")
    forecasts = Predictor(bundle, settings, features=features).forecasts(bars)
    outcomes = forward_returns(bars, horizons)["log_return"]
    ewma = build_features(bars, columns=["ewma_volatility"])["ewma_volatility"].to_numpy(dtype=np.float64)[later]
    found: Losses = {}
    for h in horizons:
        of = {name: values.to_numpy()[later] for name, values in forecasts[forecasts["horizon"] == h].items()}
        y = outcomes[h].to_numpy()[later]
        unit = np.where(ewma > 0.0, ewma, np.nan) * np.sqrt(h)
        found[h, "spread"] = _weighted_interval_score(y, of) / unit
        found[h, "direction"] = (of["p_up"] - direction(y)) ** 2 + 0.0 * unit  # NaN on the same rows
    return found


def _weighted_interval_score(y: FloatVector, of: Mapping[Any, Any]) -> FloatVector:
    """``(|y - m| / 2 + Σ α / 2 IS_α) / (K + 1 / 2)`` of each row, with the point forecast as the median."""
    score = 0.5 * np.abs(y - of["log_return"])
    for level in (80, 90):
        low, high = of[f"lo{level}"], of[f"hi{level}"]
        miss = np.maximum(low - y, 0.0) + np.maximum(y - high, 0.0)
        score = score + 0.5 * (1.0 - level / 100) * (high - low) + miss
    return np.asarray(score / 2.5)


def _means(columns: Mapping[str, FloatVector]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in columns.items()}
