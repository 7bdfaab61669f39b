"""The real ccxt client against a local exchange: what is missing is asked for, and each bar is believed once."""

import errno
import sys
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit.cli import main
from mlkit.errors import ConfigError, DependencyError, FetchError
from mlkit.market.collect.exchange import Exchange, connect
from mlkit.market.collect.fetch import missing_spans
from mlkit.market.collect.progress_lines import FetchProgress
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market
from tests.market.collect.fetch_bench import END, START, TRUTH, Bench

# --- what is missing is fetched ---------------------------------------------------------------------------


def test_missing_spans_are_those_of_a_set_difference() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        step, join = 60, int(rng.integers(0, 5)) * 60
        have = np.flatnonzero(rng.random(40) < rng.random()) * step
        start, stop = sorted(rng.integers(0, 41, 2) * step)
        spans = missing_spans(have, start, stop, step, join)
        asked = {time for begin, end in spans for time in range(begin, end, step)}
        lacking = set(range(start, stop, step)) - set(have.tolist())
        assert lacking <= asked <= set(range(start, stop, step))
        edges = {time for begin, end in spans for time in (begin, end - step)}
        assert edges <= lacking  # no span begins or ends with a bar that is there
        assert all(after[0] - before[1] >= max(join, 1) for before, after in pairwise(spans))


@pytest.mark.parametrize("seed", range(4))
def test_holes_head_and_tail_of_the_lake_are_filled(bench: Bench, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, 1500, 6))
    part = pd.concat([TRUTH.iloc[cuts[0] : cuts[1]], TRUTH.iloc[cuts[2] : cuts[3]], TRUTH.iloc[cuts[4] : cuts[5]]])
    part.attrs = dict(TRUTH.attrs)
    bench.store.append(part)
    result = bench.fetch().results[0]
    assert (result.added, result.revised) == (1500 - len(part), 0)
    bench.check()


def test_a_complete_lake_costs_no_page(bench: Bench) -> None:
    bench.fetch()
    before = bench.server.pages
    assert bench.fetch().results[0].added == 0
    assert bench.server.pages == before


def test_a_disk_that_refuses_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "bars/part")

    monkeypatch.setattr(BarStore, "append", refuse)
    with pytest.raises(FetchError, match=r"No space left on device.*nothing committed yet"):
        bench.fetch(progress=True)  # shown on a terminal only


def test_since_before_the_listing_costs_one_request_more(bench: Bench) -> None:
    bench.fetch(since="2015-01-01")
    bench.check()
    before = bench.server.pages
    bench.fetch(since="2015-01-01")
    assert bench.server.pages - before <= 2  # asked for, twice: there is nothing before the listing


def test_without_since_it_goes_on_from_the_last_bar(bench: Bench) -> None:
    with pytest.raises(FetchError, match="the lake has no BTCUSDT 1m to continue; give since"):
        bench.fetch(since=None)
    bench.fetch(until=TRUTH.index[100])
    bench.fetch(since=None)
    bench.check()


def test_bybit_speaks_another_dialect(bench: Bench) -> None:
    bench.fetch(exchange=bench.exchange("bybit"))
    bench.check()


# --- several symbols, progress, limits --------------------------------------------------------------------


def test_one_symbol_s_error_does_not_lose_the_others(bench: Bench) -> None:
    eth = null_market(1500, seed=3, symbol="ETHUSDT")
    bench.server.truth["ETHUSDT"] = eth
    with pytest.raises(FetchError, match=r"NOPEUSDT 1m: binance has no market 'NOPEUSDT'.*1 of 3 symbols") as failed:
        bench.fetch(["BTCUSDT", "NOPEUSDT", "ETHUSDT"], jobs=2)
    bench.check()
    bench.check(eth, "ETHUSDT")
    report: Any = failed.value.report
    assert [result.added for result in report.results] == [1500, 0, 1500]
    assert "NOPEUSDT" in str(report) and "<td>1,500</td>" in report._repr_html_()
    assert sum(kind == "markets" for kind, _ in bench.server.asked) == 3  # spot, linear, inverse: once for all


def test_progress_counts_every_bar_once(bench: Bench) -> None:
    seen: list[FetchProgress] = []
    bench.server.faults.extend([None, "429, Retry-After 7"])
    bench.fetch(progress=seen.append)
    assert [state.done for state in seen] == sorted(state.done for state in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].added, seen[-1].until) == (1500, 1500, 1500, TRUTH.index[-1])
    assert any(state.note == "HTTP 429; attempt 2 of 8 in 7.0 s" for state in seen)


def frozen(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of ccxt's rate limiter, by a clock that stands still; the waits are not made."""
    waits: list[float] = []
    exchange.client.milliseconds = lambda: 1_000
    exchange.client.lastRestRequestTimestamp = 1_000
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def test_requests_of_all_threads_share_ccxt_s_rate_limiter(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = bench.exchange()
    waits = frozen(exchange, monkeypatch)
    exchange.client.rateLimit = 100
    twins = [exchange.twin() for _ in range(4)]
    threads = [threading.Thread(target=lambda twin: twin.client.throttle(2), args=(twin,)) for twin in twins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waits == [0.2] * 4


def test_a_retry_after_of_one_thread_holds_the_requests_of_all(bench: Bench) -> None:
    exchange = bench.exchange()
    twin, other = exchange.twin(), exchange.twin()
    held: list[bool] = []
    other._sleep = lambda seconds: held.append(twin._limit.locked())
    bench.server.faults.extend(["429, Retry-After 7", "500"])
    page = "BTC/USDT", "1m", START.value, 10, END.value
    other.ask("the list of markets", other.client.load_markets)
    other.candles(*page)
    assert held == [True, False]  # all wait for the 429, only this thread for the 500


def test_the_cost_of_a_request_is_that_of_ccxt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = bench.exchange()
    waits = frozen(exchange, monkeypatch)
    exchange.client.rateLimit = 50
    bench.fetch(exchange=exchange)
    assert sum(waits) >= 0.05 * (4 + 1 + 1)  # ccxt: spot markets cost 4, futures markets 1 each
    bench.check()


# --- wrong questions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"symbols": "BTCUSD"}, "no market 'BTCUSD'; near it are BTCUSDT"),
        ({"symbols": []}, "no symbol to fetch"),
        ({"symbols": "../up"}, "symbol '../up'"),
        ({"symbols": ["A", "B"], "name": "C"}, "exactly one symbol"),
        ({"since": "yesterday"}, "since='yesterday' is not a time"),
        ({"since": "2030-01-01", "until": None}, "no bar has closed"),
        ({"revised": "ask"}, "revised='ask'"),
    ],
)
def test_wrong_questions_get_one_line(bench: Bench, change: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, FetchError), match=says):
        bench.fetch(**change)


def test_names_of_exchanges_and_timeframes_are_checked(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="exchange 'binanse' is unknown to ccxt; did you mean binance"):
        connect("binanse")
    with pytest.raises(ConfigError, match="timeframe '10m' is unknown"):
        bench.exchange().check_timeframe("10m")
    with pytest.raises(ConfigError, match="kraken has no 3m candles; it has 1m, 5m"):
        Exchange(connect("kraken")).check_timeframe("3m")


def test_without_ccxt_the_install_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    with pytest.raises(DependencyError, match=r'pip install "mlkit\[data\]"'):
        connect("binance")
    assert main(["fetch", "BTCUSDT", "--timeframe", "1m", "--since", "2024-01-01"]) == 2
    assert capsys.readouterr().err == 'mlkit: error: mlkit fetch needs ccxt; install it: pip install "mlkit[data]"\n'
