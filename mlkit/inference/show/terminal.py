"""An insight as plain text: a table for a terminal, coloured where wanted, and the lines of ``str(insight)``."""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from mlkit.inference.insight_data import InsightData, PricePrediction
from mlkit.inference.show.number_format import format_bars, format_price, format_prices
from mlkit.inference.signals import pattern_title

_COLOURS: Final = {"up": "32", "down": "31", "soft": "2", "bold": "1", "note": "33"}
_TONES: Final[dict[str | int, str]] = {"BUY": "up", "SELL": "down", "HOLD": "bold", 1: "up", -1: "down"}
_BAR_WIDTH: Final = 20  # characters of the bar of probability 1
Paint = Callable[[str, str], str]  # text and tone -> text with the codes of its colour


class _ForecastText(NamedTuple):
    """The numbers of one horizon as text; "-" where there is none."""

    price: str = "-"
    change: str = "-"
    interval: str = "-"
    side: str = "-"
    probability: str = ""
    verdict: str = ""

    @classmethod
    def of(cls, forecast: PricePrediction) -> "_ForecastText":
        if forecast.prediction is None or forecast.log_return is None:
            return cls(verdict=forecast.reason or "")
        ends, sure, step = forecast.interval, forecast.confidence, forecast.std
        return cls(
            price=format_prices(forecast.prediction, step=step, plain=True),
            change=f"{math.expm1(forecast.log_return):+.2%}" if forecast.log_return else "none",
            interval="-" if ends is None else format_prices(*ends, step=step, plain=True),
            side="-" if sure is None else "rise" if forecast.direction > 0 else "fall",
            probability="" if sure is None else f"{sure:.0%}",
            verdict=forecast.verdict or "not measured",
        )


def insight_summary(insight: InsightData) -> str:
    """One line for the bar and one for each forecast, the patterns and each signal."""
    price = format_price(insight.current_price, plain=True)
    lines = [f"{insight.symbol} {insight.timeframe}  {insight.timestamp:%Y-%m-%d %H:%M} UTC  {price}"]
    for horizon, forecast in insight.price_predictions.items():
        words, line = _ForecastText.of(forecast), f"  +{format_bars(horizon)}: "
        if words.price == "-":
            lines.append(f"{line}{forecast.reason}")
            continue
        line += f"{words.price} ({'no change' if words.change == 'none' else words.change})"
        line += "" if words.interval == "-" else f", 90% in {words.interval}"
        line += f", P({words.side}) {words.probability}" if words.probability else ""
        lines.append(f"{line}, {words.verdict}")
    if not insight.price_predictions:
        lines.append(f"  prices: {insight.reasons.get('price_predictions') or insight.message}")
    found = ", ".join(f"{name} {p:.0%}" for name, p in insight.patterns.detected.items())
    lines.append(f"  patterns: {found or insight.patterns.reason or 'none detected'}")
    for signal in insight.signals:
        sure = "" if signal.confidence is None else f" ({signal.confidence:.0%})"
        lines.append(f"  {signal.type:<4} {signal.source}{sure}: {signal.reason}")
    return "\n".join([*lines, *(f"  note: {note}" for note in insight.freshness.notes)])


def insight_table(insight: InsightData, *, colour: bool = False) -> str:
    """The insight as aligned lines for a terminal of 100 columns, with ANSI colours or as plain ASCII."""

    def paint(text: str, tone: str) -> str:
        return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if colour and tone in _COLOURS else text

    signals = [
        f"{paint(signal.type.ljust(4), _TONES[signal.type])} "
        f"{'' if signal.confidence is None else format(signal.confidence, '.0%'):>4}  {signal.source}: {signal.reason}"
        for signal in insight.signals
    ]
    last = [paint(insight.message, "note")] if insight.message else []
    last += [paint(f"note: {note}", "note") for note in insight.freshness.notes]
    last += [paint(f"{name}: {why}", "soft") for name, why in insight.model_status.reasons.items()]
    drift = insight.model_status.drift
    if drift is not None:
        drifted = drift.verdict == "drift"
        line = f"drift: {drift.verdict}, checked at the close of {drift.checked:%Y-%m-%d %H:%M} UTC"
        last.append(paint(line, "down" if drifted else "soft"))
        last += [paint(f"  {reason}", "note") for reason in drift.reasons if drifted]
    elif insight.bundle:
        last.append(paint("drift: not monitored; run mlkit drift", "soft"))
    sections = [_head(insight, paint), _forecasts(insight, paint), _patterns(insight, paint), signals, last]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(insight: InsightData, paint: Paint) -> list[str]:
    price = format_price(insight.current_price, plain=True)
    first = f"{paint(f'{insight.symbol} {insight.timeframe}', 'bold')}  {price}"
    if insight.signals:
        sure = "" if insight.confidence is None else f" {insight.confidence:.0%}"
        first += f"  {paint(f'{insight.signals[0].type}{sure}', _TONES[insight.signals[0].type])}"
    bar = f"bar of {insight.timestamp:%Y-%m-%d %H:%M} UTC"
    if insight.known_at is not None:
        bar += f", known at its close {insight.known_at:%Y-%m-%d %H:%M}"
    return [first, paint(bar + (f", bundle {insight.bundle}" if insight.bundle else ""), "soft")]


def _forecasts(insight: InsightData, paint: Paint) -> list[str]:
    if not insight.price_predictions:
        return []
    rows, tones = [("bars", "forecast", "change", "90% interval", "direction", "out of sample")], ["soft"]
    for horizon, forecast in insight.price_predictions.items():
        price, change, interval, side, probability, verdict = _ForecastText.of(forecast)
        rows.append((f"+{horizon}", price, change, interval, f"{side} {probability}".rstrip(), verdict))
        move = forecast.log_return or 0.0
        tones.append("up" if move > 0 else "down" if move < 0 else "")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [paint(line, tone) for line, tone in zip(lines, tones, strict=True)]


def _patterns(insight: InsightData, paint: Paint) -> list[str]:
    patterns = insight.patterns
    if not patterns.detected:
        return [paint(f"patterns: {patterns.reason or 'none detected'}", "soft")]
    width = max(len(pattern_title(name)) for name in patterns.detected)
    lines = []
    for name, probability in patterns.detected.items():
        bar = ("#" * round(_BAR_WIDTH * probability)).ljust(_BAR_WIDTH)
        rule = "rule agrees" if patterns.rules.get(name) else "rule does not see it"
        line = f"{pattern_title(name).ljust(width)}  {probability:4.0%}  {bar}  {rule}"
        lines.append(paint(line, _TONES.get(patterns.directions.get(name, 0), "")))
    return lines
