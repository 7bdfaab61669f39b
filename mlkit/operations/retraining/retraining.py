"""When a model is trained again, and whether the new one takes its place.

A round of `retrain`:

1. `decide`: is a new model due, by the age of the current one (the **champion**), by new bars, or by drift?
2. A **challenger** is trained on the bars before a cut and written, not published.
3. Both forecast the bars after the cut, on which neither was trained, and are compared (`compare`).
4. The challenger is published, in one step, if the whole interval of the comparison says that it did better, or if the
   champion is stale and the challenger did not do worse. It replaces an absent or damaged champion in any case.
5. The newest ``Settings.retrain_keep`` bundles stay; leftovers of killed runs and earlier rounds are deleted.

The bundle that was compared is published, not another one trained on more bars. Where a market has no bundle of its own
and a pool's answers, that one is the champion, and a better challenger becomes the market's own. A process killed at
any moment leaves the old champion or the new one; ``retraining.jsonl`` beside the bundles records what was published
and why.
"""

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

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
    only_one,
    pool_root,
    prune,
    publish,
    read_current,
    sweep,
    withdraw,
)
from mlkit.models.ensemble import EnsembleSettings, Progress
from mlkit.operations.drift.checks import DriftReport, check_drift, save_drift
from mlkit.operations.retraining.champions import RECORD, champion_of, record
from mlkit.operations.retraining.comparison import Comparison, compare, trained_until
from mlkit.operations.retraining.decision import Decision, decide, least_rows
from mlkit.operations.tracking.tracking import TrackedRun, tracked
from mlkit.operations.training import training
from mlkit.operations.training.execution import Execution
from mlkit.operations.tuning.tuned import Tuned, load_tuned

RoundOutcome = Literal["published", "promoted", "kept", "not due", "dry run"]


@dataclass(frozen=True, eq=False)
class Retraining:
    """The result of a round; ``str()`` is a few lines of text, ``to_dict()`` plain JSON values."""

    market: str
    outcome: RoundOutcome
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
            **{name: getattr(self, name) for name in ("market", "outcome", "why")},
            "due": self.decision.due,
            "checks": [asdict(check) for check in self.decision.checks],
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
    drift: DriftReport | None = None,
    features: FeatureSet | None = None,
    ensemble: EnsembleSettings | None = None,
    tuned: bool = False,
    progress: Progress | None = None,
) -> Retraining:
    """One round: decide, train a challenger, compare, publish it or keep the champion, tidy up.

    Parameters
    ----------
    source : bars (n_bars, 5), or the symbol whose bars `load_bars` knows; then ``timeframe`` too
    settings : where the models are; the thresholds of `decide`; how many bundles are kept
    force : train and compare even if nothing is due; publication still takes better forecasts
    dry_run : decide, and report what would be done
    drift : of `check_drift`, which is called by default
    features, ensemble : as in `train`
    tuned : instead of ``ensemble``, the parameters that `mlkit tune` left for the market. Only bars later than
        ``Tuned.saw_until`` judge the challenger, by itself and against the champion.
    progress : callable(stage, done, total)

    Where bars later than the champion's training are too few to compare on, nothing is trained, and the result says how
    many are missing; a champion that is stale, damaged or absent is then replaced by a model of all bars. So is a stale
    one where the history is so short that its successor, trained without the bars to compare on, would be stale.
    Where the bars later than those of tuning are too few for the challenger's own verdict, nothing is trained either.

    Raises RetrainingError while another round, rollback or `mlkit train` of the market runs; BarsError for too few bars
    to train; ConfigError for the name of a pool, and with ``tuned`` where nothing was tuned for this market, profile,
    features and horizons; what `load_bars` and `train` raise. After any error the champion stays.
    """
    settings = settings or Settings()
    if isinstance(source, str):
        if timeframe is None:
            raise ConfigError(f"retrain {source}: say which timeframe, such as 1d")
        pool = pool_root(source, timeframe, settings)
        if current_stamp(pool) is not None and (source, timeframe) not in available(settings):
            raise ConfigError(
                f"retrain {source} {timeframe}: that is a pool ({pool}), and a round is about one market; name one of "
                f"its symbols, or train the pool again with mlkit train --symbols ... --name {source}"
            )
        source = load_bars(source, timeframe, settings=settings)
    bars = validate_bars(source)
    if tuned and ensemble is not None:
        raise ConfigError("retrain: parameters are tuned, or given as an ensemble, not both")
    chosen = load_tuned(settings, bars.attrs["symbol"], bars.attrs["timeframe"]) if tuned else None
    if chosen is not None:
        chosen.demand(settings, bars, features)
    after = None if chosen is None else chosen.saw_until
    options = {"features": features, "ensemble": ensemble, "after": after, "execution": Execution(progress)}
    root = market_root(bars.attrs["symbol"], bars.attrs["timeframe"], settings)
    with nullcontext() if dry_run else only_one(root):
        return _Round(root, bars, settings, drift, chosen, options).run(force, dry_run)


_Plan: TypeAlias = tuple[int, str]  # bars to train on, and why the challenger needs no comparison, if so


class _Round:
    """One round on one market; the caller holds the lock."""

    def __init__(
        self,
        root: Path,
        bars: pd.DataFrame,
        settings: Settings,
        drift: DriftReport | None,
        tuned: Tuned | None,
        options: Mapping[str, Any],  # of train
    ) -> None:
        self._root, self._bars, self._settings, self._tuned, self._options = root, bars, settings, tuned, options
        self._before = _content(root / CURRENT)  # compared before publishing: another process may publish meanwhile
        self._champion, self._fault = champion_of(bars.attrs["symbol"], bars.attrs["timeframe"], settings)
        if drift is None and self._champion is not None and self._champion.price is not None:
            drift = check_drift(self._champion, bars, settings, features=options["features"])
            save_drift(drift, self._champion.path.parent)
        self._decision = decide(self._champion, bars, settings, drift, fault=self._fault)

    def run(self, force: bool, dry_run: bool) -> Retraining:
        plan = self._plan(force)
        if isinstance(plan, Retraining):
            return plan
        cut, why = plan
        later = len(self._bars) - cut
        if dry_run:
            then = f"publish: {why}" if why else f"compare on {later:,} later bars"
            last = self._bars.index[cut - 1]
            return self._result("dry run", f"would train on {cut:,} bars to {last:%Y-%m-%d}, then {then}")
        facts: dict[str, Any] = {"trained_bars": cut, "later_bars": later, "due": "; ".join(self._decision.reasons)}
        facts |= {} if self._tuned is None else {"tuned": self._tuned.provenance()}
        sources = [Source.of(self._bars)]
        with tracked("retrain", self._settings, name=self._root.name, parameters=facts, sources=sources) as run:
            if self._champion is not None and self._champion.path.parent == self._root:  # not a pool's
                run.bundle(self._champion, alias="champion")
            result = self._finish(cut, why, run)
            run.tags({"outcome": result.outcome, "why": result.why})
            run.text("round", str(result))
            if result.comparison is not None:
                run.metrics(result.comparison.to_dict())
                run.table("comparison", result.comparison.table)
        return result

    def _plan(self, force: bool) -> _Plan | Retraining:
        """What to train and whether to compare it, or the result of a round that trains nothing."""
        decision, bars, champion = self._decision, self._bars, self._champion
        if not decision.due and not force:
            return self._result("not due", "no rule asks for a new model")
        if champion is None or decision.due_by("champion"):
            return len(bars), decision.checks[0].text
        stale = decision.due_by("age")
        later = min(int((bars.index > trained_until(champion)).sum()), self._later_than_tuning(len(bars)))
        least = least_rows(champion.manifest.horizons, self._settings)
        if later < least:
            saw = " and than what tuning saw" if self._tuned else ""
            short = f"a comparison takes {least:,} bars later than its training{saw}, {least - later:,} are missing"
            return self._judged(len(bars), f"stale; {short}") if stale else self._result("kept", short)
        held = max(least, min(later // 2, round(0.5 * self._settings.retrain_new_bars * len(bars))))
        cut = len(bars) - held
        if not force and fingerprint(bars.iloc[:cut]) == champion.manifest.data_sha256:
            why = f"{later:,} later bars are just enough to compare on, none is left to learn from"
            return self._result("kept", why)
        if stale and held > self._settings.retrain_age * cut:
            short = f"stale; without {held:,} bars to be compared on, its successor would be stale too"
            return self._judged(len(bars), short)
        return self._judged(cut, "")

    def _later_than_tuning(self, rows: int) -> int:
        """How many of the first rows are later than those that tuning used."""
        after = self._options["after"]
        return rows if after is None else int((self._bars.index[:rows] > after).sum())

    def _judged(self, cut: int, why: str) -> _Plan | Retraining:
        """The plan, if tuned parameters can be judged on bars before the cut that tuning did not use."""
        need = training.MIN_TEST + max(self._settings.prediction_horizons)
        have = self._later_than_tuning(cut)
        if self._tuned is None or have >= need:
            return cut, why
        short = f"tuned parameters are judged on {need:,} bars later than what tuning saw, {need - have:,} are missing"
        if self._decision.due_by("age") and cut < len(self._bars):
            return self._judged(len(self._bars), f"stale; {short}")
        return self._result("kept", short)

    def _finish(self, cut: int, why: str, run: TrackedRun) -> Retraining:
        """Train, compare unless there is a reason not to, publish or keep, tidy up."""
        bars, options = self._bars.iloc[:cut], dict(self._options)
        if self._tuned is not None:
            options["ensemble"] = self._tuned.ensemble(self._settings, bars, options["features"])
        challenger = training.train(bars, self._settings, publish=False, **options)
        run.bundle(challenger, alias="challenger")
        outcome: RoundOutcome = "promoted" if self._champion else "published"
        comparison = None
        left = [entry for entry in record(self._root) if "left" in entry]
        refused = [entry["time"] for entry in left if entry["left"] == challenger.id]
        if refused and self._champion is not None:
            outcome = "kept"
            why = f"{challenger.id} was rolled back on {refused[-1]}; publish it by hand, or wait for other bars"
        elif not why:
            outcome, why, comparison = self._compare(challenger)
        if outcome != "kept":
            self._publish(challenger, outcome, why)
            run.bundle(challenger, alias="champion")
        pruned = prune(self._root, self._settings.retrain_keep)
        spare = {challenger.id, *(str(entry["left"]) for entry in left[-1:])}
        removed = (*pruned, *sweep(self._root, spare=spare))
        return self._result(outcome, why, challenger, comparison, removed)

    def _compare(self, challenger: ModelBundle) -> tuple[RoundOutcome, str, Comparison | None]:
        """Whether the challenger is published, why, and the comparison."""
        champion, stale = self._champion, self._decision.due_by("age")
        assert champion is not None
        if challenger.id == champion.id:
            return "kept", "the same bars and settings gave the same bundle again", None
        design = {name: self._options[name] for name in ("features", "after")}
        found = compare(champion, challenger, self._bars, self._settings, **design)
        if found.answer == "better":
            return "promoted", "the challenger is better with its whole interval", found
        if found.answer == "worse":
            return "kept", f"the challenger is worse{', however stale the champion' if stale else ''}", found
        if stale:
            return "promoted", "the champion is stale, and the challenger is not worse", found
        return "kept", "no difference that the interval does not explain", found

    def _publish(self, challenger: ModelBundle, outcome: str, why: str) -> None:
        """Make it the current one, unless another process published meanwhile; then add it to the record."""
        if _content(self._root / CURRENT) != self._before:
            raise RetrainingError(
                f"{self._root.name}: somebody else published meanwhile; {challenger.id} is trained and not published"
            )
        damaged = ""
        if self._fault:
            with suppress(BundleError, NotTrainedError):  # of a ``CURRENT`` that cannot be read
                damaged = read_current(self._root)[0]
        publish(challenger)
        if self._fault and damaged != challenger.id:
            withdraw(self._root, damaged)  # no rollback leads to it
        before = None if self._champion is None else self._champion.id
        Ledger(self._root / RECORD).write(outcome, bundle=challenger.id, before=before, why=why)

    def _result(
        self,
        outcome: RoundOutcome,
        why: str,
        challenger: ModelBundle | None = None,
        comparison: Comparison | None = None,
        removed: tuple[str, ...] = (),
    ) -> Retraining:
        current = challenger if outcome in ("published", "promoted") else self._champion
        study = self._tuned
        return Retraining(
            market=f"{self._bars.attrs['symbol']} {self._bars.attrs['timeframe']}",
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
