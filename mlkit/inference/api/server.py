"""uvicorn around the application: one process or several, logs as JSON lines."""

import json
import logging
import os
import tempfile
import time
from typing import Any

from mlkit.config import Settings
from mlkit.inference.api.options import ServeOptions
from mlkit.inference.api.request_metrics import SHARED_FOLDER

OPTIONS_VARIABLE = "MLKIT_SERVE_OPTIONS"  # passes the options to worker processes; the token stays in its file


def run_server(options: ServeOptions, settings: Settings | None = None) -> None:
    """Serve until interrupted; several processes take their settings from the environment, as `Settings` does.

    Raises ConfigError, before anything listens, for an address that others can reach without a token.
    """
    import uvicorn

    options.token()
    common: dict[str, Any] = {
        "host": options.host.strip("[]"),
        "port": options.port,
        "log_config": log_config(),
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "timeout_keep_alive": 15,
        "h11_max_incomplete_event_size": 16 * 1024,
    }
    if options.workers == 1:
        from mlkit.inference.api.app import create_app

        uvicorn.run(create_app(settings, options), **common)
        return
    with tempfile.TemporaryDirectory(prefix="mlkit-metrics-") as folder:
        os.environ |= {SHARED_FOLDER: folder, OPTIONS_VARIABLE: options.model_dump_json()}
        try:
            uvicorn.run("mlkit.inference.api.server:worker_app", factory=True, workers=options.workers, **common)
        finally:  # only the workers need them
            for name in (SHARED_FOLDER, OPTIONS_VARIABLE):
                del os.environ[name]


def worker_app() -> Any:
    """The application of a worker process, from the environment that `run_server` sets."""
    from mlkit.inference.api.app import create_app

    return create_app(Settings(), ServeOptions.model_validate_json(os.environ[OPTIONS_VARIABLE]))


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, event, process, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; a traceback is one string in it."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            "pid": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_config() -> dict[str, Any]:
    """Logging of uvicorn and mlkit as JSON lines on standard error."""
    loggers = ("uvicorn", "uvicorn.error", "mlkit")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "mlkit.inference.api.server.JsonLines"}},
        "handlers": {"json": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "loggers": {name: {"handlers": ["json"], "level": "INFO", "propagate": False} for name in loggers},
    }
