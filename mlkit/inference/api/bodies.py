"""Response bodies: rendered and compressed once for each insight, then sent to every client."""

import gzip
import hashlib
import json
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from mlkit.inference.served_markets import ServedInsight

_MAX_BODIES = 32  # different bodies kept of one insight
_GZIP_FROM = 500  # bytes
# Fields that change with the time of day alone, so the tag leaves them out.
_AGES = {"as_of", "data_age_seconds", "notes"}


class Body(NamedTuple):
    """A JSON document, the same compressed by gzip where it is long enough, and its ETag."""

    plain: bytes
    zipped: bytes | None
    tag: str


def body_of(served: ServedInsight, model: type[BaseModel], candles: int = 0) -> Body:
    """The fields of ``model``, a document of `schemas`, with the newest ``candles`` where it holds them."""
    body: Body | None = served.bodies.get((model, candles))
    if body is None:
        document = served.insight.model_dump(mode="json")
        rows = served.candles[-candles:] if candles else None
        document["candles"] = rows
        document["marks"] = [mark for mark in served.marks if mark[0] >= rows[0][0]] if rows else None
        if len(served.bodies) >= _MAX_BODIES:
            served.bodies.clear()
        body = served.bodies[model, candles] = render({name: document[name] for name in model.model_fields})
    return body


def render(document: dict[str, Any]) -> Body:
    """A document as JSON, with a tag that does not change while only the ages change."""
    plain = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    lasting = dict(document)
    if isinstance(freshness := document.get("freshness"), dict):
        lasting["freshness"] = {name: value for name, value in freshness.items() if name not in _AGES}
    digest = hashlib.sha256(json.dumps(lasting, separators=(",", ":")).encode()).hexdigest()[:24]
    zipped = gzip.compress(plain, 6, mtime=0) if len(plain) >= _GZIP_FROM else None
    return Body(plain, zipped, f'W/"{digest}"')


def respond(request: Request, body: Body, max_age: float) -> Response:
    """200 with the body, compressed where the client accepts that, or 304 where it already has the same."""
    headers = {"ETag": body.tag, "Cache-Control": f"private, max-age={int(max_age)}", "Vary": "Accept-Encoding"}
    # Weak comparison (RFC 9110, 13.1.2).
    given = ",".join(request.headers.getlist("if-none-match")).split(",")
    if {"*", body.tag.removeprefix("W/")} & {tag.strip().removeprefix("W/") for tag in given}:
        return Response(status_code=304, headers=headers)
    if body.zipped is not None and _accepts_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"] = "gzip"
        return Response(body.zipped, media_type="application/json", headers=headers)
    return Response(body.plain, media_type="application/json", headers=headers)


def _accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding names gzip with a weight above 0."""
    for one in header.lower().split(","):
        name, *parameters = (word.strip() for word in one.split(";"))
        if name in ("gzip", "*"):
            weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            return weight.strip("0.") != ""
    return False
