"""The page at `/`: files of the package, served unchanged under a strict Content-Security-Policy."""

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.responses import FileResponse, Response
from starlette.routing import Route

from mlkit.inference.show.panel_files import STATIC_FOLDER, panel_module

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {"Content-Security-Policy": CONTENT_POLICY, "Cache-Control": "no-cache", "X-Frame-Options": "DENY"}


def mount_page(app: Any) -> None:
    """Serve ``index.html`` at `/`, the other static files and the panel's module at `/static/<name>`.

    The names are read once, here, so that no request can form a path.
    """

    def add(url: str, respond: Callable[[], Response]) -> None:
        async def send(_: Any) -> Response:
            return respond()

        app.router.routes.append(Route(url, send, methods=["GET"], include_in_schema=False))

    for path in sorted(STATIC_FOLDER.iterdir()):
        if path.suffix in MEDIA_TYPES:
            url = "/" if path.name == "index.html" else f"/static/{path.name}"
            add(url, partial(FileResponse, path, media_type=MEDIA_TYPES[path.suffix], headers=PAGE_HEADERS))
    add("/static/panel.js", lambda: Response(panel_module(), media_type=MEDIA_TYPES[".js"], headers=PAGE_HEADERS))
