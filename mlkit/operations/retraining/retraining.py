"""When a model is trained again, and whether the new one takes its place.

A round of `retrain`
--------------------
1. `decide`: is a new model due, by the age of the current one (the **champion**), by new bars, or by drift? What was
   found of drift is kept for those who answer with the champion.
2. A **challenger** is trained on the bars before a cut and written, not published.
3. Both forecast the bars after the cut, which neither has seen; `comparison` says which did better.
4. The challenger is published, in one step, if it did better with its whole interval, or if the champion is stale and
   the challenger did not do worse. It takes the place of a champion that is absent or damaged in any case.
5. The newest ``Settings.retrain_keep`` bundles stay; what killed runs and earlier rounds left is swept.

What is published is the very bundle that was compared, not another one trained on more bars.

With tuned parameters the challenger's own verdict and the comparison count only bars later than those that tuning saw.

Where a market has no bundle of its own and a pool's answers, that one is the champion: what is better becomes the
market's own.

Files of a market's folder, beside its bundles: ``retraining.jsonl`` records what was published and why;
``.retraining.lock`` is held while a round runs and is free again when its process ends, however it ends. A process
killed at any moment leaves the champion of before or the one of after.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mlkit.config import Settings
from mlkit.errors import BundleError, ConfigError, NotTrainedError, RetrainingError
from mlkit.evaluation import Ledger, Source
from mlkit.features import FeatureSet
from mlkit.inference import current_stamp
from mlkit.market import available, fingerprint, load_bars, validate_bars
from mlkit.models.bundle import (
    CURRENT,
    ModelBundle,
    market_root,
    pool_root,
    prune,
    publish,
    read_current,
    sweep,
    withdraw,
)
from mlkit.models.ensemble import EnsembleSettings, Progress
from mlkit.operations.drift.checks import DriftReport, check_drift, save_drift
from mlkit.operations.retraining.champions import RECORD, champion_of, only_one, record
from mlkit.operations.retraining.comparison import Comparison, compare, seen_until
from mlkit.operations.retraining.decision import Decision, Drift, least_rows
from mlkit.operations.retraining.decision import decide as decide
from mlkit.operations.tracking.tracking import TrackedRun, tracked
from mlkit.operations.training.execution import Execution
from mlkit.operations.tuning.tuned import Tuned, load_tuned

Outcome = Literal["published", "promoted", "kept", "not due", "dry run"]
_KEPT: Outcome = "kept"


@dataclass(frozen=True, eq=False)
class Retraining:
    """What became of a round; ``str()`` tells it, ``to_dict()`` gives plain JSON values."""

    market: str
    outcome: Outcome
    why: str  # one line
    decision: Decision
    champion: str | None  # id of the current bundle afterwards
    challenger: str | None = None  # id of the bundle that was trained
    comparison: Comparison | None = None
    removed: tuple[str, ...] = ()  # bundles and leftovers that were deleted
    tuned: str | None = None  # where the challenger's parameters come from, if not from the profile

    def __str__(self) -> str:
        lines = [f"{self.market}: {self.outcome}, {self.why}"]
        lines += [f"  {'due:' if check.due else 'not due:'} {check}" for check in self.decision.checks]
        lines += [f"  tuned: {self.tuned}"] if self.tuned else []
        lines += [f"  compared: {self.comparison}"] if self.comparison else []
        lines += [f"  current: {self.champion or 'none'}"]
        lines += [f"  challenger: {self.challenger}"] if self.challenger not in (None, self.champion) else []
        lines += [f"  deleted: {', '.join(self.removed)}"] if self.removed else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "market": self.market,
            "outcome": self.outcome,
            "why": self.why,
            "due": self.decision.due,
            "checks": [{"rule": check.rule, "due": check.due, "text": check.text} for check in self.decision.checks],
            "champion": self.champion,
            "challenger": self.challenger,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "removed": list(self.removed),
            "tuned": self.tuned,
        }


def retrain(
    source: pd.DataFrame | str,
    timeframe: str | None = None,
    settings: Settings | None = None,
    *,
    force: bool = False,
    dry_run: bool = False,
    drift: Drift | None = None,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    tuned: bool = False,
    progress: Progress | None = None,
) -> Retraining:
    """One round: decide, train a challenger, compare, publish it or keep the champion, tidy up.

    Parameters
    ----------
    source : bars (n_bars, 5), or the symbol whose bars `load_bars` knows; then ``timeframe`` too
    settings : names the models; the thresholds of `decide`; how many bundles are kept
    force : train and compare even if nothing is due; publication still takes better forecasts
    dry_run : decide, and say what would be done
    drift : see `decide`; looked for by default
    features, ensemble : as in `train`
    tuned : instead of ``ensemble``, the parameters that `mlkit tune` left for the market. Only bars later than
        ``Tuned.saw_until`` judge the challenger, by itself and against the champion.
    progress : callable(stage, done, total)

    Where bars later than the champion's training are too few to compare on, nothing is trained and it is said how
    many are missing; a champion that is stale, damaged or absent is then replaced by a model of all bars. So is a stale
    one where the whole history is so short that its successor, trained without the bars to compare on, would be stale.
    Where those later than what tuning saw are too few for the challenger's own verdict, nothing is trained either.

    Raises RetrainingError while another round, rollback or `mlkit train` of the market runs; BarsError for too few bars
    to train; ConfigError for the name of a pool, and with ``tuned`` where nothing was tuned for this market, profile,
    features and horizons; what `load_bars` and `train` raise. Whatever is raised, the champion stays.
    """
    settings = settings or Settings()
    if isinstance(source, str):
        if timeframe is None:
            raise ConfigError(f"retrain {source}: say which timeframe, such as 1d")
        _demand_market(source, timeframe, settings)
        source = load_bars(source, timeframe, settings=settings)
    bars = validate_bars(source)
    if tuned and ensemble is not None:
        raise ConfigError("retrain: parameters are tuned, or given as an ensemble, not both")
    chosen = load_tuned(settings, bars.attrs["symbol"], bars.attrs["timeframe"]) if tuned else None
    if chosen is not None:
        chosen.demand(settings, bars, features)
    root = market_root(bars.attrs["symbol"], bars.attrs["timeframe"], settings)
    options = {"features": features, "ensemble": ensemble, "execution": Execution(progress)}
    if dry_run:
        return _Round(root, bars, settings, force, drift, chosen, options).rehearse()
    with only_one(root):
        return _Round(root, bars, settings, force, drift, chosen, options).run()


def _demand_market(symbol: str, timeframe: str, settings: Settings) -> None:
    """ConfigError for the name of a pool, unless a market has it too."""
    pool = pool_root(symbol, timeframe, settings)
    if current_stamp(pool) is not None and (symbol, timeframe) not in available(settings):
        raise ConfigError(
            f"retrain {symbol} {timeframe}: that is a pool ({pool}), and a round is about one market; name one of its "
            f"symbols, or train the pool again with mlkit train --symbols ... --name {symbol}"
        )


class _Round:
    """One round on one market; the lock is held by the caller."""

    def __init__(
        self,
        root: Path,
        bars: pd.DataFrame,
        settings: Settings,
        force: bool,
        drift: Drift | None,
        tuned: Tuned | None,
        options: Mapping[str, Any],  # of train
    ) -> None:
        self._tuned = tuned
        self._root, self._bars, self._settings, self._force, self._options = root, bars, settings, force, options
        self._current = _content(root / CURRENT)  # to see whether somebody else publishes meanwhile
        self._champion, self._fault = champion_of(bars.attrs["symbol"], bars.attrs["timeframe"], settings)
        self._own = self._champion is None or self._champion.path.parent == root  # else a pool answers so far
        self._drift = drift or self._look()
        self._decision = decide(self._champion, bars, settings, self._drift, fault=self._fault)

    def _look(self) -> DriftReport | None:
        """Drift of the champion, written for those who answer with it; None where there is no model to look at."""
        if self._champion is None or self._champion.price is None:
            return None
        found = check_drift(self._champion, self._bars, self._settings, features=self._options["features"])
        save_drift(found, self._champion.path.parent)
        return found

    def run(self) -> Retraining:
        planned = self._plan()
        if isinstance(planned, Retraining):
            return planned
        cut, why = planned
        facts: dict[str, Any] = {
            "trained_bars": cut,
            "later_bars": len(self._bars) - cut,
            "due": "; ".join(self._decision.reasons),
        }
        facts |= {} if self._tuned is None else {"tuned": self._tuned.provenance()}
        sources = [Source.of(self._bars)]
        with tracked("retrain", self._settings, name=self._root.name, parameters=facts, sources=sources) as run:
            if self._champion is not None and self._own:
                run.bundle(self._champion, alias="champion")
            told = self._finish(cut, why, run)
            run.tags({"outcome": told.outcome, "why": told.why})
            run.text("round", str(told))
            if told.comparison is not None:
                run.metrics(told.comparison.to_dict())
                run.table("comparison", told.comparison.table)
        return told

    def _finish(self, cut: int, why: str, run: TrackedRun) -> Retraining:
        """Train, compare unless ``why`` says that there is no need to, publish or keep, tidy up."""
        challenger = self._train(cut)
        run.bundle(challenger, alias="challenger")
        comparison, back = None, self._rolled_back(challenger)
        if back:
            outcome, why = _KEPT, back
        elif not why:
            outcome, why, comparison = self._judge(challenger)
        else:
            outcome = "promoted" if self._champion else "published"
        if outcome != _KEPT:
            self._publish(challenger, outcome, why)
            run.bundle(challenger, alias="champion")
        return self._told(outcome, why, challenger, comparison, self._tidy(challenger))

    def rehearse(self) -> Retraining:
        planned = self._plan()
        if isinstance(planned, Retraining):
            return planned
        cut, why = planned
        then = f"publish: {why}" if why else f"compare on {len(self._bars) - cut:,} later bars"
        return self._told(
            "dry run", f"would train on {cut:,} bars to {self._bars.index[cut - 1]:%Y-%m-%d}, then {then}"
        )

    def _plan(self) -> tuple[int, str] | Retraining:
        """Number of bars to train on, and why the challenger needs no comparison, if so; or the end of the round."""
        decision, bars, champion = self._decision, self._bars, self._champion
        if not decision.due and not self._force:
            return self._told("not due", "no rule asks for a new model")
        if champion is None or not decision.usable:
            return len(bars), decision.checks[0].text
        later = min(int((bars.index > seen_until(champion)).sum()), self._untuned(len(bars)))
        least = least_rows(champion.manifest.horizons, self._settings)
        if later < least:
            saw = " and than what tuning saw" if self._tuned else ""
            short = f"a comparison takes {least:,} bars later than its training{saw}, {least - later:,} are missing"
            return self._judged(len(bars), f"stale; {short}") if decision.stale else self._told("kept", short)
        held = max(least, min(later // 2, round(0.5 * self._settings.retrain_new_bars * len(bars))))
        cut = len(bars) - held
        if not self._force and fingerprint(bars.iloc[:cut]) == champion.manifest.data_sha256:
            return self._told("kept", f"{later:,} later bars are just enough to compare on, none is left to learn from")
        if decision.stale and held > self._settings.retrain_age * cut:
            short = f"stale; without {held:,} bars to be compared on, its successor would be stale too"
            return self._judged(len(bars), short)
        return self._judged(cut, "")

    def _untuned(self, rows: int) -> int:
        """How many of the first rows are later than what tuning saw."""
        return rows if self._tuned is None else int((self._bars.index[:rows] > self._tuned.saw_until).sum())

    def _judged(self, cut: int, why: str) -> tuple[int, str] | Retraining:
        """The plan, if tuned parameters can be judged on bars before the cut that tuning did not see."""
        from mlkit.operations.training.training import MIN_TEST

        need, have = MIN_TEST + max(self._settings.prediction_horizons), self._untuned(cut)
        if self._tuned is None or have >= need:
            return cut, why
        short = f"tuned parameters are judged on {need:,} bars later than what tuning saw, {need - have:,} are missing"
        if self._decision.stale and cut < len(self._bars):
            return self._judged(len(self._bars), f"stale; {short}")
        return self._told("kept", short)

    def _train(self, cut: int) -> ModelBundle:
        from mlkit.operations.training.training import train

        bars, options = self._bars.iloc[:cut], dict(self._options)
        if self._tuned is not None:
            options["ensemble"] = self._tuned.ensemble(self._settings, bars, options["features"])
            options["after"] = self._tuned.saw_until
        return train(bars, self._settings, publish=False, **options)

    def _rolled_back(self, challenger: ModelBundle) -> str:
        """Why a bundle that a person did not want is not published again; nothing for any other."""
        left = [entry for entry in record(self._root) if entry.get("left") == challenger.id]
        if self._champion is None or not left:
            return ""
        return f"{challenger.id} was rolled back on {left[-1]['time']}; publish it by hand, or wait for other bars"

    def _judge(self, challenger: ModelBundle) -> tuple[Outcome, str, Comparison | None]:
        """What becomes of the challenger, why, and the numbers."""
        champion, stale = self._champion, self._decision.stale
        assert champion is not None
        if challenger.id == champion.id:
            return "kept", "the same bars and settings gave the same bundle again", None
        after = None if self._tuned is None else self._tuned.saw_until
        features = self._options["features"]
        found = compare(champion, challenger, self._bars, self._settings, features=features, after=after)
        if found.answer == "better":
            return "promoted", "the challenger is better with its whole interval", found
        if found.answer == "worse":
            return "kept", f"the challenger is worse{', however stale the champion' if stale else ''}", found
        if stale:
            return "promoted", "the champion is stale, and the challenger is not worse", found
        return "kept", "no difference that the interval does not explain", found

    def _publish(self, challenger: ModelBundle, outcome: str, why: str) -> None:
        """Make it the current one, unless somebody else has published meanwhile; then write that down."""
        if _content(self._root / CURRENT) != self._current:
            raise RetrainingError(
                f"{self._root.name}: somebody else published meanwhile; {challenger.id} is trained and not published"
            )
        damaged = _named(self._root) if self._fault else challenger.id
        publish(challenger)
        if damaged != challenger.id:
            withdraw(self._root, damaged)  # no rollback leads to it
        was = None if self._champion is None else self._champion.id
        Ledger(self._root / RECORD).write(outcome, bundle=challenger.id, before=was, why=why)

    def _tidy(self, challenger: ModelBundle) -> tuple[str, ...]:
        """Keep the newest bundles, this round's challenger, and what the last rollback left."""
        left = [str(entry["left"]) for entry in record(self._root) if "left" in entry]
        pruned = prune(self._root, self._settings.retrain_keep)
        return (*pruned, *sweep(self._root, spare={challenger.id, *left[-1:]}))

    def _told(
        self,
        outcome: Outcome,
        why: str,
        challenger: ModelBundle | None = None,
        comparison: Comparison | None = None,
        removed: tuple[str, ...] = (),
    ) -> Retraining:
        market = f"{self._bars.attrs['symbol']} {self._bars.attrs['timeframe']}"
        new = challenger is not None and outcome in ("published", "promoted")
        current = challenger if new else self._champion
        study = self._tuned
        return Retraining(
            market=market,
            outcome=outcome,
            why=why,
            decision=self._decision,
            champion=None if current is None else current.id,
            challenger=None if challenger is None else challenger.id,
            comparison=comparison,
            removed=removed,
            tuned=None if study is None else f"study {study.study}, which saw bars to {study.saw_until:%Y-%m-%d %H:%M}",
        )


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _named(root: Path) -> str:
    """The id that ``CURRENT`` says; nothing where it cannot be read."""
    try:
        return read_current(root)[0]
    except (BundleError, NotTrainedError):
        return ""
