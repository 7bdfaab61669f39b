"""Champion against challenger, on bars later than both were trained on.

The loss of a bar is the mean over the compared horizons of ``WIS / v + (p_up - direction)²``: the weighted interval
score of the point forecast and the 80 % and 90 % intervals, in units of the volatility ``v = ewma_volatility *
sqrt(horizon)`` that is known at the bar's close, plus the Brier score of the direction. Both are proper scores: their
expectation is lowest for the true distribution. The unit makes volatile and calm periods weigh the same.

The difference of the mean losses, challenger less champion on the same rows, has an interval from a block bootstrap
that keeps overlapping labels together. The challenger is ``better`` where the whole interval is below 0, ``worse``
where it is above.

A row is scored where its bar opened after the last training bar of **both**, and after the last bar that tuning used
where parameters of one were tuned. The labels of training end at that bar or before, so none of them overlaps a scored
one. The times of the bars alone decide which rows and horizons are scored, never the forecasts.

References: Bracher, Ray, Gneiting & Reich (2021), *PLoS Computational Biology* 17, eq. 1 (weighted interval score);
Gneiting & Raftery (2007), *JASA* 102 (proper scores); Diebold & Mariano (1995), *J. Business & Economic Statistics* 13
(comparing forecasts by the mean of their loss differences).
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


def compare(
    champion: ModelBundle,
    challenger: ModelBundle,
    bars: pd.DataFrame,
    settings: Settings | None = None,
    *,
    features: FeatureSet | None = None,
    after: pd.Timestamp | None = None,
) -> Comparison:
    """Score two bundles of one market on every bar that opened after the last training bar of both.

    Each bundle forecasts the bars (n_bars, 5) as a live predictor does. ``features`` and ``after`` are as in `train`. A
    horizon that only one of them has, or with fewer than four blocks of later outcomes, is left out.

    Raises BarsError where no horizon is left, ConfigError for a bundle without price models.
    """
    settings, bars = settings or Settings(), validate_bars(bars)
    seen = max(filter(None, (trained_until(champion), trained_until(challenger), after)))
    later = np.flatnonzero(bars.index > seen)
    shared = tuple(h for h in champion.manifest.horizons if h in challenger.manifest.horizons)
    # Those with enough independent outcomes: four blocks of twice the horizon.
    horizons = tuple(h for h in shared if len(later) - h >= INDEPENDENT_BLOCKS * default_block(h))
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

    def means(of: Mapping[str, FloatVector]) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in of.items()}

    columns = dict(zip(map(str, range(len(parts))), (theirs - ours).T, strict=True))
    # A bar's loss is the sum of its parts, averaged over the horizons.
    columns["all"] = (theirs - ours).sum(axis=1) / len(horizons)
    judged = metric_intervals(means, columns, horizon=max(horizons), level=_LEVEL, reps=_RESAMPLES, seed=seed)
    judged = judged.rename(columns={"value": "difference"})
    index = pd.MultiIndex.from_tuples(parts, names=["horizon", "part"])
    losses = pd.DataFrame({"champion": ours.mean(0), "challenger": theirs.mean(0)}, index)
    table = pd.concat([losses, judged.iloc[:-1].set_axis(index)], axis=1)
    return table, {name: float(judged[name].iloc[-1]) for name in ("difference", "low", "high")}


def _losses(
    bundle: ModelBundle,
    bars: pd.DataFrame,
    later: npt.NDArray[np.int64],
    horizons: tuple[int, ...],
    settings: Settings,
    features: FeatureSet | None,
) -> dict[tuple[int, str], FloatVector]:
    """Losses (n_later,) by horizon and part, NaN where a bar has no outcome or no forecast."""
    if bundle.price is None:
        raise ConfigError(f"bundle {bundle.path}: holds no price models that could be compared")
    forecasts = Predictor(bundle, settings, features=features).forecasts(bars)
    outcomes = forward_returns(bars, horizons)["log_return"]
    ewma = build_features(bars, columns=["ewma_volatility"])["ewma_volatility"].to_numpy(dtype=np.float64)[later]
    found = {}
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
