"""The HTML face of an `Insight`: inline CSS (`card.css`) and SVG, every value escaped, no script, no network.

It follows JupyterLab's, VS Code's or nbconvert's theme where one is declared, else the browser's colour
scheme, and is laid out for 400 to 1200 pixels. Without its style sheet (an untrusted notebook) it still
reads from top to bottom.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final

from mlkit.inference.insight_data import InsightData, PatternReading, PricePrediction, Signal
from mlkit.inference.show.chart_data import CandleRow, Plot
from mlkit.inference.show.number_format import (
    change_decimals,
    format_bars,
    format_change,
    format_price,
    format_prices,
    format_probability,
)
from mlkit.inference.signals import pattern_title

_STYLE: Final = Path(__file__).with_name("card.css")
_GLYPHS: Final = {1: "▲", -1: "▼", 0: "◆"}
_MEMBER_TITLES: Final = {"xgboost": "XGBoost", "lightgbm": "LightGBM"}


def render_card(insight: InsightData, candles: Sequence[CandleRow] = ()) -> str:
    """Self-contained HTML of one insight, for a notebook, a report or a page of its own.

    Parameters
    ----------
    candles : the newest bars, oldest first, the last one the insight's; without them the forecasts stand alone.
    """
    parts = [
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>",
        '<div class="mlkit-card">',
        _head(insight),
    ]
    if insight.message:
        parts.append(f'<div class="note">{escape(insight.message)}</div>')
    parts += [f'<div class="note">{escape(note)}</div>' for note in insight.freshness.notes]
    parts += [_forecasts(insight, candles), _patterns(insight.patterns), _signals(insight), _foot(insight), "</div>"]
    return "\n".join(parts)


# --- parts -----------------------------------------------------------------------------------------


def _tone(direction: float) -> str:
    return "up" if direction > 0 else "down" if direction < 0 else "hold"


def _head(insight: InsightData) -> str:
    known = f", known at its close {insight.known_at:%H:%M}" if insight.known_at else ""
    if insight.known_at and insight.known_at.date() != insight.timestamp.date():
        known = f", known at its close {insight.known_at:%Y-%m-%d %H:%M}"
    lead = _badge(insight.signals[0]) if insight.signals else ""
    trade = insight.confidence is not None and insight.signals and insight.signals[0].type != "HOLD"
    sure = f" confidence {format_probability(insight.confidence or 0.0)}" if trade else ""
    return (
        f'<div class="head"><div class="symbol">{escape(insight.symbol)} '
        f'<span class="chip">{escape(insight.timeframe)}</span></div>'
        f'<div class="price">{format_price(insight.current_price)}</div></div>'
        f'<div class="head soft"><span>bar of {insight.timestamp:%Y-%m-%d %H:%M} UTC{known}</span>'
        f"<span>{lead}{sure}</span></div>"
    )


def _title(text: str, aside: str = "") -> str:
    return f'<div class="title"><b>{escape(text)}</b><span class="soft">{escape(aside)}</span></div>'


def _empty(reason: str | None) -> str:
    return f'<div class="soft">{escape(reason or "nothing here")}</div>'


def _forecasts(insight: InsightData, candles: Sequence[CandleRow]) -> str:
    prices = insight.price_predictions
    plot = Plot(candles, prices, insight.current_price)
    drawn = _drawing(plot, insight)
    if not prices:
        return _title("Price forecast") + drawn + _empty(insight.reasons.get("price_predictions") or insight.message)
    tiles = "".join(_tile(h, p, insight.current_price) for h, p in prices.items())
    ahead = "ahead of the candles, " if plot.candles else ""
    aside = f"point forecast with 80% and 90% intervals; {ahead}time on a square-root axis"
    return _title("Price forecast", aside if plot.known else "") + drawn + f'<div class="tiles">{tiles}</div>'


def _drawing(plot: Plot, insight: InsightData) -> str:
    """Candles and cones around the no-change line; a random walk's cone has straight edges."""
    if not plot.known and not plot.candles:
        return ""
    cones = f"{plot.cone(0, 3, 0.14)}{plot.cone(1, 2, 0.18)}{plot.lines()}" if plot.known else ""
    dots = "".join(f'<span class="dot" style="left:{x:.2f}%;top:{y:.2f}%"></span>' for x, y in plot.points())
    words = " and ".join(["candles"] * bool(plot.candles) + ["forecast cones"] * bool(plot.known))
    return (
        f'<div class="fan{" tall" if plot.candles else ""}"><div class="plot">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f"{cones}{plot.candle_paths()}</svg>{dots}{_marker(plot, insight.patterns)}"
        f"{_x_labels(plot)}{_y_labels(plot)}</div></div>"
    )


def _marker(plot: Plot, patterns: PatternReading) -> str:
    """A sign of each direction that was detected, under the last candle or over it."""
    if not plot.candles:
        return ""
    sides = sorted({patterns.directions.get(name, 0) for name in patterns.detected}, reverse=True)
    low, high = (plot.y(math.log(plot.candles[-1][k] / plot.candles[-1][4])) for k in (3, 2))
    return "".join(
        f'<span class="mark {_tone(side)}" style="left:{plot.x(0) - 0.8:.2f}%;'
        f'top:{low + 6 if side > 0 else high - 6 - 6 * (side == 0 and -1 in sides):.2f}%">{_GLYPHS[side]}</span>'
        for side in sides
    )


def _x_labels(plot: Plot) -> str:
    """Horizons under the axis, longest first, skipping those too close to one already written."""
    placed, labels = [plot.x(0)], [f'<span class="x" style="left:{plot.x(0):.4g}%">0</span>']
    if plot.candles:
        first, last = (f"{datetime.fromtimestamp(plot.candles[k][0], UTC):%Y-%m-%d}" for k in (0, -1))
        labels = [f'<span class="x first" style="left:0">{first}</span>']
        labels.append(f'<span class="x last" style="left:{plot.x(0):.2f}%">{last}</span>')
    room = 12 if not plot.candles else 7
    for horizon, _ in reversed(plot.known):
        left = plot.x(horizon)
        first_gap = (20 if not plot.candles else 10) if len(placed) == 2 else room  # the longest has a unit
        if min(abs(left - other) for other in placed) >= first_gap:
            text = (
                format_bars(str(horizon))
                if len(placed) == 1 and not plot.candles
                else f"{'+' * bool(plot.candles)}{horizon}"
            )
            labels.append(f'<span class="x" style="left:{left:.2f}%">{text}</span>')
            placed.append(left)
    return "".join(labels)


def _y_labels(plot: Plot) -> str:
    """Top, no change and bottom of the price axis; they never meet."""
    zero = plot.y(0.0)
    rows = [(zero, "no change")]
    rows += [(at, format_change(move)) for at, move in ((2.0, plot.top), (98.0, plot.bottom)) if abs(at - zero) > 10]
    return "".join(f'<span class="y" style="top:{top:.4g}%">{label}</span>' for top, label in sorted(rows))


def _tile(horizon: str, price: PricePrediction, current: float) -> str:
    tone = "badge up" if price.verdict == "edge" else "badge"
    badge = f'<span class="{tone}">{price.verdict or "not measured"}</span>'
    head = f'<div class="pair"><span>{escape(format_bars(horizon))}</span>{badge}</div>'
    if price.prediction is None or price.log_return is None:
        return f'<div class="tile">{head}{_empty(price.reason)}</div>'
    tone = _tone(price.log_return)
    step = price.std
    rows = [
        head,
        f'<div class="value">{format_prices(price.prediction, step=step)}</div>',
        f'<div class="{tone}">{_GLYPHS[_sign(price.log_return)]} {format_change(price.log_return)}</div>',
    ]
    if price.confidence is not None:
        rows.append(_bar(price.confidence, tone, tick=0.5))
        rows.append(_pair("P(rise)" if price.direction > 0 else "P(fall)", format_probability(price.confidence)))
    for label, ends in (("80%", price.interval_80), ("90%", price.interval)):
        if ends:
            rows.append(_pair(label, format_prices(*ends, step=step)))
    moves = {
        _MEMBER_TITLES.get(name, pattern_title(name)): math.log(value / current)
        for name, value in price.members.items()
    }
    if moves:
        places = change_decimals(*moves.values())
        pairs = "".join(_pair(name, format_change(move, places)) for name, move in moves.items())
        rows.append(f'<div class="members">{pairs}</div>')
    if price.reason:
        rows.append(_empty(price.reason))
    return f'<div class="tile">{"".join(rows)}</div>'


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _pair(label: str, value: str) -> str:
    return f'<div class="pair"><span>{escape(label)}</span><i>{escape(value)}</i></div>'


def _patterns(patterns: PatternReading) -> str:
    aside = f"{patterns.count} detected" + (f", {patterns.standard} standard" if patterns.standard else "")
    if not patterns.probabilities and not patterns.detected:
        return _title("Patterns") + _empty(patterns.reason or "no pattern detected")
    shown = {**patterns.probabilities, **patterns.detected}
    order = sorted(shown, key=lambda name: (name not in patterns.detected, -shown[name]))
    rows = "".join(_pattern_row(name, shown[name], patterns) for name in order)
    legend = " the bar is the probability of the shape, the tick its threshold"
    return _title("Patterns", f"{aside};{legend}") + f'<div class="patterns">{rows}</div>'


def _pattern_row(name: str, probability: float, patterns: PatternReading) -> str:
    title = escape(pattern_title(name))
    tone, tail = "off", ""
    if name in patterns.detected:
        direction = patterns.directions.get(name, 0)
        tone = _tone(direction)
        title = f'<span class="{tone}">{_GLYPHS[direction]}</span> <b>{title}</b>'
        tail = _evidence(name, patterns)
    head = f'<div class="pair"><span>{title}</span><i>{format_probability(probability)}</i></div>'
    return f"<div>{head}{_bar(probability, tone, tick=patterns.thresholds.get(name))}{tail}</div>"


def _evidence(name: str, patterns: PatternReading) -> str:
    """What followed a detected pattern, and whether its written rule agrees."""
    found, words = patterns.evidence.get(name), []
    if found is not None:
        words.append(
            f"hit rate {format_probability(found.hit_rate)} of {found.cases} within {format_bars(str(found.horizon))}"
        )
        words.append(found.verdict)
    if name in patterns.rules:
        words.append("the rule agrees" if patterns.rules[name] else "the rule does not find it")
    return f'<div class="soft">{escape(", ".join(words))}</div>' if words else ""


def _bar(share: float, tone: str, *, tick: float | None) -> str:
    """A horizontal bar of ``share`` in [0, 1], with a mark at ``tick``."""
    mark = "" if tick is None else f'<s style="left:{tick:.1%}"></s>'
    return f'<div class="bar"><u class="{tone}" style="width:{share:.1%}"></u>{mark}</div>'


def _signals(insight: InsightData) -> str:
    if not insight.signals:
        return _title("Signals") + _empty(insight.reasons.get("signals") or insight.message)
    aside = "the first one leads"
    return _title("Signals", aside if len(insight.signals) > 1 else "") + "".join(map(_signal_row, insight.signals))


def _signal_row(signal: Signal) -> str:
    sure = "" if signal.confidence is None else format_probability(signal.confidence)
    return (
        f'<div class="signal">{_badge(signal)}<span><b>{escape(signal.source)}</b> '
        f'<span class="soft">{escape(signal.reason)}</span></span><span>{sure}</span></div>'
    )


def _badge(signal: Signal) -> str:
    tone = {"BUY": "up", "SELL": "down"}.get(signal.type, "hold")
    return f'<span class="badge {tone}">{signal.type}</span>'


def _foot(insight: InsightData) -> str:
    status = insight.model_status
    models = (("pattern CNN", status.pattern_cnn_loaded), ("price ensemble", status.price_predictor_loaded))
    marks = "".join(
        f"<span>● {name} loaded</span>" if loaded else f"<span>○ {name} not loaded</span>" for name, loaded in models
    )
    bundle = f"<span>bundle {escape(insight.bundle)}</span>" if insight.bundle else ""
    trained = insight.freshness.trained_until
    bundle = f"<span>trained until {trained:%Y-%m-%d %H:%M}</span>{bundle}" if trained else bundle
    return f'<div class="foot"><span class="row">{marks}</span>{bundle}</div>'
