"""The ledger forgets nothing: not a failure, not a killed process, not a torn line; and counts each choice once."""

import fcntl
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

import mlkit
from mlkit.errors import ConfigError
from mlkit.evaluation.final_span import FinalSpan
from mlkit.evaluation.ledger import RUN, Ledger, Source, configuration_hash
from mlkit.market.simulate.markets import null_market


def source(start: str = "2024-01-01", end: str = "2024-02-01", symbol: str = "A", sha: str = "x") -> Source:
    return Source(symbol, "1h", start, end, sha)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "new" / "ledger.jsonl")


def try_once(ledger: Ledger, of: Source, **configuration: object) -> None:
    with ledger.trial([of], configuration):
        pass


def test_distinct_configurations_of_the_same_data_are_counted(ledger: Ledger) -> None:
    assert ledger.trials([source()]) == 0
    for seed in (1, 2, 1, 1):
        try_once(ledger, source(), seed=seed, depth=3)
    try_once(ledger, source(), depth=3, seed=2)  # in another order: the same
    try_once(ledger, source(symbol="B", sha="y"), seed=9)
    with ledger.trial([source()], {"seed": 5}, purpose="patterns"):
        pass
    assert ledger.trials([source()]) == 2
    assert ledger.trials([source(symbol="B", sha="y")]) == 1
    assert ledger.trials([source(), source(symbol="B", sha="y")]) == 3
    assert ledger.trials([source()], purpose="patterns") == 1


def test_more_bars_do_not_start_the_count_anew(ledger: Ledger) -> None:
    """The planted fault: known by its fingerprint alone, a history is new with every bar."""
    try_once(ledger, source(), seed=1)
    assert ledger.trials([source(end="2024-02-02", sha="longer")]) == 1
    assert ledger.trials([source(start="2024-02-02", end="2024-03-01", sha="later")]) == 0
    assert ledger.trials([source(symbol="RENAMED")]) == 1  # the same bars under another name
    assert ledger.trials([Source("A", "1d", "2024-01-01", "2024-02-01", "days")]) == 0


def test_failed_and_abandoned_fits_count(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.trial([source()], {"seed": 1}):
        raise ZeroDivisionError("in the fit")
    with pytest.raises(KeyboardInterrupt), ledger.trial([source()], {"seed": 2}):
        raise KeyboardInterrupt
    code = (
        "import os, sys; from pathlib import Path; from mlkit.evaluation.ledger import Ledger, Source\n"
        "with Ledger(Path(sys.argv[1])).trial([Source('A', '1h', '2024-01-01', '2024-02-01', 'x')], {'seed': 3}):\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(ledger.path)], check=False).returncode == 9
    try_once(ledger, source(), seed=1)
    assert ledger.trials([source()]) == 3
    table = ledger.table([source()])
    assert table[["done", "failed", "abandoned"]].to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert table["configuration"][0] == configuration_hash({"seed": 1})[:8]
    failures = [entry["error"] for entry in ledger.entries() if entry.get("status") == "failed"]
    assert failures == ["ZeroDivisionError: in the fit", "KeyboardInterrupt: "]


def test_a_torn_line_is_left_out_and_the_next_one_is_whole(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    try_once(ledger, source(), seed=1)
    with ledger.path.open("ab") as file:
        file.write(b'{"event": "start", "fit": "torn')  # a crash in the middle of a line
    try_once(ledger, source(), seed=2)
    with caplog.at_level(logging.WARNING):
        assert ledger.trials([source()]) == 2
    assert "line 3 cannot be read and was left out" in caplog.text
    assert all(json.loads(line) for line in ledger.path.read_text().splitlines() if "torn" not in line)


def _write_many(path: str, worker: int) -> None:
    for number in range(25):
        try_once(Ledger(Path(path)), source(), worker=worker, number=number)


def test_processes_share_it(ledger: Ledger) -> None:
    workers = [
        multiprocessing.get_context("spawn").Process(target=_write_many, args=(str(ledger.path), k)) for k in (0, 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert ledger.trials([source()]) == 50
    assert len(ledger.entries()) == 100


def test_smoke_counts_its_own_process_and_full_counts_all(tmp_path: Path) -> None:
    smoke = mlkit.Settings(ledger_path=tmp_path / "ledger.jsonl")
    full = smoke.model_copy(update={"profile": "full"})
    try_once(Ledger.of(smoke), source(), seed=1)
    earlier = smoke.ledger.read_text().replace(RUN, "another run").replace(configuration_hash({"seed": 1}), "0" * 64)
    smoke.ledger.write_text(earlier + smoke.ledger.read_text())
    assert Ledger.of(smoke).trials([source()]) == 1
    assert Ledger.of(full).trials([source()]) == 2


def test_recalled_trials_count_once_and_only_for_their_data_and_purpose(ledger: Ledger) -> None:
    try_once(ledger, source(), seed=1)
    known = [configuration_hash({"seed": seed}) for seed in (1, 2, 3)]
    ledger.recall([source()], known)
    ledger.recall([source()], known[:2])
    assert ledger.trials([source()]) == 3
    assert ledger.trials([source(symbol="B", sha="y")]) == 0
    assert ledger.trials([source()], purpose="patterns") == 0
    assert len(ledger.table([source()])) == 1  # fits: one


def test_what_cannot_be_written_down_is_not_fitted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "ledger.jsonl")
    with pytest.raises(ConfigError, match=r"cannot be written .* MLKIT_LEDGER_PATH"), ledger.trial([source()], {}):
        pytest.fail("the fit ran")


def test_source_of_bars() -> None:
    bars = null_market(50, seed=1)
    same, later = Source.of(bars), Source.of(bars.iloc[20:])
    assert same == Source.of(bars.copy()) and same.overlaps(later)
    assert (same.symbol, same.timeframe, same.start) == ("NULL", "1m", bars.index[0].isoformat())
    assert not Source.of(bars.iloc[:20]).overlaps(later)
    assert pd.Timestamp(same.end) == bars.index[-1]


def test_sharpe_ratios_of_trials_by_horizon(ledger: Ledger) -> None:
    mine = source()
    with ledger.trial([mine], {"seed": 1}) as first:
        pass
    assert ledger.sharpes([mine], 1) == []  # a line without ratios, as every older one is
    ledger.write_sharpes([mine], first, {1: 0.02, 5: float("nan")})
    ledger.write_sharpes([mine], first, {1: 0.03})
    ledger.write_sharpes([mine], "another", {1: -0.01, 5: 0.04})
    ledger.write_sharpes([source(symbol="B", sha="y")], "third", {1: 9.0})
    ledger.write_sharpes([mine], "a pattern", {1: 9.0}, purpose="patterns")
    assert ledger.sharpes([mine], 1) == [0.03, -0.01] and ledger.sharpes([mine], 5) == [0.04]
    assert ledger.trials([mine]) == 1  # what is told is no trial


def line(**fields: object) -> bytes:
    known = {"event": "start", "purpose": "price", "run": "r", "configuration": "c", "fit": "f", "time": "t"}
    return json.dumps({**known, **fields}).encode()


OTHERS = asdict(source())
FOREIGN = {
    "null": b"null",
    "a number": b"5",
    "an empty object": b"{}",
    "a list": b"[]",
    "text": b"start",
    "not UTF-8": b'{"event": "start\xff"}',
    "a start without sources": line(),
    "sources that are text": line(sources="A"),
    "no source": line(sources=[]),
    "a source without a symbol": line(event="recall", sources=[{}], configurations=[]),
    "an end of another status": line(event="end", status=[]),
    "ratios that are text": line(event="sharpe", sources=[OTHERS], sharpes={"1": "high"}),
    "a read without a reason": line(event="read", sources=[OTHERS]),
    "deep": b'{"event": "start", "settings": ' + b"[" * 50_000,
    "a line of 3 MB": line(sources=[OTHERS], settings="x" * 3_000_000),
    "a colour": line(event="\x1b[31m"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_lines_of_others_are_left_out_with_one_warning(
    name: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    try_once(ledger, source(), seed=1)
    with ledger.path.open("ab") as file:
        file.write(FOREIGN[name] + b"\n" + FOREIGN[name] + b"\n")
    try_once(ledger, source(), seed=2)
    with caplog.at_level(logging.WARNING):
        assert len(ledger.entries()) == 4
    assert len(caplog.records) == 1 and "line 3 and" in caplog.text
    assert ledger.trials([source()]) == 2
    assert ledger.sharpes([source()], 1) == []
    assert len(ledger.table([source()])) == 2
    assert FinalSpan(null_market(50, seed=1), ledger).reads() == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_ledger_that_is_no_file_is_refused_without_waiting(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "ledger.jsonl")
    with pytest.raises((ConfigError, OSError)) as caught:
        Ledger(tmp_path / "ledger.jsonl").trials([source()])
    assert "ledger.jsonl" in str(caught.value)


def test_a_lock_that_is_held_times_out_and_names_the_file(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlkit.evaluation.ledger.LOCK_SECONDS", 0.1)
    try_once(ledger, source(), seed=1)
    with ledger.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"ledger\.jsonl is locked by another process"):
            try_once(ledger, source(), seed=2)
    try_once(ledger, source(), seed=3)
    assert ledger.trials([source()]) == 2


def test_a_long_ledger_is_counted_line_by_line(ledger: Ledger) -> None:
    """The count of repeated and of new configurations, as that of parsing every line; a few lines in memory."""
    ledger.path.parent.mkdir()
    about = {"purpose": "price", "run": RUN, "sources": [asdict(source())]}
    rest = {"fit": "f", "settings": {"text": "x" * 1000}, "time": "2026"}
    with ledger.path.open("w") as file:
        for k in range(20_000):
            started = {"event": "start", **about, "configuration": configuration_hash({"k": k % 300}), **rest}
            file.write(json.dumps(started) + "\n" + json.dumps({"event": "end", "fit": "f", "status": "done"}) + "\n")
            if k % 1000 == 0:
                file.write(json.dumps({**started, "run": "another", "configuration": "9" * 64}) + "\n")
                file.write(json.dumps({**started, "purpose": "patterns", "configuration": "8" * 64}) + "\n")
    tracemalloc.start()
    assert Ledger(ledger.path, run=RUN).trials([source()]) == 300
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert ledger.trials([source()]) == 301
    assert ledger.trials([source(symbol="B", sha="y")]) == 0
