"""Bars as they close, against the local exchange: each once, in order, whatever the network does."""

import runpy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlkit.config import Settings
from mlkit.errors import ConfigError
from mlkit.market.collect.exchange import Exchange
from mlkit.market.collect.patience import Patience
from mlkit.market.collect.polling import follow
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market

SERVER = runpy.run_path(str(Path(__file__).with_name("exchange_server.py")))
TRUTH = null_market(300, seed=9, symbol="BTCUSDT")
MINUTE = pd.Timedelta(minutes=1)


class World:
    """A server whose time moves exactly as ours: by waiting."""

    def __init__(self, folder: Path) -> None:
        self.server = SERVER["ExchangeServer"]({"BTCUSDT": TRUTH}, now=TRUTH.index[200] + pd.Timedelta(seconds=20))
        self.settings = Settings(training_data_path=folder / "bars")
        self.store = BarStore(self.settings.lake)
        self.store.append(TRUTH.iloc[:150])
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.server.now += pd.Timedelta(seconds=seconds)

    def follow(self, **options: Any) -> Iterator[pd.DataFrame]:
        client = SERVER["client_for"](self.server.url)
        client.rateLimit = 0
        patience = Patience(attempts=2, first=1.0)
        exchange = Exchange(client, clock=lambda: self.server.now.timestamp(), sleep=self.wait, patience=patience)
        return follow("BTCUSDT", "1m", exchange=exchange, settings=self.settings, **options)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.server.close()


def test_first_what_was_missed_then_each_bar_after_its_close(world: World) -> None:
    seen = []
    for bars in islice(world.follow(), 6):
        seen.append(bars)
        closed = bars.index[-1] + MINUTE
        assert closed + pd.Timedelta(seconds=2) <= world.server.now
        assert len(seen) == 1 or world.server.now < closed + pd.Timedelta(seconds=3)
    assert [len(bars) for bars in seen] == [50, 1, 1, 1, 1, 1]
    pd.testing.assert_frame_equal(pd.concat(seen), TRUTH.iloc[150:205], check_freq=False)
    pd.testing.assert_frame_equal(world.store.read("BTCUSDT", "1m"), TRUTH.iloc[:205], check_freq=False)


def test_a_lost_network_is_told_and_nothing_is_missed(world: World) -> None:
    told: list[str] = []

    def notice(text: str) -> None:
        told.append(text)
        if world.server.now > TRUTH.index[206]:
            world.server.forever = None

    stream = world.follow(notice=notice)
    seen = [next(stream), next(stream)]
    world.server.forever = "connection reset"
    seen += [next(stream), next(stream)]
    assert told and "the connection failed" in told[0] and "\n" not in told[0]
    assert len(seen[2]) > 3
    pd.testing.assert_frame_equal(pd.concat(seen), TRUTH.iloc[150 : 150 + sum(map(len, seen))], check_freq=False)


def test_a_bar_that_is_late_is_waited_for(world: World) -> None:
    stream = world.follow()
    next(stream)
    held = TRUTH.drop(TRUTH.index[200])  # the exchange lost a bar for good, and has the ones after it
    world.server.truth["BTCUSDT"] = held
    bars = next(stream)
    assert bars.index.tolist() == [TRUTH.index[201]]
    assert max(world.waits) < 60 and min(world.waits) >= 1.0


def test_an_empty_lake_needs_a_start(world: World) -> None:
    with pytest.raises(ConfigError, match="give since"):
        next(world.follow(name="BTC_NEW"))
    first = next(world.follow(name="BTC_NEW", since=TRUTH.index[190]))
    assert first.index[0] == TRUTH.index[190] and first.attrs["symbol"] == "BTC_NEW"
