"""The live panel of a market: a widget that asks the local lake or a running `mlkit serve` for the newest insight."""

import json
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from mlkit.config import Settings
from mlkit.errors import ConfigError, FetchError
from mlkit.inference.insight import Insight
from mlkit.inference.readiness import market_status
from mlkit.inference.served_markets import Markets

if TYPE_CHECKING:
    from mlkit.inference.show.widget import InsightPanel

SERVER_TIMEOUT: Final = 25.0  # seconds


def panel(
    symbol: str,
    timeframe: str = "1m",
    settings: Settings | None = None,
    *,
    url: str | None = None,
    token: str | None = None,
    every: float = 30.0,
) -> "InsightPanel":
    """The live panel of a market, as a widget: shows the newest insight and renews it while the panel is in view.

    New bars of the lake, such as those of `mlkit fetch`, are processed one by one by `Predictor.update`; a
    newly published bundle is used from the next request on. Without JavaScript the static card is shown.

    Parameters
    ----------
    url : address of a running `mlkit serve`, such as ``http://127.0.0.1:8000``, to ask instead of the lake. The kernel
        sends the requests, not the browser.
    token : bearer token of that server, where it requires one.
    every : seconds between two requests, at least 1.

    Raises DependencyError where anywidget is missing; ConfigError for a market without bars or an error answer of the
    server; FetchError where no server answers; else as `insights`.
    """
    # Imported here: the widget needs the optional anywidget.
    from mlkit.inference.show.widget import WIDGET_CANDLES, InsightPanel, PanelContent

    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(f"url {url!r}: pass the address of a running mlkit serve, such as http://127.0.0.1:8000")
    settings = settings or Settings()

    def ask_lake(markets: Markets) -> PanelContent:
        served = markets.answer((symbol, timeframe))
        status = market_status(symbol, timeframe, settings).model_dump(mode="json")
        return PanelContent(served.insight, served.candles[-WIDGET_CANDLES:], served.marks, status)

    def ask_server() -> PanelContent:
        base = f"{url}".rstrip("/") + "/api/ml"
        query = urlencode({"timeframe": timeframe, "candles": WIDGET_CANDLES})
        body = _get_json(f"{base}/insights/{quote(symbol, safe='')}?{query}", token)
        candles, marks = body.pop("candles", None) or [], body.pop("marks", None) or []
        listed = _get_json(f"{base}/status", token)["markets"]
        status = next((m for m in listed if (m["symbol"], m["timeframe"]) == (symbol, timeframe)), None)
        return PanelContent(Insight.model_validate(body), candles, marks, status)

    ask = ask_server if url else partial(ask_lake, Markets(settings, size=1, clock=lambda: datetime.now(UTC)))
    return InsightPanel(ask(), ask, every=every)


def _get_json(url: str, token: str | None) -> Any:
    """JSON of an endpoint; ConfigError with the server's reason for an error status, FetchError without an answer."""
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(request, timeout=SERVER_TIMEOUT) as response:
            return json.load(response)
    except HTTPError as error:
        try:
            reason = json.load(error)["error"]["reason"]
        except (ValueError, KeyError, TypeError):
            reason = error.reason
        raise ConfigError(f"{url}: {reason}") from error
    except (URLError, TimeoutError, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise FetchError(f"{url}: no answer ({cause}); is mlkit serve running there?") from error
