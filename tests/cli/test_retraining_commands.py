"""mlkit retrain and rollback: what they print, how a loop goes on and stops, what they refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import mlkit
from mlkit.cli import main
from mlkit.cli import retrain_commands as retraining
from mlkit.errors import FetchError
from mlkit.market.simulate.markets import null_market
from mlkit.operations.retraining.decision import Check, Decision
from mlkit.operations.retraining.retraining import Retraining

MARKET = ["--symbol", "SP500", "--timeframe", "1d"]
TOLD = Retraining("SP500 1d", "kept", "no difference", Decision((Check("age", True, "9 days"),)), "a" * 16)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project of its own."""
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every round was called with; an error in ``answers`` is raised instead."""
    called: list[Any] = []

    def retrain(*arguments: Any, **options: Any) -> Retraining:
        called.append((arguments, options))
        return TOLD

    monkeypatch.setattr("mlkit.operations.retraining.retrain", retrain)
    return called


def test_the_options_reach_the_round(rounds: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrain", *MARKET, "--force", "--keep", "5", "--seed", "3", "--profile", "full", "--json"]) == 0
    (symbol, timeframe, settings), options = rounds[0]
    assert (symbol, timeframe, settings.retrain_keep, settings.seed, settings.profile) == ("SP500", "1d", 5, 3, "full")
    assert options["force"] and not options["dry_run"] and not options["tuned"]
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["why"], told["champion"]) == ("kept", "no difference", "a" * 16)
    assert told["checks"] == [{"rule": "age", "due": True, "text": "9 days"}]
    assert main(["retrain", *MARKET, "--dry-run", "--tuned"]) == 0 and rounds[1][1]["dry_run"] and rounds[1][1]["tuned"]
    assert capsys.readouterr().out.startswith("SP500 1d: kept, no difference\n  due: age: 9 days\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--every", "6"], "'6' is not a length of time such as 30m, 6h or 1d"),
        (["--every", "0h"], "'0h' is not a length of time"),
        (["--every", "1.5h"], "'1.5h' is not a length of time"),
        (["--every", "99999999999d"], "is not a length of time"),
        (["--keep", "1"], "nothing to roll back to; keep 2 or more"),
        (["--keep", "x"], "'x' is not a whole number"),
        (["--every", "6h", "--dry-run"], "--dry-run looks once"),
        (["--fetch", "nowhere"], "SP500"),  # a built-in market cannot be fetched
        (["--tuned"], "nothing was tuned for SP500 1d; run mlkit tune --symbol SP500 --timeframe 1d"),
        (["--tuned", "--every", "6h"], "nothing was tuned for SP500 1d"),
    ],
)
def test_what_is_refused(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrain", *MARKET, *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mlkit: error: ") and words in said and said.count("\n") == 1


def test_nothing_to_roll_back_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", *MARKET]) == 2
    assert "no published model" in capsys.readouterr().err
    assert main(["rollback", *MARKET, "--list"]) == 0
    assert capsys.readouterr().out == "SP500 1d, the current model first\n  none\n"


def test_a_round_of_the_loop_that_fails_is_told_and_the_loop_goes_on(
    rounds: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    fetched: list[str] = []

    def fetch(symbol: str, timeframe: str, *, exchange: str, settings: Any) -> str:
        fetched.append(exchange)
        if len(fetched) == 2:
            raise FetchError("the exchange\nis away")
        return "1 bar"

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("mlkit.market.collect.fetch_bars", fetch)
    monkeypatch.setattr(retraining.time, "sleep", sleep)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["retrain", *MARKET, "--every", "6h", "--fetch", "--json"]) == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert fetched == ["binance"] * 3 and len(rounds) == 2 and all(0 < seconds <= 21_600 * 3 for seconds in waited)
    out, err = capsys.readouterr()
    assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["kept", "kept"]
    lines = err.splitlines()
    assert sum("next round at 20" in line for line in lines) == 3
    assert sum(line.endswith("this round failed, the exchange is away") for line in lines) == 1
    assert lines[-1].endswith("UTC: stopped")


def test_a_loop_that_never_worked_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrain", "--symbol", "NOWHERE", "--timeframe", "1d", "--every", "6h"]) == 2
    assert "no bars NOWHERE 1d" in capsys.readouterr().err


def test_rounds_that_a_long_one_ran_over_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = [0.0], []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds
        if len(waited) == 3:
            raise KeyboardInterrupt

    lengths = iter([10.0, 250.0, 0.0])

    def round_() -> None:
        now[0] += next(lengths)

    monkeypatch.setattr(retraining, "time", type("Clock", (), {"sleep": sleep, "monotonic": lambda: now[0]}))
    with pytest.raises(KeyboardInterrupt):
        retraining._go_on(round_, 100.0)
    assert waited == [90.0, 50.0, 100.0]  # due at 100, 400, 500


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_real_loop_trains_and_ends_at_sigterm() -> None:
    mlkit.save_bars(null_market(1100, seed=1, timeframe="1h", symbol="CALM"))
    environment = {**os.environ, "MLKIT_PREDICTION_HORIZONS": "[1]", "MLKIT_N_THREADS": "1"}
    mlkit_, market = [sys.executable, "-m", "mlkit"], ["--symbol", "CALM", "--timeframe", "1h"]
    command = [*mlkit_, "retrain", *market, "--every", "6h", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as loop:
        assert loop.stdout is not None and loop.stderr is not None
        told = json.loads(loop.stdout.readline())
        assert told["outcome"] == "published" and told["checks"][0]["text"] == "none was published"
        while "next round at" not in loop.stderr.readline():
            pass
        time.sleep(0.2)
        loop.send_signal(signal.SIGTERM)
        assert loop.wait(30) == 0 and loop.stderr.read().endswith("UTC: stopped\n")
    listed = subprocess.run(
        [*mlkit_, "rollback", *market, "--list", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    assert [row["bundle"] for row in json.loads(listed.stdout)["published"]] == [told["champion"]]
