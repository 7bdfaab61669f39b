"""The page at `/`: files of the package, served unchanged under a strict Content-Security-Policy."""

from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, Response
from starlette.routing import Route

from mlkit.errors import MlkitError
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


def mount_page(app: Any, folder: Path = STATIC_FOLDER) -> list[str]:
    """Serve ``index.html`` of a folder at `/`, its other files and the panel's module at `/static/<name>`.

    The names are read once, here, so that no request can form a path. Without ``index.html`` nothing is served.

    Returns the served paths.
    """
    if not (folder / "index.html").is_file():
        return []
    files: dict[str, Path | None] = {
        f"/static/{path.name}": path for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES
    }
    files = {"/": files.pop("/static/index.html"), **files, "/static/panel.js": None}
    for url, path in files.items():
        app.router.routes.append(Route(url, _endpoint(path), methods=["GET"], include_in_schema=False))
    return list(files)


def _endpoint(path: Path | None) -> Any:
    """Sends a file, or the panel's module for None."""

    async def send(_: Any) -> Response:
        if path is None:
            return Response(panel_module(), media_type=MEDIA_TYPES[".js"], headers=PAGE_HEADERS)
        if not path.is_file():
            raise MlkitError("the page is not installed")
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=PAGE_HEADERS)

    return send
