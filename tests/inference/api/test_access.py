"""Who may ask: tokens, addresses, host names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.inference.api.app import create_app
from mlkit.inference.api.options import ServeOptions
from mlkit.inference.show.panel_files import panel_module

URL = "/api/ml/insights/TEST?timeframe=1d"
TOKEN = "0123456789abcdef0123456789abcdef"
Serve = Callable[..., Any]
Reason = Callable[[Any, int], str]


def test_a_token_is_asked_for_everywhere_but_where_nothing_is_told(
    serve: Serve, tmp_path: Path, reason: Reason
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    client = serve(token_file=file, host="0.0.0.0")
    for path in (URL, "/api/ml/status", "/metrics", "/openapi.json", "/nowhere", "/static"):
        assert "token" in reason(client.get(path), 401)
        assert client.get(path).headers["www-authenticate"] == "Bearer"
    for bad in (f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer{TOKEN}"):
        assert client.get(URL, headers={"Authorization": bad}).status_code == 401, bad
    for good in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
        assert client.get(URL, headers={"Authorization": good}).status_code == 200
    assert client.get("/healthz").status_code == 200
    page, module = client.get("/"), client.get("/static/panel.js")
    assert page.status_code == module.status_code == 200 and client.get("/static/x.js").status_code == 404
    assert "script-src 'self';" in page.headers["content-security-policy"] and "'unsafe" not in str(page.headers)
    assert module.headers["content-type"].startswith("text/javascript") and module.text == panel_module()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "[::]", "127.0.0.1.example.org"])
def test_other_machines_only_with_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token of at least 32 bytes"):
        create_app(Settings(), ServeOptions(host=host))
    short = tmp_path / "short"
    short.write_text("x" * 31)
    with pytest.raises(ConfigError, match="31 bytes are too few"):
        ServeOptions(host=host, token_file=short).token()
    short.write_text(TOKEN + "\n")
    assert ServeOptions(host=host, token_file=short).token() == TOKEN.encode()
    short.write_text(f"{TOKEN} {TOKEN}")
    with pytest.raises(ConfigError, match="one word"):
        ServeOptions(host=host, token_file=short).token()
    with pytest.raises(ConfigError, match="cannot be read"):
        ServeOptions(host=host, token_file=tmp_path / "none").token()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8", "LOCALHOST"])
def test_this_machine_needs_none(host: str) -> None:
    assert ServeOptions(host=host).token() is None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LOCALHOST:1", 200), ("127.0.0.1:99", 200), ("[::1]:8000", 200),
        ("panel.internal", 200), ("evil.example", 400), ("localhost.evil.example", 400), ("", 400),
        ("localhost:x", 400), ("localhost:80:80", 400), ("[::1", 200), ("127.0.0.2", 400), ("localhost@evil", 400),
    ],
)  # fmt: skip
def test_hosts(serve: Serve, host: str, status: int, reason: Reason) -> None:
    client = serve(allowed_hosts=("Panel.Internal",))
    response = client.get(URL, headers={"Host": host})
    assert response.status_code == status
    if status == 400:
        assert "--allow-host" in reason(response, 400)


def test_a_token_in_the_address_is_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = serve()
    with caplog.at_level("INFO", logger="mlkit.serve"):
        client.get(f"{URL}&token={TOKEN}&candles=5&api_key={TOKEN}")
    (logged,) = [record.fields for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]
    assert logged["query"] == "timeframe=1d&candles=5" and TOKEN not in str(logged)
