"""An insight as a table for a terminal: aligned, in colour where that is wanted, plain ASCII otherwise."""

import math

from mlkit.inference.insight import Insight, PricePrediction, Signal
from mlkit.inference.show.card import format_price, format_prices
from mlkit.inference.signals import pattern_title

_COLOURS = {"up": "32", "down": "31", "soft": "2", "bold": "1", "note": "33"}
_TONES = {"BUY": "up", "SELL": "down", "HOLD": "bold"}
_BAR = 20  # characters of a full probability bar


def insight_table(insight: Insight, *, colour: bool = False) -> str:
    """Lines for a terminal of 100 columns.

    Parameters
    ----------
    colour : whether to write ANSI colours
    """
    paint = _Paint(colour)
    sections = [_head(insight, paint), _forecasts(insight, paint), _patterns(insight, paint), _signals(insight, paint)]
    notes = [paint(f"note: {note}", "note") for note in insight.freshness.notes]
    if insight.message:
        notes.insert(0, paint(insight.message, "note"))
    notes += [paint(f"{name}: {why}", "soft") for name, why in insight.model_status.reasons.items()]
    return "\n\n".join("\n".join(lines) for lines in [*sections, notes + _drift(insight, paint)] if lines)


def _drift(insight: Insight, paint: "_Paint") -> list[str]:
    """What `mlkit drift` last said about the model; nothing without a model."""
    drift = insight.model_status.drift
    if drift is None:
        return [paint("drift: not monitored; run mlkit drift", "soft")] if insight.bundle else []
    said = f"drift: {drift.verdict}, checked at the close of {drift.checked:%Y-%m-%d %H:%M} UTC"
    if drift.verdict != "drift":
        return [paint(said, "soft")]
    return [paint(said, "down"), *(paint(f"  {reason}", "note") for reason in drift.reasons)]


class _Paint:
    """Text in a colour, or as it is."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, tone: str) -> str:
        return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if self._on and tone in _COLOURS else text


def _head(insight: Insight, paint: _Paint) -> list[str]:
    lead = insight.signals[0] if insight.signals else None
    price = format_price(insight.current_price, plain=True)
    first = f"{paint(f'{insight.symbol} {insight.timeframe}', 'bold')}  {price}"
    if lead is not None:
        sure = "" if insight.confidence is None else f" {insight.confidence:.0%}"
        first += f"  {paint(f'{lead.type}{sure}', _TONES[lead.type])}"
    known = f"bar of {insight.timestamp:%Y-%m-%d %H:%M} UTC"
    if insight.known_at is not None:
        known += f", known at its close {insight.known_at:%Y-%m-%d %H:%M}"
    return [first, paint(known + (f", bundle {insight.bundle}" if insight.bundle else ""), "soft")]


def _forecasts(insight: Insight, paint: _Paint) -> list[str]:
    if not insight.price_predictions:
        return []
    rows = [("bars", "forecast", "change", "90% interval", "direction", "out of sample")]
    tones = ["soft"]
    for horizon, price in insight.price_predictions.items():
        rows.append(_forecast(horizon, price))
        move = price.log_return or 0.0
        tones.append("up" if move > 0 else "down" if move < 0 else "")
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [paint(line, tone) for line, tone in zip(lines, tones, strict=True)]


def _forecast(horizon: str, price: PricePrediction) -> tuple[str, str, str, str, str, str]:
    if price.prediction is None or price.log_return is None:
        return f"+{horizon}", "-", "-", "-", "-", price.reason or ""
    change = f"{math.expm1(price.log_return):+.2%}" if price.log_return else "none"
    interval = "-" if price.interval is None else format_prices(*price.interval, step=price.std, plain=True)
    rises = "rise" if price.direction > 0 else "fall"
    sure = "-" if price.confidence is None else f"{rises} {price.confidence:.0%}"
    forecast = format_prices(price.prediction, step=price.std, plain=True)
    return f"+{horizon}", forecast, change, interval, sure, price.verdict or "not measured"


def _patterns(insight: Insight, paint: _Paint) -> list[str]:
    found = insight.patterns.detected
    if not found:
        return [paint(f"patterns: {insight.patterns.reason or 'none detected'}", "soft")]
    width = max(len(pattern_title(name)) for name in found)
    lines = []
    for name, probability in found.items():
        bar = "#" * round(_BAR * probability)
        rule = "rule agrees" if insight.patterns.rules.get(name) else "rule does not see it"
        direction = insight.patterns.directions.get(name, 0)
        line = f"{pattern_title(name).ljust(width)}  {probability:4.0%}  {bar.ljust(_BAR)}  {rule}"
        lines.append(paint(line, {1: "up", -1: "down"}.get(direction, "")))
    return lines


def _signals(insight: Insight, paint: _Paint) -> list[str]:
    def line(signal: Signal) -> str:
        sure = "    " if signal.confidence is None else f"{signal.confidence:4.0%}"
        return f"{paint(signal.type.ljust(4), _TONES[signal.type])} {sure}  {signal.source}: {signal.reason}"

    return [line(signal) for signal in insight.signals]
