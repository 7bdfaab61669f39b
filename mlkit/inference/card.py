"""The HTML face of an `Insight`: inline CSS (`card.css`) and SVG, every value escaped, no script, no network.

It follows JupyterLab's, VS Code's or nbconvert's theme where one is declared, else the browser's colour
scheme, and is laid out for 400 to 1200 pixels. Without its style sheet (an untrusted notebook) it still
reads from top to bottom.
"""

import math
from html import escape
from pathlib import Path
from typing import Final

from mlkit.inference.insight import Insight, PatternReading, PricePrediction, Signal
from mlkit.inference.signals import MEMBERS, pattern_title

_STYLE: Final = Path(__file__).with_name("card.css")
_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_GLYPHS: Final = {1: "▲", -1: "▼", 0: "◆"}
_MEMBER_NAMES: Final = dict(zip(MEMBERS, ("XGBoost", "LightGBM", "Random forest"), strict=True))


def render_card(insight: Insight) -> str:
    """Self-contained HTML of one insight, for a notebook, a report or a page of its own."""
    parts = [
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>",
        '<div class="mlkit-card">',
        _head(insight),
    ]
    if insight.message:
        parts.append(f'<div class="note">{escape(insight.message)}</div>')
    parts += [f'<div class="note">{escape(note)}</div>' for note in insight.freshness.notes]
    parts += [_forecasts(insight), _patterns(insight.patterns), _signals(insight), _foot(insight), "</div>"]
    return "\n".join(parts)


# --- numbers in words ------------------------------------------------------------------------------


def format_price(value: float, *, plain: bool = False) -> str:
    """A quoted price with all of its digits, 7 significant ones at most."""
    digits = len(f"{value:.7g}".split("e")[0].replace(".", "").strip("0"))
    return format_prices(value, significant=max(1, digits), plain=plain)


def format_prices(*values: float, step: float | None = None, significant: int = 5, plain: bool = False) -> str:
    """Prices side by side, all with the digits that tell ``step`` apart; tiny ones share a power of ten.

    At least ``significant`` digits each; whole numbers keep all of theirs. ``plain`` is ASCII.
    """
    finest = 10.0 ** (math.floor(math.log10(max(values))) - significant + 1)
    finest = min(finest, step / 10) if step else finest
    decimals = max(0, math.ceil(-math.log10(finest) - 1e-9))
    dash = " to " if plain else " \N{EN DASH} "
    if min(values) >= 1e-4:
        return dash.join(f"{value:,.{decimals}f}" for value in values)
    power = math.floor(math.log10(values[0]))
    if plain:
        return dash.join(f"{value:.{max(0, decimals + power)}e}" for value in values)
    mantissas = dash.join(f"{value / 10.0**power:.{max(0, decimals + power)}f}" for value in values)
    return f"{mantissas} \N{MULTIPLICATION SIGN}10{str(power).translate(_SUPERSCRIPT)}"


def _change(log_return: float, decimals: int | None = None) -> str:
    """A log return as a signed simple return."""
    if log_return == 0 and decimals is None:
        return "no change"
    percent = math.expm1(log_return) * 100
    decimals = _decimals(log_return) if decimals is None else decimals
    return f"{percent:+.{decimals}f}%".replace("-", "\N{MINUS SIGN}")


def _decimals(*log_returns: float) -> int:
    """Decimals of a percentage that leave the largest change about three digits."""
    largest = max((abs(x) for x in log_returns), default=0.0)
    return 2 if largest >= 1e-3 or largest < 1e-8 else 3 if largest >= 1e-4 else 4


def _percent(probability: float) -> str:
    """A probability; 0 % and 100 % only where they are exact."""
    if 0 < probability < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= probability < 1 else f"{probability:.0%}"


def _bars(horizon: str) -> str:
    return f"{horizon} bar" if horizon == "1" else f"{horizon} bars"


def _tone(direction: float) -> str:
    return "up" if direction > 0 else "down" if direction < 0 else "hold"


# --- parts -----------------------------------------------------------------------------------------


def _head(insight: Insight) -> str:
    known = f", known at its close {insight.known_at:%H:%M}" if insight.known_at else ""
    if insight.known_at and insight.known_at.date() != insight.timestamp.date():
        known = f", known at its close {insight.known_at:%Y-%m-%d %H:%M}"
    lead = _badge(insight.signals[0]) if insight.signals else ""
    trade = insight.confidence is not None and insight.signals and insight.signals[0].type != "HOLD"
    sure = f" confidence {_percent(insight.confidence or 0.0)}" if trade else ""
    return (
        f'<div class="head"><div class="symbol">{escape(insight.symbol)}'
        f'<span class="chip">{escape(insight.timeframe)}</span></div>'
        f'<div class="price">{format_price(insight.current_price)}</div></div>'
        f'<div class="head soft"><span>bar of {insight.timestamp:%Y-%m-%d %H:%M} UTC{known}</span>'
        f"<span>{lead}{sure}</span></div>"
    )


def _title(text: str, aside: str = "") -> str:
    return f'<div class="title"><b>{escape(text)}</b><span class="soft">{escape(aside)}</span></div>'


def _empty(reason: str | None) -> str:
    return f'<div class="soft">{escape(reason or "nothing here")}</div>'


def _forecasts(insight: Insight) -> str:
    prices = insight.price_predictions
    if not prices:
        return _title("Price forecast") + _empty(insight.reasons.get("price_predictions") or insight.message)
    tiles = "".join(_tile(h, p, insight.current_price) for h, p in prices.items())
    aside = "point forecast with 80% and 90% intervals; time on a square-root axis"
    fan = _fan(prices, insight.current_price)
    return _title("Price forecast", aside if fan else "") + fan + f'<div class="tiles">{tiles}</div>'


def _fan(prices: dict[str, PricePrediction], current: float) -> str:
    """Cones around the no-change line, symmetric in log price; a random walk's cone has straight edges."""
    known = sorted((int(h), p) for h, p in prices.items() if p.log_return is not None and p.interval)
    if not known:
        return ""
    x = {h: 100 * math.sqrt(h / known[-1][0]) for h, _ in known}
    edges = {h: _log_edges(p, current) for h, p in known}
    reach = max(*(abs(e) for four in edges.values() for e in four), *(abs(p.log_return or 0) for _, p in known))
    reach = reach or 1e-6

    def y(log_return: float) -> float:
        return 50 - 48 * log_return / reach

    def cone(low: int, high: int, opacity: float) -> str:
        upper = [f"{x[h]:.2f},{y(edges[h][high]):.2f}" for h, _ in known]
        lower = [f"{x[h]:.2f},{y(edges[h][low]):.2f}" for h, _ in reversed(known)]
        points = " ".join(["0,50", *upper, *lower])
        return f'<polygon points="{points}" style="fill:var(--accent);opacity:{opacity}"/>'

    path = " ".join(["0,50", *(f"{x[h]:.2f},{y(p.log_return or 0):.2f}" for h, p in known)])
    stroke = "fill:none;vector-effect:non-scaling-stroke"
    dots = "".join(
        f'<span class="dot" style="left:{x[h]:.2f}%;top:{y(p.log_return or 0):.2f}%"></span>' for h, p in known
    )
    return (
        '<div class="fan"><div class="plot"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="forecast cones">{cone(0, 3, 0.14)}{cone(1, 2, 0.18)}'
        f'<line x1="0" y1="50" x2="100" y2="50" style="{stroke};stroke:var(--soft);stroke-dasharray:3 4"/>'
        f'<polyline points="{path}" style="{stroke};stroke:var(--accent);stroke-width:2"/></svg>'
        f"{dots}{_x_labels(x)}{_y_labels(current, reach)}</div></div>"
    )


def _log_edges(price: PricePrediction, current: float) -> tuple[float, float, float, float]:
    """Lower 90, lower 80, upper 80, upper 90 as log returns."""
    assert price.interval is not None
    inner = price.interval_80 or price.interval
    ends = (price.interval[0], inner[0], inner[1], price.interval[1])
    low90, low80, high80, high90 = (math.log(end / current) for end in ends)
    return low90, low80, high80, high90


def _x_labels(x: dict[int, float]) -> str:
    """Horizons under the axis, longest first, skipping those too close to one already written."""
    placed, labels = [0.0], ['<span class="x" style="left:0">0</span>']
    for horizon, left in sorted(x.items(), reverse=True):
        if min(abs(left - other) for other in placed) >= (12 if len(placed) != 2 else 20):  # the longest has a unit
            text = _bars(str(horizon)) if len(placed) == 1 else str(horizon)
            labels.append(f'<span class="x" style="left:{left:.2f}%">{text}</span>')
            placed.append(left)
    return "".join(labels)


def _y_labels(current: float, reach: float) -> str:
    """Top, no change and bottom of the price axis; they never meet."""
    rows = ((2, _change(reach)), (50, "no change"), (98, _change(-reach)))
    return "".join(f'<span class="y" style="top:{top}%">{label}</span>' for top, label in rows)


def _tile(horizon: str, price: PricePrediction, current: float) -> str:
    tone = "badge up" if price.verdict == "edge" else "badge"
    badge = f'<span class="{tone}">{price.verdict or "not measured"}</span>'
    head = f'<div class="pair"><span>{escape(_bars(horizon))}</span>{badge}</div>'
    if price.prediction is None or price.log_return is None:
        return f'<div class="tile">{head}{_empty(price.reason)}</div>'
    tone = _tone(price.log_return)
    step = price.std
    rows = [
        head,
        f'<div class="value">{format_prices(price.prediction, step=step)}</div>',
        f'<div class="{tone}">{_GLYPHS[_sign(price.log_return)]} {_change(price.log_return)}</div>',
    ]
    if price.confidence is not None:
        rows.append(_bar(price.confidence, tone, tick=0.5))
        rows.append(_pair("P(rise)" if price.direction > 0 else "P(fall)", _percent(price.confidence)))
    for label, ends in (("80%", price.interval_80), ("90%", price.interval)):
        if ends:
            rows.append(_pair(label, format_prices(*ends, step=step)))
    moves = {m: math.log(v / current) for m in MEMBERS if (v := getattr(price, m)) is not None}
    if moves:
        places = _decimals(*moves.values())
        pairs = "".join(_pair(_MEMBER_NAMES[m], _change(move, places)) for m, move in moves.items())
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
    tone = "off"
    if name in patterns.detected:
        direction = patterns.directions.get(name, 0)
        tone = _tone(direction)
        title = f'<span class="{tone}">{_GLYPHS[direction]}</span> <b>{title}</b>'
    head = f'<div class="pair"><span>{title}</span><i>{_percent(probability)}</i></div>'
    return f"<div>{head}{_bar(probability, tone, tick=patterns.thresholds.get(name))}</div>"


def _bar(share: float, tone: str, *, tick: float | None) -> str:
    """A horizontal bar of ``share`` in [0, 1], with a mark at ``tick``."""
    mark = "" if tick is None else f'<s style="left:{tick:.1%}"></s>'
    return f'<div class="bar"><u class="{tone}" style="width:{share:.1%}"></u>{mark}</div>'


def _signals(insight: Insight) -> str:
    if not insight.signals:
        return _title("Signals") + _empty(insight.reasons.get("signals") or insight.message)
    aside = "the first one leads"
    return _title("Signals", aside if len(insight.signals) > 1 else "") + "".join(map(_signal_row, insight.signals))


def _signal_row(signal: Signal) -> str:
    sure = "" if signal.confidence is None else _percent(signal.confidence)
    return (
        f'<div class="signal">{_badge(signal)}<span><b>{escape(signal.source)}</b> '
        f'<span class="soft">{escape(signal.reason)}</span></span><span>{sure}</span></div>'
    )


def _badge(signal: Signal) -> str:
    tone = {"BUY": "up", "SELL": "down"}.get(signal.type, "hold")
    return f'<span class="badge {tone}">{signal.type}</span>'


def _foot(insight: Insight) -> str:
    status = insight.model_status
    models = (("pattern CNN", status.pattern_cnn_loaded), ("price ensemble", status.price_predictor_loaded))
    marks = "".join(
        f"<span>● {name} loaded</span>" if loaded else f'<span class="no">○ {name} not loaded</span>'
        for name, loaded in models
    )
    bundle = f"<span>bundle {escape(insight.bundle)}</span>" if insight.bundle else ""
    return f'<div class="foot"><span class="row">{marks}</span>{bundle}</div>'
