"""The page at `/`: files of the package, served as they are under a strict Content-Security-Policy."""

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
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "X-Frame-Options": "DENY"}


def mount_page(app: Any, folder: Path = STATIC_FOLDER) -> list[str]:
    """Serve ``index.html`` of a folder at `/`, its other files and the panel's module at `/static/<name>`; their paths.

    The names are read once, here: no path is made of a request. Without ``index.html`` nothing is served.
    """
    if not (folder / "index.html").is_file():
        return []
    served = {"/": folder / "index.html"}
    for path in sorted(folder.iterdir()):
        if path.suffix in MEDIA_TYPES and path.name != "index.html":
            served[f"/static/{path.name}"] = path
    for url, path in served.items():
        app.router.routes.append(Route(url, _endpoint(path), methods=["GET"], include_in_schema=False))
    module = "/static/panel.js"
    app.router.routes.append(Route(module, _panel, methods=["GET"], include_in_schema=False))
    return [*served, module]


async def _panel(_: Any) -> Response:
    """The module that notebooks run too."""
    return Response(panel_module(), media_type=MEDIA_TYPES[".js"], headers=HEADERS)


def _endpoint(path: Path) -> Any:
    async def send(_: Any) -> Response:
        if not path.is_file():
            raise MlkitError("the page is not installed")
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=HEADERS)

    return send
