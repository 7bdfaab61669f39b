"""The REST endpoints: the same insights over HTTP."""

# The FastAPI application of a lake.
from .app import create_app as create_app

# Frozen options of one server; the token itself stays in its file and in memory.
from .options import ServeOptions as ServeOptions

# Serve until a signal.
from .server import run_server as run_server
