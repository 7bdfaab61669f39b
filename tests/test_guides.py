"""Every `mlkit` command of the guides is run as it is written, in a project folder like a reader's.

Only what lies outside is replaced: the exchange and the archive are servers on this machine, notebooks are two tiny
ones, and an ensemble has a few trees. Commands of one guide run in its order, as the later ones need the earlier.
Of `make` lines that call mlkit, the call is run; the others (`make test`, `make lab`) are looked at in test_docs.
"""

import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlkit import cli, load_bars
from mlkit.market.simulate.markets import null_market
from mlkit.models.ensemble.settings import EnsembleSettings

ROOT = Path(__file__).parents[1]
DOCS = runpy.run_path(str(ROOT / "tests/test_docs.py"))
EXCHANGE = runpy.run_path(str(ROOT / "tests/market/collect/exchange_server.py"))
ARCHIVE = runpy.run_path(str(ROOT / "tests/market/collect/test_archive.py"))
BARS = 2_600  # enough to train on
KLINES = "klines/BTCUSDT/1m"
PARAMETERS = """
symbol: str = "SP500"
timeframe: str = "1d"
profile: str = "smoke"
seed: int = 7
since: str | None = None
until: str | None = None
"""
CELL = """
import mlkit
from mlkit.report import headline
bars = mlkit.load_bars(symbol, timeframe, since=since, until=until)
headline("5 bars", verdict="no edge", close=float(bars["close"].iloc[-1]), seed=seed)
"""


def lines_of(guide: Path) -> list[list[str]]:
    """The words of every call of mlkit in a guide, those behind `make` included."""
    name, found = str(guide.relative_to(ROOT)), []
    for where, line in DOCS["commands"]():
        if where != name:
            continue
        words = shlex.split(line.removesuffix("&"))
        if words[0] == "make":
            done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
            found += [shlex.split(call)[1:] for call in done.stdout.splitlines() if call.startswith(".venv/bin/mlkit ")]
        elif Path(words[0]).name == "mlkit":
            found.append([os.path.expanduser(word) for word in words[1:]])
    return found


GUIDES = [guide for guide in DOCS["GUIDES"] if lines_of(guide)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's project: the files that the guides speak of, and an outside world on this machine."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLKIT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    _notebook(tmp_path / "notebooks/02_first.ipynb", "print(symbol, seed)")  # imports nothing: half of what a run takes
    _notebook(tmp_path / "notebooks/04_second.ipynb", CELL)
    _files(tmp_path)
    minutes = null_market(BARS, seed=2, symbol="BTCUSDT")
    minutes.index += pd.Timestamp("2026-01-01", tz="UTC") - minutes.index[0]
    server = EXCHANGE["ExchangeServer"]({"BTCUSDT": minutes, "ETHUSDT": minutes})
    monkeypatch.setattr("mlkit.market.collect.fetch.connect", lambda name: EXCHANGE["client_for"](server.url, name))
    web = ARCHIVE["Web"](tmp_path / "web")
    local = ("https://data.binance.vision", web.url)
    monkeypatch.setattr("mlkit.market.collect.archive_files.urlopen", _to(*local))
    few = {"n_estimators": 5, "early_stopping_rounds": 2, "forest_trees": 3, "forest_depth": 3}
    smoke = EnsembleSettings.smoke
    monkeypatch.setattr(EnsembleSettings, "smoke", lambda **options: replace(smoke(**options), **few))
    yield tmp_path
    server.close()
    web.http.shutdown()
    web.http.server_close()


def _to(public: str, local: str) -> Callable[..., Any]:
    def opened(request: urllib.request.Request, **options: Any) -> Any:
        moved = urllib.request.Request(request.full_url.replace(public, local), headers=dict(request.header_items()))
        return urllib.request.urlopen(moved, **options)

    return opened


def _notebook(path: Path, cell: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tagged = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A question"), tagged, new_code_cell(cell)]), path)


def _files(folder: Path) -> None:
    """What a reader has: exports of bars, archive files, a list of reports."""
    hours = null_market(BARS, seed=3, symbol="MINE", timeframe="1h")
    hours.to_csv(folder / "bars.csv")
    minutes = null_market(300, seed=4, symbol="BTCUSDT")
    minutes.to_csv(folder / "btcusdt.csv")
    half = null_market(60, seed=5, symbol="SPY", timeframe="30m")
    half.index = half.index.tz_localize(None)
    (folder / "exports").mkdir()
    half.iloc[:30].to_csv(folder / "exports/first.csv")
    half.iloc[30:].to_csv(folder / "exports/second.csv")
    month = null_market(28 * 1440, seed=6, symbol="BTCUSDT")
    month.index += pd.Timestamp("2025-02-01", tz="UTC") - month.index[0]
    ARCHIVE["zip_file"](folder / "web/data/spot/monthly" / KLINES / "BTCUSDT-1m-2025-02.zip", ARCHIVE["csv"](month))
    day = month.loc["2025-02-03"]
    ARCHIVE["zip_file"](folder / "Downloads/klines/daily" / KLINES / "BTCUSDT-1m-2025-02-03.zip", ARCHIVE["csv"](day))
    text = (ROOT / "reports/README.md").read_text()
    (folder / "runs.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_guide_work(guide: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words in lines_of(guide):
        if words[0] == "serve":
            print(code := _served(words))
        elif "--watch" in words or "--every" in words:
            print(code := _stopped(words))
        else:
            code = cli.main(words)
        told = capfd.readouterr()
        assert code == 0 and told.out, (words, told.err)


def test_the_archive_of_this_machine_is_read(home: Path) -> None:
    """Of the two that a guide's commands are sent to, so that those do not pass for want of bars."""
    url = "https://data.binance.vision/data/spot"
    common = ["fetch", "BTCUSDT", "--timeframe", "1m", "--since", "2025-02-01", "--until", "2025-03-01"]
    assert cli.main([*common, "--archive", url]) == 0
    assert len(load_bars("BTCUSDT", "1m")) == 28 * 1440


def _served(words: list[str]) -> int:
    """Exit code of a server that is asked once and then told to stop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, "-m", "mlkit", *words, "--port", str(port)]) as process:
        try:
            for _ in range(600):
                if process.poll() is not None or _answers(port):
                    break
                time.sleep(0.1)
            assert _answers(port), words
        finally:
            process.send_signal(signal.SIGTERM)
        return process.wait(30)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _stopped(words: list[str]) -> int:
    """0 if a command that goes on for ever has said something and stops when it is told to."""
    with subprocess.Popen([sys.executable, "-m", "mlkit", *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline(), words
        process.send_signal(signal.SIGINT)
        return 0 if process.wait(60) in (0, 130) else process.returncode
