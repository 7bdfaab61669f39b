"""The live panel: one JavaScript module for the page of `mlkit serve` and for notebooks, and the widget around it."""

import json
import re
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from mlkit.config import Settings
from mlkit.errors import ConfigError, DependencyError, FetchError
from mlkit.inference.insight import Insight
from mlkit.inference.show.chart_data import candles_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from mlkit.inference.show.widget import Panel, Picture

PATIENCE: Final = 25.0  # seconds until a server counts as gone
FOLDER: Final = Path(__file__).with_name("static")
# In the order in which they need each other; together they are one module.
PARTS: Final = (
    "dom",
    "format",
    "cones",
    "chart",
    "prediction",
    "patterns",
    "insights",
    "source",
    "mount",
    "widget",
)
_IMPORT: Final = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_LIBRARY: Final = """\
const before = globalThis.LightweightCharts;
{library}
const Charts = globalThis.LightweightCharts;
globalThis.LightweightCharts = before; // the page's own, if it has one
const STYLES = {styles};
"""


@cache
def panel_module() -> str:
    """The panel as the text of one ES module that loads nothing: the chart library, the styles and the views.

    It exports ``mountPanel``, ``mountAIPredictionPanel``, ``mountPatternConfidence``, ``mountMLInsights``,
    ``endpoints`` and, by default, the ``render`` of an anywidget.
    """
    styles = _read(Path(__file__).with_name("card.css")) + _read(FOLDER / "panel" / "panel.css")
    library = _read(FOLDER / "lightweight-charts.js")
    parts = [_IMPORT.sub("", _read(FOLDER / "panel" / f"{name}.js")) for name in PARTS]
    return "\n".join([_LIBRARY.format(library=library, styles=json.dumps(styles)), *parts])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def panel(
    symbol: str,
    timeframe: str = "1m",
    settings: Settings | None = None,
    *,
    url: str | None = None,
    token: str | None = None,
    every: float = 30.0,
) -> "Panel":
    """The live panel of a market, as a widget: shows the newest insight and asks again while somebody looks.

    Bars that come into the lake, such as by `mlkit fetch --follow`, are taken one by one through `Predictor.update`;
    a newly published bundle is used from the next question on. Where there is no JavaScript the static card stands.

    Parameters
    ----------
    url : address of a running `mlkit serve`, such as ``http://127.0.0.1:8000``, to ask instead of the lake here. The
        kernel asks, not the browser.
    token : of that server, where it wants one.
    every : seconds between two questions, at least 1; none while the panel is out of sight.

    Raises DependencyError where anywidget is missing; ConfigError for a market without bars, or an answer of the
    server that is an error; FetchError where no server answers; else as `insights`.
    """
    made = _widget()
    question = _ask_server(url, symbol, timeframe, token) if url else _ask_lake(symbol, timeframe, settings)
    return made.Panel(question(), question, every=every)  # type: ignore[no-any-return]


def show_panel(insight: Insight, bars: "pd.DataFrame | None" = None) -> "Panel":
    """The panel of one insight, which stands still; with the candles of ``bars``, which end with its bar."""
    made = _widget()
    candles = [] if bars is None else candles_of(bars, made.KEPT)
    return made.Panel(made.Picture(insight, candles))  # type: ignore[no-any-return]


def _widget() -> Any:
    try:
        return import_module("mlkit.inference.show.widget")
    except ModuleNotFoundError as error:
        if (error.name or "mlkit").split(".")[0] == "mlkit":
            raise
        raise DependencyError(f"the panel needs {error.name}: pip install 'mlkit[lab]'") from error


def _ask_lake(symbol: str, timeframe: str, settings: Settings | None) -> "Callable[[], Picture]":
    """Pictures of a market of the lake, followed live."""
    from mlkit.inference.api.readiness import market_status
    from mlkit.inference.served_markets import Markets
    from mlkit.inference.show.widget import KEPT, Picture

    settings = settings or Settings()
    markets = Markets(settings, size=1, clock=lambda: datetime.now(UTC))

    def ask() -> Picture:
        said = markets.answer((symbol, timeframe))
        status = market_status(symbol, timeframe, settings).model_dump(mode="json")
        return Picture(said.insight, said.candles[-KEPT:], said.marks, status)

    return ask


def _ask_server(url: str, symbol: str, timeframe: str, token: str | None) -> "Callable[[], Picture]":
    """Pictures of a market of a server."""
    from mlkit.inference.show.widget import KEPT, Picture

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"url {url!r}: pass the address of a running mlkit serve, such as http://127.0.0.1:8000")
    base = url.rstrip("/") + "/api/ml"
    query = urlencode({"timeframe": timeframe, "candles": KEPT})

    def ask() -> Picture:
        body = _document(f"{base}/insights/{quote(symbol, safe='')}?{query}", token)
        candles = [(int(row[0]), *row[1:]) for row in body.pop("candles") or []]
        markets = _document(f"{base}/status", token)["markets"]
        status = next((m for m in markets if (m["symbol"], m["timeframe"]) == (symbol, timeframe)), None)
        marks = [(int(time), str(name), int(side)) for time, name, side in body.pop("marks", None) or []]
        return Picture(Insight.model_validate(body), candles, marks, status)

    return ask


def _document(url: str, token: str | None) -> Any:
    """JSON of an endpoint; ConfigError with the server's reason where it refuses, FetchError where it is not there."""
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)
    except HTTPError as error:
        try:
            reason = json.load(error)["error"]["reason"]
        except (ValueError, KeyError, TypeError):
            reason = error.reason
        raise ConfigError(f"{url}: {reason}") from error
    except (URLError, TimeoutError, ValueError) as error:
        what = error.reason if isinstance(error, URLError) else error
        raise FetchError(f"{url}: no answer ({what}); is mlkit serve running there?") from error
