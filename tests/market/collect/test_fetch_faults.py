"""What the exchange may do instead of answering a page: the lake ends with the truth, or with what is said.

``pytest -s tests/market/collect/test_fetch_faults.py`` prints the list of faults and their answers.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from mlkit.errors import FetchError
from tests.market.collect.fetch_bench import END, FAULTS, TRUTH, Bench

LINES: list[tuple[str, ...]] = []  # the table of faults, printed at the end


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
