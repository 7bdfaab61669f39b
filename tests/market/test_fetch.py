"""The real ccxt client against a local exchange that misbehaves: the lake ends with the truth, or with what is said.

``pytest -s tests/market/test_fetch.py`` prints the list of faults and their answers.
"""

import _thread
import errno
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlkit.cli import main
from mlkit.config import Settings
from mlkit.errors import ConfigError, DependencyError, FetchError
from mlkit.market import fetch as fetch_module
from mlkit.market.exchange import Exchange, Pace, Patience, connect
from mlkit.market.fetch import fetch_bars, missing_spans
from mlkit.market.progress import Progress
from mlkit.market.simulate import null_market
from mlkit.market.store import BarStore

SERVER_FILE = Path(__file__).with_name("exchange_server.py")
SERVER = runpy.run_path(str(SERVER_FILE))
FAULTS = SERVER["FAULTS"]
MINUTE = pd.Timedelta(minutes=1)
TRUTH = null_market(1500, seed=2, symbol="BTCUSDT")  # two pages of Binance
START, END = TRUTH.index[0], TRUTH.index[-1] + MINUTE
LINES: list[tuple[str, ...]] = []  # the table of faults, printed at the end


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
        return Exchange(client, **{"clock": self.clock, "sleep": self.clock.sleep, "seed": 1, **options})

    def fetch(self, symbols: str | list[str] = "BTCUSDT", **options: Any) -> Any:
        defaults = {"since": START, "until": END, "settings": self.settings}
        exchange = options.pop("exchange", None) or self.exchange()
        return fetch_bars(symbols, "1m", **{**defaults, **options}, exchange=exchange)

    def lake(self, symbol: str = "BTCUSDT") -> pd.DataFrame:
        return self.store.read(symbol, "1m")

    def check(self, truth: pd.DataFrame = TRUTH, symbol: str = "BTCUSDT") -> None:
        pd.testing.assert_frame_equal(self.lake(symbol), truth, check_freq=False)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.server.close()


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    rows = [("fault", "answer", "asked again", "waited, s", "bars in the lake"), *LINES]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def note(fault: str, answer: str, bench: Bench, asked_again: int) -> None:
    bars = len(bench.lake())
    LINES.append((fault, answer, str(asked_again), f"{sum(bench.clock.waits):.0f}", f"{bars:,} of {len(TRUTH):,}"))


# --- one fault on the second page ----------------------------------------------------------------------

WAITS = {"429, Retry-After 7": 7, "429, Retry-After as a date": 9, "418, Retry-After 120": 120}
AGAIN = [
    *WAITS,
    "429 without Retry-After",
    "500",
    "502 with an HTML body",
    "503",
    "no answer in time",
    "connection reset",
    "body cut off on the way",
    "JSON cut, length agrees",
    "HTML with status 200",
    "an empty body",
    "an object instead of rows",
    "numbers instead of rows",
    "rows of three columns",
    "null instead of a price",
    "text instead of a price",
    "text instead of a time",
    "NaN as a price",
    "a price of zero",
    "a negative volume",
    "high below low",
    "an off-grid time",
    "one time, two candles",
]
TWICE = ["an empty page", "a hole in the page", "first rows missing"]
TAKEN = ["half a page", "one row", "every row twice", "newest first", "shuffled", "rows before since"]
STOPS = {
    "418, Retry-After one day": "asks to come back in 86,400 s",
    "451, another country": "HTTP 451; it may not serve your country, try another --exchange",
    "403 of a firewall": "HTTP 403; it may not serve your country",
    "error -1121 in the body": "Invalid symbol",
}


def test_every_fault_of_the_server_has_an_answer() -> None:
    assert sorted(FAULTS) == sorted([*AGAIN, *TWICE, *TAKEN, *STOPS])


@pytest.mark.parametrize("fault", AGAIN)
def test_a_lost_or_wrong_page_is_asked_for_again(bench: Bench, fault: str) -> None:
    bench.server.faults.extend([None, fault])
    report = bench.fetch()
    bench.check()
    assert (report.results[0].retries, report.results[0].added, bench.server.pages) == (1, 1500, 3)
    wait = WAITS.get(fault, 0.5)
    assert wait <= max(bench.clock.waits) <= max(wait, 1.0)
    note(fault, "asked for again after a wait", bench, 1)


@pytest.mark.parametrize("fault", TWICE)
def test_a_page_that_lacks_bars_is_asked_for_twice(bench: Bench, fault: str) -> None:
    bench.server.faults.extend([None, fault])
    report = bench.fetch()
    bench.check()
    assert (report.results[0].retries, report.results[0].absent, bench.server.pages) == (0, 0, 3)
    note(fault, "asked for twice, the fuller page taken", bench, 1)


@pytest.mark.parametrize("fault", TAKEN)
def test_an_untidy_page_is_put_in_order(bench: Bench, fault: str) -> None:
    bench.server.faults.extend([None, fault])
    report = bench.fetch()
    bench.check()
    assert (report.results[0].retries, report.results[0].absent) == (0, 0)
    note(fault, "sorted, repeats dropped, the rest asked for", bench, bench.server.pages - 2)


@pytest.mark.parametrize("fault", STOPS)
def test_a_refusal_ends_it_with_what_was_committed_kept(bench: Bench, fault: str) -> None:
    bench.server.faults.extend([None, fault])
    with pytest.raises(FetchError, match=STOPS[fault]) as stopped:
        bench.fetch()
    assert "committed up to 2024-01-01 16:39, the same command resumes" in str(stopped.value)
    assert bench.clock.waits == []
    bench.check(TRUTH.iloc[:1000])
    note(fault, "one error, committed bars kept", bench, 0)
    assert bench.fetch().results[0].added == 500
    bench.check()


@pytest.mark.parametrize("fault", ["500", "connection reset", "JSON cut, length agrees", "NaN as a price"])
def test_patience_ends_with_one_error_and_the_next_call_resumes(bench: Bench, fault: str) -> None:
    bench.server.faults.append(None)
    bench.server.forever = fault
    with pytest.raises(FetchError, match="after 8 attempts") as stopped:
        bench.fetch()
    assert "\n" not in str(stopped.value)
    waits = np.array(bench.clock.waits)
    longest = np.minimum(60, 2.0 ** np.arange(7))
    assert (waits <= longest).all() and (waits >= longest / 2).all()  # exponential, at most half taken off
    assert len(set(waits / longest)) == 7  # at random
    bench.check(TRUTH.iloc[:1000])
    note(f"{fault}, for ever", "one error after 8 attempts", bench, 7)
    bench.server.forever = None
    first_page = bench.server.pages
    assert bench.fetch().results[0].added == 500
    asked = bench.server.asked[-1][1]
    assert bench.server.pages == first_page + 1
    assert pd.Timestamp(int(asked["startTime"]), unit="ms", tz="UTC") == TRUTH.index[990]  # ten bars before the end
    bench.check()


@pytest.mark.parametrize(("fault", "absent"), [("an empty page", 500), ("a hole in the page", 5)])
def test_what_the_exchange_withholds_is_counted_and_asked_for_next_time(bench: Bench, fault: str, absent: int) -> None:
    bench.server.faults.append(None)
    bench.server.forever = fault
    report = bench.fetch()
    assert report.results[0].absent == absent
    held = bench.lake()
    pd.testing.assert_frame_equal(held, TRUTH.loc[held.index], check_freq=False)
    note(f"{fault}, for ever", f"told: {absent} bars absent", bench, bench.server.pages - 2)
    bench.server.forever = None
    assert bench.fetch().results[0].absent == 0
    bench.check()


@pytest.mark.parametrize("kind", ["time", "markets"])
@pytest.mark.parametrize("fault", ["500", "HTML with status 200", "429, Retry-After 7"])
def test_the_clock_and_the_markets_are_asked_for_again(bench: Bench, kind: str, fault: str) -> None:
    bench.server.other_faults[kind].append(fault)
    bench.fetch()
    bench.check()
    assert len(bench.clock.waits) == 1


def test_no_server_at_all(bench: Bench) -> None:
    exchange = bench.exchange()
    bench.server.close()
    with pytest.raises(FetchError, match="the connection failed") as stopped:
        bench.fetch(exchange=exchange)
    assert "\n" not in str(stopped.value)


# --- what the exchange says later -----------------------------------------------------------------------


def revise(rows: list[int]) -> pd.DataFrame:
    other = TRUTH.copy()
    other.attrs = dict(TRUTH.attrs)
    column = other.columns.get_loc("volume")
    other.iloc[rows, column] += 1.0
    return other


@pytest.mark.parametrize("revised", ["replace", "keep"])
def test_a_revised_bar_in_the_overlap_is_counted_and_follows_the_rule(bench: Bench, revised: str) -> None:
    bench.fetch(until=TRUTH.index[1000])
    other = revise([998])
    bench.server.truth["BTCUSDT"] = other
    result = bench.fetch(revised=revised).results[0]
    assert (result.added, result.known, result.revised) == (500, 9, 1)
    bench.check(other if revised == "replace" else TRUTH)
    note("a revised bar", f"counted; --revised {revised}", bench, 0)


def test_bars_of_another_market_are_refused(bench: Bench) -> None:
    bench.fetch(until=TRUTH.index[1000])
    bench.server.truth["BTCUSDT"] = revise(list(range(1500)))
    with pytest.raises(FetchError, match=r"10 of 10 bars .* another market; collect it under another name"):
        bench.fetch()
    bench.check(TRUTH.iloc[:1000])
    note("another market's bars", "refused, lake untouched", bench, 0)
    bench.fetch(name="BTC_OTHER")
    assert len(bench.lake("BTC_OTHER")) == 1500


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_the_open_candle_is_dropped_by_the_clock_of_the_exchange(bench: Bench, skew: int) -> None:
    bench.server.now = TRUTH.index[1200] + pd.Timedelta(seconds=31)
    bench.clock.now = bench.server.now.timestamp() + skew
    bench.fetch(until=None)
    bench.check(TRUTH.iloc[:1200])
    note(f"open candle, our clock {skew:+d} s", "not taken: the server's time counts", bench, 0)
    bench.server.now = END + pd.Timedelta(minutes=1)
    bench.clock.now = bench.server.now.timestamp() + skew
    assert bench.fetch(until=None).results[0].revised == 0
    bench.check()


def test_a_candle_closed_a_second_ago_is_left_to_settle(bench: Bench) -> None:
    bench.server.now = TRUTH.index[1200] + pd.Timedelta(seconds=1)  # bar 1199 has just closed
    bench.clock.now = bench.server.now.timestamp()
    bench.fetch(until=None)
    bench.check(TRUTH.iloc[:1199])


def test_a_bar_committed_unfinished_is_mended_by_the_overlap(bench: Bench) -> None:
    half = TRUTH.iloc[:1001].copy()
    half.iloc[-1, half.columns.get_loc("volume")] /= 3
    half.attrs = dict(TRUTH.attrs)
    bench.store.append(half)
    assert bench.fetch().results[0].revised == 1
    bench.check()
    note("a candle closed early", "revised by the overlap, counted", bench, 0)


def test_an_outage_of_the_exchange_is_a_gap_and_not_an_error(bench: Bench) -> None:
    truth = pd.concat([TRUTH.iloc[:700], TRUTH.iloc[720:]])
    bench.server.truth["BTCUSDT"] = truth
    assert bench.fetch().results[0].absent == 20
    bench.check(truth)
    note("an outage of 20 bars", "gap kept, told: 20 bars absent", bench, 1)


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
    seen: list[Progress] = []
    bench.server.faults.extend([None, "429, Retry-After 7"])
    bench.fetch(progress=seen.append)
    assert [state.done for state in seen] == sorted(state.done for state in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].added, seen[-1].until) == (1500, 1500, 1500, TRUTH.index[-1])
    assert any(state.note == "HTTP 429; attempt 2 of 8 in 7.0 s" for state in seen)


def test_requests_of_all_threads_share_one_rate_limit() -> None:
    clock = Clock()
    start = clock.now
    pace = Pace(lambda: start, clock.sleep)  # time stands still: every slot is waited for
    threads = [threading.Thread(target=lambda: [pace.take(0.1) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(sorted(clock.waits), 0.1 * np.arange(1, 20), atol=1e-5)
    pace.hold(30)
    pace.take(0.1)
    assert clock.waits[-1] == pytest.approx(30)


def test_the_cost_of_a_request_is_that_of_ccxt(bench: Bench) -> None:
    exchange = bench.exchange()
    exchange.client.rateLimit = 50
    bench.fetch(exchange=exchange)
    assert sum(bench.clock.waits) >= 0.05 * (4 + 1 + 1)  # ccxt: spot markets cost 4, futures markets 1 each
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


# --- the command, interrupted and killed ----------------------------------------------------------------------

CHILD = """
import runpy, sys
from mlkit.cli import main
from mlkit.market import fetch
server = runpy.run_path(sys.argv[1])
fetch.connect = lambda name: server["client_for"](sys.argv[2], name, timeout=5)
fetch._COMMIT = 1000
sys.exit(main(sys.argv[3:]))
"""


def command(bench: Bench, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", CHILD, str(SERVER_FILE), bench.server.url, "fetch", *arguments]
    environment = {**os.environ, "MLKIT_TRAINING_DATA_PATH": str(bench.settings.lake)}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


LONG = null_market(6500, seed=4, symbol="BTCUSDT")
OPTIONS = ("BTCUSDT", "--timeframe", "1m", "--since", "2024-01-01", "--until", f"{LONG.index[-1] + MINUTE:%FT%H:%M}")


def test_killed_and_interrupted_the_same_command_ends_with_the_truth(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.server.truth["BTCUSDT"] = LONG
    bench.server.now = LONG.index[-1] + pd.Timedelta(hours=1)
    monkeypatch.setattr(fetch_module, "connect", lambda name: SERVER["client_for"](bench.server.url, name))
    monkeypatch.setattr(fetch_module, "_COMMIT", 1000)
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(bench.settings.lake))
    third, killed = threading.Event(), threading.Event()

    def hold(count: int) -> None:
        if count == 3:
            third.set()
            killed.wait(30)

    bench.server.hook = hold
    child = command(bench, *OPTIONS)
    assert third.wait(60)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    killed.set()
    assert child.returncode == -signal.SIGKILL
    bench.check(LONG.iloc[:2000])

    def interrupt(count: int) -> None:
        if count == 6:
            _thread.interrupt_main()
            time.sleep(1.0)  # the answer waits until the interruption has been seen

    bench.server.hook = interrupt
    assert main(["fetch", *OPTIONS]) == 130
    held = bench.lake()
    shown = capsys.readouterr()
    reached = f"{held.index[-1]:%Y-%m-%d %H:%M}"
    assert shown.err == f"mlkit: interrupted; committed BTCUSDT up to {reached}; the same command resumes\n"
    assert 3990 <= len(held) <= 6500  # a busy machine may see it after the last page
    pd.testing.assert_frame_equal(held, LONG.iloc[: len(held)], check_freq=False)

    bench.server.hook = lambda count: None
    assert main(["fetch", *OPTIONS]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out.splitlines()[1].split()[:3] == ["BTCUSDT", "1m", "binance"]
    bench.check(LONG)
    LINES.append(("kill -9, then Ctrl-C", "the same command resumes", "0", "0", "6,500 of 6,500"))


def test_the_command_says_in_one_line_what_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch_module, "connect", lambda name: SERVER["client_for"](bench.server.url, name))
    monkeypatch.setattr(fetch_module, "Exchange", partial(Exchange, patience=Patience(attempts=2, first=0.0)))
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", str(bench.settings.lake))
    bench.server.faults.append(None)
    bench.server.forever = "HTML with status 200"
    assert main(["fetch", "BTCUSDT", "--timeframe", "1m", "--since", "2024-01-01", "--until", "2024-01-02"]) == 2
    shown = capsys.readouterr()
    assert (
        len(shown.err.splitlines()) == 1 and "committed up to 2024-01-01 16:39, the same command resumes" in shown.err
    )
    assert "binance" in shown.out
    assert main(["fetch", "BTCUSDT", "--timeframe", "1m", "--since", "2024-01-01", "--jobs", "0"]) == 2
