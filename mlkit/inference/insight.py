"""`Insight`: the data of one bar and the ways to show it; every method calls `mlkit.inference.show`."""

from typing import TYPE_CHECKING

import pandas as pd

from mlkit.inference.insight_data import InsightData
from mlkit.inference.show.card import render_card
from mlkit.inference.show.chart_data import candles_of
from mlkit.inference.show.terminal import insight_summary

if TYPE_CHECKING:
    from mlkit.inference.show.widget import InsightPanel


class Insight(InsightData):
    """Patterns, price forecasts and signals of one closed bar, as data, text, HTML and widget; see `InsightData`."""

    def __str__(self) -> str:
        """A few lines of plain text."""
        return insight_summary(self)

    def card(self, bars: pd.DataFrame | None = None) -> str:
        """The insight as self-contained HTML without script, with the candles of ``bars``, which end with its bar."""
        return render_card(self, [] if bars is None else candles_of(bars))

    def panel(self, bars: pd.DataFrame | None = None) -> "InsightPanel":
        """The insight as an interactive widget, with the candles of ``bars``, which end with its bar.

        Raises DependencyError where anywidget is missing.
        """
        from mlkit.inference.show.widget import WIDGET_CANDLES, InsightPanel, PanelContent

        return InsightPanel(PanelContent(self, [] if bars is None else candles_of(bars, WIDGET_CANDLES)))

    def _repr_html_(self) -> str:
        return self.card()
