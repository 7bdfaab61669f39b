"""The HTML of an insight: `card.html` with inline CSS and SVG; every value escaped, no script, no network.

It follows the theme of JupyterLab, VS Code or nbconvert where one is declared, else the browser's colour scheme, and is
laid out for 400 to 1200 pixels. Without its style sheet (an untrusted notebook) it still reads from top to bottom.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlkit.inference.insight_data import InsightData, PricePrediction
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

if TYPE_CHECKING:
    from jinja2 import Template

_MEMBER_TITLES: Final = {"xgboost": "XGBoost", "lightgbm": "LightGBM"}


def render_card(insight: InsightData, candles: Sequence[CandleRow] = ()) -> str:
    """Self-contained HTML of one insight, for a notebook, a report or a page of its own.

    ``candles`` are the newest bars, oldest first, the last one the insight's; without them only forecasts are drawn.
    """
    patterns = insight.patterns
    shown = {**patterns.probabilities, **patterns.detected}
    order = sorted(shown.items(), key=lambda item: (item[0] not in patterns.detected, -item[1]))
    return _template().render(
        style=Path(__file__).with_name("card.css").read_text(encoding="utf-8"),
        insight=insight,
        plot=Plot(candles, insight.price_predictions, insight.current_price),
        pattern_order=order,
        member_changes=lambda price: _member_changes(price, insight.current_price),
    )


@cache
def _template() -> "Template":
    # Imported here: `mlkit insights` on the command line shows no card.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "bars": format_bars,
        "change": format_change,
        "price": format_price,
        "prices": lambda values, step: format_prices(*values, step=step),
        "probability": format_probability,
        "percent": "{:.1%}".format,
        "title_of_pattern": pattern_title,
        "tone": lambda side: "up" if side > 0 else "down" if side < 0 else "hold",
        "glyph": lambda side: "▲" if side > 0 else "▼" if side < 0 else "◆",
    }
    source = Path(__file__).with_name("card.html").read_text(encoding="utf-8")
    return environment.from_string("".join(line.strip() or "\n" for line in source.splitlines()))


def _member_changes(price: PricePrediction, current: float) -> list[tuple[str, str]]:
    """Name and expected change of each member of the ensemble, all with the same decimals."""
    moves = {name: math.log(value / current) for name, value in price.members.items()}
    decimals = change_decimals(*moves.values())
    return [
        (_MEMBER_TITLES.get(name, pattern_title(name)), format_change(move, decimals)) for name, move in moves.items()
    ]
