"""The REST endpoints: the same insights over HTTP. `create_app` makes the application, `run_server` serves it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlkit.inference.api.app import create_app as create_app
    from mlkit.inference.api.server import run_server as run_server

_PUBLIC = {"create_app": "mlkit.inference.api.app", "run_server": "mlkit.inference.api.server"}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that FastAPI is needed by servers only."""
    from importlib import import_module

    from mlkit.errors import DependencyError

    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_PUBLIC[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "mlkit").split(".")[0] == "mlkit":
            raise
        raise DependencyError(f"mlkit serve needs {error.name}: pip install 'mlkit[serve]'") from error
