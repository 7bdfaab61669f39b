"""``mlkit fetch`` killed, interrupted and failing: the same command goes on."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pandas as pd
import pytest

from mlkit.cli import main
from mlkit.market.collect import fetch as fetch_module
from mlkit.market.collect.exchange import Exchange
from mlkit.market.collect.patience import Patience
from mlkit.market.simulate.markets import null_market
from tests.market.collect.fetch_bench import MINUTE, SERVER, SERVER_FILE, Bench

# --- the command, interrupted and killed ----------------------------------------------------------------------

CHILD = """
import runpy, sys
from mlkit.cli import main
from mlkit.market.collect import fetch
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
