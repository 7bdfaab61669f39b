"""The panel in a notebook: an anywidget. Its page asks for a newer insight, the kernel answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mlkit.errors import ConfigError, DependencyError, MlkitError
from mlkit.inference.insight_data import InsightData
from mlkit.inference.show.card import render_card
from mlkit.inference.show.chart_data import CandleRow, PatternMark, candles_of, marks_of
from mlkit.inference.show.panel_files import panel_module

try:
    import anywidget
    import traitlets
except ModuleNotFoundError as error:
    raise DependencyError(f"the panel needs {error.name}: pip install 'mlkit[lab]'") from error

WIDGET_CANDLES = 400  # newest candles that a widget shows


@dataclass(frozen=True)
class PanelContent:
    """An insight, the candles up to its bar with their detected patterns, and the status of the market's bundle."""

    insight: InsightData
    candles: Sequence[CandleRow]
    marks: Sequence[PatternMark] = ()
    market: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The content as the JSON that the page reads."""
        return {
            "insight": self.insight.model_dump(mode="json"),
            "candles": [list(candle) for candle in self.candles],
            "marks": [list(mark) for mark in self.marks],
            "market": self.market,
        }


class InsightPanel(anywidget.AnyWidget):  # type: ignore[misc]
    """Prediction, pattern and signal views of one insight, renewed where ``ask`` is given.

    ``content`` is shown first; ``ask`` returns the next one, called in the kernel every ``every`` seconds (at least 1)
    while the panel is in view.
    """

    _esm = panel_module()
    symbol = traitlets.Unicode().tag(sync=True)
    timeframe = traitlets.Unicode().tag(sync=True)
    live = traitlets.Bool().tag(sync=True)
    every = traitlets.Float(30.0).tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(
        self, content: PanelContent, ask: Callable[[], PanelContent] | None = None, *, every: float = 30.0
    ) -> None:
        if not every >= 1.0:
            raise ConfigError(f"every={every!r}: a panel asks once a second at most; pass seconds, such as 30")
        self._content, self._ask = content, ask
        market = {"symbol": content.insight.symbol, "timeframe": content.insight.timeframe}
        super().__init__(**market, live=ask is not None, every=float(every), answer=content.document())
        self.on_msg(self._on_message)

    def show(self, insight: InsightData, bars: pd.DataFrame | None = None) -> None:
        """Show another insight, such as that of `Predictor.update`, in every open view.

        The newest ``bars``, a DataFrame (n_bars, 5), replace and extend the candles shown.
        """
        candles = list(self._content.candles)
        if bars is not None:
            fresh = candles_of(bars, WIDGET_CANDLES)
            candles = [candle for candle in candles if candle[0] < fresh[0][0]] + fresh
        marks = [*self._content.marks, *marks_of(insight)][-WIDGET_CANDLES:]
        self._set(PanelContent(insight, candles[-WIDGET_CANDLES:], marks, self._content.market))

    def refresh(self) -> None:
        """Ask now instead of at the next interval; raises the errors of ``ask``."""
        if self._ask is not None:
            self._set(self._ask())

    def _set(self, content: PanelContent) -> None:
        self._content = content
        self.answer = content.document()

    def _on_message(self, _: Any, message: Any, __: Any) -> None:
        """Answer a request of the page; after an error the page keeps the content that it shows."""
        if not isinstance(message, dict) or message.get("ask") != "refresh":
            return
        reply: dict[str, Any] = {"id": message.get("id")}
        try:
            self.refresh()
        except (MlkitError, OSError) as error:
            reply["error"] = str(error)
        self.send(reply)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and beside it the static card for viewers without JavaScript."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = render_card(self._content.insight, self._content.candles)
            data["text/plain"] = str(self._content.insight)
        return bundle
