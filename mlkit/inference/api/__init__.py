"""The REST endpoints: the same insights over HTTP. `create_app` makes the application, `run_server` serves it."""

from typing import Any

import lazy_loader

from mlkit.errors import DependencyError

_get, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that only servers need FastAPI."""
    try:
        return _get(name)
    except ModuleNotFoundError as error:
        if (error.name or "mlkit").split(".")[0] == "mlkit":
            raise
        raise DependencyError(f"mlkit serve needs {error.name}: pip install 'mlkit[serve]'") from error
