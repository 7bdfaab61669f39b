"""BUY, SELL and HOLD signals from one bar's patterns and price forecasts; pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlkit.inference.insight_data import PatternReading, PricePrediction, Signal, SignalType
from mlkit.models.bundle import PatternEvidence

CONTRADICTION = "signals contradict each other"
CONTRADICTORY = "Contradiction"  # source of the HOLD that says so
NO_EDGE = "no edge measured out of sample"
_SIDES: dict[int, SignalType] = {1: "BUY", -1: "SELL"}


@dataclass(frozen=True)
class SignalRules:
    """Thresholds for a BUY or SELL."""

    min_confidence: float = 0.5  # least probability of a pattern or a direction, in [0, 1]
    cost_bps: float = 1.0  # one-way cost in basis points; a forecast must exceed a round trip, |log_return| > 2 * cost

    @property
    def round_trip(self) -> float:
        """Cost of buying and selling once, as a log return."""
        return 2.0 * self.cost_bps * 1e-4


def pattern_title(name: str) -> str:
    """``"engulfing_bullish"`` -> ``"Engulfing bullish"``."""
    return name.replace("_", " ").capitalize()


def pattern_signals(patterns: PatternReading, rules: SignalRules) -> list[Signal]:
    """One signal for each detected pattern, strongest first.

    BUY or SELL needs a direction, a probability of the shape of at least ``min_confidence``, a verdict "edge" on the
    training bars (returns after the pattern beyond the market's mean and a round trip, lower bound above zero) and a
    hit rate of at least ``min_confidence``. Else the signal is a HOLD with the reason. ``confidence`` is the measured
    hit rate, None where nothing was measured.
    """
    signals = []
    for name, probability in sorted(patterns.detected.items(), key=lambda item: -item[1]):
        direction, evidence = patterns.directions.get(name, 0), patterns.evidence.get(name)
        obstacle = _pattern_obstacle(probability, direction, evidence, rules)
        reason, hit_rate = f"{pattern_title(name)} pattern detected", None
        if evidence is not None and direction != 0:
            hit_rate = evidence.hit_rate
            ahead = f"{evidence.horizon} bar" if evidence.horizon == 1 else f"{evidence.horizon} bars"
            reason += f"; the price went its way in {hit_rate:.0%} of {evidence.cases} cases within {ahead}"
        if obstacle is None and evidence is not None:
            kind, reason = _SIDES[direction], f"{reason}, {evidence.edge_bps:+.0f} bps after costs"
        else:
            kind, reason = "HOLD", f"{reason}: {obstacle}"
        signals.append(Signal(type=kind, source=f"Pattern: {name}", reason=reason, confidence=hit_rate))
    return signals


def _pattern_obstacle(
    probability: float, direction: int, evidence: PatternEvidence | None, rules: SignalRules
) -> str | None:
    """The condition that a detected pattern fails; None for a BUY or SELL."""
    if direction == 0:
        return "it has no direction of its own"
    if evidence is None:
        return "what follows it was not measured on this market"
    if evidence.verdict == "no edge":
        return "no edge measured on the training bars"
    if probability < rules.min_confidence:
        return f"{probability:.0%} sure of the shape, below the minimum confidence {rules.min_confidence:.0%}"
    if evidence.hit_rate < rules.min_confidence:
        return f"hit rate below the minimum confidence {rules.min_confidence:.0%}"
    return None


def price_signals(predictions: Mapping[str, PricePrediction], current_price: float, rules: SignalRules) -> list[Signal]:
    """One signal for each horizon that has a forecast, in the order given.

    BUY or SELL needs all of: a verdict other than "no edge", an expected move beyond the round-trip cost, a calibrated
    probability of the direction of at least ``min_confidence`` and above one half, and half of the ensemble's members
    on that side. The first condition that fails is the reason of the HOLD.
    """
    signals = []
    for horizon, prediction in predictions.items():
        move, sure = prediction.log_return, prediction.confidence
        if move is None:
            continue
        bars = "bar" if horizon == "1" else "bars"
        side, members = 1 if move > 0 else -1, prediction.members.values()
        # Members that put the price on the ensemble's side of the current one.
        agreeing = sum((value - current_price) * side > 0 for value in members)
        obstacle = _obstacle(prediction, move, agreeing, len(members), rules)
        reason = f"{f'{move:+.2%}' if move else 'no change'} expected in {horizon} {bars}"
        if obstacle is None:
            reason += "" if sure is None else f", direction {sure:.0%} sure"
            reason += f", {agreeing} of {len(members)} models agree" if members else ""
        else:
            reason += f": {obstacle}"
        kind = "HOLD" if obstacle else _SIDES[side]
        source = f"Price forecast: {horizon} {bars}"
        signals.append(Signal(type=kind, source=source, reason=reason, confidence=sure))
    return signals


def _obstacle(prediction: PricePrediction, move: float, agreeing: int, members: int, rules: SignalRules) -> str | None:
    """The condition that a forecast fails; None for a BUY or SELL."""
    sure = prediction.confidence
    if prediction.verdict == "no edge":
        return NO_EDGE
    if abs(move) <= rules.round_trip:
        return f"inside the round-trip cost of {rules.round_trip:.2%}"
    if sure is None:
        return "no calibrated probability of its direction"
    if sure <= 0.5:
        return f"the calibrated probability of this direction is only {sure:.0%}"
    if sure < rules.min_confidence:
        return f"direction {sure:.0%} sure, below the minimum confidence {rules.min_confidence:.0%}"
    if 2 * agreeing < members:
        return f"only {agreeing} of {members} models agree"
    return None


def combine_signals(signals: Sequence[Signal], *, missing: str | None = None) -> list[Signal]:
    """Order signals so that the leading one comes first.

    All BUY or all SELL: the strongest leads; where both a pattern and a forecast agree, a signal that says so leads,
    with the confidence of the stronger, because the two are not independent. BUY and SELL: a HOLD leads that names the
    contradiction and has no confidence. Neither: the strongest HOLD leads. Without any signal the only one is a HOLD
    with ``missing`` as its reason.
    """
    ranked = sorted(signals, key=lambda s: (s.type == "HOLD", -(s.confidence or 0.0)))
    if not ranked:
        reason = missing or "no pattern detected and no price forecast"
        return [Signal(type="HOLD", source="No evidence", reason=reason, confidence=None)]
    sides = {side: [s.source for s in ranked if s.type == side] for side in ("BUY", "SELL")}
    if sides["BUY"] and sides["SELL"]:
        against = " against ".join(f"{len(names)} {side} (first {names[0]})" for side, names in sides.items())
        lead = Signal(type="HOLD", source=CONTRADICTORY, reason=f"{CONTRADICTION}: {against}", confidence=None)
        return [lead, *ranked]
    first = ranked[0]
    kinds = {source.split(":")[0]: source for source in reversed(sides["BUY"] or sides["SELL"])}
    if len(kinds) < 2:
        return ranked
    reason = f"{' and '.join(source for _, source in sorted(kinds.items()))} point the same way"
    return [Signal(type=first.type, source="Agreement", reason=reason, confidence=first.confidence), *ranked]
