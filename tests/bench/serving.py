"""A server in a process of its own, and a load generator on raw sockets: what the serving benches share."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import mlkit
from mlkit.config import Settings
from mlkit.market.bars import validate_bars
from mlkit.models.bundle.bundle import ModelBundle

ROOT = Path(mlkit.__file__).parents[1]


def prepare(home: Path, *, profile: str = "smoke", bars: int = 3000) -> tuple[Settings, ModelBundle]:
    """A lake with daily bars of TEST and a bundle trained on them by ``mlkit.train``, in ``home``."""
    os.environ["MLKIT_HOME"] = str(home)
    settings = Settings(profile=profile)
    rows = mlkit.load_bars("SP500", "1d").iloc[-bars:].copy()
    rows.attrs.update(symbol="TEST", timeframe="1d")
    mlkit.save_bars(validate_bars(rows), settings)
    return settings, mlkit.train(rows, settings)


@dataclass
class Server:
    """Address and process of a running ``mlkit serve``."""

    port: int
    process: subprocess.Popen[bytes]

    def get(self, path: str, timeout: float = 60.0) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as reply:
                return reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def rss(self) -> float:
        """Resident memory of the server and its workers, MiB."""
        pids, total = [self.process.pid], 0.0
        while pids:
            pid = pids.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
            total += int(status.split("VmRSS:")[1].split()[0]) / 1024
        return total

    def processor_seconds(self) -> float:
        """Processor time of the server so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(home: Path, *options: str, **environment: str) -> Iterator[Server]:
    """``mlkit serve`` on a free port, stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "MLKIT_HOME": str(home), "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "mlkit", "serve", "--port", str(port), *options]
    with open(home / "serve.log", "ab") as log, subprocess.Popen(command, env=env, stderr=log) as process:
        running = Server(port, process)
        try:
            for _ in range(600):
                try:
                    running.get("/healthz", timeout=1.0)
                    break
                except OSError:
                    time.sleep(0.1)
            yield running
        finally:
            process.terminate()
            process.wait(30)


@dataclass
class Load:
    """What a load met."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # from the moment a request was due, in seconds
    statuses: Counter[int] = field(default_factory=Counter)
    failures: int = 0  # no answer
    bundles: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        if not self.latencies:
            return "no answer"
        p50, p99 = (1e3 * float(np.quantile(self.latencies, q)) for q in (0.5, 0.99))
        rate = len(self.latencies) / self.seconds
        codes = ", ".join(f"{code}: {count:,}" for code, count in sorted(self.statuses.items()))
        return f"{rate:,.0f}/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms, {codes}, no answer {self.failures}"


def load(port: int, path: str, rate: float, seconds: float, *, connections: int = 32, watch: bool = False) -> Load:
    """Requests at a steady ``rate`` over kept connections; one that is late counts from when it was due.

    ``watch`` counts the bundles that answer and checks that each document is of one bundle throughout.
    """
    result = Load()
    asyncio.run(_load(result, port, path, rate, seconds, connections, watch))
    return result


async def _load(result: Load, port: int, path: str, rate: float, seconds: float, connections: int, watch: bool) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    ticks = iter(range(int(rate * seconds)))
    begun = time.perf_counter() + 0.05

    async def work() -> None:
        reader = writer = None
        for tick in ticks:
            due = begun + tick / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            elif -wait > 10.0:  # hopelessly late: the offered load is more than is taken
                continue
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                status, body = await asyncio.wait_for(_ask(reader, writer, request), 30)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                result.failures += 1
                if writer is not None:
                    writer.close()
                reader = writer = None
                continue
            result.latencies.append(time.perf_counter() - due)
            result.statuses[status] += 1
            if watch and status == 200:
                result.bundles[json.loads(body)["bundle"]] += 1
        if writer is not None:
            writer.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    result.seconds = time.perf_counter() - begun


async def _ask(reader: Any, writer: Any, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


@dataclass
class Reply:
    """One answer and how long it took."""

    status: int
    seconds: float
    retry_after: str | None


def refusals(running: Server, paths: list[str], *, seconds: float = 10.0) -> tuple[list[Reply], list[int]]:
    """Fill a server with the work of most ``paths`` and ask for the last of them again and again meanwhile.

    Returns the answers to the asking, which stops when there is room again or after ``seconds``, and the statuses of
    the work.
    """
    return asyncio.run(_refusals(running.port, paths, seconds))


async def _refusals(port: int, paths: list[str], seconds: float) -> tuple[list[Reply], list[int]]:
    async def get(path: str, connection: tuple[Any, Any]) -> Reply:
        begun = time.perf_counter()
        connection[1].write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await connection[0].readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await connection[0].readexactly(int(fields["content-length"]))
        return Reply(int(head[9:12]), time.perf_counter() - begun, fields.get("retry-after"))

    async def once(path: str) -> int:
        return (await get(path, await asyncio.open_connection("127.0.0.1", port))).status

    probe = await asyncio.open_connection("127.0.0.1", port)
    work = [asyncio.ensure_future(once(path)) for path in paths[:-1]]
    await asyncio.sleep(0.3)  # they are all in
    replies: list[Reply] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not (replies and replies[-1].status == 200):
        replies.append(await get(paths[-1], probe))
        await asyncio.sleep(0.02)
    return replies, await asyncio.gather(*work)
