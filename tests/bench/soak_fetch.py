"""A collection killed at random moments (kill -9) and started again until the lake is complete; prints the count.

    .venv/bin/python tests/bench/soak_fetch.py [KILLS]

After each kill every bar that was in the lake before is there, and every bar that is there is the exchange's. That
is the local one of the tests, and it misbehaves on one page in four.
"""

import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import ccxt  # noqa: F401 - imported once, before the processes part
import pandas as pd

from mlkit.config import Settings
from mlkit.errors import FetchError
from mlkit.market.collect import fetch
from mlkit.market.collect.exchange import Exchange
from mlkit.market.collect.patience import Patience
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market

SERVER = runpy.run_path(str(Path(__file__).parents[1] / "market" / "collect" / "exchange_server.py"))
TRUTH = null_market(12_000, seed=11, symbol="BTCUSDT")
END = TRUTH.index[-1] + pd.Timedelta(minutes=1)
FAULTS = ["500", "connection reset", "JSON cut, length agrees", "an empty page", "shuffled", "one time, two candles"]


def serve() -> tuple[int, str]:
    """The exchange in a process of its own: its number and address."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        chance = random.Random(1)
        server = SERVER["ExchangeServer"]({"BTCUSDT": TRUTH}, now=END + pd.Timedelta(hours=1))
        os.write(write, server.url.encode())
        os.close(write)
        while True:
            server.faults.append(chance.choice(FAULTS) if chance.random() < 0.25 else None)
            while len(server.faults) > 20:
                time.sleep(0.005)
    os.close(write)
    return child, os.read(read, 100).decode()


def collect(url: str, settings: Settings) -> None:
    """One collection, to the end or to the first error."""
    fetch._COMMIT = 1000
    client = SERVER["client_for"](url)
    client.rateLimit = 0
    exchange = Exchange(client, sleep=lambda seconds: None, patience=Patience(attempts=4))
    fetch.fetch_bars("BTCUSDT", "1m", since=TRUTH.index[0], until=END, exchange=exchange, settings=settings)


def held(settings: Settings) -> pd.DataFrame:
    """What the lake has; AssertionError unless each bar is the exchange's."""
    store = BarStore(settings.lake)
    if store.last("BTCUSDT", "1m") is None:
        return TRUTH.iloc[:0]
    bars = store.read("BTCUSDT", "1m")
    pd.testing.assert_frame_equal(bars, TRUTH.loc[bars.index], check_freq=False)
    return bars


def main() -> int:
    """Kill and go on; 1 where a bar was lost or wrong."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    chance, server_and_url = random.Random(2), serve()
    server, url = server_and_url
    folder = Path(tempfile.mkdtemp())
    killed = completed = 0
    try:
        settings, before = Settings(training_data_path=folder / "0"), 0
        while killed < kills:
            child = os.fork()
            if child == 0:
                try:
                    collect(url, settings)
                except FetchError:
                    os._exit(3)
                os._exit(0)
            time.sleep(chance.uniform(0.05, 1.5))
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            now = len(held(settings))
            assert now >= before, f"{before - now} committed bars lost"
            before = now
            if now == len(TRUTH):
                completed += 1
                settings, before = Settings(training_data_path=folder / str(completed)), 0
        print(f"{killed} kills, {completed} lakes completed beside them: no committed bar lost, none wrong")
    finally:
        os.kill(server, signal.SIGKILL)
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
