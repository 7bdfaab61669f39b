"""The panel in a notebook: an anywidget whose page asks and whose kernel answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anywidget
import pandas as pd
import traitlets

from mlkit.errors import ConfigError, MlkitError
from mlkit.inference.insight import Insight
from mlkit.inference.show.card import render_card
from mlkit.inference.show.chart_data import SHOWN, Candle, candles_of
from mlkit.inference.show.live_panel import panel_module
from mlkit.inference.show.marks import Mark, marks_of

KEPT = 400  # candles of a widget


@dataclass(frozen=True)
class Picture:
    """What a panel shows: an insight, the candles up to its bar, and what is known of the market's bundle."""

    insight: Insight
    candles: list[Candle]
    marks: list[Mark] = field(default_factory=list)
    market: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """As JSON, for the page."""
        rows = [list(candle) for candle in self.candles]
        insight = self.insight.model_dump(mode="json")
        marks = [list(mark) for mark in self.marks]
        return {"insight": insight, "candles": rows, "marks": marks, "market": self.market}


class Panel(anywidget.AnyWidget):  # type: ignore[misc]
    """The three views on one insight; live where there is a question to ask again.

    Parameters
    ----------
    picture : what is shown first.
    question : gives the next picture; called in the kernel when the page asks. None for a still picture.
    every : seconds between two questions while somebody looks.
    """

    _esm = panel_module()
    symbol = traitlets.Unicode().tag(sync=True)
    timeframe = traitlets.Unicode().tag(sync=True)
    live = traitlets.Bool().tag(sync=True)
    every = traitlets.Float(30.0).tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, picture: Picture, question: Callable[[], Picture] | None = None, *, every: float = 30.0) -> None:
        if not every >= 1.0:
            raise ConfigError(f"every={every!r}: a panel asks once a second at most; pass seconds, such as 30")
        self._picture, self._question = picture, question
        said = picture.insight
        super().__init__(
            symbol=said.symbol,
            timeframe=said.timeframe,
            live=question is not None,
            every=float(every),
            answer=picture.document(),
        )
        self.on_msg(self._hear)

    def show(self, insight: Insight, bars: pd.DataFrame | None = None) -> None:
        """Show another insight, as of `Predictor.update`, in every view that is open.

        Parameters
        ----------
        bars : DataFrame (n_bars, 5), the newest bars; those that are not known yet are added.
        """
        candles = list(self._picture.candles)
        if bars is not None:
            fresh = candles_of(bars, KEPT)
            candles = [candle for candle in candles if candle[0] < fresh[0][0]] + fresh
        marks = [*self._picture.marks, *marks_of(insight)][-KEPT:]
        self._take(Picture(insight, candles[-KEPT:], marks, self._picture.market))

    def refresh(self) -> None:
        """Ask now, as the page does by itself; the errors of the question."""
        if self._question is not None:
            self._take(self._question())

    def _take(self, picture: Picture) -> None:
        self._picture = picture
        self.answer = picture.document()

    def _hear(self, _: Any, content: Any, __: Any) -> None:
        """The page asks; it keeps its last picture where there is no answer."""
        if not isinstance(content, dict) or content.get("ask") != "refresh":
            return
        said: dict[str, Any] = {"id": content.get("id")}
        try:
            self.refresh()
        except (MlkitError, OSError) as error:
            said["error"] = str(error)
        self.send(said)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and beside it the static card for where no JavaScript runs."""
        bundle = super()._repr_mimebundle_(**options)
        faces = bundle[0] if isinstance(bundle, tuple) else bundle
        if faces is None:
            return bundle
        insight = self._picture.insight
        faces["text/html"] = render_card(insight, self._picture.candles[-SHOWN:])
        faces["text/plain"] = str(insight)
        return bundle
