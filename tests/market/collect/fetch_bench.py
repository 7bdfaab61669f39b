"""A lake, a clock that only sleeping moves, and the real ccxt client of a local exchange."""

import runpy
import threading
from pathlib import Path
from typing import Any

import pandas as pd

from mlkit.config import Settings
from mlkit.market.collect.exchange import Exchange
from mlkit.market.collect.fetch import fetch_bars
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market

SERVER_FILE = Path(__file__).with_name("exchange_server.py")
SERVER = runpy.run_path(str(SERVER_FILE))
FAULTS = SERVER["FAULTS"]
MINUTE = pd.Timedelta(minutes=1)
TRUTH = null_market(1500, seed=2, symbol="BTCUSDT")  # two pages of Binance
START, END = TRUTH.index[0], TRUTH.index[-1] + MINUTE


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = (END + pd.Timedelta(minutes=5)).timestamp()
        self.waits: list[float] = []
        self.lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.waits.append(seconds)
            self.now += seconds


class Bench:
    """A server, a clock, a lake and the way from one to the other."""

    def __init__(self, folder: Path) -> None:
        self.server = SERVER["ExchangeServer"]({"BTCUSDT": TRUTH}, now=END + pd.Timedelta(minutes=5))
        self.clock = Clock()
        self.settings = Settings(training_data_path=folder / "bars")
        self.store = BarStore(self.settings.lake)
        SERVER["CLOCK"]["now"] = self.clock.now

    def exchange(self, name: str = "binance", **options: Any) -> Exchange:
        client = SERVER["client_for"](self.server.url, name)
        client.rateLimit = 0  # its waits are tested apart
        return Exchange(client, **{"clock": self.clock, "sleep": self.clock.sleep, **options})

    def fetch(self, symbols: str | list[str] = "BTCUSDT", **options: Any) -> Any:
        defaults = {"since": START, "until": END, "settings": self.settings}
        exchange = options.pop("exchange", None) or self.exchange()
        return fetch_bars(symbols, "1m", **{**defaults, **options}, exchange=exchange)

    def lake(self, symbol: str = "BTCUSDT") -> pd.DataFrame:
        return self.store.read(symbol, "1m")

    def check(self, truth: pd.DataFrame = TRUTH, symbol: str = "BTCUSDT") -> None:
        pd.testing.assert_frame_equal(self.lake(symbol), truth, check_freq=False)
