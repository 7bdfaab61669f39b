"""Tags, ages, compression, request ids, origins."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

NOW = datetime(2019, 1, 3, 12, tzinfo=UTC)
URL = "/api/ml/insights/TEST?timeframe=1d"
Serve = Callable[..., Any]


def test_tags_and_ages(serve: Serve) -> None:
    client = serve()
    first = client.get(URL)
    assert first.headers["etag"].startswith('W/"') and first.headers["vary"] == "Accept-Encoding"
    assert first.headers["cache-control"] in ("private, max-age=29", "private, max-age=30")
    for given in (first.headers["etag"], f'"x", {first.headers["etag"]}', first.headers["etag"][2:], "*"):
        again = client.get(URL, headers={"If-None-Match": given})
        assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == first.headers["etag"]
    assert client.get(URL, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get(URL + "&candles=1").headers["etag"] != first.headers["etag"]


def test_time_alone_is_no_new_tag_but_staleness_is(serve: Serve) -> None:
    tags = [
        serve(clock=lambda when=when: when).get(URL).headers["etag"]
        for when in (NOW, NOW.replace(hour=13), NOW.replace(year=2020))
    ]
    assert tags[0] == tags[1] != tags[2]


@pytest.mark.parametrize(
    ("header", "zipped"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("gzip;q=0.0", False),
     ("identity", False), ("", False), ("gzipped", False), (";;,q=", False)],
)  # fmt: skip
def test_gzip(serve: Serve, header: str, zipped: bool) -> None:
    client = serve()

    async def raw() -> tuple[dict[bytes, bytes], bytes]:
        sent: list[Any] = []
        scope = {
            "type": "http", "method": "GET", "path": "/api/ml/insights/TEST", "query_string": b"timeframe=1d",
            "headers": [(b"host", b"localhost"), (b"accept-encoding", header.encode())],
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await client.app(scope, receive, send)
        return dict(sent[0]["headers"]), sent[1]["body"]

    headers, body = client.run(raw())
    assert (headers.get(b"content-encoding") == b"gzip") is zipped
    assert int(headers[b"content-length"]) == len(body)
    assert json.loads(gzip.decompress(body) if zipped else body)["symbol"] == "TEST"


def test_request_ids(serve: Serve) -> None:
    client = serve()
    assert client.get(URL, headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("", "a b", "x" * 65, "<script>", "a,b"):
        assert len(client.get(URL, headers={"X-Request-ID": bad}).headers["x-request-id"]) == 32


def test_no_document_of_another_origin_may_read(serve: Serve) -> None:
    response = serve().get(URL, headers={"Origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff"
