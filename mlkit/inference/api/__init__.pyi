"""The REST endpoints: the same insights over HTTP."""

# The ASGI application of a lake.
from .app import create_app as create_app

# Frozen options of one server.
from .options import ServeOptions as ServeOptions

# Serve until interrupted.
from .server import run_server as run_server
