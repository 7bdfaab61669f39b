"""Many markets on a real scheduler with two worker processes: the bits of one process, whatever happens to a worker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mlkit
from mlkit.cli import main
from mlkit.errors import ConfigError, LakeError, MlkitError, ScaleError
from mlkit.features.saved import read_features
from mlkit.market.simulate.markets import planted_edge
from mlkit.models.bundle.publishing import history
from mlkit.operations.scale import cluster
from mlkit.operations.scale.cluster import connect
from mlkit.operations.scale.universe_jobs import UniverseReport, run_universe
from mlkit.operations.training.scoring import score
from mlkit.operations.training.training import walk_forward

SYMBOLS = ("AAA", "BTC/USDT:USDT", "CCC")
FITS = 3  # of a walk-forward with the smoke profile


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> mlkit.Settings:
    """A lake of three markets, months of two of them, and folders of their own."""
    home = tmp_path_factory.mktemp("scale")
    made = mlkit.Settings(
        training_data_path=home / "bars",
        model_storage_path=home / "models",
        ledger_path=home / "ledger.jsonl",
        prediction_horizons=(1, 5),
        n_threads=1,
    )
    for seed, symbol in enumerate(SYMBOLS):
        mlkit.save_bars(planted_edge(1500 + 100 * seed, seed=seed, symbol=symbol, timeframe="1h"), made)
    return made


def start_cluster(folder: Path, workers: int) -> list[subprocess.Popen[bytes]]:
    """A scheduler and workers as anybody starts them, each watched over by its nanny."""
    file, options = str(folder / "scheduler.json"), {"cwd": folder, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    local = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file]
    started = [subprocess.Popen([*command, "--port", "0", *local], **options)]
    command = [sys.executable, "-m", "distributed.cli.dask_worker"]
    local = ["--scheduler-file", file, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
    started += [subprocess.Popen([*command, *local, "--name", str(n)], **options) for n in range(workers)]
    return started


def address_of(folder: Path) -> str:
    file = folder / "scheduler.json"
    for _ in range(600):
        try:
            return str(json.loads(file.read_text())["address"])
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError("the scheduler did not start")


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a scheduler with two workers."""
    folder = tmp_path_factory.mktemp("dask")
    processes = start_cluster(folder, 2)
    try:
        yield address_of(folder)
    finally:
        stop(processes)


@pytest.fixture(scope="module")
def client(scheduler: str) -> Iterator[Any]:
    with connect(scheduler) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_features_are_those_of_one_process_to_the_bit(settings: mlkit.Settings, client: Any, tmp_path: Path) -> None:
    there = run_universe("features", SYMBOLS, "1h", settings, client=client, out=tmp_path / "there")
    here = run_universe("features", SYMBOLS, "1h", settings, out=tmp_path / "here")
    assert not (there.failed or here.failed)
    assert [outcome.bars for outcome in there.outcomes] == [1500, 1600, 1700]
    assert [outcome.symbol for outcome in here.outcomes] == list(SYMBOLS)
    assert files(tmp_path / "there") == files(tmp_path / "here")
    for symbol in SYMBOLS:
        expected = mlkit.build_features(mlkit.load_bars(symbol, "1h", settings=settings))
        saved = read_features(symbol, "1h", tmp_path / "there")
        assert np.array_equal(saved.to_numpy().view(np.int32), expected.to_numpy().view(np.int32))
        assert saved.index.equals(expected.index) and list(saved) == list(expected)


def test_forecasts_and_scores_are_those_of_one_process_to_the_bit(
    settings: mlkit.Settings, client: Any, tmp_path: Path
) -> None:
    there = run_universe("evaluate", SYMBOLS[:2], "1h", settings, client=client, out=tmp_path)
    for outcome in there.outcomes:
        bars = mlkit.load_bars(outcome.symbol, "1h", settings=settings)
        forecasts = walk_forward(bars, settings)
        pd.testing.assert_frame_equal(pd.read_parquet(outcome.place), forecasts, check_exact=True)
        scores = score(forecasts, settings)
        pd.testing.assert_frame_equal(there.scores.loc[outcome.symbol], scores, check_exact=True)


def test_bundles_are_those_of_one_process_and_published_once(
    settings: mlkit.Settings, client: Any, tmp_path: Path
) -> None:
    alone = settings.model_copy(update={"model_storage_path": tmp_path})
    report = run_universe("train", SYMBOLS[1:2], "1h", settings, client=client)
    assert not report.failed
    for outcome in report.outcomes:
        bundle = mlkit.train(mlkit.load_bars(outcome.symbol, "1h", settings=settings), alone)
        assert history(Path(outcome.place).parent) == (bundle.id,)
        assert {**files(Path(outcome.place)), "manifest.json": b""} == {**files(bundle.path), "manifest.json": b""}


def test_the_work_of_a_killed_worker_is_done_again(settings: mlkit.Settings, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    alone = settings.model_copy(update={"ledger_path": path})

    def starts() -> list[str]:
        entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [entry["sources"][0]["symbol"] for entry in entries if entry["event"] == "start"]

    killed: list[str] = []

    def kill_one() -> None:
        while not killed:
            begun = {f"evaluate-{symbol}-" for symbol in starts()}
            for worker, keys in client.processing().items():
                if not killed and any(key.startswith(tuple(begun)) for key in keys):
                    killed.append(worker)
                    os.kill(pids[worker], signal.SIGKILL)

    pids = client.run(os.getpid)
    killer = threading.Thread(target=kill_one)
    killer.start()
    report = run_universe("evaluate", SYMBOLS, "1h", alone, client=client, out=tmp_path / "there")
    killer.join()
    assert killed and not report.failed, report
    assert len(starts()) > FITS * len(SYMBOLS)  # some were done twice
    run_universe("evaluate", SYMBOLS[:1], "1h", alone, out=tmp_path / "here")
    written = files(tmp_path / "there")
    assert len(written) == len(SYMBOLS)  # and each was written once, with nothing left beside it
    here = files(tmp_path / "here")
    assert {name: written[name] for name in here} == here


def test_one_bad_market_costs_no_other(
    settings: mlkit.Settings,
    scheduler: str,
    client: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    universe = tmp_path / "universe.txt"
    universe.write_text("AAA\nNOWHERE\nBTC/USDT:USDT\n")
    for name in ("training_data_path", "model_storage_path"):
        monkeypatch.setenv(f"MLKIT_{name.upper()}", str(getattr(settings, name)))
    arguments = ["scale", "features", "--universe", str(universe), "--timeframe", "1h", "--scheduler", scheduler]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["AAA", "BTC/USDT:USDT"]
    last = err.splitlines()[-1]
    assert last.startswith("mlkit: error: 1 of 3 markets failed: NOWHERE 1h: no bars NOWHERE 1h") and "\n" not in last
    assert len(read_features("BTC/USDT:USDT", "1h", tmp_path / "out")) == 1600


def test_a_cluster_of_this_machine_leaves_the_environment_as_it_was(
    settings: mlkit.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = dict(os.environ)
    with connect(workers=1, n_threads=3) as client:
        seen = client.submit(environment, pure=False).result()
        report = run_universe("features", SYMBOLS[:1], "1h", settings, client=client, out=tmp_path)
    assert seen == {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "3"}
    assert dict(os.environ) == before and not report.failed


def environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def test_a_scheduler_that_does_not_answer_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 0.5)
    with (
        pytest.raises(ConfigError, match=r"scheduler tcp://127.0.0.1:1: no answer .*`dask scheduler`"),
        connect("tcp://127.0.0.1:1"),
    ):
        pass
    with pytest.raises(ConfigError, match="scheduler nonsense://x: no answer"), connect("nonsense://x"):
        pass
    with (
        pytest.raises(ConfigError, match=r"tls://127\.0\.0\.1:1: TLS needs certificates"),
        connect("tls://127.0.0.1:1"),
    ):
        pass


def test_workers_with_other_libraries_are_refused(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CHECKED_LIBRARIES", ("numpy",))  # here only: there they are as they were
    with (
        pytest.raises(ConfigError, match=r"worker tcp://.* has .*, this machine has not: .* constraints.txt"),
        connect(scheduler),
    ):
        pass


def test_a_scheduler_without_workers_and_one_that_goes_away(
    settings: mlkit.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = start_cluster(tmp_path, 0)
    try:
        address = address_of(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "CONNECT_TIMEOUT", 0.5)
            with pytest.raises(ConfigError, match=f"scheduler {address}: has no worker"), connect(address):
                pass
        monkeypatch.setattr(cluster, "_check_workers", lambda *_: None)
        ends = threading.Timer(1.0, processes[0].kill)
        with connect(address) as client:
            ends.start()
            with pytest.raises(ScaleError, match="the scheduler went away; what was done stays"):
                run_universe("features", SYMBOLS, "1h", settings, client=client, out=tmp_path / "out")
    finally:
        stop(processes)


def test_features_that_are_there_are_kept_and_damage_is_told(settings: mlkit.Settings, tmp_path: Path) -> None:
    def run(symbol: str = "AAA") -> UniverseReport:
        return run_universe("features", [symbol], "1h", settings, out=tmp_path)

    first = run()
    assert not first.failed, first
    place = Path(first.outcomes[0].place)
    month = sorted(place.glob("*.parquet"))[1]
    when = month.stat().st_mtime_ns
    run()
    assert month.stat().st_mtime_ns == when
    month.write_bytes(b"not what was written")
    with pytest.raises(LakeError, match=f"{month.name} is not what the receipt names"):
        read_features("AAA", "1h", tmp_path)
    month.unlink()
    run()
    assert len(read_features("AAA", "1h", tmp_path)) == 1500
    with pytest.raises(LakeError, match="no features; mlkit scale features writes them"):
        read_features("ZZZ", "1h", tmp_path)


@pytest.mark.parametrize("symbols", [(), ("AAA", "AAA")])
def test_a_universe_names_each_market_once(symbols: tuple[str, ...], settings: mlkit.Settings) -> None:
    with pytest.raises(ConfigError, match="at least one symbol, and none twice"):
        run_universe("features", symbols, "1h", settings)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["features"], "needs --universe FILE or --symbols"),
        (["train", "--symbols", "A,A"], "none twice"),
        (["evaluate", "--symbols", "A", "--scheduler", "tcp://x:1", "--workers", "2"], "--workers is for this machine"),
        (["features", "--symbols", "A", "--profile", "smoke"], "unrecognized arguments: --profile"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", arguments[0], "--timeframe", "1h", *arguments[1:]]) == 2
    assert words in capsys.readouterr().err


def test_an_outcome_that_failed_is_raised_in_one_line() -> None:
    report = UniverseReport(())
    report.demand()
    assert issubclass(ScaleError, MlkitError)
