"""Two worker processes for real: both answer alike, both take a promoted bundle, one tells of both."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.models.bundle.bundle import ModelBundle
from mlkit.models.bundle.publishing import publish

URL = "/api/ml/price-prediction/TEST?timeframe=1d"
PATIENCE = 120.0  # seconds until a busy machine has started two processes
Get = Callable[[str], tuple[dict[str, str], bytes]]


@pytest.fixture(scope="module")
def running(
    market: tuple[Settings, pd.DataFrame], trained: ModelBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Get, Path]]:
    """``mlkit serve --workers 2``: how to ask it, a new connection each time, and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings, log = market[0], tmp_path_factory.mktemp("workers") / "log"
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(mlkit.__file__).parents[1]),
        "MLKIT_MODEL_STORAGE_PATH": str(settings.model_storage_path),
        "MLKIT_TRAINING_DATA_PATH": str(settings.training_data_path),
    }
    command = [sys.executable, "-m", "mlkit", "serve", "--port", str(port), "--workers", "2"]

    def get(path: str) -> tuple[dict[str, str], bytes]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as reply:
            return {name.lower(): value for name, value in reply.headers.items()}, reply.read()

    with log.open("wb") as file, subprocess.Popen(command, env=env, stderr=file) as process:
        try:
            end = time.monotonic() + PATIENCE
            while log.read_text().count("Application startup complete") < 2:
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            yield get, log
        finally:
            process.terminate()
            process.wait(60)
            publish(trained)


def storm(get: Get, path: str, count: int = 24) -> list[tuple[dict[str, str], bytes]]:
    """Several clients at once."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(get, [path] * count))


def timeless(body: bytes) -> dict[str, Any]:
    """An answer without what it says of the clock: two processes compute it in different seconds."""
    document: dict[str, Any] = json.loads(body)
    for name in ("as_of", "data_age_seconds"):
        document["freshness"].pop(name)
    return document


def processes(log: Path) -> set[int]:
    """Those that answered, by the log's lines."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return {line["pid"] for line in lines if line["event"] == "request" and line["path"].startswith("/api/")}


def test_two_processes_are_one_server(
    running: tuple[Get, Path],
    trained: ModelBundle,
    market: tuple[Settings, pd.DataFrame],
    small_bundle: Callable[..., ModelBundle],
) -> None:
    get, log = running
    answers = storm(get, URL)
    while len(processes(log)) < 2:  # the system deals out connections as it likes
        answers += storm(get, URL)
    assert len({headers["etag"] for headers, _ in answers}) <= 2  # each process looks at the clock once
    first = timeless(answers[0][1])
    assert first["bundle"] == trained.id and all(timeless(body) == first for _, body in answers)

    lines = get("/metrics")[1].decode().splitlines()
    counted = [float(line.split()[-1]) for line in lines if line.startswith("mlkit_requests_total") and "price" in line]
    assert sum(counted) == len(answers)  # of both, whichever was asked

    settings, bars = market
    other = small_bundle(bars.iloc[:2200], seed=8, root=settings.models / "TEST-1d")
    assert other.id != trained.id
    publish(other)
    for _ in range(600):  # each looks once a second
        now = [timeless(body) for _, body in storm(get, URL)]
        by = {document["bundle"]: document for document in now}
        assert by.keys() <= {trained.id, other.id}
        for document in now:  # no answer is a mixture
            assert document == by[document["bundle"]]
        if set(by) == {other.id}:
            break
    else:
        pytest.fail("a process still answers by the earlier bundle")
