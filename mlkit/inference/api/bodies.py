"""Answers as bytes: made once, then sent to everyone who asks, zipped or not."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from mlkit.inference.insight_data import Freshness
from mlkit.inference.served_markets import ServedInsight

PARTS: dict[str, tuple[str, ...]] = {
    "patterns": ("patterns",),
    "price-prediction": ("price_predictions",),
    "signals": ("signals", "confidence"),
}
HEAD = (
    "symbol",
    "timeframe",
    "timestamp",
    "known_at",
    "current_price",
    "model_status",
    "message",
    "freshness",
    "reasons",
    "bundle",
)
_AGES = ("as_of", "data_age_seconds")
_MOST_BODIES = 32  # different bodies kept of one answer
_ZIP_FROM = 500  # bytes


class Body(NamedTuple):
    """A document, its tag, and the same zipped."""

    plain: bytes
    zipped: bytes | None
    tag: str


def body_of(answer: ServedInsight, part: str, candles: int = 0) -> Body:
    """The body of an endpoint, ``part`` of `PARTS` or "insights" with so many candles."""
    made: Body | None = answer.bodies.get((part, candles))
    if made is None:
        document = answer.insight.model_dump(mode="json")
        if part == "insights":
            document["candles"] = answer.candles[-candles:] if candles else None
            since = answer.candles[-candles:][0][0]
            document["marks"] = [mark for mark in answer.marks if mark[0] >= since] if candles else None
        else:
            document = {name: document[name] for name in (*HEAD, *PARTS[part])}
        if len(answer.bodies) >= _MOST_BODIES:
            answer.bodies.clear()
        made = answer.bodies[part, candles] = render(document)
    return made


def render(document: dict[str, Any]) -> Body:
    """A document as JSON. Its tag leaves out how old the bar is: time alone is no news."""
    plain = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    freshness = document.get("freshness")
    lasting = dict(document)
    if isinstance(freshness, dict):
        aged = {name for name in Freshness.model_fields if name in _AGES}
        lasting["freshness"] = {name: value for name, value in freshness.items() if name not in aged | {"notes"}}
    digest = hashlib.sha256(json.dumps(lasting, separators=(",", ":")).encode()).hexdigest()[:24]
    zipped = gzip.compress(plain, 6, mtime=0) if len(plain) >= _ZIP_FROM else None
    return Body(plain, zipped, f'W/"{digest}"')


def respond(request: Request, body: Body, max_age: float) -> Response:
    """200 with the body, zipped where the client takes that, or 304 where it has the same already."""
    headers = {
        "ETag": body.tag,
        "Cache-Control": f"private, max-age={int(max_age)}",
        "Vary": "Accept-Encoding",
    }
    if _has(request.headers.getlist("if-none-match"), body.tag):
        return Response(status_code=304, headers=headers)
    if body.zipped is not None and _takes_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        return Response(body.zipped, media_type="application/json", headers=headers)
    return Response(body.plain, media_type="application/json", headers=headers)


def _has(given: Sequence[str], tag: str) -> bool:
    """Whether If-None-Match names a tag; weak comparison (RFC 9110, 13.1.2)."""
    tags = [one.strip() for line in given for one in line.split(",")]
    return "*" in tags or tag.removeprefix("W/") in {one.removeprefix("W/") for one in tags}


def _takes_gzip(header: str) -> bool:
    """Whether Accept-Encoding names gzip with a weight above 0."""
    for one in header.lower().split(","):
        name, *parameters = (word.strip() for word in one.split(";"))
        if name in ("gzip", "*"):
            weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            return weight.strip("0.") != ""
    return False
